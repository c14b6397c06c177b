"""The fuzzer's targets take every text of the corpus: a fuzzer that is not run does not rot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.parser_targets import GENUINE, TARGETS, fuzz_head

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
TEXTS = [(target, path.read_bytes()) for name, target in TARGETS.items() for path in sorted((CORPUS / name).iterdir())]
TEXTS += [(TARGETS["taps"], bytes((place,)) + url.encode()) for place, url in enumerate(GENUINE)]
HEAD = b"GET /v1/t?x=q8w3sbcz&n=000001&e=24BB7F15F61D3838 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("target", "text"), TEXTS, ids=lambda value: getattr(value, "__name__", ""))
def test_target(target: Callable[[bytes], None], text: bytes) -> None:
    for length in range(len(text) + 1):
        target(text[:length])


def test_a_reader_of_its_own_mind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz_head(HEAD)
    monkeypatch.setattr("fuzz.parser_targets.read_plain_query", lambda received: None)
    with pytest.raises(AssertionError):
        fuzz_head(HEAD)
