"""Programs of the distribution that some tests need in addition to what the README names.

Where one is missing the test skips, and the reason names the Debian package that contains it. `.ci/run` installs all of them;
where `CI` is set, a skip fails the run (tests/conftest.py).
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

COMPILER = os.environ.get("CC", "cc")
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")  # Debian leaves them out of an ordinary user's PATH.


def requires(program: str, *, package: str, path: str = "") -> str:
    """The path of a program, which is searched for in `path` first. Skips the test where it is not installed."""
    found = shutil.which(program, path=os.pathsep.join(filter(None, [path, os.environ.get("PATH", ""), *_SYSTEM_FOLDERS])))
    return found or skip_without(program, package=package)


def requires_file(file: Path | None, name: str, *, package: str) -> Path:
    """`file`, if it is there. Skips the test otherwise; `name` says what is missing."""
    if file is None or not file.exists():
        skip_without(name, package=package)
    return file


def skip_without(name: str, *, package: str) -> NoReturn:
    pytest.skip(f"{name} is not installed: apt-get install {package}")
