"""URLs taken apart: every encoding that a chip could have written, and no more of them than a bound."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast.chips.url_fields import ENCODINGS_MAX, Field, dissect, encodings
from ixfast.errors import InputError
from ixfast.limits import PARAMETERS_MAX, REQUEST_TARGET_BYTES_MAX

UID, COUNTER, MAC = "04AA2BD2335780", "0004AF", "B188AC6F69140B92"
PICC, ENC, LRP = "EF963FF7828658A599F3041510671E88", "CEE9A53E3E463EF1F459635736738962", "AB" * 24


def templates(*urls: str) -> list[str]:
    """The encodings of the first URL, as templates."""
    samples = [dissect(url) for url in urls]
    return [encoding.template for encoding in encodings(samples[0], samples)]


@pytest.mark.parametrize(
    ("url", "fields"),
    [
        ("https://tag.example/a/b?x=1&y=", [(None, "a"), (None, "b"), ("x", "1"), ("y", "")]),
        ("https://tag.example", []),
        ("https://tag.example?x=1", [("x", "1")]),
        ("lnurlw://?p=1&c=2", [("p", "1"), ("c", "2")]),
        ("tag.example/a?x=1", [(None, "a"), ("x", "1")]),
        ("/a/?x=1#c=3", [(None, "a"), ("x", "1")]),
        ("?x=1&flag&y=2=3", [("x", "1"), ("y", "2=3")]),
        ("x=1&y=2", [("x", "1"), ("y", "2")]),
        (" https://müller.example/ä?x=1\r\n", [(None, "ä"), ("x", "1")]),
        ("tagapp://x=1&y=2", [("x", "1"), ("y", "2")]),
        ("tagapp:x=1&y=2", [("x", "1"), ("y", "2")]),
        (f"tagapp://{UID}x{COUNTER}x{MAC}", [("", f"{UID}x{COUNTER}x{MAC}")]),
        (f"https://tag.example/t?{UID}&flag&=1&{MAC}", [(None, "t"), ("", UID), ("", MAC)]),
        (f"?{UID}x{COUNTER}x{MAC}", [("", f"{UID}x{COUNTER}x{MAC}")]),
        (f"https://tag.example/a?b=1#/t?uid={UID}&c={MAC}", [(None, "t"), ("uid", UID), ("c", MAC)]),
        (f"https://tag.example/#{UID}x{MAC}", [("", f"{UID}x{MAC}")]),
        (f"https://tag.example/#uid={UID}&c={MAC}", [("uid", UID), ("c", MAC)]),
        (f"https://tag.example/?c={MAC}#/t?uid={UID}", [("c", MAC)]),
    ],
)
def test_fields_of_a_url(url: str, fields: list[tuple[str | None, str]]) -> None:
    sample = dissect(url)
    assert [(field.name, field.text) for field in sample.fields] == fields
    assert all(sample.url[field.start :].startswith(field.text) for field in sample.fields)


@pytest.mark.parametrize(
    ("url", "template"),
    [
        (f"https://tag.example/t?uid={UID}&ctr={COUNTER}&cmac={MAC}", "uid={uid}&ctr={counter}&cmac={mac}"),
        (f"https://tag.example/t?m={UID}x{COUNTER}x{MAC}", "m={uid}x{counter}x{mac}"),
        (f"https://tag.example/t?m={UID}x{COUNTER}xCO00000000x{MAC}", "m={uid}x{counter}x{tt}x{mac}"),
        (f"https://tag.example/t?m={UID}x{COUNTER}xCO0A1B2C3Dx{MAC}".lower(), "m={uid}x{counter}x{tt}x{mac}"),
        (f"https://tag.example/t?m={UID}x{COUNTER}&tt=OC&c={MAC}", "m={uid}x{counter}&tt={tamper}&c={mac}"),
        (f"https://tag.example/t?m={UID}{COUNTER}{MAC}", "m={uid}{counter}{mac}"),
        (f"https://tag.example/t?m={UID}{MAC}", "m={uid}{mac}"),
        (f"https://tag.example/t?n={COUNTER}{MAC}", "n={counter}{mac}"),
        (f"https://tag.example/t?p={PICC}&c={MAC}", "p={picc}&c={mac}"),
        (f"https://tag.example/t?p={LRP}&c={MAC}", "p={picc}&c={mac}"),
        (f"https://tag.example/t?p={PICC}&e={ENC}&c={MAC}", "p={picc}&e={enc:32}&c={mac}"),
        (f"https://tag.example/t?e={PICC}{ENC}{MAC}", "e={picc}{enc:32}{mac}"),
        (f"https://tag.example/t?e={PICC}{ENC * 2}&c={MAC}", "e={picc}{enc:64}&c={mac}"),
        (f"https://tag.example/dev/dna/{PICC}/{MAC}", "/{picc}/{mac}"),
        (f"https://tag.example/dev/{PICC}/more?c={MAC}", "/{picc}/more?c={mac}"),
        (f"https://tag.example/t/{UID}x{COUNTER}-{MAC}/", "/{uid}x{counter}-{mac}"),
        (f"https://tag.example/t?x=q8w3sbcz&u={UID}&n={COUNTER}&e={MAC}", "x={xuid}&u={uid}&n={counter}&e={mac}"),
        (f"tagapp://uid={UID}&ctr={COUNTER}&mac={MAC}", "uid={uid}&ctr={counter}&mac={mac}"),
        (f"tagapp://{UID}x{COUNTER}x{MAC}", "{uid}x{counter}x{mac}"),
        (f"https://tag.example/?{UID}&{COUNTER}&{MAC}", "{uid}&{counter}&{mac}"),
        (f"https://tag.example/#/t?picc_data={PICC}&cmac={MAC}", "picc_data={picc}&cmac={mac}"),
        (f"https://tag.example/#/{PICC}/{MAC}", "/{picc}/{mac}"),
        (f"https://tag.example/t?lang=en&u={UID}&v=2&n={COUNTER}&e={MAC}&w=3", "u={uid}&v=2&n={counter}&e={mac}"),
    ],
)
def test_the_chips_reading_comes_first(url: str, template: str) -> None:
    found = templates(url)
    assert template in found
    statics = ("{xuid}", "{cuid}", "{aid}")
    mirrors = [text.count("{") - sum(text.count(static) for static in statics) for text in found]
    assert mirrors[found.index(template)] == max(mirrors)


@pytest.mark.parametrize(
    "url",
    [
        "https://tag.example/t",
        f"https://tag.example/t?c={MAC}",  # which tag, at which tap?
        f"https://tag.example/t?p={PICC}&u={UID}",
        f"https://tag.example/t?p={PICC}&c={MAC[:15]}",
        f"https://tag.example/t?p={PICC}&c={MAC}0",
        f"https://tag.example/t?e={ENC}x{UID}&c={MAC[1:]}",
    ],
)
def test_what_no_chip_writes(url: str) -> None:
    assert templates(url) == []


def test_samples_tell_constants_from_texts_of_the_tag() -> None:
    first = f"https://tag.example/t?lot=A1&x=aaaa1111&n=000001&e={MAC}"
    second = f"https://tag.example/t?lot=A2&x=bbbb2222&n=000002&e={MAC[::-1]}"
    third = f"https://tag.example/t?lot=A1&x=bbbb2222&n=000002&e={MAC[::-1]}"
    assert templates(first, second)[:2] == ["x={xuid}&n={counter}&e={mac}", "lot={cuid}&x={xuid}&n={counter}&e={mac}"]
    assert templates(first, third)[0] == "x={xuid}&n={counter}&e={mac}"


def test_what_stands_still_over_taps_is_no_mac() -> None:
    urls = [f"https://tag.example/t?k={'AB' * 8}&n=00000{tap}&e={MAC[tap:]}{MAC[:tap]}" for tap in range(3)]
    assert [template for template in templates(*urls) if "k={mac}" in template] == []


def test_more_texts_of_the_tag_than_have_names() -> None:
    urls = [
        f"https://tag.example/t?a={tap}y&b={tap}z&c={tap}y&d={tap}z&f={tap}y&n=00000{tap}&e={MAC[tap:]}{MAC[:tap]}"
        for tap in range(2)
    ]
    found = templates(*urls)
    assert found[0] == "b={xuid}&c={cuid}&d={batch}&f={aid}&n={counter}&e={mac}"  # something must name the tag
    assert found[1] == "n={counter}&e={mac}"


def test_the_encoding_names_what_stands_where() -> None:
    sample = dissect(f"https://tag.example/{PICC}?c={MAC}")
    encoding = encodings(sample, [sample])[0]
    assert encoding.texts == {"picc": PICC, "mac": MAC}
    assert encoding.fields == {"picc": "a path segment", "mac": "c"}
    assert "".join(part if isinstance(part, str) else part.notation() for part in encoding.before_mac) == (
        "https://tag.example/{picc}?c="
    )
    assert encoding.encrypted
    assert Field(None, "a", 0).label() == "a path segment"


@pytest.mark.parametrize(
    "url",
    ["x" * (REQUEST_TARGET_BYTES_MAX + 1), "https://tag.example/\x7f", "a b", "/{uid}", "?" + "a=1&" * PARAMETERS_MAX + "b=2"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError) as refused:
        dissect(url)
    assert refused.value.field == "url"


@pytest.mark.parametrize(
    "text", [MAC * 32, "&".join(f"p{i}={MAC}" for i in range(60)), "&".join(f"p{i}={LRP * 4}" for i in range(15))]
)
def test_the_number_of_encodings_is_bounded(text: str) -> None:
    started = time.perf_counter()
    assert len(templates(f"https://tag.example/t?a={text}")) <= ENCODINGS_MAX
    assert time.perf_counter() - started < 5


@given(st.text("0123456789abcdefABCDEFxXOI=&?/.:-%c", max_size=200))
def test_any_text_is_taken_apart_or_refused(text: str) -> None:
    try:
        sample = dissect(text)
    except InputError:
        return
    for encoding in encodings(sample, [sample]):
        assert "{mac}" in encoding.template
        assert all(text in sample.url for text in encoding.texts.values())
