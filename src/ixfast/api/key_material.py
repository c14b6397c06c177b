"""Keys as the Python API takes them: file keys, meta keys, and masters from which they are derived."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ixfast.api.arguments import check_type, shortened
from ixfast.domain.chip_uids import refuse_reversed_uid
from ixfast.domain.model import Key
from ixfast.errors import InputError, quoted
from ixfast.keys.diversify import DEFAULT_DERIVATIONS, Derivation
from ixfast.keys.envelope import KEY_BYTES, check_value
from ixfast.limits import KEY_VERSIONS_MAX, META_KEYS_MAX, UID_BYTES

KeyInput = bytes | str
"""A key: 16 bytes, or 32 hex digits."""

KeysInput = KeyInput | Mapping[int, KeyInput]
"""One key, which gets version 1, or keys by version."""

_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


class TagKeys:
    """The keys that a tap is verified with: those of one tag, or the master key of a fleet. The `repr` shows no key.

    - `file`: the file key (SDMFileReadKey), which authenticates taps.
    - `meta`: the meta key (SDMMetaReadKey), which decrypts an encrypted mirror; profiles with `{picc}` need it. It may be
      shared by many tags, or be the tag's own if the URL names the tag.
    - `master`: instead of `file`, the master key from which `derivation` computes each tag's file key and, if the scheme derives
      one, the meta key. `derivation` is what the function `derivation` returns, or the name of a scheme.

    Each is one key, or a mapping from versions (1 to 127) to keys: the newest version is tried first. A key is 16 bytes, or 32
    hex digits. Raises `InputError` for anything else; no message contains a part of a key.

        >>> from ixfast import TagKeys
        >>> TagKeys(file="000102030405060708090a0b0c0d0e0f")
        TagKeys(file_keys=(Key(version=1, check_value=be7ed6),), meta_keys=())
    """

    __slots__ = ("_derivation", "_file_keys", "_masters", "_meta_keys")

    def __init__(
        self,
        file: KeysInput | None = None,
        *,
        meta: KeysInput | None = None,
        master: KeysInput | None = None,
        derivation: Derivation | str | None = None,
    ) -> None:
        if file is not None and master is not None:
            raise InputError("invalid_parameter", "Pass either file or master, not both.", "keys")
        if (master is None) is not (derivation is None):
            raise InputError("invalid_parameter", "Pass master and derivation together.", "keys")
        self._file_keys = keys_of(file, "file")
        self._masters = keys_of(master, "master")
        self._derivation = _derivation_of(derivation) if derivation is not None else None
        derived = self._derivation.meta_keys(self._masters) if self._derivation is not None else ()
        self._meta_keys = (*keys_of(meta, "meta"), *derived)
        if len(self._meta_keys) > META_KEYS_MAX:
            raise InputError("invalid_parameter", f"Pass at most {META_KEYS_MAX} meta keys.", "keys")

    def __repr__(self) -> str:
        if self._derivation is not None:
            return f"TagKeys(masters={self._masters!r}, derivation={self._derivation!r}, meta_keys={self._meta_keys!r})"
        return f"TagKeys(file_keys={self._file_keys!r}, meta_keys={self._meta_keys!r})"

    def __reduce__(self) -> Any:
        raise TypeError("Keys cannot be pickled: they would leave the process.")

    @property
    def file_key(self) -> bytes | None:
        """The newest file key, 16 bytes; None if there is none, or if file keys are derived for each tag."""
        return self._file_keys[0].value if self._file_keys else None

    @property
    def meta_key(self) -> bytes | None:
        """The newest meta key, 16 bytes; None if there is none."""
        return self._meta_keys[0].value if self._meta_keys else None

    @property
    def derived(self) -> bool:
        """Whether the file keys are derived from a master key."""
        return self._derivation is not None

    def file_keys_of(self, uid: bytes | None) -> tuple[Key, ...]:
        """The file keys of the tag with this UID (7 bytes), newest version first; none if keys are derived and it is None."""
        if self._derivation is None:
            return self._file_keys
        return self._derivation.file_keys(self._masters, uid) if uid is not None else ()

    @property
    def meta_keys(self) -> tuple[Key, ...]:
        """The meta keys, newest version first; those given before those derived."""
        return self._meta_keys


def opened_keys(file_keys: tuple[Key, ...], meta_keys: tuple[Key, ...]) -> TagKeys:
    """The keys of a record, which are open already; each tuple has the newest version first."""
    keys = TagKeys()
    keys._file_keys, keys._meta_keys = file_keys, meta_keys
    return keys


def derivation_names() -> tuple[str, ...]:
    """The names of the key derivation schemes: `an10922`, `boltcard`, `sdm-backend`, `sdm-backend-legacy`.

    >>> import ixfast
    >>> ixfast.derivation_names()
    ('an10922', 'boltcard', 'sdm-backend', 'sdm-backend-legacy')
    """
    return tuple(DEFAULT_DERIVATIONS)


def derivation(scheme: str, **parameters: object) -> Derivation:
    """A key derivation scheme with its parameters.

    The parameters and their defaults are those of docs/how-to/manage-keys.md: for `an10922` `input`, `aid`, `system_id` and
    `key_number`; for `boltcard` `version`; for the two `sdm-backend` schemes `key_number` and `meta_key_number`. Raises
    `InputError` for an unknown scheme or parameter, or an invalid value.

    >>> import ixfast
    >>> ixfast.derivation("an10922", input="{uid}3042f5")
    An10922(input='{uid}3042f5', aid='', system_id='', key_number=None)
    """
    check_type(scheme, str, "derivation", "the name of a scheme")
    if scheme not in DEFAULT_DERIVATIONS:
        known = ", ".join(DEFAULT_DERIVATIONS)
        message = shortened(f"There is no key derivation {quoted(scheme)}; known are {known}.")
        raise InputError("invalid_parameter", message, "derivation")
    try:
        found: Derivation = msgspec.convert({"scheme": scheme, **parameters}, Derivation)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise InputError("invalid_parameter", shortened(f"Invalid key derivation: {error}."), "derivation") from None
    return found


def derive_keys(
    master: KeyInput, uid: KeyInput, derivation: Derivation | str, *, version: int = 1, allow_any_uid: bool = False
) -> TagKeys:
    """Derive the keys of one tag from a master key.

    `master` is 16 bytes or 32 hex digits, `uid` 7 bytes or 14 hex digits, both in the byte order in which they are printed. The
    result has the file key as `file_key` and the meta key, if the scheme derives one, as `meta_key`. Raises `InputError` for
    other lengths, and with the code `uid_reversed` for a UID whose bytes are in reverse order, which ends with 04 instead of
    beginning with it, unless `allow_any_uid` is true. Sources: AN10922; Bolt Card's deterministic keys; sdm-backend.

    >>> import ixfast
    >>> master = "00112233445566778899aabbccddeeff"
    >>> keys = ixfast.derive_keys(master, "04782e21801d80", "an10922")
    >>> keys.file_key.hex()
    '4fd3364753b8142980e8203c75ad83be'
    """
    check_type(version, int, "version", f"a number between 1 and {KEY_VERSIONS_MAX}")
    masters = keys_of({version: master}, "master")
    scheme = _derivation_of(derivation)
    uid7 = registered_uid(uid, allow_any_uid=allow_any_uid)
    (file_key,) = scheme.file_keys(masters, uid7)
    meta = {key.version: key.value for key in scheme.meta_keys(masters)}
    return TagKeys(file={version: file_key.value}, meta=meta or None)


def keys_of(given: KeysInput | None, name: str) -> tuple[Key, ...]:
    """Keys with their check values, newest version first; `name` is for the message of an InputError."""
    if given is None:
        return ()
    versions = given if isinstance(given, Mapping) else {1: given}
    for version in versions:
        if not isinstance(version, int) or not 0 < version <= KEY_VERSIONS_MAX:
            raise InputError("invalid_parameter", f"The versions of {name} must be between 1 and {KEY_VERSIONS_MAX}.", "keys")
    values = {version: key_bytes(versions[version], name) for version in sorted(versions, reverse=True)}
    return tuple(Key(version, value, check_value(value)) for version, value in values.items())


def key_bytes(given: KeyInput, name: str) -> bytes:
    """The 16 bytes of a key. Raises InputError, which does not quote it: it may be most of a key."""
    return _bytes_of(given, KEY_BYTES, name, "keys")


def uid_of(given: KeyInput) -> bytes:
    """The 7 bytes of a UID."""
    return _bytes_of(given, UID_BYTES, "uid", "uid")


def registered_uid(given: KeyInput, field: str = "uid", *, allow_any_uid: bool) -> bytes:
    """The 7 bytes of a UID that is known from elsewhere than a tap. Raises InputError if its bytes are in reverse order."""
    uid = uid_of(given)
    if not allow_any_uid:
        refuse_reversed_uid(uid, field, "allow_any_uid=True")
    return uid


def _bytes_of(given: KeyInput, length: int, name: str, field: str) -> bytes:
    value = bytes.fromhex(given) if isinstance(given, str) and _HEX.fullmatch(given) else given
    if not isinstance(value, bytes) or len(value) != length:
        raise InputError("invalid_parameter", f"{name} must be {length} bytes or {2 * length} hex digits.", field)
    return value


def _derivation_of(given: Derivation | str) -> Derivation:
    check_type(given, Derivation | str, "derivation", "the name of a scheme or what ixfast.derivation returns")
    return derivation(given) if isinstance(given, str) else given
