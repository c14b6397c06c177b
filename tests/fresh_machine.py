"""Runs the README's commands on a fresh machine: a minimal Debian root with only the packages that the README names.

    python3 tests/fresh_machine.py                        # `make serve` and `make test`, as root and as an ordinary user
    python3 tests/fresh_machine.py --as user --only serve

It needs root, debootstrap and git (Debian: debootstrap git). The root is built in a temporary directory, or kept in `--root DIR`
for the next run. The checkout's files are copied into it, except those that git ignores, once for each user. Mounts and processes
live in namespaces of their own, which end before the root is removed.

Where pip must not or cannot use PyPI directly, `--pip-config` gives pip inside the caller's configuration, and `--bind DIR` shows
it a directory of this machine, a package index for example. The network, and with it the ports, is this machine's: set
IXFAST_PORT and IXFAST_PRIVATE_PORT where 8480 and 8481 are taken. TESTS and JOBS reach `make test`.
"""

import argparse
import ast
import configparser
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

CHECKOUT = Path(__file__).resolve().parents[1]
PASSED_ON = ("IXFAST_PORT", "IXFAST_PRIVATE_PORT", "TESTS", "JOBS")
IN_NAMESPACES = "FRESH_MACHINE_IN_NAMESPACES"
USER = "somebody"
SERVE_DEADLINE_S = 900.0
STOP_DEADLINE_S = 60.0
POLL_S = 0.2


def packages() -> list[str]:
    """The packages that the README asks the reader to install."""
    found = re.search(r"^apt-get install (.+)$", (CHECKOUT / "README.md").read_text(), re.MULTILINE)
    assert found is not None, "the README names no packages"
    return found[1].split()


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def build(root: Path, suite: str, mirror: str) -> None:
    """Make a minimal Debian with the README's packages and an ordinary user, unless `root` holds one already."""
    if not (root / "etc" / "debian_version").exists():
        run("debootstrap", "--variant=minbase", suite, root, mirror)
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
    command = f"{install} {' '.join(packages())} >/dev/null && apt-get clean"
    run("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "sh", "-ec", command)


def mount(root: Path, bound: list[Path]) -> None:
    """Mount what every running system has, and the caller's directories read-only, in this process's own namespace."""
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    dev = root / "dev"
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", dev)
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        run("mknod", "-m", "666", dev / name, "c", "1", str(minor))
    run("mknod", "-m", "666", dev / "tty", "c", "5", "0")
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", dev / "shm")
    (dev / "pts").mkdir()
    run("mount", "-t", "devpts", "-o", "newinstance,ptmxmode=666", "devpts", dev / "pts")
    for directory in bound:
        target = root / directory.resolve().relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", "-o", "ro", directory, target)


def copy_pip_configuration(root: Path) -> None:
    """Write what `pip config list` reports, environment variables included, into the root, with the files it names."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    config = configparser.ConfigParser(interpolation=None)
    # `:env:` lines come first and outrank the files.
    for line in reversed(listed.splitlines()):
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        section = "global" if section == ":env:" else section
        if not config.has_section(section):
            config.add_section(section)
        text = str(ast.literal_eval(value))
        config[section][key] = text
        for word in text.split():
            if Path(word).is_file():
                (root / word.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(word, root / word.lstrip("/"))
    with (root / "etc" / "pip.conf").open("w") as file:
        config.write(file)


def copy_checkout(root: Path, home: str, owner: tuple[int, int]) -> str:
    """Copy the files that git does not ignore; returns the copy's path inside the root."""
    inside = f"{home}/ixfast"
    target = root / inside.lstrip("/")
    shutil.rmtree(target, ignore_errors=True)
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, target / name)
    for path in (target, *target.rglob("*")):
        os.chown(path, *owner)
    return inside


def run_inside(root: Path, user: str, command: str) -> tuple[bool, str]:
    """Run one of the README's commands as `user`; returns whether it succeeded, and its last line."""
    home = "/root" if user == "root" else f"/home/{user}"
    entry = next(line.split(":") for line in (root / "etc/passwd").read_text().splitlines() if line.startswith(f"{user}:"))
    inside = copy_checkout(root, home, (int(entry[2]), int(entry[3])))
    environ = [f"HOME={home}", f"USER={user}", f"PATH={os.defpath}:/usr/sbin:/sbin"]
    environ += [f"{name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
    words = ["make", "test"] if command == "test" else ["python3", "tests/fresh_machine.py", "--inside"]
    process = subprocess.Popen(
        ["chroot", f"--userspec={entry[2]}:{entry[3]}", "--groups=", root, "env", "-i", "-C", inside, *environ, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    last: deque[str] = deque(maxlen=1)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.strip():
            last.append(line.strip())
    return process.wait() == 0, "".join(last)


# --- inside the root ------------------------------------------------------------------------------


@contextlib.contextmanager
def served(*arguments: str, environ: dict[str, str] | None = None) -> Iterator[str]:
    """Run `make serve` until it prints its example; yields the URL. Ctrl-C then has to end it."""
    with tempfile.TemporaryFile("a+") as output:
        process = subprocess.Popen(
            ["make", "serve", *arguments], stdout=output, stderr=subprocess.STDOUT, env=environ, start_new_session=True
        )
        try:
            deadline = time.monotonic() + SERVE_DEADLINE_S
            while True:
                output.seek(0)
                text = output.read()
                found = re.search(r"curl '(http[^']+)'", text)
                if found or process.poll() is not None or time.monotonic() > deadline:
                    break
                time.sleep(POLL_S)
            print(text, end="", flush=True)
            if found is None:
                raise SystemExit("make serve printed no example")
            yield found[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            process.wait(STOP_DEADLINE_S)


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def tap_twice(url: str) -> None:
    """The printed tap passes once."""
    answers = [ask(url), ask(url)]
    print(*answers, sep="\n", flush=True)
    assert [re.search(r'"response":"(\w+)"', answer)[1] for answer in answers] == ["Pass", "Fail"]


def inside() -> None:
    """`make serve` as the README shows it; a second instance beside it, in a directory with a space; then without HOME."""
    began = time.monotonic()
    with served() as url:
        print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
        tap_twice(url)
        port = urlsplit(url).port or 0
        directory = f"/var/tmp/second instance of {os.getuid()}"  # root's own home is closed to the server's user
        flags = f"--port {port + 1000} --private-port {port + 1001} --data-dir '{directory}'"
        with served(f"ARGS={flags}") as second:
            tap_twice(second)
    with served(environ={name: value for name, value in os.environ.items() if name != "HOME"}) as url:
        tap_twice(url)
    print("Pass, then Fail: as shown, in a second instance, and without HOME", flush=True)


# --------------------------------------------------------------------------------------------------


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--as", dest="users", choices=["root", "user"], action="append", help="one of the users alone")
    parser.add_argument("--only", choices=["serve", "test"], action="append", help="one of the commands alone")
    parser.add_argument("--suite", default="bookworm", help="the Debian release (default: bookworm)")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--root", type=Path, help="where to build the root and keep it")
    parser.add_argument("--bind", type=Path, action="append", default=[], metavar="DIR", help="a directory to show inside")
    parser.add_argument("--pip-config", action="store_true", help="give pip inside the caller's configuration")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside()
    elif os.environ.get(IN_NAMESPACES) == "1":
        sys.exit(0 if run_all(options.root, options) else 1)
    elif os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("This needs root and debootstrap: apt-get install debootstrap")
    else:
        sys.exit(in_namespaces(options.root))


def in_namespaces(root: Path | None) -> int:
    """Run this script again in namespaces of its own; a root that is not kept is removed afterwards."""
    with contextlib.ExitStack() as exits:
        root = root or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="fresh-machine-")))
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        command = [*namespaces, sys.executable, __file__, *sys.argv[1:], "--root", str(root.resolve())]
        return subprocess.run(command, env={**os.environ, IN_NAMESPACES: "1"}, check=False).returncode


def run_all(root: Path, options: argparse.Namespace) -> bool:
    """Run every command as every user; returns whether all succeeded."""
    build(root, options.suite, options.mirror)
    mount(root, options.bind)
    if options.pip_config:
        copy_pip_configuration(root)
    results = []
    for user in options.users or ["root", "user"]:
        for command in options.only or ["serve", "test"]:
            began = time.monotonic()
            print(f"\n=== make {command} as {user}", flush=True)
            succeeded, last = run_inside(root, USER if user == "user" else "root", command)
            results.append((succeeded, f"make {command} as {user}", time.monotonic() - began, last))
    print("\nDebian", options.suite, "with", *packages())
    for succeeded, name, seconds, last in results:
        print(f"{'passed' if succeeded else 'FAILED'}  {name:20} {seconds:4.0f} s  {last}")
    return all(succeeded for succeeded, *_ in results)


if __name__ == "__main__":
    main()
