"""The two forms of the compiled modules: which one is in use, and that both behave the same."""

import os
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
