"""The two forms of the compiled modules: which one is in use, and that both behave the same."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import compiled
from ixfast.http import hot_request

ROOT = Path(__file__).parents[2]
REQUEST = b"GET /v1/t?x=q8w3sbcz&n=00003D&e=94EED9EE65337086 HTTP/1.1\r\n"
IN_BOTH_FORMS = (
    "tests/unit/test_engine.py", "tests/unit/test_bodies.py", "tests/unit/test_cache.py",
    "tests/acceptance/test_malformed.py", "tests/integration/test_ledger.py", "tests/unit/test_tag_files.py",
    "tests/integration/test_copy_rows.py", "tests/integration/test_importer.py",
)  # fmt: skip


def python(*arguments: str, plain: bool) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "IXFAST_FORCE_TWIN"}
    if plain:
        environment["IXFAST_FORCE_TWIN"] = "1"
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("plain", [False, True])
def test_the_form_that_was_asked_for_is_in_use(plain: bool) -> None:
    names = [f"ixfast.{module}" for module in compiled.MODULES]
    program = f"import importlib; print(*(importlib.import_module(n).__file__ for n in {names!r}), sep='\\n')"
    ended = python("-c", program, plain=plain)
    assert ended.returncode == 0, ended.stderr
    files = ended.stdout.split()
    assert len(files) == len(names)
    assert all(file.endswith(".py" if plain else tuple(EXTENSION_SUFFIXES)) for file in files), files


def test_half_a_build_is_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_FOLDER", tmp_path)
    monkeypatch.delenv("IXFAST_FORCE_TWIN", raising=False)
    why_plain = compiled.why_plain.__wrapped__  # without its cache
    assert why_plain() == "the compiled modules are not built"
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / f"engine{EXTENSION_SUFFIXES[0]}").touch()
    with pytest.raises(ImportError, match="reinstall ixfast"):
        why_plain()


def copied(folder: Path, *built: str) -> dict[str, str]:
    """The environment for a copy of the package in which only these modules are compiled."""
    skipped = shutil.ignore_patterns(*(f"*{suffix}" for suffix in EXTENSION_SUFFIXES), "__pycache__")
    shutil.copytree(ROOT / "src" / "ixfast", folder / "ixfast", ignore=skipped)
    for module in built:
        (folder / "ixfast" / f"{module}{EXTENSION_SUFFIXES[0]}").touch()
    kept = {name: value for name, value in os.environ.items() if name != "IXFAST_FORCE_TWIN"}
    return kept | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def test_without_a_build_the_plain_form_needs_no_hook(tmp_path: Path) -> None:
    program = (
        "import sys; hooks = list(sys.meta_path)\n"
        "from ixfast import compiled\n"
        "from ixfast.pipeline import engine\n"
        "assert sys.meta_path == hooks\n"
        "print(engine.__file__, compiled.PLAIN, sep='\\n')\n"
    )
    for forced, reason in (
        ({}, "the compiled modules are not built"),
        ({"IXFAST_FORCE_TWIN": "1"}, "forced by IXFAST_FORCE_TWIN=1"),
    ):
        folder = tmp_path / str(len(forced))
        ended = subprocess.run(
            [sys.executable, "-c", program], env=copied(folder) | forced, cwd=tmp_path, capture_output=True, text=True
        )
        assert ended.stdout.splitlines() == [str(folder / "ixfast" / "pipeline" / "engine.py"), reason], ended.stderr


def test_half_a_build_is_refused_when_it_is_first_used(tmp_path: Path) -> None:
    program = "import ixfast; print('imported', flush=True); ixfast.verify"
    environment = copied(tmp_path, "pipeline/engine")
    ended = subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "imported\n")
    assert ended.stderr.endswith("ImportError: Some modules of ixfast are compiled and others are not: reinstall ixfast.\n")


def test_every_pxd_belongs_to_a_module_that_is_built() -> None:
    folder = ROOT / "src" / "ixfast"
    own = {".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.pxd")}
    assert own - {"_cmac", "_lrp"} <= set(compiled.MODULES)


def test_the_plain_form_passes_the_same_tests() -> None:
    """The compiled form is what this run tests; here the same tests run over the other."""
    ended = python("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *IN_BOTH_FORMS, plain=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-2000:]


@pytest.mark.parametrize("read", [hot_request.plain_query_twin, hot_request.read_plain_query])
def test_a_usual_request(read: hot_request.PlainQueryReader) -> None:
    assert read(REQUEST + b"Host: a\r\n\r\n") == (b"q8w3sbcz", 61, bytes.fromhex("94EED9EE65337086"), len(REQUEST))
    assert read(REQUEST.lower().replace(b"get", b"GET").replace(b"http", b"HTTP")) is not None  # hex of either case


def test_both_readers_are_there_in_the_compiled_form() -> None:
    assert (compiled.PLAIN is None) == (
        hot_request.read_plain_query is import_module("ixfast.http._plain_query").read_plain_query
    )


@pytest.mark.parametrize("length", range(len(REQUEST)))
def test_a_usual_request_cut_short_is_none_yet(length: int) -> None:
    assert hot_request.read_plain_query(REQUEST[:length]) is None
    assert hot_request.plain_query_twin(REQUEST[:length]) is None


@given(st.data())
def test_both_readers_agree_on_what_is_nearly_usual(data: st.DataObject) -> None:
    code = data.draw(st.text("abcXYZ019_%", max_size=66)).encode()
    text = bytearray(REQUEST.replace(b"q8w3sbcz", code) + data.draw(st.binary(max_size=4)))
    for _ in range(data.draw(st.integers(0, 2))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    assert hot_request.read_plain_query(bytes(text)) == hot_request.plain_query_twin(bytes(text))
