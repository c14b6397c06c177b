"""Many taps of one form at a time, column by column.

Mirrors have fixed widths, so the taps of a fleet are texts of one length whose parts stand at the same places. A `UrlLayout` is
such a form, learned from the first tap of it that `judge` found genuine: the literal texts between the slots, and where each
slot is. A batch of taps with this layout is cut with slices, decoded with one `fromhex` a slot and verified with one
`sdm_verify_batch`, which takes a tenth of the time of one tap after the other.

A batch answers only for the taps whose MAC holds. Everything else about a tap (a wrong digit, an unknown tag, a second key,
a MAC that does not hold) sends it back, and `judge` says what it is.
"""

from __future__ import annotations

import struct
import sys
from array import array
from binascii import unhexlify
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from ixfast import cmac
from ixfast.audit.findings import TAMPER_CODES, each, positions_of
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.chips import CompiledProfile
from ixfast.chips.ntag424_aes import AesScheme
from ixfast.chips.template import STATICS, Part, Slot
from ixfast.domain import references
from ixfast.domain.scan import POSITION_COUNTER_BITS
from ixfast.limits import UID_BYTES

_HEX_SLOTS = ("uid", "counter", "picc", "enc", "mac")
_BOTH_MIRRORED = 0xC7  # the tag byte of PICCData with UID and counter
_UID, _COUNTER = 1, 2  # the bits of `sdm_verify_batch`'s forms
_BLOCK = 16

Span = tuple[int, int]


class Taps:
    """Texts of one length with their places in the chunk, and columns of them."""

    __slots__ = ("_columns", "_joined", "_length", "places", "texts")

    def __init__(self, places: Sequence[int], texts: list[str]) -> None:
        self.places = places
        self.texts = texts
        self._length = len(texts[0]) if texts else 1
        self._joined: bytes | None = None
        self._columns: dict[Span, bytes] = {}

    def __len__(self) -> int:
        return len(self.places)

    def only(self, kept: Sequence[object]) -> Taps:
        """Those for which `kept` is true."""
        return Taps([*compress(self.places, kept)], [*compress(self.texts, kept)])

    def at(self, indexes: list[int]) -> Taps:
        """Those with these numbers among them."""
        return Taps([self.places[index] for index in indexes], [self.texts[index] for index in indexes])

    def after(self, count: int) -> Taps:
        """Without the first `count`."""
        return Taps(self.places[count:], self.texts[count:])

    def all_have(self, start: int, literal: str) -> bool:
        """Whether all texts have `literal` at `start`: a slice with a step is a column of characters, 1 ns each."""
        joined, length, count = self._all(), self._length, len(self.texts)
        return all(joined[start + i :: length] == bytes((ord(mark),)) * count for i, mark in enumerate(literal))

    def unhexed(self, span: Span) -> bytes:
        """The bytes behind the digits of all texts at this span. ValueError if they are not all hex digits."""
        found = self._columns.get(span)
        if found is None:
            start, end = span
            width = end - start
            joined, digits = self._all(), bytearray(width * len(self.texts))
            for i in range(width):
                digits[i::width] = joined[start + i :: self._length]
            found = self._columns[span] = unhexlify(digits)
        return found

    def _all(self) -> bytes:
        if self._joined is None:
            joined = "".join(self.texts)
            if not joined.isascii():  # one byte a character, or the columns would shift; no tap of a layout is all zeros
                joined = "".join([text if text.isascii() else "\0" * len(text) for text in self.texts])
            self._joined = joined.encode()
        return self._joined


class Found(NamedTuple):
    """Taps that were verified, each with its tag and its position, as `TapFindings.put_authentic` takes them; `holds` has a byte
    for each, 1 if it is authentic, and `tampers` its `tamper_code`.
    """

    places: Sequence[int]
    tags: array[int]
    positions: array[int]
    holds: bytes
    tampers: bytes


def batchable(profile: CompiledProfile) -> bool:
    """Whether the taps of a profile can be verified in batches: AES mode with a counter.

    The owner's texts inside the window are compared tap by tap, and so is tamper text that is not authenticated.
    """
    return (
        isinstance(profile.scheme, AesScheme)
        and (profile.encrypted or "counter" in profile.template.slots)
        and (profile.tamper_in_window or "tamper" not in profile.template.slots)
        and not profile.window_statics
    )


class UrlLayout:
    """One form of the taps of one profile. `length` is that of the text."""

    def __init__(self, profile: CompiledProfile, profile_place: int, text: str, slots: dict[str, Span]) -> None:
        self.length = len(text)
        self._profile = profile
        self._profile_place = profile_place
        self._slots = slots
        self._eligible = b""
        self._literals: list[tuple[int, int, str]] = []
        end = 0
        for start, slot_end in (*sorted(slots.values()), (len(text), len(text))):
            if end < start:
                self._literals.append((end, start, text[end:start]))
            end = slot_end

    def fitting(self, taps: Taps) -> Taps:
        """The taps whose literal texts are those of the layout."""
        for start, end, literal in self._literals:
            if not taps.all_have(start, literal):
                taps = taps.only([text[start:end] == literal for text in taps.texts])
        return taps

    def verify(self, catalogue: TagCatalogue, taps: Taps) -> list[Found]:
        """What `fitting` taps prove. A tap is in one of the answers at most; only those that hold are of any meaning."""
        taps = self._of_hex_digits(taps)
        if not taps.places:
            return []
        if self._profile.encrypted:
            return self._verify_encrypted(catalogue, taps)
        tags = self._named(catalogue, taps)
        if tags is None:
            tags = _found(catalogue.by_uid, struct.iter_unpack(f"{UID_BYTES}s", self._bytes("uid", taps)))
        taps, tags = self._of_this_profile(catalogue, taps, tags)
        if not tags:
            return []
        uids = b"".join(each(catalogue.uids, tags)) if self._needs_uid() else bytes(UID_BYTES * len(tags))
        if "uid" in self._slots:
            mirrored = self._bytes("uid", taps)
            if mirrored != uids:
                kept = [mirrored[at : at + UID_BYTES] == uids[at : at + UID_BYTES] for at in range(0, len(uids), UID_BYTES)]
                return self.verify(catalogue, taps.only(kept))
        digits = self._bytes("counter", taps)
        return [self._verified(catalogue, taps, tags, uids, (digits[2::3], digits[1::3], digits[0::3]))]

    def _verify_encrypted(self, catalogue: TagCatalogue, taps: Taps) -> list[Found]:
        """The mirrors of all taps under one meta key after the other; a tap leaves with the first that reads a known UID."""
        found: list[Found] = []
        named = self._named(catalogue, taps)
        for key in catalogue.meta_keys:
            decryptor = Cipher(AES(key.value), ECB()).decryptor()  # noqa: S305 - single blocks, as the chip writes them
            blocks = decryptor.update(self._bytes("picc", taps))
            tags = _found(catalogue.by_uid, struct.iter_unpack(f"x{UID_BYTES}s{_BLOCK - UID_BYTES - 1}x", blocks))
            if blocks[::_BLOCK].count(_BOTH_MIRRORED) < len(tags):
                tags = [tag if mark == _BOTH_MIRRORED else -1 for tag, mark in zip(tags, blocks[::_BLOCK], strict=True)]
            if named is not None:  # another tag's mirror behind this tag's name is for `judge` to refuse
                tags = [tag if tag == name else -1 for tag, name in zip(tags, named, strict=True)]
            read = [tag >= 0 for tag in tags]
            if all(read):
                return [*found, *self._verified_blocks(catalogue, taps, tags, blocks)]
            own_blocks = b"".join(blocks[at : at + _BLOCK] for at in compress(range(0, len(blocks), _BLOCK), read))
            found += self._verified_blocks(catalogue, taps.only(read), [*compress(tags, read)], own_blocks)
            rest = [not each for each in read]
            taps = taps.only(rest)
            named = None if named is None else [*compress(named, rest)]
        return found

    def _verified_blocks(self, catalogue: TagCatalogue, taps: Taps, tags: list[int], blocks: bytes) -> list[Found]:
        kept = self._kept(catalogue, tags)
        if not all(kept):
            blocks = b"".join(blocks[_BLOCK * at : _BLOCK * (at + 1)] for at, keep in enumerate(kept) if keep)
            taps, tags = taps.only(kept), [*compress(tags, kept)]
        if not tags:
            return []
        uids = b"".join(each(catalogue.uids, tags))
        return [self._verified(catalogue, taps, tags, uids, (blocks[8::_BLOCK], blocks[9::_BLOCK], blocks[10::_BLOCK]))]

    def _verified(
        self, catalogue: TagCatalogue, taps: Taps, tags: list[int], uids: bytes, counter: tuple[bytes, bytes, bytes]
    ) -> Found:
        """`counter` has a column for each byte, the least significant first."""
        form = _COUNTER | (_UID if self._profile.encrypted or self._profile.uid_in_session else 0)
        packed = bytearray(4 * len(tags))
        packed[0::4], packed[1::4], packed[2::4] = counter
        numbers = array("I", bytes(packed))
        holds = cmac.sdm_verify_batch(
            b"".join(each(catalogue.keys, tags)),
            uids,
            bytes(packed),
            self._windows(taps, uids),
            self._bytes("mac", taps),
            bytes((form,)) * len(tags),
        )
        # A position is a counter with the key's version above it, so the version goes where the packed counter has its zero.
        assert 8 * len(counter) == POSITION_COUNTER_BITS
        packed[3::4] = bytes(each(catalogue.versions, tags))
        positions = array("I", bytes(packed))
        if sys.byteorder == "big":
            positions.byteswap()
        if 0 in numbers:  # no tap of a tag that counts
            holds = bytes(held if number else 0 for held, number in zip(holds, numbers, strict=True))
        holds, tampers = self._tampers(catalogue, taps, tags, uids, numbers, holds)
        return Found(taps.places, array("I", tags), positions, holds, tampers)

    def _tampers(
        self, catalogue: TagCatalogue, taps: Taps, tags: list[int], uids: bytes, numbers: array[int], holds: bytes
    ) -> tuple[bytes, bytes]:
        """The taps that hold once more, and their `tamper_code`s, 0 for none. Those with other characters in the window than a
        tag has for its state do not hold here: `judge` says what they are.
        """
        if self._profile.tamper_in_window:
            start, end = self._slots["tamper"]
            codes = bytes([TAMPER_CODES.get(text[start:end].upper(), 0) for text in taps.texts])
            return bytes(map(min, holds, codes)) if 0 in codes else holds, codes
        offset = self._profile.profile.tamper_offset
        codes = bytes(len(holds))
        if offset is None or "enc" not in self._slots:
            return holds, codes
        told = bytearray(codes)
        blocks, decrypt, keys = self._bytes("enc", taps), self._profile.scheme.decrypt_file, catalogue.keys
        size = len(blocks) // len(holds)
        for at in positions_of(1, holds):
            uid = uids[UID_BYTES * at : UID_BYTES * (at + 1)]
            content = decrypt(keys[tags[at]], uid, numbers[at], blocks[size * at : size * (at + 1)])
            told[at] = TAMPER_CODES.get(content[offset : offset + 2].decode("latin-1"), 0)
        return holds, bytes(told)

    def _windows(self, taps: Taps, uids: bytes) -> tuple[bytes, bytes] | None:
        """The authenticated texts as `sdm_verify_batch` takes them: all of one length."""
        parts = self._profile.template.window
        if not parts:
            return None
        columns = [self._window_column(part, taps, uids) for part in parts]
        windows = ["".join(window) for window in zip(*columns, strict=True)]
        length = len(windows[0])
        return "".join(windows).encode(), array("I", range(0, length * len(windows) + 1, length)).tobytes()

    def _window_column(self, part: Part, taps: Taps, uids: bytes) -> Iterable[str]:
        if isinstance(part, str):
            return repeat(part, len(taps))
        if part.name == "uid":
            digits = uids.hex().upper()
            return [digits[at : at + 2 * UID_BYTES] for at in range(0, len(digits), 2 * UID_BYTES)]
        start, end = self._slots[part.name]
        return [text[start:end].upper() for text in taps.texts]

    def _named(self, catalogue: TagCatalogue, taps: Taps) -> list[int] | None:
        """The tags that the texts name by their codes, -1 for unknown ones; None if this layout names none."""
        span = self._slots.get("xuid")
        if span is None:
            return None
        start, end = span
        codes = [text[start:end] for text in taps.texts]
        try:
            return [*each(catalogue.by_code, codes)]
        except KeyError:
            get = catalogue.by_code.get
            return [get(code, -1) for code in codes]

    def _of_this_profile(self, catalogue: TagCatalogue, taps: Taps, tags: list[int]) -> tuple[Taps, list[int]]:
        kept = self._kept(catalogue, tags)
        return (taps, tags) if all(kept) else (taps.only(kept), [*compress(tags, kept)])

    def _kept(self, catalogue: TagCatalogue, tags: list[int]) -> Sequence[int]:
        """Whether the taps are of known tags of this profile with one key and, where the MAC covers it, a known UID."""
        if not self._eligible:  # found out once, because the catalogue is whole when the first tap is judged
            place, needs_uid = self._profile_place, self._needs_uid()
            columns = zip(catalogue.profile_of, catalogue.keys, catalogue.uids, strict=True)
            eligible = bytes(own == place and bool(key and (uid or not needs_uid)) for own, key, uid in columns)
            self._eligible = eligible + b"\0"  # the last one for -1
        return each(self._eligible, tags)

    def _needs_uid(self) -> bool:
        return self._profile.encrypted or self._profile.uid_in_session or "uid" in self._slots

    def _bytes(self, slot: str, taps: Taps) -> bytes:
        return taps.unhexed(self._slots[slot])

    def _of_hex_digits(self, taps: Taps) -> Taps:
        """The taps whose mirrors are hex digits, and which are ASCII elsewhere too, as `Taps._all` needs it."""
        spans = [self._slots[name] for name in _HEX_SLOTS if name in self._slots]
        try:
            for span in spans:
                taps.unhexed(span)
        except ValueError:
            return taps.only([text.isascii() and all(_is_hex(text[start:end]) for start, end in spans) for text in taps.texts])
        return taps


def learn(profile: CompiledProfile, profile_place: int, text: str) -> UrlLayout | None:
    """The layout of a tap that this profile read and found authentic; None if its texts cannot be told by place alone."""
    if not batchable(profile) or not text.isascii() or any(mark in text for mark in "%+#"):
        return None
    template = profile.template
    path, mark, query = text.partition("?") if "?" in text or "=" not in text else ("", "", text)
    placed: list[tuple[str, Span]] = []
    if template.path:
        whole = path.removesuffix("/")
        segments = whole.split("/")[-len(template.path) :]
        if len(segments) < len(template.path):
            return None
        at = len(whole) - sum(map(len, segments)) - len(segments) + 1
        for piece, segment in zip(template.path, segments, strict=True):
            placed += _places(piece.parts, at, segment)
            at += len(segment) + 1
    own = {piece.name: piece.parts for piece in template.query}
    own |= {name: (template.slots[slot],) for slot, name in template.separate.items()}
    at = len(path) + len(mark)
    for parameter in query.split("&") if query else ():
        name, _, value = parameter.partition("=")
        start = at + len(name) + 1
        if name in own:
            placed += _places(own[name], start, value)
        elif name.lower() in references.CODE_NAMES and references.CODE.fullmatch(value):
            placed.append(("xuid", (start, start + len(value))))
        at += len(parameter) + 1
    slots = dict(placed)
    needed = {"mac", "picc"} if template.encrypted else {"mac", "counter"}
    needed |= {part.name for part in template.window if isinstance(part, Slot) and part.name != "uid"}
    # A text of the owner's own other than the tag code is read by nobody here, so it could hide anything.
    plain = len(slots) == len(placed) and not {"cuid", "aid"} & slots.keys()
    named = {"picc", "xuid", "uid"} & slots.keys()
    return UrlLayout(profile, profile_place, text, slots) if plain and named and needed <= slots.keys() else None


def _places(parts: tuple[Part, ...], at: int, text: str) -> list[tuple[str, Span]]:
    """Where the slots of a piece are; the owner's own text takes what the fixed widths leave over."""
    free = len(text) - sum(len(part) if isinstance(part, str) else part.chars for part in parts if not _is_own(part))
    placed = []
    for part in parts:
        width = len(part) if isinstance(part, str) else free if _is_own(part) else part.chars
        if isinstance(part, Slot):
            placed.append((part.name, (at, at + width)))
        at += width
    return placed


def _found(places: dict[bytes, int], uids: Iterable[tuple[bytes]]) -> list[int]:
    """The places of UIDs, -1 for unknown ones."""
    get = places.get
    return [get(uid, -1) for (uid,) in uids]


def _is_own(part: Part) -> bool:
    return isinstance(part, Slot) and part.name in STATICS


def _is_hex(digits: str) -> bool:
    try:
        unhexlify(digits)
    except ValueError:
        return False
    return True
