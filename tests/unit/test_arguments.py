"""Wrong arguments of the Python API: each is an `InputError` with one short line, whatever its type."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ixfast
from ixfast.errors import quoted
from ixfast.testing import VirtualTag

KEY = bytes(16)
UID = bytes(7)
RULES = ixfast.read_rules({"groups": [], "default": "Hello"})
TAP = VirtualTag("encrypted").tap()
LONG = "x " * 5000

MISTAKES: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any], str]] = [
    (ixfast.identify, (TAP,), {"profile": "encrypted", "keys": KEY.hex()}, "keys must be TagKeys."),
    (ixfast.verify, (TAP,), {"profile": "encrypted", "keys": KEY, "statics": 5}, "statics must be a mapping."),
    (
        ixfast.verify,
        (TAP,),
        {"profile": "encrypted", "keys": KEY, "statics": {"xuid": 5}},
        "statics must be a mapping from names to texts.",
    ),
    (
        ixfast.TagKeys,
        (),
        {"master": KEY, "derivation": 5},
        "derivation must be the name of a scheme or what ixfast.derivation returns.",
    ),
    (ixfast.derive_keys, (KEY, UID, None), {}, "derivation must be the name of a scheme or what ixfast.derivation returns."),
    (ixfast.derive_keys, (KEY, UID, "boltcard"), {"version": []}, "version must be a number between 1 and 127."),
    (ixfast.derivation, ([],), {}, "derivation must be the name of a scheme."),
    (ixfast.find_profile, (None,), {}, "profile must be the name of a profile."),
    (ixfast.detect_profile, ([None],), {}, "urls must be a list of texts."),
    (ixfast.detect_profile, (None,), {}, "urls must be a list."),
    (ixfast.detect_profile, (TAP,), {}, "urls must be a list."),
    (ixfast.detect_profile, ([TAP],), {"keys": KEY}, "keys must be a list."),
    (ixfast.detect_profile, ([TAP],), {"uids": 5}, "uids must be a list."),
    (ixfast.detect_profile, ([TAP],), {"name": None}, "name must be text."),
    (ixfast.detect_profile, ([TAP],), {"derivations": [5]}, "derivations must be a list of what ixfast.derivation returns."),
    (ixfast.read_profile, (Path("\0"),), {}, "Cannot read \\x00: Invalid path."),
    (ixfast.read_profile, (None,), {}, "The document is not an encoding profile: Expected `object`, got `null`."),
    (ixfast.read_rules, (Path("\0"),), {}, "Cannot read \\x00: Invalid path."),
    (ixfast.read_rules, (None,), {}, "document must be JSON text, a dict or a Path."),
    (ixfast.choose_response, (RULES, None), {}, "facts must be a mapping."),
    (ixfast.choose_response, (RULES, {5: 1}), {}, "facts must be a mapping from names to values."),
    (ixfast.choose_response, (None, {}), {}, "rules must be what ixfast.read_rules returns."),
    (ixfast.explain_rules, (None, {}), {}, "rules must be what ixfast.read_rules returns."),
    (ixfast.explain_rules, (RULES, {}), {"now": 5}, "now must be a datetime."),
    (VirtualTag, ("encrypted",), {"seed": -1}, "seed must be a whole number from 0 to 18446744073709551615."),
    (VirtualTag, ("encrypted",), {"counter": "1"}, "counter must be a whole number from 0 to 16777215."),
    (VirtualTag("encrypted").tap_at, (-1,), {}, "counter must be a whole number from 0 to 16777215."),
    (VirtualTag, ("encrypted-tamper",), {"stored": ""}, "stored must be one ASCII character."),
    (VirtualTag, ("ixkio-plain",), {"xuid": None}, "xuid must be text."),
    (VirtualTag, ("ixkio-plain",), {"aid": 5}, "aid must be text or None."),
    (VirtualTag, ("ntag22x-sd",), {"status": b""}, "status must be 4 bytes."),
    (VirtualTag, ("encrypted-file",), {"file_data": "text"}, "file_data must be bytes."),
]


@pytest.mark.parametrize(("call", "arguments", "named", "message"), MISTAKES)
def test_a_wrong_type_is_an_input_error(
    call: Callable[..., object], arguments: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(ixfast.InputError) as raised:
        call(*arguments, **named)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (ixfast.derivation, ("boltcard",), {"version": "\udcff"}),
        (ixfast.derivation, ("boltcard",), {LONG: 1}),
        (ixfast.derivation, (LONG,), {}),
        (ixfast.find_profile, (LONG,), {}),
        (ixfast.find_profile, (f"encrypted/{LONG}",), {}),
        (ixfast.find_profile, ("\n\udcff",), {}),
        (ixfast.read_profile, ({"name": LONG, "scheme": "ntag424-aes", "template": "a"},), {}),
        (ixfast.read_profile, ({"name": "mine", "scheme": LONG, "template": "a"},), {}),
        (ixfast.read_profile, ({"name": "mine", "scheme": "ntag424-aes", "template": "a", LONG: 1},), {}),
        (ixfast.read_profile, ({"name": "mine", "scheme": "ntag424-aes", "template": "a", "\udcff": 1},), {}),
        (ixfast.read_profile, (Path("x" * 5000),), {}),
        (ixfast.read_profile, (LONG,), {}),
        (ixfast.read_rules, (LONG,), {}),
        (ixfast.read_rules, ({"groups": [], "default": "", LONG: 1},), {}),
        (ixfast.read_rules, ({"groups": [], "default": f"[[{LONG}]]", "time_zone": LONG},), {}),
        (ixfast.read_rules, (Path("x" * 5000),), {}),
        (ixfast.choose_response, (RULES, {LONG: 1}), {}),
        (ixfast.choose_response, (RULES, {"country": LONG}), {}),
        (ixfast.verify, (LONG,), {"profile": "encrypted", "keys": KEY}),
        (ixfast.verify, ("\udcff",), {"profile": "encrypted", "keys": KEY}),
        (ixfast.detect_profile, (["\udcff"],), {}),
        (ixfast.detect_profile, ([LONG],), {}),
    ],
)
def test_a_message_is_one_line_and_quotes_little(
    call: Callable[..., object], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.raises(ixfast.InputError) as raised:
        found = call(*arguments, **named)
        if call is ixfast.find_profile:  # whether preset and scheme are compatible is checked when a tap is verified
            ixfast.verify(TAP, profile=found, keys=KEY)  # type: ignore[arg-type]
    message = str(raised.value)
    assert message.isprintable()
    assert message.count("x") <= 160 and len(message) < 700


CANARY = "5aFE00c4e1b2d3f4a5968778695a4b3c"
SPELLINGS = {
    "hex": CANARY,
    "upper case": CANARY.upper(),
    "prefix": f"0x{CANARY}",
    "pairs": " ".join(CANARY[at : at + 2] for at in range(0, 32, 2)),
    "colons": ":".join(CANARY[at : at + 2] for at in range(0, 32, 2)),
    "groups": "-".join(CANARY[at : at + 4] for at in range(0, 32, 4)),
    "cut": CANARY[:-1],
    "half": CANARY[:16],
    "a typing error": f"{CANARY[:-1]}g",
    "base64": base64.b64encode(bytes.fromhex(CANARY)).decode(),
    "letters": "deadbeefcafefeedfacebadcdeadbeef",
    "with a scheme": f"{CANARY}/ntag424-lrp",
    "as a scheme": f"encrypted/{CANARY}",
}
AS_A_NAME: dict[str, Callable[[str], object]] = {
    "verify": lambda key: ixfast.verify(TAP, profile=key, keys=KEY),
    "explain": lambda key: ixfast.explain(TAP, profile=key, keys=KEY),
    "identify": lambda key: ixfast.identify(TAP, profile=key),
    "find_profile": lambda key: ixfast.find_profile(key.removeprefix("encrypted/")),
    "virtual tag": VirtualTag,
    "derivation": ixfast.derivation,
    "derive_keys": lambda key: ixfast.derive_keys(KEY, UID, derivation=key),
    "TagKeys": lambda key: ixfast.TagKeys(master=KEY, derivation=key),
    "a parameter of a derivation": lambda key: ixfast.derivation("an10922", **{key: 1}),
    "a value of a derivation": lambda key: ixfast.derivation("an10922", input=f"{{{key}}}"),
    "a member of a profile": lambda key: ixfast.read_profile({"name": "a", "scheme": "ntag424-aes", "template": "", key: 1}),
    "a member of JSON": lambda key: ixfast.read_profile(json.dumps({key: 1})),
    "a member twice": lambda key: ixfast.read_profile(
        f'{{"name":"a","scheme":"ntag424-aes","template":"p={{picc}}&c={{mac}}",{json.dumps(key)}:1,{json.dumps(key)}:1}}'
    ),
    "the name of a profile": lambda key: ixfast.read_profile({"name": key, "scheme": "ntag424-aes", "template": "c={mac}"}),
    "a scheme": lambda key: ixfast.read_profile({"name": "a", "scheme": key, "template": "c={mac}"}),
    "a placeholder": lambda key: ixfast.read_profile({"name": "a", "scheme": "ntag424-aes", "template": f"c={{{key}}}"}),
    "a fact": lambda key: ixfast.choose_response(RULES, {key: 1}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", AS_A_NAME)
def test_a_key_in_the_place_of_a_name_is_not_repeated(place: str, spelling: str) -> None:
    key = SPELLINGS[spelling]
    with pytest.raises(ixfast.InputError) as raised:
        AS_A_NAME[place](key)
    message, part = str(raised.value).lower(), max(re.split("[/ ]", key), key=len).lower()[:12]
    assert key.lower() not in message and part not in message, message
    shown = "".join(re.findall("[0-9a-z]+", message))
    assert "".join(re.findall("[0-9a-z]+", key.lower()))[:16] not in shown
    assert part not in (raised.value.field or "").lower()


def test_a_message_that_repeats_a_key_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ixfast.chips.presets.quoted", repr)
    monkeypatch.setattr("ixfast.api.encoding_profiles.shortened", str)
    with pytest.raises(AssertionError):
        test_a_key_in_the_place_of_a_name_is_not_repeated("verify", "hex")


@pytest.mark.parametrize(
    "name", ["plain-uid-countr", "encryptd/desfire-ev3-aes", "ntag424-dna", "an10923", "boltcards", "Encrypted File"]
)
def test_a_name_that_cannot_be_a_key_is_repeated(name: str) -> None:
    with pytest.raises(ixfast.InputError, match=re.escape(repr(name.partition("/")[0]))):
        ixfast.find_profile(name)
    assert quoted(name) == repr(name)
