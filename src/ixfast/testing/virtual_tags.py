"""Simulated tags, to test an integration without a chip.

`VirtualTag` is one tag with its own counter. It produces the same URLs as a chip that is configured for the given encoding
profile. `VirtualFleet` is any number of tags, up to millions, derived from a seed and created only on access.

Nothing here is secret: keys are derived from seeds that are in the tests. Never put one of these keys on a real chip. Still, no
`repr` shows a key, because test output is copied to places where nobody can distinguish them from real keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal, overload

from ixfast.api.arguments import check_number, check_type
from ixfast.api.encoding_profiles import compiled_profile
from ixfast.api.key_material import TagKeys, key_bytes, uid_of
from ixfast.chips import CompiledProfile, Message
from ixfast.chips.template import STANDARD_NAMES, STATICS, Part
from ixfast.domain.model import EncodingProfile, Key
from ixfast.domain.owner_texts import encoded, storable
from ixfast.errors import InputError
from ixfast.keys import check_value
from ixfast.keys.diversify import Derivation
from ixfast.limits import COUNTER_MAX

Forgery = Literal["flipped_bit", "wrong_key"]

_KEY_BYTES = 16
_STATUS_BYTES = 4
_SEED_MAX = (1 << 64) - 1
_CODE_CHARS = 8
_CODE = "q8w3sbcz"
_UID = bytes.fromhex("04a1b2c3d4e5f6")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_CODES: int = len(_ALPHABET) ** _CODE_CHARS
_SERIALS = 1 << 48  # A UID is 04 (NXP) and 6 more bytes.
# Multiplying by a number that has no factor in common with the modulus is a permutation: scattered codes without collisions.
_CODE_STEP = 1_984_712_367_173
_SERIAL_STEP = 174_440_041_914_541


class VirtualTag:
    """A simulated tag, to test an integration without a chip: its taps are the URLs that a phone would open.

    - `profile`: an `EncodingProfile`, a compiled one, or the name of a built-in one.
    - `xuid`: the tag code. `cuid`, `aid`, `batch`: the customer's id, the account id and the name of the batch, which only some
      profiles print.
    - `uid`: 7 bytes, or 14 hex digits. `file_key`, `meta_key`: 16 bytes, or 32 hex digits; by default, the file key is derived
      from `seed` and the UID, and the meta key is the factory key, 16 zero bytes. `InputError` is raised for any other length.
    - `counter`: the last one used; the next tap has the one after it.
    - `stored`, `current`: the tamper characters. `status`: the 4 bytes that a StatusDetect chip mirrors after them.
    - `file_data`: what `{enc:N}` mirrors, padded with `-` to N/2 bytes and overlaid with the tamper characters at the profile's
      offset.
    - `mirrors_uid`, `mirrors_counter`: what an encrypted mirror contains. A plain mirror follows its template.
    - `seed`: a number of 64 bits. The random padding of PICCData is derived from it, the UID and the counter, so that the same
      tag produces the same URLs in every run.

    >>> import ixfast
    >>> tag = ixfast.testing.VirtualTag(
    ...     "plain-uid-counter", uid="04782e21801d80", file_key=bytes(16), counter=60
    ... )
    >>> genuine, forged = tag.tap(), tag.forged()
    >>> genuine
    'https://tag.example/t?uid=04782E21801D80&ctr=00003D&cmac=30BE25B8EE4C1CC1'
    >>> ixfast.verify(genuine, profile="plain-uid-counter", keys=tag.keys).authentic
    True
    >>> ixfast.verify(forged, profile="plain-uid-counter", keys=tag.keys).authentic
    False
    >>> tag.counter
    62
    """

    def __init__(
        self,
        profile: EncodingProfile | CompiledProfile | str,
        *,
        xuid: str = _CODE,
        uid: bytes | str = _UID,
        file_key: bytes | str | None = None,
        meta_key: bytes | str = bytes(_KEY_BYTES),
        counter: int = 0,
        cuid: str | None = None,
        aid: str | None = None,
        batch: str | None = None,
        stored: str = "C",
        current: str = "C",
        status: bytes = bytes(4),
        file_data: bytes = b"",
        mirrors_uid: bool = True,
        mirrors_counter: bool = True,
        base_url: str = "https://tag.example/t",
        seed: int = 0,
    ) -> None:
        self.profile = _compiled(profile)
        for name, text in (("xuid", xuid), ("base_url", base_url)):
            check_type(text, str, name, "text")
        for name, optional in (("cuid", cuid), ("aid", aid), ("batch", batch)):
            check_type(optional, str | None, name, "text or None")
        for name, letter in (("stored", stored), ("current", current)):
            if not isinstance(letter, str) or len(letter) != 1 or not letter.isascii():
                raise InputError("invalid_parameter", f"{name} must be one ASCII character.", name)
        if not isinstance(status, bytes) or len(status) != _STATUS_BYTES:
            raise InputError("invalid_parameter", f"status must be {_STATUS_BYTES} bytes.", "status")
        check_type(file_data, bytes, "file_data", "bytes")
        check_number(counter, COUNTER_MAX, "counter")
        check_number(seed, _SEED_MAX, "seed")
        self.xuid = xuid
        self.cuid = cuid
        self.aid = aid
        self.batch = batch
        self.uid = uid_of(uid)
        self.file_key = self._own_key(seed) if file_key is None else key_bytes(file_key, "file_key")
        self.meta_key = key_bytes(meta_key, "meta_key")
        self.counter = counter
        self.stored = stored
        self.current = current
        self.status = status
        self.file_data = file_data
        self.mirrors_uid = mirrors_uid
        self.mirrors_counter = mirrors_counter
        self.base_url = base_url
        self.seed = seed

    def __repr__(self) -> str:
        uid = self.uid.hex().upper()
        return f"VirtualTag({self.profile.name!r}, xuid={self.xuid!r}, uid={uid}, counter={self.counter})"

    @property
    def keys(self) -> TagKeys:
        """The keys of this tag, in the form that `ixfast.verify` takes."""
        return TagKeys(file=self.file_key, meta=self.meta_key)

    @property
    def statics(self) -> dict[str, str]:
        """The registered texts of this tag, in the form that `CompiledProfile.examine` takes."""
        texts = {"xuid": self.xuid, "cuid": self.cuid, "aid": self.aid, "batch": self.batch}
        return {name: text for name, text in texts.items() if text is not None}

    def file_keys(self, version: int = 1) -> tuple[Key, ...]:
        """The file key, in the form that `CompiledProfile.examine` takes."""
        return (_key(version, self.file_key),)

    def meta_keys(self, version: int = 1) -> tuple[Key, ...]:
        """The meta key, in the form that `CompiledProfile.examine` takes."""
        return (_key(version, self.meta_key),)

    def tap(self) -> str:
        """Raise the counter and return the URL that a phone would open. Raises InputError after counter 0xFFFFFF."""
        return self.tap_at(self._raise())

    def tap_at(self, counter: int) -> str:
        """The URL at this counter. The tag's own counter is not changed, so this is for replays and gaps."""
        return self._url(self._texts(counter, self.file_key))

    def tap_parameters(self) -> dict[str, str]:
        """Raise the counter and return the tap as the parameters of `/v1/t`.

        For a plain mirror these are `x`, `n`, `e` and, if the tag mirrors it, `t`; the UID is usually not forwarded, and is not
        here. For an encrypted mirror or file data they are `x` and the names in the profile.
        """
        return self.parameters_at(self._raise())

    def parameters_at(self, counter: int) -> dict[str, str]:
        """The parameters at this counter. The tag's own counter is not changed."""
        texts = self._texts(counter, self.file_key)
        template = self.profile.template
        if not template.encrypted and "enc" not in template.slots:
            mirrors = {name: texts[slot] for slot, name in STANDARD_NAMES.items() if slot in texts and slot != "uid"}
            return {"x": self.xuid, **mirrors}
        parameters = {name: texts[slot] for slot, name in template.separate.items()}
        parameters |= {piece.name: _fill(piece.parts, texts) for piece in template.query if piece.name and piece.slots}
        return {"x": self.xuid, **parameters}

    def forged(self, kind: Forgery = "flipped_bit") -> str:
        """Raise the counter and return a URL that must not pass.

        With `flipped_bit`, one bit of the MAC is wrong, a different one at each counter; with `wrong_key`, the MAC was computed
        with a key that differs in one bit.
        """
        counter = self._raise()
        if kind == "wrong_key":
            return self._url(self._texts(counter, _flip(self.file_key, counter)))
        texts = self._texts(counter, self.file_key)
        texts["mac"] = _flip(bytes.fromhex(texts["mac"]), counter).hex().upper()
        return self._url(texts)

    def _own_key(self, seed: int) -> bytes:
        return blake2b(self.uid, key=seed.to_bytes(8), digest_size=_KEY_BYTES).digest()

    def _raise(self) -> int:
        if self.counter >= COUNTER_MAX:
            raise InputError("invalid_parameter", "The tag's counter has reached its maximum.", "counter")
        self.counter += 1
        return self.counter

    def _texts(self, counter: int, file_key: bytes) -> dict[str, str]:
        """Every slot of the template as the chip prints it at this counter."""
        check_number(counter, COUNTER_MAX, "counter")
        scheme, slots = self.profile.scheme, self.profile.template.slots
        encrypted = self.profile.encrypted
        has_uid = self.mirrors_uid if encrypted else "uid" in slots
        has_counter = self.mirrors_counter if encrypted else "counter" in slots
        uid, number = self.uid if has_uid else b"", counter if has_counter else -1
        picc = enc = None
        if encrypted:
            padding = blake2b(uid + counter.to_bytes(3), key=self.seed.to_bytes(8), digest_size=16).digest()
            picc = scheme.write_picc(self.meta_key, uid or None, counter if has_counter else None, padding)
        if "enc" in slots:
            enc = scheme.encrypt_file(file_key, uid, number, self._file_plaintext(slots["enc"].chars // 2))
        tamper = self.stored + self.current
        tt = tamper + self.status.hex().upper()
        message = Message(b"", uid or None, counter, picc, enc, tamper, tt)
        stored = {name: encoded(text) for name, text in self.statics.items()}
        mac = scheme.simulated_mac(file_key, uid, number, self.profile.windows(message, uid, stored)[0])
        texts = {"uid": self.uid.hex(), "counter": f"{counter:06x}", "tamper": tamper, "tt": tt, "mac": mac.hex()}
        texts |= {name: block.hex() for name, block in (("picc", picc), ("enc", enc)) if block is not None}
        return {name: text.upper() for name, text in texts.items() if name in slots} | self.statics

    def _file_plaintext(self, length: int) -> bytes:
        if len(self.file_data) > length:
            problem = f"The profile mirrors {length} bytes of file data, the tag has {len(self.file_data)}."
            raise InputError("invalid_parameter", problem, "file_data")
        text = bytearray(self.file_data.ljust(length, b"-"))
        offset = self.profile.profile.tamper_offset
        if offset is not None:
            text[offset : offset + 2] = (self.stored + self.current).encode()
        return bytes(text)

    def _url(self, texts: dict[str, str]) -> str:
        stored = {name: encoded(text) if name in STATICS else text for name, text in texts.items()}
        tail = _fill(tuple(map(_storable, self.profile.template.parts)), stored)
        return self.base_url + (tail if tail.startswith("/") else f"?{tail}")


class VirtualFleet:
    """`count` tags of one account, derived from `seed`: the same in every run, and created only on access.

    Tag codes have 8 lower-case letters and digits, UIDs have 7 bytes and begin with 04; both are unique within a fleet. `account`
    is the AID. All tags share one meta key, unless `own_meta_keys` gives each tag its own: the URL of its taps must then name the
    tag. `batch` is the name of the batch of all tags. With a `derivation`, all keys are derived from `master`; `enrols` means
    that tags are not registered before they are tapped.

    >>> import ixfast
    >>> derivation = ixfast.derivation("boltcard")
    >>> fleet = ixfast.testing.VirtualFleet(1, 1000, "encrypted", derivation=derivation)
    >>> keys = ixfast.TagKeys(master=fleet.master, derivation="boltcard")
    >>> tag = fleet[999]
    >>> ixfast.verify(tag.tap(), profile="encrypted", keys=keys).uid == tag.uid
    True
    """

    def __init__(
        self,
        seed: int,
        count: int,
        profile: EncodingProfile | CompiledProfile | str = "ixkio-plain",
        account: str = "acme",
        *,
        derivation: Derivation | None = None,
        enrols: bool = False,
        own_meta_keys: bool = False,
        batch: str | None = None,
    ) -> None:
        if not 0 <= count <= _CODES:
            raise ValueError(f"count must be between 0 and {_CODES}")
        self.seed = seed
        self.count = count
        self.profile = _compiled(profile)
        self.account = account
        self._root = blake2b(f"ixfast virtual fleet {seed}".encode(), digest_size=32).digest()
        self._code_start = int.from_bytes(self._root[:8]) % _CODES
        self._serial_start = int.from_bytes(self._root[8:16]) % _SERIALS
        self.derivation = derivation
        self.enrols = enrols
        self.master = blake2b(b"master", key=self._root, digest_size=_KEY_BYTES).digest()
        derived = derivation.derive_meta_key(self.master) if derivation is not None else None
        self.derives_meta_key = derived is not None
        self.meta_key = derived or blake2b(b"meta key", key=self._root, digest_size=_KEY_BYTES).digest()
        self.own_meta_keys = own_meta_keys and derived is None
        self.batch = batch

    def __len__(self) -> int:
        return self.count

    @overload
    def __getitem__(self, index: int) -> VirtualTag: ...
    @overload
    def __getitem__(self, index: slice) -> list[VirtualTag]: ...
    def __getitem__(self, index: int | slice) -> VirtualTag | list[VirtualTag]:
        """A new tag with its counter at 0. Keep it if its taps are to follow each other."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.count))]
        if not -self.count <= index < self.count:
            raise IndexError(f"the fleet has {self.count} tags")
        index %= self.count
        return VirtualTag(
            self.profile,
            xuid=self.xuid(index),
            uid=self.uid(index),
            file_key=self.file_key(index),
            meta_key=self.meta_key_of(index),
            aid=self.account,
            batch=self.batch,
            seed=self.seed & 0xFFFFFFFFFFFFFFFF,
        )

    def __iter__(self) -> Iterator[VirtualTag]:
        return map(self.__getitem__, range(self.count))

    def __repr__(self) -> str:
        name = self.profile.name
        return f"VirtualFleet(seed={self.seed}, count={self.count}, profile={name!r}, account={self.account!r})"

    def xuid(self, index: int) -> str:
        """The tag code of the tag at `index`, 0 to `count` - 1."""
        number = (self._code_start + index * _CODE_STEP) % _CODES
        high, low = divmod(number, 1_679_616)
        first, second = divmod(high, 1296)
        third, fourth = divmod(low, 1296)
        return _PAIRS[first] + _PAIRS[second] + _PAIRS[third] + _PAIRS[fourth]

    def uid(self, index: int) -> bytes:
        """The UID (7 bytes) of the tag at `index`."""
        return b"\x04" + ((self._serial_start + index * _SERIAL_STEP) % _SERIALS).to_bytes(6)

    def file_key(self, index: int) -> bytes:
        """The file key (16 bytes) of the tag at `index`."""
        if self.derivation is not None:
            return self.derivation.derive_file_key(self.master, self.uid(index))
        return blake2b(index.to_bytes(8), key=self._root, digest_size=_KEY_BYTES).digest()

    def meta_key_of(self, index: int) -> bytes:
        """The meta key (16 bytes) of the tag at `index`: that of the fleet, unless each tag has its own."""
        if not self.own_meta_keys:
            return self.meta_key
        return blake2b(b"meta" + index.to_bytes(8), key=self._root, digest_size=_KEY_BYTES).digest()

    def plain_tap(self, index: int, counter: int) -> tuple[str, str, str]:
        """`x`, `n` and `e` of a plain tap, fast enough for a load generator: it creates no tag object and no URL.

        Raises ValueError unless the profile is a plain mirror whose window does not depend on the tag (`is_bare_plain`).
        """
        if not self.profile.is_bare_plain:
            raise ValueError(f"profile {self.profile.name!r} is not a plain mirror with a counter")
        uid = self.uid(index) if self.profile.uid_in_session else b""
        window = self.profile.windows(Message(b"", counter=counter), uid, {})[0] if self.profile.template.window else b""
        mac = self.profile.scheme.simulated_mac(self.file_key(index), uid, counter, window)
        return self.xuid(index), f"{counter:06X}", mac.hex().upper()


def _compiled(profile: EncodingProfile | CompiledProfile | str) -> CompiledProfile:
    return profile if isinstance(profile, CompiledProfile) else compiled_profile(profile)


def _key(version: int, value: bytes) -> Key:
    return Key(version, value, check_value(value))


def _fill(parts: tuple[Part, ...], texts: dict[str, str]) -> str:
    return "".join(part if isinstance(part, str) else texts[part.name] for part in parts)


def _storable(part: Part) -> Part:
    return storable(part) if isinstance(part, str) else part


def _flip(value: bytes, counter: int) -> bytes:
    return (int.from_bytes(value) ^ 1 << counter % (8 * len(value))).to_bytes(len(value))
