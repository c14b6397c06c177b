"""The LRP scheme and the block inside PICCData that it shares with the AES scheme."""

from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import _lrp_py, cmac
from ixfast.chips import Message, compile_profile, find_scheme, preset
from ixfast.chips.ntag424_lrp import LrpScheme
from ixfast.chips.picc_data import read_block, write_block
from ixfast.chips.scheme import PiccData
from ixfast.errors import InputError
from ixfast.testing.virtual_tags import VirtualTag

UID = bytes.fromhex("049A0BC7D1E2F3")
FILE_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
META_KEY = bytes.fromhex("101112131415161718191a1b1c1d1e1f")
PADDING = bytes(range(0xA0, 0xB0))
MIRRORS = [(UID, 0xABCDEF), (UID, None), (None, 0xABCDEF)]


def schemes() -> list[LrpScheme]:
    halves: list[Any] = [_lrp_py] if cmac.REASON else [_lrp_py, import_module("ixfast._lrp")]
    return [LrpScheme("ntag424-lrp", half) for half in halves]


def tag_of(name: str, **more: Any) -> VirtualTag:
    return VirtualTag(name, xuid="q8w3sbcz", uid=UID, file_key=FILE_KEY, meta_key=META_KEY, **more)


@given(uid=st.binary(min_size=7, max_size=7), counter=st.integers(0, 0xFFFFFF), which=st.sampled_from(range(3)))
def test_a_written_block_is_read(uid: bytes, counter: int, which: int) -> None:
    mirror = [(uid, counter), (uid, None), (None, counter)][which]
    block = write_block(*mirror, PADDING)
    assert len(block) == 16
    assert read_block(block) == PiccData(*mirror)


@pytest.mark.parametrize("tag", [0x00, 0x07, 0x80, 0x86, 0x88, 0x47, 0xC0, 0xD7, 0xE7, 0xF7, 0xFF])
def test_a_tag_byte_that_no_chip_writes_is_refused(tag: int) -> None:
    assert read_block(bytes((tag,)) + write_block(UID, 1, PADDING)[1:]) is None


def test_tag_bytes_that_chips_write() -> None:
    read = {tag for tag in range(256) if read_block(bytes((tag,)) + bytes(15))}
    assert read == {0xC7, 0x87, 0x40}


@pytest.mark.parametrize("mirror", MIRRORS, ids=["both", "UID", "counter"])
def test_the_mirror_has_its_random_part_in_front(mirror: tuple[bytes | None, int | None]) -> None:
    for scheme in schemes():
        picc = scheme.write_picc(META_KEY, *mirror, PADDING)
        assert len(picc) == scheme.picc_chars // 2
        assert picc[:8] == PADDING[:8]
        assert scheme.read_picc(META_KEY, picc) == PiccData(*mirror)
        assert scheme.read_picc(FILE_KEY, picc) is None


def test_another_random_part_is_another_mirror() -> None:
    """The random part is the counter of the encryption, so that one block never looks the same twice."""
    scheme = schemes()[0]
    first, second = (scheme.write_picc(META_KEY, UID, 1, bytes((n,)) + PADDING[1:]) for n in (1, 2))
    assert first[8:] != second[8:]
    assert scheme.read_picc(META_KEY, second[:8] + first[8:]) != PiccData(UID, 1)


@pytest.mark.parametrize("name", ["lrp-encrypted", "lrp-encrypted-file", "lrp-tamper"])
def test_the_length_of_the_mirror_tells_the_mode(name: str) -> None:
    in_aes_mode = name.removeprefix("lrp-").replace("tamper", "encrypted-tamper")
    for written, read in ((name, in_aes_mode), (in_aes_mode, name)):
        with pytest.raises(InputError) as caught:
            compile_profile(preset(read)).read_url(tag_of(written).tap())
        assert caught.value.field == "picc_data"


def test_a_plain_tap_of_the_other_mode_is_not_authentic() -> None:
    for written, read in (("lrp-plain", "ixkio-plain"), ("ixkio-plain", "lrp-plain")):
        tag = tag_of(written)
        profile = compile_profile(preset(read))
        message = profile.read_url(tag.tap())
        assert isinstance(message, Message)
        assert profile.examine(message, uid=UID, file_keys=tag.file_keys()).reason == "mac_mismatch"


def test_the_right_one_of_several_meta_keys_is_found() -> None:
    tag = tag_of("lrp-encrypted", counter=7)
    message = tag.profile.read_url(tag.tap())
    assert isinstance(message, Message)
    others = [tag_of("lrp-encrypted") for _ in range(3)]
    for n, other in enumerate(others):
        other.meta_key = bytes((n,)) * 16
    keys = (*(other.meta_keys(n)[0] for n, other in enumerate(others, start=2)), *tag.meta_keys())
    assert (UID, 8, keys[-1]) in tag.profile.find_uid(message, keys)
    assert tag.profile.examine(message, uid=UID, file_keys=tag.file_keys(), meta_keys=keys).authentic


def test_the_scheme_is_registered() -> None:
    scheme = find_scheme("ntag424-lrp")
    assert isinstance(scheme, LrpScheme)
    assert scheme.verify is cmac.lrp_sdm_verify
