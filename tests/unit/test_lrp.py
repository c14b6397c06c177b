"""LRP mode of the native core, its twin and the chooser between them; what is common to both modes is in test_cmac.py.

The same tests run over both. The oracle here is a third implementation, written after AN12304 on nothing but one-block
AES of `cryptography`.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given, settings
from hypothesis import strategies as st
from support.requirements import COMPILER, requires

from ixfast import _lrp_py as twin
from ixfast import cmac

NO_EXTENSIONS = os.environ.get("IXFAST_NO_EXTENSIONS") == "1"
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
UID = bytes.fromhex("04de5f1eacc040")


def native_core() -> Any:
    if NO_EXTENSIONS:
        pytest.skip("IXFAST_NO_EXTENSIONS=1: there is no native core to test")
    return import_module("ixfast._lrp")


def cores() -> list[Any]:
    return [twin] if NO_EXTENSIONS else [twin, import_module("ixfast._lrp")]


@pytest.fixture(params=["native", "twin"])
def core(request: pytest.FixtureRequest) -> Any:
    return twin if request.param == "twin" else native_core()


# --- the oracle -----------------------------------------------------------------------------------


def aes(key: bytes, block: bytes) -> bytes:
    return Cipher(AES128(key), ECB()).encryptor().update(block)


@lru_cache(maxsize=64)
def oracle_plaintext(key: bytes, place: int) -> bytes:
    for _ in range(place + 1):
        key = aes(key, b"\x55" * 16)
    return aes(key, b"\xaa" * 16)


def oracle_updated_key(key: bytes, place: int) -> bytes:
    key = aes(key, b"\xaa" * 16)
    for _ in range(place):
        key = aes(key, b"\x55" * 16)
    return aes(key, b"\xaa" * 16)


def oracle_eval(key: bytes, updated_key: int, digits: str, final: bool = True) -> bytes:
    state = oracle_updated_key(key, updated_key)
    for digit in digits:
        state = aes(state, oracle_plaintext(key, int(digit, 16)))
    return aes(state, bytes(16)) if final else state


def oracle_cmac(key: bytes, message: bytes) -> bytes:
    number = int.from_bytes(oracle_eval(key, 0, "0" * 32))
    full = len(message) > 0 and len(message) % 16 == 0
    for _ in range(1 if full else 2):
        number = number << 1 if number < 1 << 127 else (number << 1) % (1 << 128) ^ 0x87
    text = message if full else message + b"\x80" + bytes(-(len(message) + 1) % 16)
    state = 0
    for at in range(0, len(text), 16):
        last = number if at + 16 == len(text) else 0
        state = int.from_bytes(oracle_eval(key, 0, f"{state ^ int.from_bytes(text[at : at + 16]) ^ last:032x}"))
    return state.to_bytes(16)


def oracle_mac(file_key: bytes, uid: bytes, counter: int, window: bytes) -> bytes:
    mirrored = uid + (counter.to_bytes(3, "little") if counter >= 0 else b"")
    master = oracle_cmac(file_key, b"\0\1\0\x80" + mirrored + bytes(10 - len(mirrored)) + b"\x1e\xe1")
    return bytes(oracle_cmac(master, window)[i] for i in range(1, 16, 2))


# --- agreement ------------------------------------------------------------------------------------

# An evaluation by the twin or the oracle takes a millisecond, on a busy machine many.
many = settings(deadline=None, max_examples=50)
keys = st.binary(min_size=16, max_size=16)
uids = st.one_of(st.just(b""), st.binary(min_size=7, max_size=7))
counters = st.integers(-1, 0xFFFFFF)
updated_keys = st.integers(0, 3)


def blocks(most: int) -> st.SearchStrategy[bytes]:
    return st.integers(1, most).flatmap(lambda count: st.binary(min_size=16 * count, max_size=16 * count))


@many
@given(key=keys)
def test_key_material_agrees(key: bytes) -> None:
    expected = (
        b"".join(oracle_plaintext(key, place) for place in range(16)),
        b"".join(oracle_updated_key(key, place) for place in range(4)),
    )
    assert all(core.lrp_key_material(key) == expected for core in cores())


@many
@given(key=keys, updated_key=updated_keys, digits=st.text("0123456789abcdef", max_size=32), final=st.booleans())
def test_eval_agrees(key: bytes, updated_key: int, digits: str, final: bool) -> None:
    nibbles = bytes(int(digit, 16) for digit in digits)
    expected = oracle_eval(key, updated_key, digits, final)
    assert all(core.lrp_eval(key, updated_key, nibbles, final) == expected for core in cores())


@many
@given(key=keys, message=st.binary(max_size=70))
def test_cmac_agrees(key: bytes, message: bytes) -> None:
    expected = oracle_cmac(key, message)
    assert all(core.lrp_cmac(key, message) == expected for core in cores())


@many
@given(key=keys, updated_key=updated_keys, counter=st.binary(min_size=1, max_size=16), plaintext=blocks(5))
def test_lricb_agrees_and_inverts(key: bytes, updated_key: int, counter: bytes, plaintext: bytes) -> None:
    digits = 2 * len(counter)
    expected = b"".join(
        aes(
            oracle_eval(key, updated_key, f"{(int.from_bytes(counter) + place) % 16**digits:0{digits}x}"),
            plaintext[16 * place :][:16],
        )
        for place in range(len(plaintext) // 16)
    )
    for core in cores():
        assert core.lricb_encrypt(key, updated_key, counter, plaintext) == expected
        assert core.lricb_decrypt(key, updated_key, counter, expected) == plaintext


def test_a_counter_is_one_integer_that_wraps_around(core: Any) -> None:
    for counter, following in ((b"\0\xff", b"\1\0"), (b"\xff" * 8, bytes(8)), (b"\xff", b"\0"), (b"\xfe", b"\xff")):
        both = core.lricb_encrypt(KEY, 1, counter, bytes(32))
        assert both == core.lricb_encrypt(KEY, 1, counter, bytes(16)) + core.lricb_encrypt(KEY, 1, following, bytes(16))


@many
@given(key=keys, uid=uids, counter=counters, window=st.binary(max_size=50))
def test_messages_agree(key: bytes, uid: bytes, counter: int, window: bytes) -> None:
    mac = oracle_mac(key, uid, counter, window)
    for core in cores():
        assert core.lrp_sdm_mac(key, uid, counter, window) == mac
        assert core.lrp_sdm_verify(key, uid, counter, window, mac) is True


@many
@given(key=keys, uid=st.binary(min_size=7, max_size=7), counter=st.integers(0, 0xFFFFFF), plaintext=blocks(4), random=st.binary())
def test_file_data_and_mirrors_agree_and_invert(key: bytes, uid: bytes, counter: int, plaintext: bytes, random: bytes) -> None:
    random = random[:8].ljust(8, b"\0")
    master = twin.lrp_session_master(key, uid, counter)
    expected = twin.lricb_encrypt(master, 1, counter.to_bytes(3, "little") + bytes(3), plaintext)
    picc_data = random + aes(oracle_eval(key, 0, random.hex()), plaintext[:16])
    for core in cores():
        assert core.lrp_session_master(key, uid, counter) == master
        assert core.lrp_sdm_encrypt_file(key, uid, counter, plaintext) == expected
        assert core.lrp_sdm_decrypt_file(key, uid, counter, expected) == plaintext
        assert core.lrp_picc_encrypt(key, random, plaintext[:16]) == picc_data
        assert core.lrp_picc_decrypt(key, picc_data) == plaintext[:16]


def test_texts_of_the_largest_size() -> None:
    largest = bytes(range(256)) * 16
    native = native_core()
    assert native.lrp_sdm_mac(KEY, UID, 1, largest) == twin.lrp_sdm_mac(KEY, UID, 1, largest)
    assert native.lrp_sdm_encrypt_file(KEY, UID, 1, largest) == twin.lrp_sdm_encrypt_file(KEY, UID, 1, largest)


# --- rejection ------------------------------------------------------------------------------------


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value) ^ 1 << bit).to_bytes(len(value))


def assert_rejects_every_flipped_bit(core: Any) -> None:
    message: dict[str, Any] = {"file_key": KEY, "uid": UID, "counter": 61, "window": b"A1&cmac="}
    mac = oracle_mac(**message)
    assert core.lrp_sdm_verify(*message.values(), mac) is True
    for bit in range(64):
        assert core.lrp_sdm_verify(*message.values(), flipped(mac, bit)) is False, f"bit {bit} of the MAC"
    for field in ("file_key", "uid", "window"):
        for bit in range(8 * len(message[field])):
            changed = message | {field: flipped(message[field], bit)}
            assert core.lrp_sdm_verify(*changed.values(), mac) is False, f"bit {bit} of {field}"
    for bit in range(24):
        changed = message | {"counter": 61 ^ 1 << bit}
        assert core.lrp_sdm_verify(*changed.values(), mac) is False, f"bit {bit} of the counter"
    for change in ({"uid": b""}, {"counter": -1}, {"window": b""}):
        assert core.lrp_sdm_verify(*(message | change).values(), mac) is False


def test_every_flipped_bit_is_rejected(core: Any) -> None:
    assert_rejects_every_flipped_bit(core)


@pytest.mark.parametrize("compared", [slice(0, 7), slice(1, 8), slice(0, 0)])
def test_control_a_short_comparison_is_caught(compared: slice) -> None:
    def verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        return twin.lrp_sdm_mac(file_key, uid, counter, window)[compared] == mac[compared]

    with pytest.raises(AssertionError, match="of the MAC"):
        assert_rejects_every_flipped_bit(SimpleNamespace(lrp_sdm_verify=verify))


def test_control_an_ignored_counter_is_caught() -> None:
    def verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        return twin.lrp_sdm_verify(file_key, uid, 61 if counter & 0x800000 else counter, window, mac)

    with pytest.raises(AssertionError, match="bit 23 of the counter"):
        assert_rejects_every_flipped_bit(SimpleNamespace(lrp_sdm_verify=verify))


def test_what_is_not_mirrored_changes_the_mac(core: Any) -> None:
    forms = [(UID, 5), (UID, -1), (b"", 5), (b"", -1)]
    assert len({core.lrp_sdm_mac(KEY, uid, counter, b"") for uid, counter in forms}) == 4
    # Zero padding makes counter 0 and no counter one session vector: the MAC cannot tell them apart, a profile can.
    assert core.lrp_sdm_mac(KEY, UID, 0, b"") == core.lrp_sdm_mac(KEY, UID, -1, b"")


def test_the_two_modes_have_nothing_in_common() -> None:
    assert cmac.lrp_sdm_mac(KEY, UID, 1, b"") != cmac.sdm_mac(KEY, UID, 1, b"")
    assert cmac.lrp_cmac(KEY, b"") != cmac.aes_cmac(KEY, b"")


# --- wrong arguments ------------------------------------------------------------------------------

CALLS: dict[str, tuple[Any, ...]] = {
    "lrp_key_material": (KEY,),
    "lrp_eval": (KEY, 0, b"\1\2", True),
    "lrp_cmac": (KEY, b"message"),
    "lricb_encrypt": (KEY, 0, bytes(4), KEY),
    "lricb_decrypt": (KEY, 0, bytes(4), KEY),
    "lrp_session_master": (KEY, UID, 1),
    "lrp_sdm_mac": (KEY, UID, 1, b""),
    "lrp_sdm_verify": (KEY, UID, 1, b"", bytes(8)),
    "lrp_picc_decrypt": (KEY, bytes(24)),
    "lrp_picc_encrypt": (KEY, bytes(8), KEY),
    "lrp_sdm_decrypt_file": (KEY, UID, 1, bytes(16)),
    "lrp_sdm_encrypt_file": (KEY, UID, 1, bytes(16)),
}
SECRET = bytes.fromhex("c0ffee5ec4e7c0ffee5ec4e7c0ffee5e")


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        *((name, 0, SECRET[:15], "key must be 16 bytes, got 15") for name in CALLS),
        *((name, 0, SECRET * 2, "key must be 16 bytes, got 32") for name in CALLS),
        ("lrp_eval", 1, -1, "updated_key must be 0 to 3"),
        ("lrp_eval", 1, 4, "updated_key must be 0 to 3"),
        ("lrp_eval", 1, 1 << 200, "updated_key must be 0 to 3"),
        ("lrp_eval", 2, bytes(33), "nibbles must be at most 32 bytes, got 33"),
        ("lrp_eval", 2, b"\x0f\x10", "nibbles must be 0 to 15 each"),
        ("lricb_encrypt", 1, 4, "updated_key must be 0 to 3"),
        ("lricb_encrypt", 2, b"", "counter must be 1 to 16 bytes, got 0"),
        ("lricb_decrypt", 2, bytes(17), "counter must be 1 to 16 bytes, got 17"),
        ("lricb_encrypt", 3, b"", "plaintext must be 16 to 4096 bytes and a multiple of 16, got 0"),
        ("lricb_decrypt", 3, SECRET[:15], "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 15"),
        ("lricb_decrypt", 3, bytes(4112), "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 4112"),
        ("lrp_session_master", 1, SECRET[:4], "uid must be 7 bytes, or empty if not mirrored, got 4"),
        ("lrp_sdm_mac", 1, SECRET[:8], "uid must be 7 bytes, or empty if not mirrored, got 8"),
        ("lrp_sdm_verify", 2, -2, "counter must be 0 to 16777215, or -1 if not mirrored"),
        ("lrp_sdm_verify", 2, 1 << 24, "counter must be 0 to 16777215, or -1 if not mirrored"),
        ("lrp_sdm_verify", 3, bytes(4097), "window must be at most 4096 bytes, got 4097"),
        ("lrp_sdm_verify", 4, SECRET[:7], "mac must be 8 bytes, got 7"),
        ("lrp_picc_decrypt", 1, SECRET, "picc_data must be 24 bytes, got 16"),
        ("lrp_picc_encrypt", 1, SECRET, "random must be 8 bytes, got 16"),
        ("lrp_picc_encrypt", 2, SECRET[:8], "block must be 16 bytes, got 8"),
        ("lrp_sdm_decrypt_file", 3, SECRET[:15], "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 15"),
        ("lrp_sdm_encrypt_file", 3, SECRET * 2 + b"x", "plaintext must be 16 to 4096 bytes and a multiple of 16, got 33"),
        ("lrp_sdm_decrypt_file", 1, b"", "uid and counter must both be mirrored where there is file data"),
        ("lrp_sdm_encrypt_file", 2, -1, "uid and counter must both be mirrored where there is file data"),
    ],
)
def test_wrong_arguments_are_named_and_never_shown(core: Any, name: str, position: int, value: Any, message: str) -> None:
    arguments = [*CALLS[name]]
    arguments[position] = value
    with pytest.raises(ValueError, match=message) as caught:
        getattr(core, name)(*arguments)
    shown = str(caught.value).lower()
    assert "c0ffee" not in shown
    assert "\\x" not in shown
    assert str(1 << 200) not in shown


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("make", [bytearray, memoryview, lambda value: value.hex(), lambda _: None])
def test_only_bytes_are_taken(core: Any, name: str, make: Callable[[bytes], Any]) -> None:
    for position, value in enumerate(CALLS[name]):
        if isinstance(value, bytes):
            arguments = [*CALLS[name]]
            arguments[position] = make(value)
            with pytest.raises(TypeError) as caught:
                getattr(core, name)(*arguments)
            assert KEY.hex() not in str(caught.value)


@pytest.mark.parametrize("number", [None, True, 1.0, "1", b"\1"])
def test_only_an_int_is_a_number(core: Any, number: Any) -> None:
    with pytest.raises(TypeError, match="counter must be an int"):
        core.lrp_sdm_verify(KEY, UID, number, b"", bytes(8))
    with pytest.raises(TypeError, match="updated_key must be an int"):
        core.lrp_eval(KEY, number, b"", True)


# --- the chooser ----------------------------------------------------------------------------------


def test_both_cores_and_the_chooser_have_the_same_functions() -> None:
    half = native_core() if cmac.REASON is None else twin
    assert all(getattr(cmac, name) is getattr(half, name) for name in CALLS)
    public = {name for name, value in vars(twin).items() if callable(value) and value.__module__ == twin.__name__}
    assert {name for name in public if not name.startswith("_")} == set(CALLS)
    assert all(callable(getattr(native_core(), name)) for name in CALLS)


# --- the benchmark --------------------------------------------------------------------------------


def test_the_benchmark_works() -> None:
    requires(COMPILER, package="gcc")
    command = [sys.executable, "-m", "benchmarks.micro.lrp", "--smoke"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "04abc8821a06e5a3" in done.stdout  # the verdicts of an empty window, whatever computes them
