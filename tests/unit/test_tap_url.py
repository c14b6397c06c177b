"""Where a tap is in a text: paths and queries with their offsets, what readers add at the ends, and texts that were escaped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast.domain import references
from ixfast.domain.tap_url import mistake, pairs, places, trimmed

TAP = "uid=04A1B2C3D4E5F6&ctr=000001&cmac=C49606EE6F334D39"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"https://h.example/t?{TAP}", [("https://h.example/t", TAP)]),
        (f"https://h.example?{TAP}", [("https://h.example", TAP)]),
        (f"tagapp://{TAP}", [("", TAP)]),
        (f"tagapp:{TAP}", [("", TAP)]),
        (f"tagapp://?{TAP}", [("", TAP)]),
        (f"?{TAP}", [("", TAP)]),
        (TAP, [("", TAP)]),
        (f"{TAP}&next=https://h.example/?a=b", [("", f"{TAP}&next=https://h.example/?a=b")]),
        ("tagapp://04A1x000001xC4", [("tagapp://04A1x000001xC4", "04A1x000001xC4")]),
        ("tag.example:8443/t?a=1", [("tag.example:8443/t", "a=1")]),
        (f"https://h.example/#/t?{TAP}", [("https://h.example/", ""), ("/t", TAP)]),
        (f"https://h.example/#!/t?{TAP}", [("https://h.example/", ""), ("!/t", TAP)]),
        (f"https://h.example/?a=1#{TAP}", [("https://h.example/", "a=1"), ("", TAP)]),
        (f"/t?{TAP}#top", [("/t", TAP), ("top", "top")]),
        ("", [("", "")]),
    ],
)
def test_the_path_and_the_query_of_each_place(text: str, found: list[tuple[str, str]]) -> None:
    assert [(place.path, place.query) for place in places(text)] == found


@given(st.text("0123456789abcdefxXOI=&?/.:-%#@ ü", max_size=80))
def test_offsets_point_at_what_they_belong_to(text: str) -> None:
    for place in places(text):
        assert text[place.path_at :].startswith(place.path)
        assert text[place.query_at :].startswith(place.query)


@pytest.mark.parametrize(
    "around",
    [
        "{}\n",
        "{}\r\n",
        " {} ",
        "\t{}\t",
        "{}\0\0",
        "\ufeff{}",
        "{}\u200b",
        "\u3000{}\u3000",
        "\u202a{}\u202c",
        "\u2066{}\u2069",
        "\u200e{}\u200f\u2060",
        "\xa0{}\xa0",
        "{}%0A",
        "{}%0d%0a",
        "{}%20",
        "{}+",
        "{}%00",
    ],
)
def test_what_readers_add_at_the_ends_is_not_part_of_a_tap(around: str) -> None:
    assert trimmed(around.format(TAP)) == TAP


@pytest.mark.parametrize("text", [TAP, f"{TAP}&a=%20b", f"{TAP}%2", "a b", "", "ü"])
def test_nothing_else_is_taken_away(text: str) -> None:
    assert trimmed(text) == text


def test_texts_without_a_name() -> None:
    assert [*pairs("a=1&flag&=2&b=&")] == [("a", "1"), ("", "flag"), ("", "2"), ("b", ""), ("", "")]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("https://h.example/?a=1&amp;b=2", "escaped"),
        ("https://h.example/?a=1&#38;b=2", "escaped"),
        ("https://h.example/?a=1&#x26;b=2", "escaped"),
        ("https://h.example/?a=1\\u0026b=2", "escaped"),
        ("https%3A%2F%2Fh.example%2F%3Fa%3D1", "percent-encoded as a whole"),
        ("uid%3d04", "percent-encoded as a whole"),
        ("https://h.example/?a=1 https://h.example/?a=2", "several URLs"),
        ("https://h.example/?a=1,\ntagapp://a=2", "several URLs"),
    ],
)
def test_a_text_that_was_escaped_is_recognised(text: str, word: str) -> None:
    assert word in (mistake(text) or "")


@pytest.mark.parametrize(
    "text",
    [
        TAP,
        f"https://h.example/?{TAP}&next=%3D",
        "https://h.example/",
        "a&b",
        "Tap: https://h.example/?a=1",
        "https://h/?r=https://i/",
    ],
)
def test_other_texts_are_not_mistakes(text: str) -> None:
    assert mistake(text) is None


@pytest.mark.parametrize(
    ("text", "code", "aid"),
    [
        ("https://h.example/t?x=abcd1234&a=acme", "abcd1234", "acme"),
        ("https://h.example/t?x=abcd1234#top", "abcd1234", None),
        ("https://h.example/?utm=1#/t?X=abcd1234&aid=acme", "abcd1234", "acme"),
        ("tagapp://xuid=abcd1234&n=000001", "abcd1234", None),
        ("x=abcd1234&next=https://h.example/?x=other", "abcd1234", None),
        ("https://h.example/abcd1234", None, None),
    ],
)
def test_the_code_and_the_account_in_every_shape(text: str, code: str | None, aid: str | None) -> None:
    assert (references.code_in(text), references.aid_in(text)) == (code, aid)
