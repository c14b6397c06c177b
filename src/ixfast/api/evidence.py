"""The values that the Python API returns about a tap. None of them contains a key."""

from __future__ import annotations

import msgspec

from ixfast.chips.reasons import REASONS, UNDECIDED_REASONS
from ixfast.domain.model import TamperWord
from ixfast.domain.scan import position


class TamperState(msgspec.Struct, frozen=True):
    """The tamper wire as the chip reported it under the MAC: `closed`, `open` or `not_enabled`.

    `stored` never returns to `closed` once the wire was found open; `current` is the state at this tap.
    """

    stored: TamperWord
    current: TamperWord


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a tap states about itself before anything is verified: enough to look up a tag and its keys, and proof of nothing.

    - `uid`: 7 bytes as printed (first byte 04), in the clear or decrypted; None if it is not in the tap.
    - `counter`: 0 to 16777215; None if it is not in the tap.
    - `tag_code`, `cuid`, `aid`, `batch`: the texts in the URL; None if they are not in it.
    """

    uid: bytes | None = None
    counter: int | None = None
    tag_code: str | None = None
    cuid: str | None = None
    aid: str | None = None
    batch: str | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a tap proves about the tag that made it. It does not prove that the tap is new: see `position`.

    It has no truth value, so that a forged tap cannot pass by `if verify(…)`.

    - `authentic`: the MAC is valid under one of the keys. Nothing else in this object is proven unless this is true.
    - `reason`: a word for why the tap is not authentic, such as `mac_mismatch`; None if it is authentic. `explanation` is its
      meaning.
    - `uid`: 7 bytes as printed (first byte 04); None if the tag mirrors none and none was passed.
    - `counter`: the chip's own count of its taps, 1 to 16777215; None if the tag does not mirror it or does not count.
    - `key_version`: the version of the file key that verified the MAC, as numbered in `TagKeys`; None if none did.
    - `tamper`: the state of the tamper wire; None if the chip has none or reports no known state.
    - `file_data`: the decrypted file data (`{enc:N}`), N / 2 bytes; None if the profile has none.
    - `tag_code`: the tag code as the URL states it. The MAC covers it only if the profile's window contains `{xuid}`, so
      identify the tag by `uid`, or look up its keys by the tag code before you verify.

    >>> import ixfast
    >>> tag = ixfast.testing.VirtualTag("encrypted-tamper", stored="O", current="C")
    >>> evidence = ixfast.verify(tag.tap(), profile="encrypted-tamper", keys=tag.keys)
    >>> evidence.authentic, evidence.counter, evidence.tamper
    (True, 1, TamperState(stored='open', current='closed'))
    >>> evidence.file_data
    b'OC--------------'
    >>> ixfast.verify(tag.forged(), profile="encrypted-tamper", keys=tag.keys).explanation
    'the MAC does not match under any live file key'
    """

    authentic: bool
    reason: str | None = None
    uid: bytes | None = None
    counter: int | None = None
    key_version: int | None = None
    tamper: TamperState | None = None
    file_data: bytes | None = None
    tag_code: str | None = None

    def __bool__(self) -> bool:
        raise TypeError("Evidence has no truth value: check `authentic`, and compare `position` with the last accepted one.")

    @property
    def undecided(self) -> bool:
        """Whether the tap could not be examined because something is missing on your side, such as the tag's key.

        An undecided tap is not proven to be forged: answer it with an error, not with a refusal.

        >>> import ixfast
        >>> tag = ixfast.testing.VirtualTag("encrypted")
        >>> evidence = ixfast.verify(tag.tap(), profile="encrypted", keys=tag.file_key)
        >>> evidence.authentic, evidence.undecided, evidence.reason
        (False, True, 'no_meta_key')
        """
        return self.reason in UNDECIDED_REASONS

    @property
    def explanation(self) -> str | None:
        """The meaning of `reason`, as an English sentence without a full stop; None if the tap is authentic."""
        return None if self.reason is None else REASONS[self.reason]

    @property
    def position(self) -> int | None:
        """The place of the tap in the life of its tag; None unless it is authentic and has a counter.

        Store it with the tag and accept a tap only if its position is greater than the stored one, in one atomic step. That is
        the replay check. Among taps under one key it orders by the counter; taps under a newer key version come after all of
        an older one, because a chip counts from 1 again after a key change. It is the key version times 16777216 (2 to the power
        of 24), plus the counter.

        >>> import ixfast
        >>> tag = ixfast.testing.VirtualTag("encrypted")
        >>> first = ixfast.verify(tag.tap(), profile="encrypted", keys=tag.keys)
        >>> second = ixfast.verify(tag.tap(), profile="encrypted", keys=tag.keys)
        >>> first.position < second.position
        True
        """
        if self.counter is None or self.key_version is None:
            return None
        return position(self.key_version, self.counter)
