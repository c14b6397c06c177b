"""Envelopes open only in their own place, key files are closed to other users, and no key is ever shown."""

import base64
import copy
import os
import pickle
import stat
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ixfast import keys
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys, KeyEnvelopeError, KeySlot, envelope
from ixfast.keys.kek import KEKS_MAX

KEK_BYTES = bytes.fromhex("c0ffee" * 10 + "0102")
TAG_KEY = bytes.fromhex("deadbeefcafebabe0123456789abcdef")
PLACE = {"account_id": 7, "tag_id": 4711, "slot": KeySlot.FILE, "version": 3}

bigints = st.integers(min_value=-(1 << 63), max_value=(1 << 63) - 1)
places = st.fixed_dictionaries(
    {
        "account_id": bigints,
        "tag_id": bigints,
        "slot": st.integers(min_value=0, max_value=255),
        "version": st.integers(min_value=0, max_value=65535),
    }
)


@pytest.fixture(scope="module")
def kek() -> KeyEncryptionKey:
    return KeyEncryptionKey(KEK_BYTES)


@given(key16=st.binary(min_size=16, max_size=16), place=places)
def test_what_is_wrapped_unwraps(kek: KeyEncryptionKey, key16: bytes, place: dict[str, int]) -> None:
    sealed = keys.wrap(kek, key16, **place)
    assert len(sealed) == keys.ENVELOPE_BYTES == 45
    assert sealed[0] == 1
    assert key16 not in sealed
    assert keys.unwrap(kek, sealed, **place) == key16


def test_an_envelope_never_repeats(kek: KeyEncryptionKey) -> None:
    assert len({keys.wrap(kek, TAG_KEY, **PLACE) for _ in range(1000)}) == 1000


def test_the_documented_layout(kek: KeyEncryptionKey) -> None:
    """Follows the documentation by hand, so that stored envelopes stay readable forever."""
    place = b"ixfkey01" + bytes.fromhex("0000000000000007" + "0000000000001267" + "02" + "0003")
    nonce = bytes(range(12))
    sealed = b"\x01" + nonce + AESGCM(KEK_BYTES).encrypt(nonce, TAG_KEY, place)
    assert keys.unwrap(kek, sealed, **PLACE) == TAG_KEY


def test_every_flipped_bit_is_refused(kek: KeyEncryptionKey) -> None:
    sealed = keys.wrap(kek, TAG_KEY, **PLACE)
    for bit in range(len(sealed) * 8):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(KeyEnvelopeError):
            keys.unwrap(kek, bytes(altered), **PLACE)


@pytest.mark.parametrize("length", [0, 1, 44, 46, 90])
def test_another_length_is_refused(kek: KeyEncryptionKey, length: int) -> None:
    sealed = (keys.wrap(kek, TAG_KEY, **PLACE) * 2)[:length]
    with pytest.raises(KeyEnvelopeError, match="45 bytes"):
        keys.unwrap(kek, sealed, **PLACE)


def test_many_keys_are_wrapped_like_one(kek: KeyEncryptionKey) -> None:
    same = {name: PLACE[name] for name in ("account_id", "slot")}
    wanted = [(tag_id, version, os.urandom(16)) for tag_id in range(500) for version in (1, 2)]
    sealed = keys.wrap_all(kek, wanted, **same)
    assert len({envelope[1:13] for envelope in sealed}) == len(wanted)  # a nonce of its own for each
    for (tag_id, version, key16), each in zip(wanted, sealed, strict=True):
        assert keys.unwrap(kek, each, **same, tag_id=tag_id, version=version) == key16
    with pytest.raises(KeyEnvelopeError):
        keys.unwrap(kek, sealed[0], **same, tag_id=1, version=1)
    assert keys.wrap_all(kek, [], **same) == []


@pytest.mark.parametrize("bad", [(1, 1, bytes(15)), (1, 1, bytes(17)), (1 << 63, 1, TAG_KEY), (1, 65536, TAG_KEY)])
def test_one_of_many_keys_cannot_be_wrapped(kek: KeyEncryptionKey, bad: tuple[int, int, bytes]) -> None:
    with pytest.raises(KeyEnvelopeError):
        keys.wrap_all(kek, [(1, 1, TAG_KEY), bad], account_id=7, slot=KeySlot.FILE)


def assert_bound_to_its_place(kek: KeyEncryptionKey, wrap: Callable[..., bytes], unwrap: Callable[..., bytes]) -> None:
    """What was sealed for `PLACE` must not open in any place that differs in one part."""
    sealed = wrap(kek, TAG_KEY, **PLACE)
    assert unwrap(kek, sealed, **PLACE) == TAG_KEY
    for part, other in (
        ("account_id", 8),
        ("tag_id", 4712),
        ("tag_id", 4711 << 8),
        ("slot", KeySlot.META),
        ("version", 2),
        ("version", 3 << 8),
    ):
        with pytest.raises(KeyEnvelopeError):
            unwrap(kek, sealed, **{**PLACE, part: other})
    # Nor may it open if values of neighbouring fields are swapped.
    with pytest.raises(KeyEnvelopeError):
        unwrap(kek, sealed, **{**PLACE, "account_id": PLACE["tag_id"], "tag_id": PLACE["account_id"]})


def test_another_place_is_refused(kek: KeyEncryptionKey) -> None:
    assert_bound_to_its_place(kek, keys.wrap, keys.unwrap)


@pytest.mark.parametrize("forgotten", ["account_id", "tag_id", "slot", "version", "everything"])
def test_control_a_place_that_is_not_bound_is_caught(
    kek: KeyEncryptionKey, forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = envelope._location

    def partial(account_id: int, tag_id: int, slot: int, version: int) -> bytes:
        parts = {"account_id": account_id, "tag_id": tag_id, "slot": slot, "version": version}
        if forgotten == "everything":
            return b""
        return whole(**{**parts, forgotten: 0})

    monkeypatch.setattr(envelope, "_location", partial)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        assert_bound_to_its_place(kek, keys.wrap, keys.unwrap)


@given(one=places, other=places)
def test_two_places_never_read_alike(one: dict[str, int], other: dict[str, int]) -> None:
    assert (envelope._location(**one) == envelope._location(**other)) == (one == other)
    assert len(envelope._location(**one)) == 27


@pytest.mark.parametrize(
    ("part", "value"), [("account_id", 1 << 63), ("tag_id", 1 << 64), ("slot", 256), ("slot", -1), ("version", 65536)]
)
def test_a_place_out_of_range_is_refused(kek: KeyEncryptionKey, part: str, value: int) -> None:
    with pytest.raises(KeyEnvelopeError, match="Invalid key location"):
        keys.wrap(kek, TAG_KEY, **{**PLACE, part: value})


def test_another_key_encryption_key_is_refused(kek: KeyEncryptionKey) -> None:
    sealed = keys.wrap(kek, TAG_KEY, **PLACE)
    with pytest.raises(KeyEnvelopeError, match="does not open"):
        keys.unwrap(KeyEncryptionKey(bytes(32)), sealed, **PLACE)


@pytest.mark.parametrize("length", [0, 15, 17, 24, 32])
def test_keys_of_another_length_are_refused(kek: KeyEncryptionKey, length: int) -> None:
    with pytest.raises(KeyEnvelopeError, match="16 bytes"):
        keys.wrap(kek, bytes(length), **PLACE)
    with pytest.raises(KeyEnvelopeError, match="16 bytes"):
        keys.check_value(bytes(length))
    with pytest.raises(ConfigurationError, match="32 bytes"):
        KeyEncryptionKey(bytes(length % 32))


def test_check_value_is_the_cmac_of_a_zero_block() -> None:
    """CMAC by hand: the block is complete, so it is masked with the subkey K1, which is 2·E(0), and the message is zero."""

    def encrypt(block: bytes) -> bytes:
        encryptor = Cipher(algorithms.AES128(TAG_KEY), modes.ECB()).encryptor()
        return encryptor.update(block) + encryptor.finalize()

    doubled = int.from_bytes(encrypt(bytes(16)), "big") << 1
    if doubled >> 128:
        doubled = (doubled & ((1 << 128) - 1)) ^ 0x87  # RFC 4493 §2.3
    assert keys.check_value(TAG_KEY) == encrypt(doubled.to_bytes(16, "big"))[:3]
    assert len({keys.check_value(bytes([n] * 16)) for n in range(256)}) > 250


# Key files.


def test_a_created_file_is_private_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    created = KeyEncryptionKeys.create_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = KeyEncryptionKeys.load_file(path)
    sealed = keys.wrap(created.current, TAG_KEY, **PLACE)
    assert keys.unwrap(loaded.by_id(created.current.id), sealed, **PLACE) == TAG_KEY
    assert loaded.ids == (created.current.id,)
    assert len(loaded.current.id) == 16


def test_a_created_file_is_private_under_any_umask(tmp_path: Path) -> None:
    for mask in (0o000, 0o777):
        before = os.umask(mask)
        try:
            KeyEncryptionKeys.create_file(tmp_path / f"kek{mask}")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"kek{mask}").stat().st_mode) == 0o600


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    KeyEncryptionKeys.create_file(path)
    before = path.read_bytes()
    with pytest.raises(keys.KekFileError, match="already exists"):
        KeyEncryptionKeys.create_file(path)
    assert path.read_bytes() == before
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(keys.KekFileError, match="already exists"):
        KeyEncryptionKeys.create_file(tmp_path / "dangling")


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(keys.KekFileError, match="No space"):
        KeyEncryptionKeys.create_file(tmp_path / "kek")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o610])
def test_a_file_open_to_others_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "kek"
    KeyEncryptionKeys.create_file(path)
    path.chmod(mode)
    with pytest.raises(keys.KekFileError, match=f"chmod 600 {path}"):
        KeyEncryptionKeys.load_file(path)
    path.chmod(0o400)
    KeyEncryptionKeys.load_file(path)


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "directory").mkdir(mode=0o700)
    for name in ("fifo", "directory"):
        with pytest.raises(keys.KekFileError, match="not a regular file"):
            KeyEncryptionKeys.load_file(tmp_path / name)
    with pytest.raises(keys.KekFileError, match="no key file"):
        KeyEncryptionKeys.load_file(tmp_path / "absent")


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def key_lines(path: Path) -> list[str]:
    return [line for line in lines_of(path)[1:] if not line.startswith("#")]


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


def test_the_first_key_seals_and_all_open(tmp_path: Path) -> None:
    old = KeyEncryptionKeys.create_file(tmp_path / "old")
    new = KeyEncryptionKeys.create_file(tmp_path / "new")
    both = write(tmp_path / "both", [*lines_of(tmp_path / "new"), "", "# retired", *key_lines(tmp_path / "old")])
    rotated = KeyEncryptionKeys.load_file(both)
    assert rotated.current.id == new.current.id
    assert rotated.ids == (new.current.id, old.current.id)
    sealed = keys.wrap(old.current, TAG_KEY, **PLACE)
    assert keys.unwrap(rotated.by_id(old.current.id), sealed, **PLACE) == TAG_KEY
    with pytest.raises(keys.UnknownKekError, match=old.current.id):
        new.by_id(old.current.id)


def test_a_damaged_line_is_refused_and_not_shown(tmp_path: Path) -> None:
    KeyEncryptionKeys.create_file(tmp_path / "kek")
    id_, key = key_lines(tmp_path / "kek")[0].split()
    header = lines_of(tmp_path / "kek")[0]
    other = ("A" if key[0] != "A" else "B") + key[1:]
    for line in (
        f"{id_} {other}",
        f"{id_} {key[:-4]}",
        key,
        f"{id_[::-1]} {key}",
        f"{id_} {key} more",
        f"{id_} \u00e9",
    ):
        with pytest.raises(keys.KekFileError, match="line 2") as caught:
            KeyEncryptionKeys.load_file(write(tmp_path / "damaged", [header, line]))
        assert key[:8] not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin"),
        (b"-----BEGIN PRIVATE KEY-----\n", "does not begin"),
        (b"\xff\xfe\x00", "is in UTF-16"),
        (b"ixfast-key-encryption-keys 1\n# nothing\n", "no key-encryption key"),
        (b"ixfast-key-encryption-keys 1\n" + b"#" * 70_000, "larger than"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "kek"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(keys.KekFileError, match=words):
        KeyEncryptionKeys.load_file(path)


def test_too_many_and_doubled_keys_are_refused() -> None:
    def held(values: Sequence[bytes]) -> KeyEncryptionKeys:
        return KeyEncryptionKeys([KeyEncryptionKey(value) for value in values])

    assert held([KEK_BYTES]).current.id == KeyEncryptionKey(KEK_BYTES).id
    with pytest.raises(keys.KekFileError, match="twice"):
        held([KEK_BYTES, KEK_BYTES])
    with pytest.raises(keys.KekFileError, match="at most"):
        held([bytes([n] * 32) for n in range(KEKS_MAX + 1)])


# Nothing shows a key.


def shapes(secret: bytes) -> set[str]:
    return {
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode(),
        base64.b64encode(secret).decode().rstrip("="),
        base64.urlsafe_b64encode(secret).decode(),
        repr(secret)[2:-1],
        str(list(secret))[1:-1],
        str(int.from_bytes(secret, "big")),
    }


def test_no_repr_message_or_traceback_shows_a_key(kek: KeyEncryptionKey) -> None:
    forbidden = shapes(KEK_BYTES) | shapes(TAG_KEY)
    held = KeyEncryptionKeys([kek])
    printed = [repr(kek), str(kek), f"{kek}", repr(held), str(held), repr(vars(keys))]
    sealed = keys.wrap(kek, TAG_KEY, **PLACE)
    failures: list[Callable[[], object]] = [
        lambda: keys.wrap(kek, TAG_KEY + b"\0", **PLACE),
        lambda: keys.wrap(kek, TAG_KEY, **{**PLACE, "slot": 256}),
        lambda: keys.wrap_all(kek, [(1, 1, TAG_KEY + b"\0")], account_id=7, slot=2),
        lambda: keys.wrap_all(kek, [(1, 1, TAG_KEY)], account_id=7, slot=256),
        lambda: keys.unwrap(kek, sealed[:-1], **PLACE),
        lambda: keys.unwrap(kek, sealed, **{**PLACE, "version": 4}),
        lambda: keys.check_value(TAG_KEY + b"\0"),
        lambda: keys.check_value(TAG_KEY.hex()),  # type: ignore[arg-type]
        lambda: KeyEncryptionKey(KEK_BYTES + b"\0"),
        lambda: held.by_id(KEK_BYTES.hex()),
    ]
    for failure in failures:
        with pytest.raises((IxfastError, TypeError, AttributeError)) as caught:
            failure()
        printed.append("".join(traceback.format_exception(caught.value)))
        printed.append(repr(caught.value.args))
    for text in printed:
        for secret in forbidden:
            assert secret not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_key_encryption_keys_do_not_travel(kek: KeyEncryptionKey, protocol: int) -> None:
    for held in (kek, KeyEncryptionKeys([kek])):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(held, protocol)
        with pytest.raises(TypeError, match="cannot be pickled"):
            copy.deepcopy(held)
        assert not hasattr(held, "__dict__")
