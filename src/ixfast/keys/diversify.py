"""Key derivation (diversification): computes each tag's key from a master and the tag's UID, instead of storing it.

A tag group has a `Derivation`, which is not secret: a scheme and its parameters. Masters are `Key`s, stored and opened like
other keys, and a derived key has the version of its master. Keys are derived when a record is loaded, never while a scan waits:
that takes microseconds with most schemes, milliseconds with `SdmBackendLegacy`.

A meta key cannot depend on the UID, which is unknown until the meta key has decrypted the mirror. It depends on the master
alone, and `An10922` derives none.

Sources: AN10922; Bolt Card's deterministic keys (docs/DETERMINISTIC.md of the project boltcard); `libsdm` of sdm-backend.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB

from ixfast import cmac
from ixfast.domain.model import Key
from ixfast.keys.envelope import KEY_BYTES, check_value
from ixfast.limits import UID_BYTES

INPUT_BYTES_MAX = 31  # AN10922 section 2.2: with its constant, M fills at most two blocks.
LEGACY_ROUNDS = 5000
LEGACY_KEYS_MAX = 4096  # Cached results of some milliseconds each; busy tags are reloaded and need theirs again.

_BLOCK = 16
_ZERO_KEY = bytes(KEY_BYTES)
_AN10922_CONSTANTS = {16: (b"\x01",), 24: (b"\x11", b"\x12"), 32: (b"\x41", b"\x42")}
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_INPUT_PARTS = re.compile(r"\{(uid|aid|system_id|key_number)\}|((?:[0-9A-Fa-f]{2})+)")


def an10922(master: bytes, m: bytes) -> bytes:
    """AN10922's diversified key, of the same length as `master` (16, 24 or 32 bytes); `m` is 1 to 31 bytes.

    The input is padded to **two blocks whatever the length of m**. For m of up to 15 bytes the result therefore differs from
    CMAC(master, 01 || m), which takes one block. Raises ValueError for other lengths.
    """
    constants = _AN10922_CONSTANTS.get(len(master))
    if constants is None or not 1 <= len(m) <= INPUT_BYTES_MAX:
        raise ValueError(f"the master must be 16, 24 or 32 bytes and the input 1 to {INPUT_BYTES_MAX}")
    halves = [_mac_of_two_blocks(master, constant + m) for constant in constants]
    if len(master) == 24:  # AN10922 section 2.3: two halves that overlap in 8 bytes
        first, second = halves
        return first[:8] + _xor(first[8:], second[:8]) + second[8:]
    return b"".join(halves)


def _mac_of_two_blocks(key: bytes, d: bytes) -> bytes:
    whole = len(d) == 2 * _BLOCK
    padded = d if whole else (d + b"\x80").ljust(2 * _BLOCK, b"\0")
    k1 = _double(Cipher(AES(key), ECB()).encryptor().update(bytes(_BLOCK)))  # noqa: S305 - one block
    last = _xor(padded[_BLOCK:], k1 if whole else _double(k1))
    return Cipher(AES(key), CBC(bytes(_BLOCK))).encryptor().update(padded[:_BLOCK] + last)[_BLOCK:]


def _double(block: bytes) -> bytes:
    """Multiplication by x in the field of RFC 4493 section 2.3."""
    doubled = int.from_bytes(block) << 1
    return (doubled & (1 << 128) - 1 ^ 0x87 * (doubled >> 128)).to_bytes(_BLOCK)


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a) ^ int.from_bytes(b)).to_bytes(len(a))


class BoltCardKeys:
    """All keys of one Bolt Card, 16 bytes each, and its `id`, which is not secret. The `repr` shows no key."""

    __slots__ = ("card_key", "id", "k0", "k1", "k2", "k3", "k4")

    def __init__(self, issuer_key: bytes, uid: bytes, version: int) -> None:
        """`version` is 0 to 2**32 - 1. K1 is the meta key, the same for all cards of an issuer; K2 is the file key."""
        _check(issuer_key, uid)
        if not 0 <= version < 1 << 32:
            raise ValueError("version must be 0 to 4294967295")
        mac = cmac.aes_cmac
        self.card_key = card_key = mac(issuer_key, b"\x2d\x00\x3f\x75" + uid + version.to_bytes(4, "little"))
        self.k0 = mac(card_key, b"\x2d\x00\x3f\x76")
        self.k1 = mac(issuer_key, b"\x2d\x00\x3f\x77")
        self.k2 = mac(card_key, b"\x2d\x00\x3f\x78")
        self.k3 = mac(card_key, b"\x2d\x00\x3f\x79")
        self.k4 = mac(card_key, b"\x2d\x00\x3f\x7a")
        self.id = mac(issuer_key, b"\x2d\x00\x3f\x7b" + uid)

    def __repr__(self) -> str:
        return f"BoltCardKeys(id={self.id.hex()})"


class _Derivation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="scheme"):
    """Base of the schemes. A master is 16 bytes, a UID 7 bytes; other lengths raise ValueError."""

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes:
        """The tag's own key, 16 bytes."""
        raise NotImplementedError

    def derive_meta_key(self, master: bytes) -> bytes | None:
        """The meta key of the encrypted mirror, 16 bytes, or None if this scheme derives none."""
        raise NotImplementedError

    def file_keys(self, masters: Iterable[Key], uid: bytes) -> tuple[Key, ...]:
        """The tag's file keys in the order of `masters`, each with its master's version."""
        return tuple(_key(master.version, self.derive_file_key(master.value, uid)) for master in masters)

    def meta_keys(self, masters: Iterable[Key]) -> tuple[Key, ...]:
        """The meta keys in the order of `masters`; none if the scheme derives none."""
        derived = ((master.version, self.derive_meta_key(master.value)) for master in masters)
        return tuple(_key(version, value) for version, value in derived if value is not None)


class An10922(_Derivation, frozen=True, tag="an10922"):
    """AN10922 for AES-128. `input` is M: hex digits and `{uid}`, `{aid}`, `{system_id}` and `{key_number}` (one byte).

    `aid` and `system_id` are hex digits, inserted as they are. The usual order is UID, AID, system identifier.
    """

    input: str = "{uid}"
    aid: str = ""
    system_id: str = ""
    key_number: int | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for invalid parameters; msgspec turns it into its ValidationError."""
        if _INPUT_PARTS.sub("", self.input):
            raise ValueError("input must consist of pairs of hex digits and {uid}, {aid}, {system_id} or {key_number}")
        for name, given in (("aid", self.aid), ("system_id", self.system_id), ("key_number", self.key_number)):
            if (given not in ("", None)) != (f"{{{name}}}" in self.input):
                raise ValueError(f"{name} is required if input contains {{{name}}}, and not allowed otherwise")
        if not (_HEX.fullmatch(self.aid) and _HEX.fullmatch(self.system_id)):
            raise ValueError("aid and system_id must be pairs of hex digits")
        if self.key_number is not None and not 0 <= self.key_number <= 255:
            raise ValueError("key_number must be between 0 and 255")
        if "{uid}" not in self.input:
            raise ValueError("input must contain {uid}; without it all tags would have the same key")
        if len(self.input_bytes(bytes(UID_BYTES))) > INPUT_BYTES_MAX:
            raise ValueError(f"input must be at most {INPUT_BYTES_MAX} bytes")

    def input_bytes(self, uid: bytes) -> bytes:
        """M for the tag with this UID."""
        texts = {"uid": uid.hex(), "aid": self.aid, "system_id": self.system_id, "key_number": f"{self.key_number or 0:02x}"}
        return b"".join(bytes.fromhex(texts[name] if name else digits) for name, digits in _INPUT_PARTS.findall(self.input))

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes:
        _check(master, uid)
        return an10922(master, self.input_bytes(uid))

    def derive_meta_key(self, master: bytes) -> None:
        """Always None: M contains the UID, which is unknown until the mirror is decrypted. The meta key is stored instead."""


class BoltCard(_Derivation, frozen=True, tag="boltcard"):
    """Bolt Card's deterministic keys from an issuer key: K2 is the file key, K1 the meta key. `version` is the card's."""

    version: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.version < 1 << 32:
            raise ValueError("version must be 0 to 4294967295")

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes:
        return BoltCardKeys(master, uid, self.version).k2

    def derive_meta_key(self, master: bytes) -> bytes:
        return BoltCardKeys(master, bytes(UID_BYTES), self.version).k1


class _SdmBackend(_Derivation, frozen=True):
    """`key_number` is the number of the tag's file key, `meta_key_number` that of the meta key.

    Both schemes treat an all-zero master as a fleet with factory keys and derive all-zero keys from it.
    """

    key_number: int = 2
    meta_key_number: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.key_number <= 255 and 0 <= self.meta_key_number <= 255):
            raise ValueError("key numbers must be between 0 and 255")


class SdmBackend(_SdmBackend, frozen=True, tag="sdm-backend"):
    """sdm-backend's "standard" scheme. The meta key does not depend on its number."""

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes:
        _check(master, uid)
        if master == _ZERO_KEY:
            return _ZERO_KEY
        slot_key = _hmac(master, b"SlotMasterKey" + bytes((self.key_number,)))[:KEY_BYTES]
        diversifier = _hmac(_hmac(master, b"DivBaseKey"), uid)[:KEY_BYTES]
        return cmac.aes_cmac(slot_key, b"\x01" + diversifier)

    def derive_meta_key(self, master: bytes) -> bytes:
        _check(master)
        return _ZERO_KEY if master == _ZERO_KEY else _hmac(master, b"PICCDataKey")[:KEY_BYTES]


class SdmBackendLegacy(_SdmBackend, frozen=True, tag="sdm-backend-legacy"):
    """sdm-backend's "legacy" scheme: PBKDF2, some milliseconds per key; recent results are cached.

    PBKDF2 releases the GIL, so a loader of many tags may derive in an executor.
    """

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes:
        _check(master, uid)
        return _legacy_key(master, b"key" + uid + bytes((self.key_number,)))

    def derive_meta_key(self, master: bytes) -> bytes:
        _check(master)
        return _legacy_key(master, b"key_no_uid" + bytes((self.meta_key_number,)))


Derivation = An10922 | BoltCard | SdmBackend | SdmBackendLegacy
"""A tagged union; in JSON, the member `scheme` selects the type."""


def scheme_of(derivation: Derivation) -> str:
    """The scheme's name as in JSON."""
    return str(derivation.__struct_config__.tag)


DEFAULT_DERIVATIONS: Mapping[str, Derivation] = MappingProxyType(
    {scheme_of(derivation): derivation for derivation in (An10922(), BoltCard(), SdmBackend(), SdmBackendLegacy())}
)
"""Each scheme with its default parameters."""

USUAL_DERIVATIONS: tuple[Derivation, ...] = (
    An10922(),
    *(An10922(input="{uid}{key_number}", key_number=number) for number in range(5)),
    BoltCard(version=1),
    BoltCard(version=0),
    *(SdmBackend(key_number=number) for number in (2, 1, 0, 3, 4)),
    *(SdmBackendLegacy(key_number=number) for number in (2, 1, 0, 3, 4)),
)
"""Derivations worth trying with a master of unknown use; the chips have five keys, 0 to 4."""


@lru_cache(LEGACY_KEYS_MAX)
def _legacy_key(master: bytes, salt: bytes) -> bytes:
    if master == _ZERO_KEY:
        return _ZERO_KEY
    return hashlib.pbkdf2_hmac("sha512", master, salt, LEGACY_ROUNDS, KEY_BYTES)


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _check(master: bytes, uid: bytes = bytes(UID_BYTES)) -> None:
    if len(master) != KEY_BYTES or len(uid) != UID_BYTES:
        raise ValueError(f"a master must be {KEY_BYTES} bytes and a UID {UID_BYTES}")


def _key(version: int, value: bytes) -> Key:
    return Key(version, value, check_value(value))
