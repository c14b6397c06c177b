"""Nothing in the native core branches on a secret or uses one as an index: memcheck runs it with its secrets undefined.

Needs valgrind with its headers, and a C compiler.
"""

import os
import platform
import subprocess
from pathlib import Path

import pytest
from support.requirements import COMPILER, requires, skip_without

HERE = Path(__file__).parent
HEADERS = HERE.parents[1] / "src" / "ixfast"
CONSTANT_TIME = (
    "comparison",
    "aes",
    "aes_cmac",
    "mact_verify",
    "aes_verify",
    "aes_verify_batch",
    "lrp_cmac",
    "lrp_verify",
    "lrp_mirror_and_file",
)
CONTROLS = ("control_memcmp", "control_early_exit", "control_early_exit_mact", "control_table_index")


def require_valgrind() -> str:
    """The path of valgrind; skips the test without it, its headers or a compiler."""
    if platform.machine() != "x86_64":
        pytest.skip("valgrind supports the AES instructions of x86-64 only")
    program = requires("valgrind", package="valgrind")
    include = ["-E", "-include", "valgrind/memcheck.h", "-x", "c", os.devnull]
    if subprocess.run([requires(COMPILER, package="gcc"), *include], capture_output=True, check=False).returncode:
        skip_without("valgrind/memcheck.h", package="valgrind")
    return program


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The number of memcheck reports by case, from a single run, which takes seconds."""
    valgrind = require_valgrind()
    program = tmp_path_factory.mktemp("constant_time") / "constant_time"
    flags = ["-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror", f"-I{HEADERS}"]
    subprocess.run([COMPILER, *flags, str(HERE / "constant_time.c"), "-o", str(program)], check=True)
    done = subprocess.run([valgrind, "-q", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    print(done.stderr)  # pytest shows where the reports come from if a test fails
    return {name: int(count) for name, count in lines}


def test_every_case_is_expected_here(reports: dict[str, int]) -> None:
    assert tuple(reports) == CONSTANT_TIME + CONTROLS


@pytest.mark.parametrize("case", CONSTANT_TIME)
def test_time_does_not_depend_on_secrets(reports: dict[str, int], case: str) -> None:
    assert reports[case] == 0


@pytest.mark.parametrize("case", CONTROLS)
def test_control_a_leak_is_seen(reports: dict[str, int], case: str) -> None:
    assert reports[case] > 0
