"""Skips for missing programs name a package, and the project's own check installs every such package."""

import re
from pathlib import Path

import pytest
from support.requirements import requires, requires_file

ROOT = Path(__file__).parents[2]
INSTALLED = set(re.findall(r"[a-z0-9][a-z0-9+.-]+", (ROOT / ".ci" / "run").read_text().partition("install -y")[2]))


def test_a_program_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert requires("tool", package="tools", path=str(tmp_path)) == str(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert requires("tool", package="tools") == str(program)
    assert requires_file(program, "the tool", package="tools") == program


def test_a_missing_program_skips_with_the_package() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"^no-such-tool is not installed: apt-get install tools$"):
        requires("no-such-tool", package="tools")
    for missing in (None, Path("/no/such/file")):
        with pytest.raises(pytest.skip.Exception, match=r"^the library is not installed: apt-get install tools$"):
            requires_file(missing, "the library", package="tools")


def test_the_check_installs_every_package_that_a_skip_names() -> None:
    named = set()
    for file in (ROOT / "tests").rglob("*.py"):
        if file.name != Path(__file__).name:
            named |= set(re.findall(r'package="([^"]+)"', file.read_text()))
    assert {"softhsm2", "postgresql", "valgrind"} <= named
    assert named - INSTALLED == set()
    assert {"haproxy", "nginx"} <= INSTALLED  # test_balancers.py names these two by a variable


def test_the_check_installs_what_the_readme_names() -> None:
    line = re.search(r"^apt-get install (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert line is not None
    assert set(line[1].split()) <= INSTALLED
