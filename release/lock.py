"""Write the lock files that the image is built from: exact versions, with the hash of every file that may be installed.

`requirements.lock` holds what runs: the dependencies of pyproject.toml and of its extra `visitors`, with everything that they
depend on. `requirements-build.lock` holds what compiles the wheel. Both are for Python 3.11 to 3.13 on x86-64 and arm64: after
writing them, this script downloads the wheels of each of these and compares them with the hashes.

Versions that are locked stay as they are while they satisfy pyproject.toml; `--upgrade` moves them to the newest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = Path(sysconfig.get_path("scripts")) / "uv"
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
EXTRA = "visitors"
RUNTIME = ROOT / "requirements.lock"
BUILD = ROOT / "requirements-build.lock"


def compile_lock(source: str, output: Path, *options: str, stdin: str | None = None) -> None:
    """`--no-config` and `--no-header` keep this machine's settings and paths out of the file."""
    command = [UV, "pip", "compile", source, "--quiet", "--no-config", "--no-header", "--universal", "--generate-hashes"]
    command += ["--python-version", PYTHONS[0], "--output-file", output.name, *options]
    subprocess.run(command, cwd=ROOT, input=stdin, text=True, check=True)


def download(lock: Path, python: str, platform: str) -> None:
    """Install into a temporary folder; fails unless every wheel for this Python and platform has a hash in the lock file."""
    with tempfile.TemporaryDirectory() as target:
        command = [UV, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--only-binary", ":all:"]
        command += ["--python", sys.executable, "--python-version", python, "--python-platform", platform]
        subprocess.run([*command, "--target", target, "--requirement", lock.name], cwd=ROOT, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="move every version to the newest that pyproject.toml allows")
    options = ["--upgrade"] if parser.parse_args().upgrade else []
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    compile_lock("pyproject.toml", RUNTIME, "--extra", EXTRA, *options)
    compile_lock("-", BUILD, "--no-annotate", *options, stdin="\n".join(requires))
    for lock in (RUNTIME, BUILD):
        for platform in PLATFORMS:
            for python in PYTHONS:
                download(lock, python, platform)
        count = sum("==" in line for line in lock.read_text().splitlines())
        print(f"{lock.name}: {count} packages, installable on Python {', '.join(PYTHONS)} for {' and '.join(PLATFORMS)}")


if __name__ == "__main__":
    main()
