"""A response is what the owner typed, with values that can do no harm in it."""

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import limits
from ixfast.domain.model import Verdict
from ixfast.domain.scan import Extras, Scan, Visitor, position
from ixfast.errors import InputError
from ixfast.http.management import schemas as management_shapes
from ixfast.responses import response_text
from ixfast.responses.response_text import SUBTAGS, ResponseText, compile_response, expanded, inner_text, merge_fields
from ixfast.rules import visitors, wall_clock
from ixfast.tag_files.problems import NAME_CHARS_MAX


def tapped(**known: Any) -> Scan:
    scan = Scan(lambda _scan: None, b"", 61, None, None, 1, 0.0, Extras(visitor=Visitor("192.0.2.1", "phone")))
    scan.verdict, scan.authentic, scan.scan_count, scan.position = Verdict.GENUINE, True, 12, position(1, 61)
    record: Any = SimpleNamespace(
        xuid=b"q8w3sbcz", cuid="Cust 1", uid=bytes.fromhex("04A1B2C3D4E5F6"), name="Vase & co", fields={"Product Name": "Vase"},
        group=SimpleNamespace(name="Vases", folder_name="Home"), batch=SimpleNamespace(name="B1"), created_at=0.0,
        assigned_at=1_767_225_600.5, reply_fields={},
    )  # fmt: skip
    scan.record = record
    for name, value in known.items():
        setattr(record, name, value)
    return scan


def rendered(text: str, **known: Any) -> str:
    return compile_response(text).render(tapped(**known))


@pytest.mark.parametrize(
    "text", ["Pass", "", "{unknown} stays", "{ cuid }", "{meta}", "{meta:}", "{cuid:x}", "{", "{}", 'a "b" \n']
)
def test_constant_text_is_json_already(text: str) -> None:
    response = compile_response(text)
    assert response.constant is not None
    assert json.loads(response.constant) == text
    assert response.render(tapped()) == text
    assert response.json(tapped()) is response.constant


@pytest.mark.parametrize(("text", "expected"), [
    ("{xuid} {CUID} {Uid}", "q8w3sbcz Cust 1 04A1B2C3D4E5F6"),
    ("{scount}/{ccount}", "12/61"),
    ("{folder}/{taggroup}/{batch}/{tagname}", "Home/Vases/B1/Vase & co"),
    ("{dtcreated} {dtassigned}", "1970-01-01T00:00:00Z 2026-01-01T00:00:00Z"),
    ("{meta:Product Name} {META:product_name}{meta:none}!", "Vase Vase!"),
    ("{{cuid}}", "{Cust 1}"),
    ("{nobody} {cuid}", "{nobody} Cust 1"),
])  # fmt: skip
def test_subtags(text: str, expected: str) -> None:
    assert rendered(text) == expected


def test_unknown_values_are_empty() -> None:
    absent = tapped(cuid=None, uid=None, name=None, batch=None, fields=None, created_at=None, assigned_at=None)
    absent.verdict, absent.authentic, absent.position, absent.extras = Verdict.FORGED, False, -1, None
    text = "".join(f"{{{name}}}" for name in SUBTAGS if name not in ("randnum", "randhex", "xuid", "folder", "taggroup"))
    assert compile_response(text).render(absent) == ""


def test_random_values_are_drawn_each_time() -> None:
    response = compile_response("{randnum}-{randhex}-{randhex}")
    first, second = response.render(tapped()), response.render(tapped())
    assert first != second
    number, one, other = first.split("-")
    assert len(number) == len(one) == len(other) == 8
    assert number.isdigit()
    assert one != other


def test_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "location_of", lambda _address: visitors.Location("DE", "Europe/Berlin", "EUR"))
    monkeypatch.setattr(visitors, "device_of", lambda _user_agent: visitors.Device("iOS", "Safari"))
    monkeypatch.setattr(wall_clock, "source", lambda: 1_767_225_600.5)
    response = compile_response("{timezone} {currency} {tzlocal} {os} {browser}")
    assert response.render(tapped()) == "Europe/Berlin EUR 2026-01-01T01:00:00+01:00 iOS Safari"
    assert response.subtags == {"timezone", "currency", "tzlocal", "os", "browser"}


@pytest.mark.parametrize("value", ["{xuid}", "{meta:a}", "{{cuid}}", "{tagname}"])
def test_a_value_is_never_expanded(value: str) -> None:
    assert rendered("<{cuid}>", cuid=value) == f"<{value}>"
    # Nor is it inside a text that is expanded.
    assert rendered("<{tagname}>", name="Chair {cuid}", cuid=value) == f"<Chair {value}>"
    assert rendered("<{meta:a}>", fields={"a": "{cuid}"}, cuid=value) == f"<{value}>"


@pytest.mark.parametrize(("typed", "shown"), [
    ("Chair", "Chair"),
    ("Chair {CUID}", "Chair Cust 1"),
    ("{scount} of {nobody}", "12 of {nobody}"),
    ("{tagname}", "{tagname}"),
    ("{meta:a}{meta:none}", "{meta:a}{meta:none}"),
    ("{meta:b}", "{meta:b}"),
    ("https://example.org/{cuid}", "https://example.org/Cust%201"),
])  # fmt: skip
def test_names_and_fields_are_expanded_once(typed: str, shown: str) -> None:
    """Alike in a response, in a URL and as members of the reply; what they show of each other is as it was typed."""
    scan = tapped(name=typed, fields={"a": typed, "b": typed}, reply_fields={"n": typed})
    assert expanded(typed, scan) == shown
    assert compile_response("<{tagname}|{meta:a}>").render(scan) == f"<{shown}|{shown}>"
    assert dict(parse_qsl(urlsplit(compile_response("https://example.org?t={tagname}").render(scan)).query)) == {
        "t": shown, "n": shown,
    }  # fmt: skip


def test_control_a_text_that_is_expanded_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above fails where inner texts are taken for responses, which show the other one expanded."""
    monkeypatch.setattr(response_text, "inner_text", compile_response)
    assert rendered("{tagname}", name="{meta:a}", fields={"a": "{scount}"}) == "12"
    monkeypatch.undo()
    assert rendered("{tagname}", name="{meta:a}", fields={"a": "{scount}"}) == "{scount}"


def test_constant_names_are_not_remembered() -> None:
    """Names are as many as tags: only those with a brace are split."""
    before = inner_text.cache_info()
    assert [expanded(f"Vase {n}", tapped()) for n in range(3)] == ["Vase 0", "Vase 1", "Vase 2"]
    assert inner_text.cache_info() == before


def test_any_name_that_is_taken_can_be_shown() -> None:
    """No name has more subtags than a text may have, so none needs to be refused when it is stored."""
    longest = max(NAME_CHARS_MAX, management_shapes.NAME_CHARS_MAX)
    shortest = min(len(name) for name in SUBTAGS) + len("{}")
    assert longest // shortest <= limits.RESPONSE_SUBTAGS_MAX
    assert longest <= limits.SUBTAG_VALUE_CHARS_MAX


@given(value=st.text())
def test_no_value_leaves_its_place(value: str) -> None:
    scan = tapped(cuid=value)
    shown = value[: limits.SUBTAG_VALUE_CHARS_MAX]
    assert json.loads(compile_response('"{cuid}"').json(scan)) == f'"{shown}"'
    parts = urlsplit(compile_response("https://example.org/a/{cuid}/b?x={cuid}&y=1#{cuid}").render(scan))
    assert parts.netloc == "example.org"
    assert parts.path.count("/") == 3
    assert dict(parse_qsl(parts.query, keep_blank_values=True)) == {"x": shown, "y": "1"}


@pytest.mark.parametrize(("url", "expected"), [
    ("https://example.org", "https://example.org?product_name=Vase%20%26%20co&n=1"),
    ("https://example.org/p?", "https://example.org/p?product_name=Vase%20%26%20co&n=1"),
    ("https://example.org/p?a=b&", "https://example.org/p?a=b&product_name=Vase%20%26%20co&n=1"),
    ("https://example.org/p?n=9#top?x=1", "https://example.org/p?n=9&product_name=Vase%20%26%20co#top?x=1"),
    ("HTTP://example.org/{xuid}#", "HTTP://example.org/q8w3sbcz?product_name=Vase%20%26%20co&n=1#"),
    ("see https://example.org", "see https://example.org"),
    ("{meta:url}", "https://elsewhere.example"),
    ("https://example.org?a={meta:url}", "https://example.org?a=https%3A%2F%2Felsewhere.example&product_name=Vase%20%26%20co&n=1"),
])  # fmt: skip
def test_data_merge(url: str, expected: str) -> None:
    fields = {"url": "https://elsewhere.example"}
    assert rendered(url, fields=fields, reply_fields={"Product Name": "Vase & co", "N": "1"}) == expected


@pytest.mark.parametrize(("value", "merged"), [
    ("{scount}", "12"),
    ("{cuid}&x=1#top", "A%26b%3D%3F%23%20%7Bxuid%7D%26x%3D1%23top"),
    ("{nobody} {timezone}", "%7Bnobody%7D%20"),
    ("https://elsewhere.example/{cuid}", "https%3A%2F%2Felsewhere.example%2FA%2526b%253D%253F%2523%2520%257Bxuid%257D"),
])  # fmt: skip
def test_data_merge_expands_fields_once_and_encodes_them(value: str, merged: str) -> None:
    url = rendered("https://example.org/p", cuid="A&b=?# {xuid}", reply_fields={"n": value})
    assert url == f"https://example.org/p?n={merged}"


def test_url_inside_is_constant() -> None:
    assert compile_response("https://example.org", inner=True).constant == b'"https://example.org"'
    assert compile_response("https://example.org").constant is None
    assert compile_response("https://example.org").render(tapped()) == "https://example.org"


def test_lengths_are_bounded() -> None:
    with pytest.raises(InputError, match="at most 4096"):
        compile_response("x" * (limits.RESPONSE_CHARS_MAX + 1))
    with pytest.raises(InputError, match="subtags"):
        compile_response("{cuid}" * (limits.RESPONSE_SUBTAGS_MAX + 1))
    with pytest.raises(InputError, match="surrogate"):
        compile_response("\ud800")
    many: ResponseText = compile_response("https://example.org/?" + "{cuid}" * limits.RESPONSE_SUBTAGS_MAX)
    fields = {f"f{n}": "ä" * 5000 for n in range(50)}
    longest = many.render(tapped(cuid="\U0001f600" * 5000, reply_fields=fields))
    assert len(longest) <= limits.RESPONSE_RENDERED_CHARS_MAX
    assert merge_fields("https://example.org", {"a": "b"}) == "https://example.org?a=b"
