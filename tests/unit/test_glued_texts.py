"""Texts of the owner's directly beside mirrors: the template is right for tags that were no sample, or the problem is named."""

import itertools
from typing import NamedTuple

import pytest

from ixfast.chips import Message, compile_profile
from ixfast.chips import detect as detect_module
from ixfast.chips.detect import Detection, detect
from ixfast.chips.glued_texts import GLUED_CHARS_MAX, GLUED_READINGS_MAX, Alone, glued_readings
from ixfast.chips.url_fields import ENCODINGS_MAX, dissect, glued_encodings
from ixfast.domain.model import EncodingProfile, Key
from ixfast.keys import check_value
from ixfast.keys.diversify import USUAL_DERIVATIONS, BoltCard
from ixfast.testing.virtual_tags import VirtualTag

FILE_KEY, META_KEY = bytes(range(16)), bytes(range(16, 32))
UIDS = tuple(bytes.fromhex(f"04782e21801d{last:02x}") for last in (0x80, 0x81, 0x82, 0x83))
UNSEEN = UIDS[-1]
SERIALS = ("4F9E8D7C6B5A49382716F5E4D3C2B1A04F9E8D7C", "0123456789ABCDEF0123456789ABCDEF01234567",
           "A0B1C2D3E4F5061728394A5B6C7D8E9FA0B1C2D3", "7C04AB12CD34EF56043ED6E94B04F3B17C04AB12")  # fmt: skip
LOT = "C0FFEE04A1B2C3D4E5F6000001F00DBABE123456"  # with what looks like a UID and a counter
ASK = "pass taps of three different tags"


class Layout(NamedTuple):
    template: str
    scheme: str = "ntag424-aes"
    window: str = ""


LAYOUTS = {
    "plain": Layout("d={uid}{counter}{mac}"),
    "joined": Layout("d={uid}x{counter}x{mac}"),
    "encrypted": Layout("d={picc}{mac}"),
    "encrypted, joined": Layout("d={picc}-{mac}"),
    "with file data": Layout("d={picc}{enc:32}{mac}", window="{enc:32}"),
    "plain with file data": Layout("d={uid}{counter}{enc:32}{mac}", window="{enc:32}"),
    "LRP": Layout("d={picc}{mac}", "ntag424-lrp"),
    "plain LRP": Layout("d={uid}{counter}{mac}", "ntag424-lrp"),
    "tamper": Layout("d={uid}x{counter}x{tt}x{mac}", "ntag22x-sd"),
    "window": Layout("d={uid}{counter}{mac}", window="{uid}{counter}"),
    "counter only": Layout("d={counter}{mac}"),
    "mirror in front": Layout("d={picc}&c={mac}"),
    "MAC in front": Layout("c={mac}&d={picc}"),
    "three parameters": Layout("u={uid}&n={counter}&c={mac}"),
    "path": Layout("/{uid}{counter}{mac}"),
    "encrypted path": Layout("/{picc}{mac}"),
}


def key(value: bytes) -> Key:
    return Key(1, value, check_value(value))


KEYS = [key(bytes(15) + b"\1"), key(FILE_KEY), key(META_KEY)]


def tag_of(layout: Layout, uid: bytes) -> VirtualTag:
    profile = EncodingProfile(name="mine", scheme=layout.scheme, template=layout.template, window=layout.window)
    return VirtualTag(profile, uid=uid, file_key=FILE_KEY, meta_key=META_KEY)


def beside(tail: str, front: str, behind: str) -> str:
    """A tap, or a template, with texts around the mirrors of its first parameter or of the path."""
    at = tail.index("=") + 1 if "=" in tail else tail.rindex("/") + 1
    end = tail.index("&") if "&" in tail else len(tail)
    return f"{tail[:at]}{front}{tail[at:end]}{behind}{tail[end:]}"


def taps(layout: Layout, texts: dict[bytes, tuple[str, str]], times: int = 1) -> list[str]:
    return [
        beside(tag.tap(), *texts[uid]) for uid in texts for tag in [tag_of(layout, uid)] for _ in range(times)
    ]  # fmt: skip


def is_right(found: Detection, url: str, uid: bytes) -> bool:
    """Whether the best profile also holds for a tag that was no sample."""
    profile = compile_profile(found.proposals[0].profile)
    message = profile.read_url(url)
    if not isinstance(message, Message):
        return False
    return profile.examine(message, uid=uid, file_keys=(key(FILE_KEY),), meta_keys=(key(META_KEY),)).authentic


SIDES = {
    "serial in front": lambda serial, _lot: (serial, ""),
    "serial behind": lambda serial, _lot: ("", serial),
    "serial in front, lot behind": lambda serial, lot: (serial, lot),
    "lot in front, serial behind": lambda serial, lot: (lot, serial),
    "lot in front": lambda _serial, lot: (lot, ""),
    "lot behind": lambda _serial, lot: ("", lot),
}


NAMED = [(name, side) for name in LAYOUTS for side in SIDES if name != "counter only" or "serial" in side]
"""Without a serial, a tap of the counter alone names no tag."""


@pytest.mark.parametrize(("name", "side"), NAMED)
def test_hex_texts_beside_mirrors(name: str, side: str) -> None:
    layout = LAYOUTS[name]
    place = list(LAYOUTS).index(name) + list(SIDES).index(side)
    chars, change = (6, 14, 16, 32)[place % 4], (str, str.lower)[place // 4 % 2]
    texts = {uid: SIDES[side](serial[:chars], LOT[:chars]) for uid, serial in zip(UIDS, SERIALS, strict=True)}
    unseen = taps(layout, {UNSEEN: texts.pop(UNSEEN)})[0]
    samples = taps(layout, texts, 2)
    samples[1::2] = [url.replace("tag.example", "other.example") for url in samples[1::2]]
    found = detect([change(url) for url in samples], KEYS)
    expected = beside(layout.template, *SIDES[side]("{xuid}", change(LOT[:chars])))
    assert [proposal.profile.template for proposal in found.proposals] == [expected], found.reasons
    assert (found.unexplained, found.proposals[0].profile.window) == ((), layout.window)
    assert is_right(found, change(unseen), UNSEEN)
    if "lot in front" in side:
        assert any("is the same for all of these tags: taken for a constant" in note for note in found.proposals[0].notes)


WORDS = {  # the texts of four tags, and what joins all of them to the mirrors behind them
    "lots": (("lot-1390", "lot-7836", "lot-1111", "lot-2222"), ""),
    "serials": (("S12345", "S12346", "S99999", "S00001"), ""),
    "groups": (("AB-12", "AB-34", "AC-99", "ZZ-01"), ""),
    "suffixes": (("1390-l", "7836-l", "1111-z", "2222-q"), ""),
    "a letter at the end": (("1390l", "7836l", "1111z", "2222q"), ""),
    "words": (("red", "green", "blue", "pink"), ""),
    "hex or not": (("K7B2F", "09AAF1", "ZX", "0x12"), ""),
    "joined in different ways": (("12-", "34_", "5K-", "lot."), ""),
    "joined in front": (("lot-", "K-", "12-", "A-"), "-"),
    "GTINs": (("09506000134352", "04006381333931", "09506000134376", "04006381333948"), ""),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("in_front", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_words_beside_mirrors(name: str, words: str, in_front: bool, times: int) -> None:
    layout, (texts, joiner) = LAYOUTS[name], WORDS[words]
    sides = {uid: (text, "") if in_front else ("", text) for uid, text in zip(UIDS, texts, strict=True)}
    unseen = taps(layout, {UNSEEN: sides.pop(UNSEEN)})[0]
    found = detect(taps(layout, sides, times), KEYS)
    expected = beside(layout.template, f"{{xuid}}{joiner}", "") if in_front else beside(layout.template, "", "{xuid}")
    assert [proposal.profile.template for proposal in found.proposals] == [expected], found.reasons
    assert (found.unexplained, found.proposals[0].profile.window) == ((), layout.window)
    assert is_right(found, unseen, UNSEEN)


@pytest.mark.parametrize("words", ["lots", "serials", "suffixes"])
def test_words_beside_mirrors_in_a_text_without_a_name(words: str) -> None:
    urls = [url.replace("?d=", "?") for url in taps(LAYOUTS["encrypted"], {
        uid: ("", text) for uid, text in zip(UIDS, WORDS[words][0], strict=True)
    })]  # fmt: skip
    assert [each.profile.template for each in detect(urls, KEYS).proposals] == ["{picc}{mac}{xuid}"]


@pytest.mark.parametrize("name", ["plain", "encrypted", "mirror in front", "path"])
def test_words_that_differ_on_both_sides_have_no_template(name: str) -> None:
    sides = {uid: (f"K{place}-", f"lot-{place}") for place, uid in enumerate(UIDS)}
    found = detect(taps(LAYOUTS[name], sides), KEYS)
    assert found.proposals == () and "differ between tags both in front of the mirrors and behind them" in found.reasons[0]


@pytest.mark.parametrize("name", ["plain", "encrypted", "path"])
def test_two_lots_of_several_tags_each(name: str) -> None:
    sides = {uid: ("", f"lot-{place // 2}") for place, uid in enumerate(UIDS)}
    assert [each.profile.template for each in detect(taps(LAYOUTS[name], sides), KEYS).proposals] == [
        beside(LAYOUTS[name].template, "", "{xuid}")
    ]


def test_words_of_one_fleet_beside_the_taps_of_another() -> None:
    mine = taps(LAYOUTS["encrypted"], {uid: ("", f"lot-{place}") for place, uid in enumerate(UIDS[:3])})
    other = taps(LAYOUTS["plain"], {UNSEEN: ("", "v2")})
    found = detect([*other, *mine], KEYS)
    assert [each.profile.template for each in found.proposals] == ["d={picc}{mac}{xuid}", "d={uid}{counter}{mac}{xuid}"]
    assert [each.verified for each in found.proposals] == [(1, 2, 3), (0,)]
    assert any(ASK in note for note in found.proposals[1].notes) and not found.proposals[0].notes


@pytest.mark.parametrize(
    ("name", "sides", "where"),
    [
        ("encrypted", ("", "lot-1390"), "d"),
        ("plain", ("1390-l", ""), "d"),
        ("mirror in front", ("", "S12345"), "d"),
        ("encrypted path", ("", "lot-1390"), "the path"),
    ],
)
def test_a_constant_that_only_one_tag_shows_has_a_note(name: str, sides: tuple[str, str], where: str) -> None:
    for times in (1, 2):
        (proposal,) = detect(taps(LAYOUTS[name], {UIDS[0]: sides}, times), KEYS).proposals
        assert any(note.endswith(ASK) and f" in {where} may " in note for note in proposal.notes), proposal
    same = detect(taps(LAYOUTS[name], dict.fromkeys(UIDS, sides)), KEYS).proposals[0]
    assert same.profile.template == beside(LAYOUTS[name].template, *sides)
    assert not any(ASK in note for note in same.notes)


def test_a_constant_field_that_only_one_tag_shows_has_a_note() -> None:
    url = tag_of(LAYOUTS["mirror in front"], UIDS[0]).tap().replace("&c=", "&lang=en&c=")
    assert detect([url], KEYS).proposals[0].notes == (
        f"the constant text in lang may differ between tags, which taps of one tag do not show: {ASK}",
    )
    url = url.replace("?d=", "?").replace("&lang=en", "lot-1&lang=")
    assert detect([url], KEYS).proposals[0].notes[0].startswith("the constant text in the text without a name may differ")


GTINS = {
    "GTIN": "/01/09506000134352",
    "GTIN that begins as a UID": "/01/04006381333931",
    "GTINs, lots and serials": "/01/0400638133393{tag}/10/LOT{tag}/21/S{tag}",
    "serials in hex": "/01/09506000134352/21/4F9E8D7C6B5A{tag}",
    "GTIN in the query": "/t?gtin=09506000134352&17=270101&10=ABCDEF&",
    "GTIN that ends as a UID begins": "/01/09506000134304",
}
BESIDE_GTINS = {
    "encrypted": Layout("m={picc}&c={mac}"),
    "in one parameter": Layout("m={picc}{mac}"),
    "LRP": Layout("m={picc}&c={mac}", "ntag424-lrp"),
    "file data": Layout("m={picc}&e={enc:32}&c={mac}", window="{enc:32}&c="),
    "plain": Layout("d={uid}{counter}{mac}"),
    "three parameters": Layout("u={uid}&n={counter}&c={mac}"),
}


@pytest.mark.parametrize("in_front", [True, False], ids=["in front", "behind"])
@pytest.mark.parametrize("name", BESIDE_GTINS)
@pytest.mark.parametrize("gtin", GTINS)
def test_hex_texts_beside_mirrors_with_a_gtin(gtin: str, name: str, in_front: bool) -> None:
    layout = BESIDE_GTINS[name]
    chars = (6, 8, 14, 20)[(list(GTINS).index(gtin) + list(BESIDE_GTINS).index(name)) % 4]
    sides = {uid: (text[:chars], "") if in_front else ("", text[:chars]) for uid, text in zip(UIDS, SERIALS, strict=True)}
    urls = []
    for tag, url in enumerate(taps(layout, sides)):
        path = GTINS[gtin].format(tag=tag)
        urls.append(f"https://h.example{path}{'' if '?' in path else '?'}{url.partition('?')[2]}")
    found = detect(urls[:3], KEYS)
    expected = beside(layout.template, "{xuid}", "") if in_front else beside(layout.template, "", "{xuid}")
    assert [proposal.profile.template for proposal in found.proposals] == [expected], found.reasons
    assert is_right(found, urls[3], UNSEEN)


@pytest.mark.parametrize("chars", [1, 5, 7, 20, 40])
@pytest.mark.parametrize("name", ["plain", "encrypted", "LRP", "MAC in front", "path"])
def test_texts_of_any_length(name: str, chars: int) -> None:
    texts = {uid: (serial[:chars], "") for uid, serial in zip(UIDS, SERIALS, strict=True)}
    unseen = taps(LAYOUTS[name], {UNSEEN: texts.pop(UNSEEN)})[0]
    found = detect(taps(LAYOUTS[name], texts), KEYS)
    assert found.proposals[0].profile.template == beside(LAYOUTS[name].template, "{xuid}", "")
    assert is_right(found, unseen, UNSEEN)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("name", ["plain", "encrypted", "encrypted, joined", "LRP", "path"])
def test_taps_of_one_tag_do_not_show_what_is_constant(name: str, times: int) -> None:
    for side in (("{xuid}", ""), ("", "{xuid}")):
        texts = {UIDS[0]: (side[0].replace("{xuid}", LOT[:8]), side[1].replace("{xuid}", LOT[:8]))}
        found = detect(taps(LAYOUTS[name], texts, times), KEYS)
        assert found.proposals[0].profile.template == beside(LAYOUTS[name].template, *side)
        assert any(ASK in note for note in found.proposals[0].notes)
    both = detect(taps(LAYOUTS[name], {UIDS[0]: (SERIALS[0][:8], LOT[:8])}, times), KEYS)
    assert both.proposals == () and ASK in both.reasons[0]
    assert "only one of which may differ between tags" in both.reasons[0]


def test_texts_that_differ_on_both_sides_have_no_template() -> None:
    for name in ("plain", "encrypted", "path"):
        texts = {uid: (serial[:8], serial[8:16]) for uid, serial in zip(UIDS, SERIALS, strict=True)}
        found = detect(taps(LAYOUTS[name], texts), KEYS)
        assert found.proposals == () and len(found.unexplained) == 4
        assert "differ between tags both in front of the mirrors and behind them" in found.reasons[0]


@pytest.mark.parametrize("side", [("7", ""), ("", "7"), ("", "ABC")])
def test_few_characters_may_be_a_mistake_or_the_same_by_chance(side: tuple[str, str]) -> None:
    for tags in (1, 2):
        found = detect(taps(LAYOUTS["encrypted"], dict.fromkeys(UIDS[:tags], side), 2), KEYS)
        assert found.proposals == () and ASK in found.reasons[0]
    found = detect(taps(LAYOUTS["encrypted"], dict.fromkeys(UIDS[:3], side)), KEYS)
    assert found.proposals[0].profile.template == beside("d={picc}{mac}", *side)


@pytest.mark.parametrize(
    "shape", ["https://{host}/#/t?{query}", "tagapp://{query}", "https://{host}/any/path?lang=de&{query}", "{query}&v=2"]
)
def test_in_every_shape_of_url(shape: str) -> None:
    texts = {uid: (serial[:14], "") for uid, serial in zip(UIDS, SERIALS, strict=True)}
    urls = [
        shape.format(host=f"h{place}.example", query=url.partition("?")[2])
        for place, url in enumerate(taps(LAYOUTS["plain"], texts))
    ]
    assert detect(urls, KEYS).proposals[0].profile.template == "d={xuid}{uid}{counter}{mac}"


def test_in_a_text_without_a_name() -> None:
    texts = {uid: (serial[:8], "") for uid, serial in zip(UIDS, SERIALS, strict=True)}
    urls = [url.replace("?d=", "?") for url in taps(LAYOUTS["plain"], texts)]
    assert detect(urls, KEYS).proposals[0].profile.template == "{xuid}{uid}{counter}{mac}"


def test_beside_both_mirrors() -> None:
    urls = []
    for uid, serial in zip(UIDS, SERIALS, strict=True):
        front, behind = tag_of(LAYOUTS["mirror in front"], uid).tap().split("&c=")
        urls.append(f"{beside(front, serial[:6], '')}&c={behind}{serial[6:20]}")
    assert detect(urls, KEYS).proposals[0].profile.template == "d={xuid}{picc}&c={mac}{cuid}"


@pytest.mark.parametrize("chars", [16, 32])
def test_one_tap_beside_the_text_of_a_session(chars: int) -> None:
    query = tag_of(LAYOUTS["plain"], UIDS[0]).tap().partition("?")[2]
    urls = [f"https://tag.example/t?s={serial[:chars]}&{query}" for serial in SERIALS]
    found = detect(urls, KEYS)
    assert (found.proposals[0].profile.template, found.unexplained) == ("d={uid}{counter}{mac}", ())


def test_a_missing_key_is_named() -> None:
    tag = VirtualTag(tag_of(LAYOUTS["plain"], UIDS[0]).profile, uid=UIDS[0], file_key=bytes(15) + b"\2")
    found = detect([beside(tag.tap(), LOT[:16], "")], KEYS)
    (reason,) = found.reasons
    assert reason.startswith("d may have a MAC beside a text of your own, but none there matches under any of the 4 keys;")


@pytest.mark.parametrize("gtin", ["09506000134352", "04006381333931"])
@pytest.mark.parametrize("name", ["encrypted", "in one parameter", "LRP"])
def test_a_missing_key_is_named_although_a_gtin_looks_like_a_uid(name: str, gtin: str) -> None:
    tag = VirtualTag(tag_of(BESIDE_GTINS[name], UIDS[0]).profile, uid=UIDS[0], file_key=bytes(15) + b"\2", meta_key=META_KEY)
    query = beside(tag.tap(), SERIALS[0][:6], "").partition("?")[2]
    (reason,) = detect([f"https://h.example/01/{gtin}?{query}"], KEYS).reasons
    assert reason.startswith("m is decrypted by key 3 (3e451e): UID 04782E21801D80, counter 1; but the MAC in "), reason


def test_with_derived_keys() -> None:
    derivation, master = BoltCard(), bytes(range(32, 48))
    meta_key = derivation.derive_meta_key(master)
    urls = []
    for uid, serial in zip(UIDS, SERIALS, strict=True):
        tag = VirtualTag(
            EncodingProfile(name="mine", scheme="ntag424-aes", template="d={picc}{mac}"),
            uid=uid, file_key=derivation.derive_file_key(master, uid), meta_key=meta_key or b"",
        )  # fmt: skip
        urls.append(beside(tag.tap(), "", serial[:16]))
    proposal = detect(urls, [key(master)], derivations=USUAL_DERIVATIONS).proposals[0]
    assert (proposal.profile.template, proposal.derivation) == ("d={picc}{mac}{xuid}", derivation)


def test_forged_taps_are_not_explained() -> None:
    for name in ("plain", "encrypted", "MAC in front"):
        texts = {uid: (serial[:8], "") for uid, serial in zip(UIDS, SERIALS, strict=True)}
        urls = [beside(tag_of(LAYOUTS[name], uid).forged("wrong_key"), *texts[uid]) for uid in UIDS]
        assert detect(urls, KEYS).proposals == ()


@pytest.mark.parametrize("layout", ["d={uid}{counter}{mac}", "d={picc}{mac}", "picc_data={picc}&cmac={mac}"])
def test_the_same_tap_given_more_than_once(layout: str) -> None:
    """Under other hosts, in other letters, and with different parameters beside it."""
    tags = [tag_of(Layout(layout), uid) for uid in UIDS[:2]]
    queries = [tag.tap().partition("?")[2] for tag in tags]
    for query, more in itertools.product(queries, ([], queries[1:])):
        urls = [f"https://{host}/t?{each}" for host in ("a.example", "b.example") for each in (query, *more)]
        for samples in (urls, [*urls, f"https://c.example/t?{query}".lower()], [f"{url}&v={n}" for n, url in enumerate(urls)]):
            found = detect(samples, KEYS)
            assert [each.profile.template for each in found.proposals] == [layout], found.reasons
            assert found.unexplained == ()


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def counted(sample: object, opens: object) -> list[object]:
        tried.append(1)
        return []

    for text in ("04" * (GLUED_CHARS_MAX // 2), SERIALS[0] * 8, LOT * 8):
        assert len(glued_readings(text, lambda _: True)) <= GLUED_READINGS_MAX
        many = "&".join(f"p{i}={text[:60]}" for i in range(20))
        assert len(glued_encodings(dissect(f"https://tag.example/t?{many}"), lambda _: True)) <= ENCODINGS_MAX
    assert glued_readings("04" * GLUED_CHARS_MAX, lambda _: True) == []
    monkeypatch.setattr(detect_module, "glued_encodings", counted)
    detect([f"https://tag.example/t?d={n:020}{LOT}" for n in range(64)], KEYS)
    assert len(tried) == detect_module.GLUED_ATTEMPTS_MAX


def test_control_without_the_comparison_a_lot_is_taken_for_a_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = dict.fromkeys(UIDS, (LOT[:8], ""))
    monkeypatch.setattr(detect_module, "merged", lambda samples, _labels, _wrong: (samples[0].parts, []))
    found = detect(taps(LAYOUTS["plain"], texts), KEYS)
    assert found.proposals[0].profile.template == "d={xuid}{uid}{counter}{mac}"


def test_control_without_the_comparison_a_lot_is_taken_for_a_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Alone, "has_own_text", False)
    found = detect(taps(LAYOUTS["encrypted"], {uid: ("", f"lot-{place}") for place, uid in enumerate(UIDS)}), KEYS)
    assert found.proposals[0].profile.template == "d={picc}{mac}lot-0"
