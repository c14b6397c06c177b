"""Records of tags: UID and key are held as bytes in the record itself, and nothing shows the key."""

from __future__ import annotations

import copy
import pickle
import sys

import pytest

from ixfast import compiled
from ixfast.domain.model import ORIGINALITY_WORDS, Key, OriginalityWord
from ixfast.domain.records import Account, Batch, Group, TagRecord
from ixfast.responses.response_set import BUILT_IN

UID = bytes.fromhex("04A1B2C3D4E5F6")
KEY = bytes.fromhex("000102030405060708090A0B0C0D0EFF")
ACCOUNT = Account(1, "acme", "Acme", is_open=True, active=True, cors=False, meta_keys=())
GROUP = Group(1, "vases", ACCOUNT, folder_name="all", folder_active=True, active=True, profile=None, response_set=BUILT_IN)
BATCH = Batch(1, "first", active=True)

RECORD_BYTES_MAX = 144
"""A cached tag also takes 48 bytes for its code and about 35 for its entry in the cache's dictionary."""


def record(
    *, uid: bytes | None = UID, keys: tuple[Key, ...] = (Key(3, KEY, b"abc"),), originality: OriginalityWord | None = None
) -> TagRecord:
    return TagRecord(
        7, b"q8w3sbcz", GROUP, BATCH, cuid=None, uid=uid, name=None, active=True, assigned=False, keys=keys,
        originality=originality,
    )  # fmt: skip


@pytest.mark.parametrize("uid", [UID, bytes(7), b"\xff" * 7, b"\x04\0\0\0\0\0\0"])
def test_a_uid_comes_back_as_it_was_registered(uid: bytes) -> None:
    tag = record(uid=uid)
    assert (tag.has_uid, tag.uid, tag.registered_uid()) == (True, uid, uid)
    assert type(tag.uid) is bytes


def test_a_tag_without_a_uid_has_none() -> None:
    tag = record(uid=None)
    assert (tag.has_uid, tag.uid) == (False, None)


@pytest.mark.parametrize("value", [KEY, bytes(16), b"\xff" * 16, bytes(15) + b"\1"])
def test_a_key_comes_back_as_it_was_set(value: bytes) -> None:
    tag = record(keys=(Key(127, value, b"abc"),))
    assert (tag.has_key, tag.single_key(), tag.key_version, tag.keys) == (True, value, 127, None)
    assert [(key.version, key.value, key.check_value) for key in tag.file_keys(b"xyz")] == [(127, value, b"xyz")]


def test_taking_other_keys_replaces_the_single_one() -> None:
    tag = record()
    both = (Key(2, bytes(16), b"two"), Key(1, KEY, b"one"))
    tag.take_keys(both)
    assert (tag.has_key, tag.keys, tag.key_version, tag.file_keys()) == (False, both, 2, both)
    tag.take_keys(())
    assert (tag.has_key, tag.keys, tag.key_version, tag.file_keys()) == (False, (), 0, ())
    tag.take_keys((Key(4, bytes(16), b"new"),))
    assert (tag.has_key, tag.single_key(), tag.key_version, tag.keys) == (True, bytes(16), 4, None)


@pytest.mark.parametrize("originality", [None, *ORIGINALITY_WORDS])
def test_the_result_of_a_signature_comes_back(originality: OriginalityWord | None) -> None:
    assert record(originality=originality).originality == originality


def test_an_unknown_result_of_a_signature_is_refused() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        record(originality="odd")  # type: ignore[arg-type]


def test_states_are_truth_values() -> None:
    tag = record()
    assert (tag.active, tag.assigned) == (True, False)
    tag.active = False
    assert (tag.active, tag.inactive_level()) == (False, "tag_inactive")


def test_no_text_of_a_record_shows_its_key() -> None:
    tag = record()
    for shown in (repr(tag), str(tag), f"{tag}"):
        assert shown == "TagRecord(tag_id=7, xuid=q8w3sbcz)"
        assert KEY.hex() not in shown and repr(KEY) not in shown


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_record_cannot_be_pickled(copied: object) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        copied(record())  # type: ignore[operator]


@pytest.mark.skipif(compiled.PLAIN is not None, reason="the plain form holds Python objects")
def test_a_cached_tag_takes_little_memory() -> None:
    tag = record()
    assert sys.getsizeof(tag) <= RECORD_BYTES_MAX
    assert tag.uid is not tag.uid and tag.single_key() is not tag.single_key()  # neither is kept as an object
