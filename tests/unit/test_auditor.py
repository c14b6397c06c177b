"""An audit: batched and single verification agree, taps are sorted by time, and invalid lines are reported with their numbers."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from ixfast.audit import Audit, TagCatalogue, json_lines
from ixfast.audit.auditor import Auditor
from ixfast.audit.findings import EMPTY, GENUINE, NO_TAG, OUTCOMES, REPLAYED, Finding, TapFindings
from ixfast.audit.judge import judge
from ixfast.audit.tap_bytes import CHUNK_BYTES, chunks
from ixfast.audit.tap_format import TapFormat, detect_format
from ixfast.audit.tap_lines import read_rows
from ixfast.audit.tap_order import TapOrder
from ixfast.audit.tap_times import read_times
from ixfast.audit.url_layout import batchable, learn
from ixfast.chips import PRESETS, compile_profile, preset
from ixfast.domain.model import Key
from ixfast.errors import InputError
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

BATCHED = [name for name in PRESETS if batchable(compile_profile(preset(name)))]


def catalogue_of(*fleets: VirtualFleet) -> TagCatalogue:
    catalogue = TagCatalogue()
    for fleet in fleets:
        if fleet.profile.encrypted:
            catalogue.add_meta_keys(fleet[0].meta_keys())
        for tag in fleet:
            catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys(), aid=tag.aid)
    return catalogue


def audited(catalogue: TagCatalogue, lines: Iterable[str], **options: Any) -> list[dict[str, Any]]:
    """The reports on the lines of a file."""
    text = "".join(f"{line}\n" for line in lines).encode()
    found: list[dict[str, Any]] = []
    first_line = 1
    for judged in Audit(catalogue, **options).judged(chunks(io.BytesIO(text))):
        for some in json_lines(judged, catalogue, first_line):
            found += map(orjson.loads, some.splitlines())
        first_line += len(judged)
    return found


def verdicts(catalogue: TagCatalogue, lines: Iterable[str], **options: Any) -> list[str]:
    return [report["verdict"] for report in audited(catalogue, lines, **options)]


# --- batched and single verification agree --------------------------------------------------------


def mutated(url: str, dice: random.Random) -> str:
    """The URL with a few characters replaced, mostly by others that occur in URLs."""
    text = list(url)
    for _ in range(dice.choice((0, 0, 1, 1, 2, 5))):
        place = dice.randrange(len(text))
        text[place] = dice.choice("0123456789ABCDEFabcdef&=?/%# x\u00e9" + text[place].swapcase())
    if dice.randrange(12) == 0:
        del text[dice.randrange(len(text)) :]
    return "".join(text)


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_says_what_one_by_one_says(name: str) -> None:
    dice = random.Random(name)
    fleet, strangers = VirtualFleet(1, 6, name), VirtualFleet(2, 3, name)
    catalogue = catalogue_of(fleet)
    tags = list(fleet)
    texts = [tags[0].tap()]
    for _ in range(600):
        tag = dice.choice(tags)
        kind = dice.randrange(8)
        url = tag.forged() if kind == 0 else strangers[dice.randrange(3)].tap() if kind == 1 else tag.tap()
        texts.append(mutated(url, dice) if kind < 5 else url)
    auditor = Auditor(catalogue)
    judged = auditor.judge_chunk("".join(f"{text}\n" for text in texts).encode(), TapFormat("urls"), first=0)
    expected = TapFindings(len(texts))
    for place, text in enumerate(texts):
        if text.strip():
            expected.put(place, judge(catalogue, text.strip()))
    assert judged.codes == expected.codes
    assert (judged.tags, judged.positions, judged.tampers) == (expected.tags, expected.positions, expected.tampers)
    assert judged.codes.count(GENUINE) + judged.codes.count(2) > 100
    assert bool(auditor._layouts) == (name in BATCHED)


def test_a_batch_that_believes_too_much_is_caught() -> None:
    """The control: a layout that does not compare the mirrored UID lets a tap of another UID through."""
    tag, other = VirtualFleet(1, 2, "ixkio-plain")[:2]
    catalogue = catalogue_of(VirtualFleet(1, 2, "ixkio-plain"))
    genuine = tag.tap()
    forged = genuine.replace(tag.uid.hex().upper(), other.uid.hex().upper())
    layout = learn(tag.profile, 0, genuine)
    assert layout is not None
    auditor = Auditor(catalogue)
    auditor._layouts[len(genuine)] = [layout]
    chunk = f"{genuine}\n{forged}\n".encode()
    assert list(auditor.judge_chunk(chunk, TapFormat("urls"), first=0).codes)[1] != GENUINE
    layout._literals.append((layout._slots.pop("uid")[0], 0, ""))
    assert list(auditor.judge_chunk(chunk, TapFormat("urls"), first=0).codes) == [GENUINE, GENUINE]


def test_no_other_character_passes_for_one_of_the_layout() -> None:
    tag = VirtualFleet(17, 1)[0]
    catalogue = catalogue_of(VirtualFleet(17, 1))
    first, second, third = tag.tap(), tag.tap(), tag.tap()
    texts = [first, second.replace("?", "\u00e9"), third.replace("?", "\0"), tag.tap().replace("tag.", "t\u00e4g."), tag.tap()]
    judged = Auditor(catalogue).judge_chunk("\n".join(texts).encode(), TapFormat("urls"), first=0)
    assert [OUTCOMES[code][0] for code in judged.codes] == [OUTCOMES[judge(catalogue, text).code][0] for text in texts]
    assert [code == GENUINE for code in judged.codes][::3] == [True, True]
    assert judged.codes[1] != GENUINE


@pytest.mark.parametrize("name", BATCHED)
def test_nearly_all_taps_of_a_usual_file_are_judged_in_batches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = VirtualFleet(4, 5, name)
    catalogue, tags = catalogue_of(fleet), list(fleet)
    alone: list[str] = []
    monkeypatch.setattr("ixfast.audit.auditor.judge", lambda c, text: alone.append(text) or judge(c, text))
    assert verdicts(catalogue, ["url", *(tag.tap() for _ in range(40) for tag in tags)]) == ["genuine"] * 200
    assert len(alone) == 1


def test_parameters_as_a_web_server_passes_them_on_are_batched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ixkio-plain", "plain-joined", "encrypted-file"):
        fleet = VirtualFleet(5, 3, name)
        catalogue, tags = catalogue_of(fleet), list(fleet)
        taps = [tag.tap_parameters() for _ in range(30) for tag in tags]
        lines = [",".join(taps[0]), *(",".join(tap.values()) for tap in taps)]
        alone: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr("ixfast.audit.auditor.judge", lambda c, text, alone=alone: alone.append(text) or judge(c, text))
            assert verdicts(catalogue, lines) == ["genuine"] * 90
        assert len(alone) < 90 if name == "plain-joined" else len(alone) == 1


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("ixkio-plain", "?x=q8w3sbcz&n=000001&e=%300112233445566"),
        ("ixkio-plain", "?x=q8w3sbcz&xuid=q8w3sbcz&n=000001&e=0011223344556677"),
        ("lrp-tamper", "?picc_data=" + 48 * "0" + "&enc=" + 32 * "0" + "&cmac=0011223344556677"),
        ("lrp-encrypted", "?picc_data=" + 48 * "0" + "&cmac=0011223344556677"),
        ("plain-uid-only", "?uid=04A1B2C3D4E5F6&cmac=0011223344556677"),
        ("plain-joined", "?m=04A1B2C3D4E5F6x000001"),
    ],
)
def test_what_cannot_be_told_by_place_has_no_layout(profile: str, text: str) -> None:
    assert learn(compile_profile(preset(profile)), 0, text) is None


def test_several_keys_are_tried_newest_first() -> None:
    tag = VirtualFleet(6, 1)[0]
    catalogue = TagCatalogue()
    place = catalogue.add(tag.xuid, tag.profile, uid=tag.uid, keys=tag.file_keys())
    catalogue.add_key(place, Key(2, bytes(16), bytes(3)))
    renewed = VirtualTag(tag.profile, xuid=tag.xuid, uid=tag.uid, file_key=bytes(16), aid="acme")
    taps = [tag.tap(), tag.tap(), renewed.tap(), tag.tap()]
    # The counter restarted with the second key, whose taps rank above all those of the first.
    assert verdicts(catalogue, ["url", *taps]) == ["genuine", "genuine", "genuine", "replayed"]
    with pytest.raises(InputError, match="version"):
        catalogue.add_key(place, Key(2, bytes(16), bytes(3)))


# --- chronological order --------------------------------------------------------------------------


def in_a_random_order(count: int, seed: int) -> tuple[TagCatalogue, list[str], dict[str, int]]:
    fleet = VirtualFleet(7, 3, "encrypted")
    dice = random.Random(seed)
    tags = list(fleet)
    taps = [(number, dice.choice(tags).tap()) for number in range(count)]
    again = [(number + count, taps[dice.randrange(count)][1]) for number in range(count // 4)]
    lines = [f"{number},{url}" for number, url in taps + again]
    dice.shuffle(lines)
    return catalogue_of(fleet), ["at,url", *lines], {"genuine": count, "replayed": count // 4}


@pytest.mark.parametrize("seed", range(5))
def test_replays_are_told_in_order_of_time_whatever_the_order_of_lines(seed: int) -> None:
    catalogue, lines, counts = in_a_random_order(200, seed)
    reports = audited(catalogue, lines)
    found = {report["line"]: report["verdict"] for report in reports}
    for line, text in enumerate(lines[1:], start=2):
        assert found[line] == ("genuine" if int(text.partition(",")[0]) < 200 else "replayed")
    assert len(found) == sum(counts.values())
    in_time = [lines[0], *sorted(lines[1:], key=lambda line: int(line.partition(",")[0]))]
    assert verdicts(catalogue, in_time, in_order=True) == ["genuine"] * 200 + ["replayed"] * 50


def test_taps_of_equal_time_keep_the_order_of_their_lines() -> None:
    fleet = VirtualFleet(8, 1)
    tag = fleet[0]
    first, second = tag.tap(), tag.tap()
    assert verdicts(catalogue_of(fleet), ["at,url", f"5,{second}", f"5,{first}"]) == ["genuine", "replayed"]
    assert verdicts(catalogue_of(fleet), ["at,url", f"5,{second}", f"5,{first}", f"4,{first}"])[1:] == ["replayed", "genuine"]


def test_a_forged_tap_uses_up_no_counter() -> None:
    fleet = VirtualFleet(9, 1)
    tag = fleet[0]
    forged = tag.forged()
    assert verdicts(catalogue_of(fleet), ["url", forged, tag.tap_at(1)]) == ["forged", "genuine"]


def test_in_order_ends_at_the_first_tap_that_is_late() -> None:
    fleet = VirtualFleet(10, 2)
    one, other = fleet[:2]
    # An earlier tap of another tag does not count.
    lines = ["at,url", f"5,{one.tap()}", f"3,{other.tap()}", f"6,{one.tap()}", f"4,{one.tap()}", f"3,{one.tap()}"]
    with pytest.raises(InputError, match="line 5 is earlier"):
        verdicts(catalogue_of(fleet), lines, in_order=True)
    assert verdicts(catalogue_of(fleet), lines) == ["replayed", "genuine", "replayed", "replayed", "genuine"]


def test_order_across_pieces() -> None:
    order = TapOrder(1)
    for position, code in ((3, GENUINE), (3, REPLAYED), (4, GENUINE)):
        piece = TapFindings(1)
        piece.put(0, Finding(GENUINE, 0, position))
        order.settle_next(piece, 1)
        assert piece.codes[0] == code


@pytest.mark.parametrize(
    ("at", "seconds"),
    [
        ("2026-01-01T00:00:00Z", 1767225600.0),
        ("2026-01-01T01:00:00+01:00", 1767225600.0),
        ("2026-01-01 00:00:00.5", 1767225600.5),
        ("1767225600", 1767225600.0),
        (1767225600, 1767225600.0),
        ("1767225600250", 1767225600.25),
        (1767225600250000, 1767225600.25),
        (None, 0.0),
        ("", 0.0),
    ],
)
def test_times(at: Any, seconds: float) -> None:
    assert read_times([at]) == ([seconds], [])
    assert read_times([at, "1"]) == ([seconds, 1.0], [])


@pytest.mark.parametrize("at", ["yesterday", "nan", "inf", {}, [1], 10**400])
def test_what_is_no_time_is_told(at: Any) -> None:
    assert read_times(["2026-01-01", at, "1767225600"])[1] == [1]


# --- lines ----------------------------------------------------------------------------------------


def test_odd_lines_are_told_by_their_numbers() -> None:
    fleet = VirtualFleet(11, 1)
    tag = fleet[0]
    lines = [
        "at,url", f"1,{tag.tap()}", "", f"2,{tag.tap()},3", '3,"https://a', "4,", f"x,{tag.tap()}", f'5,"{tag.tap()}"',
        "6,https://tag.example/t?x=nobody12&n=000001&e=0011223344556677", f"7,https://tag.example/t?x={tag.xuid}",
        "8,https://elsewhere.example/", f"9,https://tag.example/t?x={tag.xuid}&n=1&e=00", f"10,?{'a' * 5000}",
        "11,https://tag.example/t?x=caf\u00e9",
    ]  # fmt: skip
    reports = audited(catalogue_of(fleet), lines)
    assert [(report["line"], report["verdict"], report.get("problem")) for report in reports] == [
        (2, "genuine", None),
        (4, "malformed", "3 fields, the header has 2"),
        (5, "malformed", "a quoted field is not closed"),
        (6, "malformed", "the line contains no tap"),
        (7, "malformed", "at: neither an ISO 8601 nor a Unix time, nor one of a web server's log"),
        (8, "genuine", None),
        (9, "unknown", None),
        (10, "incomplete", None),
        (11, "malformed", "no tap: it has none of the parameters x, u, n, e"),
        (12, "malformed", "n must be 6 hex digits (it has 1 character)"),
        (13, "malformed", "longer than 4096 characters"),
        (14, "unknown", None),
    ]


def test_json_lines_of_every_kind() -> None:
    fleet = VirtualFleet(12, 1)
    tag = fleet[0]
    taps = [{"at": 1, "url": tag.tap()}, {"at": "1970-01-01T00:00:02Z", "query": tag.tap().partition("?")[2]}]
    taps += [{"at": 3, **tag.tap_parameters()}, {"at": 4}, {"url": 7}]
    lines = [orjson.dumps(tap).decode() for tap in taps] + ["[]", "{", "", "null"]
    assert [(r["line"], r["verdict"]) for r in audited(catalogue_of(fleet), lines)] == [
        *((line, "genuine") for line in (1, 2, 3)),
        *((line, "malformed") for line in (4, 5, 6, 7, 9)),
    ]


@pytest.mark.parametrize(
    "others", [[], [{"x": "nobody12", "n": "000001", "e": "00"}]]
)  # also with lines that are read one by one
def test_json_lines_with_a_member_twice_are_malformed(others: list[dict[str, str]]) -> None:
    fleet = VirtualFleet(15, 1)
    url = fleet[0].tap()
    lines = [
        f'{{"at": 1, "url": "{url}", "url": "{url}"}}',
        f'{{"at": 1, "at": 1, "url": "{url}"}}',
        f'{{"url": "{url}", "\\u0075rl": "{url}"}}',
        f'{{"at": 2, "ip": 1, "ip": 2, "url": "{url}"}}',
        *(orjson.dumps(other).decode() for other in others),
    ]
    found = [(report["line"], report["verdict"], report.get("problem")) for report in audited(catalogue_of(fleet), lines)]
    assert found[:4] == [*((line, "malformed", "duplicate member") for line in (1, 2, 3)), (4, "genuine", None)]


@pytest.mark.parametrize("line", ['{"x": "a", "x": "b"}', '{"x": "a", "n": "1", "e": {"e": 1, "e": 2}}'])
def test_parameters_that_stand_twice_are_malformed(line: str) -> None:
    assert read_rows(line.encode(), TapFormat("jsonl")).problems == {0: "duplicate member"}


def test_a_standard_tag_and_a_tag_without_a_key() -> None:
    plain, keyless = VirtualFleet(13, 2)[:2]
    catalogue = TagCatalogue()
    catalogue.add(plain.xuid, None, uid=plain.uid)
    catalogue.add(keyless.xuid, keyless.profile, uid=keyless.uid)
    reports = audited(catalogue, ["url", plain.tap(), keyless.tap()])
    assert [(report["verdict"], report.get("reason")) for report in reports] == [("plain", None), ("undecided", "no_key")]


def test_chunks_are_whole_lines() -> None:
    lines = b"".join(b"%d\n" % number * (number % 9) for number in range(40_000))
    found = list(chunks(io.BytesIO(lines + b"end")))
    assert len(found) > 1
    assert b"".join(found) == lines + b"end"
    assert all(chunk.endswith(b"\n") for chunk in found[:-1])
    with pytest.raises(InputError, match="longer"):
        list(chunks(io.BytesIO(bytes(3 * CHUNK_BYTES))))


def test_first_lines() -> None:
    assert detect_format(b"AT,url\r\n") == TapFormat("csv", ("at", "url"), before=1, time="AT")
    assert detect_format(b'{"url": 1}').kind == "jsonl"
    assert detect_format(b"https://a/t?x=1&n=2").kind == "urls"
    for line in (b"at", b"at,at,url", b"at,,at", b"expected,at"):
        with pytest.raises(InputError, match="must name the columns"):
            detect_format(line)


def test_lines_of_several_chunks_are_numbered_through(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = VirtualFleet(14, 2)
    tag = fleet[0]
    lines = ["url", *(tag.tap() for _ in range(100)), "oops"]
    monkeypatch.setattr("ixfast.audit.tap_bytes.CHUNK_BYTES", 300)
    for in_order in (False, True):
        reports = audited(catalogue_of(fleet), lines, in_order=in_order)
        assert [report["line"] for report in reports] == list(range(2, 103))
        assert reports[-1]["verdict"] == "malformed"


def test_a_row_of_parameters_is_a_query() -> None:
    rows = read_rows(b"5,q8w3sbcz,a b&c\n,,\n", TapFormat("csv", ("at", "x", "e"), before=1))
    assert rows.texts == ["x=q8w3sbcz&e=a%20b%26c", None]
    assert rows.problems == {1: "the line contains no tap"}


def test_no_outcome_is_told_in_two_ways() -> None:
    assert len(set(OUTCOMES)) == len(OUTCOMES) < EMPTY
    assert Finding(GENUINE).tag == NO_TAG


def test_a_mirror_that_no_meta_key_opens_is_unknown_whatever_other_profiles_there_are() -> None:
    fleets = [VirtualFleet(21, 1, "encrypted"), VirtualFleet(22, 1, "lrp-encrypted")]
    tap = VirtualTag(
        "encrypted", xuid="q8w3sbcz", uid=bytes.fromhex("04A1B2C3D4E5F6"), file_key=bytes(16), meta_key=b"?" * 16
    ).tap()
    for order in (fleets, fleets[::-1]):
        assert verdicts(catalogue_of(*order), [tap]) == ["unknown"]
    assert verdicts(catalogue_of(fleets[1]), [tap]) == ["malformed"]
