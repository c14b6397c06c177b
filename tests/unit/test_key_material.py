"""Keys as the Python API takes them: their forms, their errors, their versions, and that nothing shows them."""

from __future__ import annotations

import copy
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ixfast import InputError, TagKeys, derivation, derivation_names, derive_keys, detect_profile, explain, identify, verify
from ixfast.keys.diversify import DEFAULT_DERIVATIONS, An10922, BoltCard, BoltCardKeys
from ixfast.limits import META_KEYS_MAX
from ixfast.testing import VirtualTag

FILE = bytes.fromhex("f0e1d2c3b4a5968778695a4b3c2d1e0f")
META = bytes.fromhex("1f2e3d4c5b6a798897a6b5c4d3e2f101")
MASTER = bytes.fromhex("00112233445566778899aabbccddeeff")
UID = bytes.fromhex("04782e21801d80")


@pytest.mark.parametrize("given", [FILE, FILE.hex(), FILE.hex().upper(), {1: FILE}])
def test_the_forms_of_a_key(given: Any) -> None:
    keys = TagKeys(file=given, meta=META)
    assert (keys.file_key, keys.meta_key, keys.derived) == (FILE, META, False)
    assert [(key.version, key.value) for key in keys.file_keys_of(None)] == [(1, FILE)]


def test_the_newest_version_comes_first() -> None:
    keys = TagKeys(file={1: bytes(16), 3: FILE, 2: META}, meta={5: META, 9: FILE})
    assert [key.version for key in keys.file_keys_of(UID)] == [3, 2, 1]
    assert [key.version for key in keys.meta_keys] == [9, 5]
    assert (keys.file_key, keys.meta_key) == (FILE, FILE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TagKeys(file=FILE[:15]), "file must be 16 bytes or 32 hex digits."),
        (lambda: TagKeys(file=FILE.hex()[:30]), "file must be 16 bytes or 32 hex digits."),
        (lambda: TagKeys(file=FILE.hex()[:30] + "zz"), "file must be 16 bytes or 32 hex digits."),
        (lambda: TagKeys(file=f" {FILE.hex()}"), "file must be 16 bytes or 32 hex digits."),
        (lambda: TagKeys(file=424), "file must be 16 bytes or 32 hex digits."),  # type: ignore[arg-type]
        (lambda: TagKeys(meta=b""), "meta must be 16 bytes or 32 hex digits."),
        (lambda: TagKeys(file={0: FILE}), "The versions of file must be between 1 and 127."),
        (lambda: TagKeys(file={128: FILE}), "The versions of file must be between 1 and 127."),
        (lambda: TagKeys(file={"1": FILE}), "The versions of file must be between 1 and 127."),  # type: ignore[dict-item]
        (lambda: TagKeys(file=FILE, master=MASTER, derivation="an10922"), "Pass either file or master, not both."),
        (lambda: TagKeys(master=MASTER), "Pass master and derivation together."),
        (lambda: TagKeys(file=FILE, derivation="an10922"), "Pass master and derivation together."),
        (lambda: TagKeys(meta=dict.fromkeys(range(1, META_KEYS_MAX + 2), META)), "Pass at most 16 meta keys."),
        (lambda: derive_keys(MASTER[:8], UID, "an10922"), "master must be 16 bytes or 32 hex digits."),
        (lambda: derive_keys(MASTER, UID[:4], "an10922"), "uid must be 7 bytes or 14 hex digits."),
        (lambda: derive_keys(MASTER, "04:78:2e:21:80:1d:80", "an10922"), "uid must be 7 bytes or 14 hex digits."),
        (
            lambda: derivation("an1092"),
            "There is no key derivation 'an1092'; known are an10922, boltcard, sdm-backend, sdm-backend-legacy.",
        ),
        (lambda: derivation("boltcard", version=-1), "Invalid key derivation: version must be 0 to 4294967295."),
        (lambda: derivation("boltcard", input="{uid}"), "Invalid key derivation: Object contains unknown field `input`."),
    ],
)
def test_a_mistake_is_one_exception_with_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        make()
    assert str(raised.value) == message
    shown = "".join(traceback.format_exception(raised.value)).lower()
    assert not any(part in shown for part in (FILE.hex()[:30], MASTER.hex()[:16]))


def test_derived_keys_are_those_of_the_schemes() -> None:
    assert derivation_names() == tuple(DEFAULT_DERIVATIONS)
    for name, scheme in DEFAULT_DERIVATIONS.items():
        assert derivation(name) == scheme
        keys = derive_keys(MASTER.hex(), UID.hex().upper(), name, version=7)
        assert keys.file_key == scheme.derive_file_key(MASTER, UID)
        assert keys.meta_key == scheme.derive_meta_key(MASTER)
        assert keys.file_keys_of(None)[0].version == 7
    card = BoltCardKeys(MASTER, UID, 3)
    keys = derive_keys(MASTER, UID, derivation("boltcard", version=3))
    assert (keys.file_key, keys.meta_key) == (card.k2, card.k1)
    assert derivation("an10922", input="{uid}{key_number}", key_number=2) == An10922(input="{uid}{key_number}", key_number=2)


def test_keys_of_a_master_are_derived_for_each_uid() -> None:
    keys = TagKeys(master={2: FILE, 1: MASTER}, derivation="boltcard", meta=META)
    assert (keys.derived, keys.file_key) == (True, None)
    assert [key.value for key in keys.file_keys_of(UID)] == [BoltCard().derive_file_key(each, UID) for each in (FILE, MASTER)]
    assert keys.file_keys_of(None) == ()
    assert [key.value for key in keys.meta_keys] == [META, BoltCard().derive_meta_key(FILE), BoltCard().derive_meta_key(MASTER)]


def shown(thing: object) -> str:
    """Everything that printing, formatting or logging an object may show."""
    texts = [repr(thing), str(thing), f"{thing!r:>5}"]
    if isinstance(thing, msgspec.Struct):
        texts.append(msgspec.json.encode(thing).decode())
    return "".join(texts)


def test_no_object_shows_a_key() -> None:
    tag = VirtualTag("encrypted-file", file_key=FILE, meta_key=META, uid=UID)
    url = tag.tap()
    known = {"profile": "encrypted-file", "keys": tag.keys}
    fleet = TagKeys(master=MASTER, derivation="boltcard")
    things: list[object] = [
        tag, tag.keys, tag.file_keys(), fleet, fleet.file_keys_of(UID), derive_keys(MASTER, UID, "sdm-backend"),
        verify(url, **known), explain(url, **known), identify(url, **known), detect_profile([url], keys=[FILE, META]),
    ]  # fmt: skip
    secrets = [FILE, META, MASTER, *(key.value for key in (*fleet.file_keys_of(UID), *fleet.meta_keys))]
    for thing in things:
        text = shown(thing)
        assert not any(secret.hex() in text.lower() or repr(secret)[2:-1] in text for secret in secrets), type(thing)
    assert FILE.hex() in shown(FILE.hex())  # the control


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_cannot_be_pickled_or_copied(leave: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="Keys cannot be pickled"):
        leave(TagKeys(file=FILE))
