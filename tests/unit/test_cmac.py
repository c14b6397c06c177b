"""The native core, its twin and the chooser between them.

The same tests run over both. The oracle here is a third implementation, on nothing but one-block AES of `cryptography`.
IXFAST_DIFFERENTIAL_CASES sets the number of random messages that all of them have to agree on.
"""

import os
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB
from hypothesis import given
from hypothesis import strategies as st

from ixfast import _cmac_py as twin
from ixfast import cmac

NO_EXTENSIONS = os.environ.get("IXFAST_NO_EXTENSIONS") == "1"
DIFFERENTIAL_CASES = int(os.environ.get("IXFAST_DIFFERENTIAL_CASES", "20000"))
SEED = 20_260_424
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
UID = bytes.fromhex("04de5f1eacc040")


class Message(NamedTuple):
    file_key: bytes
    uid: bytes
    counter: int
    window: bytes


def native_core() -> Any:
    if NO_EXTENSIONS:
        pytest.skip("IXFAST_NO_EXTENSIONS=1: there is no native core to test")
    return import_module("ixfast._cmac")


def variants() -> list[str]:
    return ["twin"] if NO_EXTENSIONS else ["twin", *import_module("ixfast._cmac").VARIANTS]


@pytest.fixture(params=["native", "twin"])
def core(request: pytest.FixtureRequest) -> Any:
    return twin if request.param == "twin" else native_core()


@pytest.fixture(params=variants())
def batch_core(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The twin, and the native core once for every variant of its batch that this CPU can run."""
    if request.param == "twin":
        yield twin
        return
    native = native_core()
    native.use_variant(request.param)
    yield native
    native.use_variant(native.IMPLEMENTATION)


# --- the oracle -----------------------------------------------------------------------------------


def oracle_aes(key: bytes, block: bytes) -> bytes:
    return Cipher(AES128(key), ECB()).encryptor().update(block)


def oracle_cmac(key: bytes, message: bytes) -> bytes:
    """RFC 4493 with the block chaining left to CBC: the MAC is the last block of CBC over the masked message."""
    number = int.from_bytes(oracle_aes(key, bytes(16)))
    full = len(message) > 0 and len(message) % 16 == 0
    for _ in range(1 if full else 2):
        number = number << 1 if number < 1 << 127 else (number << 1) % (1 << 128) ^ 0x87
    padded = message if full else message + b"\x80" + bytes(-(len(message) + 1) % 16)
    last = (int.from_bytes(padded[-16:]) ^ number).to_bytes(16)
    return Cipher(AES128(key), CBC(bytes(16))).encryptor().update(padded[:-16] + last)[-16:]


def oracle_mact(key: bytes, message: bytes) -> bytes:
    return bytes(oracle_cmac(key, message)[i] for i in range(1, 16, 2))


def oracle_mac(message: Message) -> bytes:
    counter = message.counter.to_bytes(3, "little") if message.counter >= 0 else b""
    vector = bytes([0x3C, 0xC3, 0x00, 0x01, 0x00, 0x80]) + message.uid + counter
    session_key = oracle_cmac(message.file_key, vector + bytes(16 - len(vector)))
    return oracle_mact(session_key, message.window)


def random_message(dice: random.Random) -> Message:
    sizes = (0, 0, 1, 15, 16, 17, 31, 32, 33, 38, 64, dice.randrange(200))
    return Message(
        dice.randbytes(16),
        dice.choice((b"", dice.randbytes(7), dice.randbytes(7))),
        dice.choice((-1, 0, 1, 0xFFFFFF, dice.randrange(1 << 24), dice.randrange(1 << 24))),
        dice.randbytes(dice.choice(sizes)),
    )


def packed(messages: Sequence[Message], macs: Sequence[bytes]) -> tuple[Any, ...]:
    """Arguments of `sdm_verify_batch`; what is not mirrored is filled with ones, which must not matter."""
    ends = [sum(len(message.window) for message in messages[:i]) for i in range(len(messages) + 1)]
    windows = (b"".join(message.window for message in messages), struct.pack(f"<{len(ends)}I", *ends))
    return (
        b"".join(message.file_key for message in messages),
        b"".join(message.uid or b"\xff" * 7 for message in messages),
        b"".join(struct.pack("<I", message.counter & 0xFFFFFFFF) for message in messages),
        windows if windows[0] else None,
        b"".join(macs),
        bytes(bool(message.uid) | (message.counter >= 0) << 1 for message in messages),
    )


# --- agreement ------------------------------------------------------------------------------------

keys = st.binary(min_size=16, max_size=16)
uids = st.one_of(st.just(b""), st.binary(min_size=7, max_size=7))
counters = st.integers(-1, 0xFFFFFF)


@given(key=keys, message=st.binary(max_size=300))
def test_cmac_agrees(key: bytes, message: bytes) -> None:
    native = native_core()
    mac = oracle_cmac(key, message)
    assert native.aes_cmac(key, message) == twin.aes_cmac(key, message) == mac
    assert native.aes_cmac_verify(key, message, mac) is twin.aes_cmac_verify(key, message, mac) is True
    assert native.aes_cmac_subkeys(key) == twin.aes_cmac_subkeys(key)
    assert native.mact(key, message) == twin.mact(key, message) == oracle_mact(key, message)


@given(key=keys, message=st.binary(max_size=300), mac=st.binary(min_size=8, max_size=8), bit=st.integers(0, 63))
def test_truncated_macs_agree(key: bytes, message: bytes, mac: bytes, bit: int) -> None:
    native = native_core()
    right = oracle_mact(key, message)
    for sent in (right, flipped(right, bit), mac):
        assert native.mact_verify(key, message, sent) is twin.mact_verify(key, message, sent) is (sent == right)


@given(key=keys, block=keys)
def test_blocks_agree_and_invert(key: bytes, block: bytes) -> None:
    native = native_core()
    encrypted = oracle_aes(key, block)
    assert native.aes_encrypt_block(key, block) == twin.aes_encrypt_block(key, block) == encrypted
    for module in (native, twin):
        assert module.aes_decrypt_block(key, encrypted) == block
        assert module.picc_decrypt(key, encrypted) == block


@given(key=keys, uid=uids, counter=counters, window=st.binary(max_size=100))
def test_sdm_agrees(key: bytes, uid: bytes, counter: int, window: bytes) -> None:
    native = native_core()
    mac = oracle_mac(Message(key, uid, counter, window))
    assert native.sdm_mac(key, uid, counter, window) == twin.sdm_mac(key, uid, counter, window) == mac
    assert native.sdm_verify(key, uid, counter, window, mac) is twin.sdm_verify(key, uid, counter, window, mac) is True
    assert native.sdm_session_keys(key, uid, counter) == twin.sdm_session_keys(key, uid, counter)


@given(
    key=keys,
    uid=st.binary(min_size=7, max_size=7),
    counter=st.integers(0, 0xFFFFFF),
    plaintext=st.integers(1, 20).flatmap(lambda blocks: st.binary(min_size=16 * blocks, max_size=16 * blocks)),
)
def test_file_data_agrees_and_inverts(key: bytes, uid: bytes, counter: int, plaintext: bytes) -> None:
    native = native_core()
    ciphertext = twin.sdm_encrypt_file(key, uid, counter, plaintext)
    assert native.sdm_encrypt_file(key, uid, counter, plaintext) == ciphertext
    for module in (native, twin):
        assert module.sdm_decrypt_file(key, uid, counter, ciphertext) == plaintext
    k_enc = oracle_cmac(key, bytes.fromhex("c33c00010080") + uid + counter.to_bytes(3, "little"))
    iv = oracle_aes(k_enc, counter.to_bytes(3, "little") + bytes(13))
    assert Cipher(AES128(k_enc), CBC(iv)).encryptor().update(plaintext) == ciphertext


def test_random_messages_agree() -> None:
    native = native_core()
    dice = random.Random(SEED)
    for done in range(0, DIFFERENTIAL_CASES, 100):
        messages = [random_message(dice) for _ in range(min(100, DIFFERENTIAL_CASES - done))]
        macs = [oracle_mac(message) for message in messages]
        assert [native.sdm_mac(*message) for message in messages] == macs
        assert [twin.sdm_mac(*message) for message in messages] == macs
        for key, _, _, text in messages:
            mac = oracle_mact(key, text)
            assert native.mact_verify(key, text, mac) is twin.mact_verify(key, text, mac) is True
        forged = [dice.random() < 0.3 for _ in messages]
        sent = [flipped(mac, dice.randrange(64)) if bad else mac for mac, bad in zip(macs, forged, strict=True)]
        verdicts = [not bad for bad in forged]
        assert [native.sdm_verify(*message, mac) for message, mac in zip(messages, sent, strict=True)] == verdicts
        for name in native.VARIANTS:
            native.use_variant(name)
            assert list(native.sdm_verify_batch(*packed(messages, sent))) == verdicts, name
        native.use_variant(native.IMPLEMENTATION)


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 100])
@pytest.mark.parametrize("windows", ["empty", "mixed"])
def test_a_batch_equals_its_singles(batch_core: Any, size: int, windows: str) -> None:
    dice = random.Random(SEED + size)
    messages = [random_message(dice) for _ in range(size)]
    if windows == "empty":
        messages = [message._replace(window=b"") for message in messages]
    macs = [twin.sdm_mac(*message) for message in messages]
    sent = [flipped(mac, dice.randrange(64)) if dice.random() < 0.5 else mac for mac in macs]
    singles = [batch_core.sdm_verify(*message, mac) for message, mac in zip(messages, sent, strict=True)]
    assert singles == [mac == right for mac, right in zip(sent, macs, strict=True)]
    assert batch_core.sdm_verify_batch(*packed(messages, sent)) == bytes(singles)


def test_a_batch_takes_windows_of_the_largest_size(batch_core: Any) -> None:
    messages = [Message(KEY, UID, size, bytes(size)) for size in (4096, 0, 4095, 16, 4081)]
    macs = [oracle_mac(message) for message in messages]
    assert batch_core.sdm_verify_batch(*packed(messages, macs)) == b"\1" * 5


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, bytes(31), "file_keys must be 32 bytes, got 31"),
        (1, bytes(15), "uids must be 14 bytes, got 15"),
        (2, bytes(4), "counters must be 8 bytes, got 4"),
        (2, b"\0\0\0\1" * 2, "counters must be 0 to 16777215 where mirrored"),
        (3, (b"", bytes(8)), "windows' offsets must be 12 bytes, got 8"),
        (3, (b"ab", struct.pack("<3I", 1, 2, 2)), "windows' offsets must start at 0"),
        (3, (b"ab", struct.pack("<3I", 0, 2, 1)), "never fall"),
        (3, (b"ab", struct.pack("<3I", 0, 1, 3)), "end at the length"),
        (3, (b"ab", struct.pack("<3I", 0, 1, 1)), "end at the length"),
        (3, (bytes(4097), struct.pack("<3I", 0, 4097, 4097)), "at most 4096 apart"),
        (4, bytes(17), "macs must be 16 bytes, got 17"),
        (5, b"\3\4", "forms must be bytes 0 to 3"),
        (5, b"\3\3\3", "file_keys must be 48 bytes, got 32"),
    ],
)
def test_a_batch_of_wrong_shape_is_refused(batch_core: Any, position: int, value: Any, message: str) -> None:
    arguments: list[Any] = [bytes(32), bytes(14), bytes(8), None, bytes(16), b"\3\3"]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        batch_core.sdm_verify_batch(*arguments)


@pytest.mark.parametrize("windows", [(b"",), (b"", b"", b""), (b"", "x"), [b"", bytes(12)], b""])
def test_windows_of_wrong_type_are_refused(batch_core: Any, windows: Any) -> None:
    with pytest.raises(TypeError, match="windows"):
        batch_core.sdm_verify_batch(bytes(32), bytes(14), bytes(8), windows, bytes(16), b"\3\3")


# --- rejection ------------------------------------------------------------------------------------


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value) ^ 1 << bit).to_bytes(len(value))


def assert_rejects_every_flipped_bit(core: Any) -> None:
    message = Message(KEY, UID, 61, b"A1&cmac=")
    mac = oracle_mac(message)
    assert core.sdm_verify(*message, mac) is True
    for bit in range(64):
        assert core.sdm_verify(*message, flipped(mac, bit)) is False, f"bit {bit} of the MAC"
    for field in ("file_key", "uid", "window"):
        for bit in range(8 * len(getattr(message, field))):
            changed = message._replace(**{field: flipped(getattr(message, field), bit)})  # type: ignore[arg-type]
            assert core.sdm_verify(*changed, mac) is False, f"bit {bit} of {field}"
    for bit in range(24):
        assert core.sdm_verify(*message._replace(counter=61 ^ 1 << bit), mac) is False, f"bit {bit} of the counter"
    for changed in (message._replace(uid=b""), message._replace(counter=-1), message._replace(window=b"")):
        assert core.sdm_verify(*changed, mac) is False


def test_every_flipped_bit_is_rejected(core: Any) -> None:
    assert_rejects_every_flipped_bit(core)


@pytest.mark.parametrize("compared", [slice(0, 7), slice(1, 8), slice(0, 0)])
def test_control_a_short_comparison_is_caught(compared: slice) -> None:
    def verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        return twin.sdm_mac(file_key, uid, counter, window)[compared] == mac[compared]

    with pytest.raises(AssertionError, match="of the MAC"):
        assert_rejects_every_flipped_bit(SimpleNamespace(sdm_verify=verify))


def test_control_an_ignored_counter_is_caught() -> None:
    def verify(file_key: bytes, uid: bytes, counter: int, window: bytes, mac: bytes) -> bool:
        return twin.sdm_verify(file_key, uid, 61 if counter & 0x800000 else counter, window, mac)

    with pytest.raises(AssertionError, match="bit 23 of the counter"):
        assert_rejects_every_flipped_bit(SimpleNamespace(sdm_verify=verify))


def test_every_flipped_bit_is_rejected_in_a_batch(batch_core: Any) -> None:
    message = Message(KEY, UID, 61, b"")
    mac = oracle_mac(message)
    sent = [mac, *(flipped(mac, bit) for bit in range(64)), mac]
    assert batch_core.sdm_verify_batch(*packed([message] * 66, sent)) == b"\1" + bytes(64) + b"\1"


@pytest.mark.parametrize("size", [0, 1, 10, 15, 16, 17, 32, 33])
def test_every_flipped_bit_is_rejected_without_a_session_key(core: Any, size: int) -> None:
    message = random.Random(SEED + size).randbytes(size)
    mac = oracle_mact(KEY, message)
    assert core.mact(KEY, message) == mac
    assert core.mact_verify(KEY, message, mac) is True
    assert not any(core.mact_verify(KEY, message, flipped(mac, bit)) for bit in range(64))
    assert not any(core.mact_verify(flipped(KEY, bit), message, mac) for bit in range(128))
    assert not any(core.mact_verify(KEY, flipped(message, bit), mac) for bit in range(8 * size))
    assert core.mact_verify(KEY, message + b"\0", mac) is False


def test_a_changed_cmac_is_rejected(core: Any) -> None:
    mac = oracle_cmac(KEY, b"message")
    assert not any(core.aes_cmac_verify(KEY, b"message", flipped(mac, bit)) for bit in range(128))


def test_what_is_not_mirrored_changes_the_mac(core: Any) -> None:
    forms = [(UID, 5), (UID, -1), (b"", 5), (b"", -1)]
    assert len({core.sdm_mac(KEY, uid, counter, b"") for uid, counter in forms}) == 4
    # Zero padding makes counter 0 and no counter one session vector: the MAC cannot tell them apart, a profile can.
    assert core.sdm_mac(KEY, UID, 0, b"") == core.sdm_mac(KEY, UID, -1, b"")


def test_there_is_no_encryption_key_without_both_mirrors(core: Any) -> None:
    assert len(core.sdm_session_keys(KEY, UID, 1)[0]) == 16
    for uid, counter in ((UID, -1), (b"", 1), (b"", -1)):
        k_enc, k_mac = core.sdm_session_keys(KEY, uid, counter)
        assert (k_enc, len(k_mac)) == (b"", 16)


# --- wrong arguments ------------------------------------------------------------------------------

CALLS: dict[str, tuple[Any, ...]] = {
    "aes_encrypt_block": (KEY, KEY),
    "aes_decrypt_block": (KEY, KEY),
    "aes_cmac": (KEY, b"message"),
    "aes_cmac_subkeys": (KEY,),
    "aes_cmac_verify": (KEY, b"message", bytes(16)),
    "mact": (KEY, b"message"),
    "mact_verify": (KEY, b"message", bytes(8)),
    "sdm_session_keys": (KEY, UID, 1),
    "sdm_mac": (KEY, UID, 1, b""),
    "sdm_verify": (KEY, UID, 1, b"", bytes(8)),
    "picc_decrypt": (KEY, KEY),
    "sdm_decrypt_file": (KEY, UID, 1, bytes(16)),
    "sdm_encrypt_file": (KEY, UID, 1, bytes(16)),
}
SECRET = bytes.fromhex("c0ffee5ec4e7c0ffee5ec4e7c0ffee5e")


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        *((name, 0, SECRET[:15], "key must be 16 bytes, got 15") for name in CALLS),
        *((name, 0, SECRET * 2, "key must be 16 bytes, got 32") for name in CALLS),
        ("aes_encrypt_block", 1, SECRET + b"x", "block must be 16 bytes, got 17"),
        ("aes_decrypt_block", 1, b"", "block must be 16 bytes, got 0"),
        ("aes_cmac_verify", 2, SECRET[:8], "mac must be 16 bytes, got 8"),
        ("mact_verify", 2, SECRET[:7], "mac must be 8 bytes, got 7"),
        ("mact_verify", 2, SECRET, "mac must be 8 bytes, got 16"),
        ("sdm_session_keys", 1, SECRET[:4], "uid must be 7 bytes, or empty if not mirrored, got 4"),
        ("sdm_mac", 1, SECRET[:8], "uid must be 7 bytes, or empty if not mirrored, got 8"),
        ("sdm_verify", 2, -2, "counter must be 0 to 16777215, or -1 if not mirrored"),
        ("sdm_verify", 2, 1 << 24, "counter must be 0 to 16777215, or -1 if not mirrored"),
        ("sdm_verify", 2, 1 << 200, "counter must be 0 to 16777215, or -1 if not mirrored"),
        ("sdm_verify", 3, bytes(4097), "window must be at most 4096 bytes, got 4097"),
        ("sdm_mac", 3, bytes(5000), "window must be at most 4096 bytes, got 5000"),
        ("sdm_verify", 4, SECRET[:7], "mac must be 8 bytes, got 7"),
        ("sdm_verify", 4, SECRET, "mac must be 8 bytes, got 16"),
        ("picc_decrypt", 1, SECRET[:15], "picc_data must be 16 bytes, got 15"),
        ("sdm_decrypt_file", 3, SECRET[:15], "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 15"),
        ("sdm_decrypt_file", 3, b"", "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 0"),
        ("sdm_decrypt_file", 3, bytes(4112), "ciphertext must be 16 to 4096 bytes and a multiple of 16, got 4112"),
        ("sdm_encrypt_file", 3, SECRET * 2 + b"x", "plaintext must be 16 to 4096 bytes and a multiple of 16, got 33"),
        ("sdm_decrypt_file", 1, b"", "uid and counter must both be mirrored where there is file data"),
        ("sdm_encrypt_file", 2, -1, "uid and counter must both be mirrored where there is file data"),
    ],
)
def test_wrong_lengths_are_named_and_never_shown(core: Any, name: str, position: int, value: Any, message: str) -> None:
    arguments = [*CALLS[name]]
    arguments[position] = value
    with pytest.raises(ValueError, match=message) as caught:
        getattr(core, name)(*arguments)
    shown = str(caught.value).lower()
    assert "c0ffee" not in shown
    assert "\\x" not in shown
    assert str(1 << 200) not in shown


class BytesOfOurOwn(bytes):
    """A subclass could lie about its length; neither core takes one."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("make", [bytearray, memoryview, lambda value: value.hex(), lambda _: None, BytesOfOurOwn])
def test_only_bytes_are_taken(core: Any, name: str, make: Callable[[bytes], Any]) -> None:
    for position, value in enumerate(CALLS[name]):
        if isinstance(value, bytes):
            arguments = [*CALLS[name]]
            arguments[position] = make(value)
            with pytest.raises(TypeError) as caught:
                getattr(core, name)(*arguments)
            assert KEY.hex() not in str(caught.value)


@pytest.mark.parametrize("counter", [None, True, 1.0, "1", b"\1"])
def test_only_an_int_is_a_counter(core: Any, counter: Any) -> None:
    with pytest.raises(TypeError, match="counter must be an int"):
        core.sdm_verify(KEY, UID, counter, b"", bytes(8))


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of"):
        native_core().use_variant("native-abacus")


# --- the chooser ----------------------------------------------------------------------------------


def failing_import(failure: ImportError) -> Callable[[str], ModuleType]:
    def import_it(name: str) -> ModuleType:
        raise failure

    return import_it


def test_the_native_core_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    native = native_core()
    monkeypatch.delenv("IXFAST_FORCE_TWIN", raising=False)
    assert cmac._choose() == (native, None)
    assert native.IMPLEMENTATION.startswith("native-")


def test_the_twin_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IXFAST_FORCE_TWIN", "1")
    assert cmac._choose() == (twin, "forced by IXFAST_FORCE_TWIN=1")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            ModuleNotFoundError("No module named 'ixfast._cmac'", name="ixfast._cmac"),
            "the native extension is not built",
        ),
        (ImportError("this CPU has no AES instructions", name="ixfast._cmac"), "this CPU has no AES instructions"),
    ],
)
def test_the_twin_steps_in_and_says_why(monkeypatch: pytest.MonkeyPatch, failure: ImportError, reason: str) -> None:
    monkeypatch.delenv("IXFAST_FORCE_TWIN", raising=False)
    monkeypatch.setattr(cmac, "import_module", failing_import(failure))
    assert cmac._choose() == (twin, reason)


def test_a_broken_native_core_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IXFAST_FORCE_TWIN", raising=False)
    broken = ImportError("undefined symbol", name="ixfast._cmac", path="_cmac.so")
    monkeypatch.setattr(cmac, "import_module", failing_import(broken))
    with pytest.raises(ImportError, match="undefined symbol"):
        cmac._choose()


def test_both_cores_and_the_chooser_have_the_same_functions() -> None:
    names = {*CALLS, "sdm_verify_batch"}
    chosen, _ = cmac._choose()
    assert all(getattr(cmac, name) is getattr(chosen, name) for name in names)
    public = {name for name, value in vars(twin).items() if callable(value) and value.__module__ == twin.__name__}
    assert {name for name in public if not name.startswith("_")} == names
