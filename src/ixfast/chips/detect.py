"""Detects the encoding profile of sample taps, given candidate keys.

Every encoding that the text of a URL allows (`url_fields.py`) is tried with every scheme, session vector, window, key and
derivation until the MAC verifies. An 8-byte MAC verifies by chance once in 2**64 attempts, so a profile that verifies one
sample is correct for that sample; proposals are ordered by the number of samples that they explain. Each proposal has been
confirmed by compiling it and examining the samples as the engine does.

A tool for setting up a tag group, not part of scanning: it takes milliseconds to seconds. Results never contain a key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ixfast import cmac
from ixfast.chips.detect_notes import (
    names_tag,
    several_meta_keys,
    tamper_offset,
    text_of_one_tag,
    texts_in_window,
    unused_path_text,
)
from ixfast.chips.detect_reasons import Tried, suits, why_not, why_not_beside, without_encoding
from ixfast.chips.glued_texts import Alone, merged
from ixfast.chips.message import Message
from ixfast.chips.mirror_lengths import not_filled_in, wrong_lengths
from ixfast.chips.profile import CompiledProfile, compile_profile
from ixfast.chips.reasons import REASONS
from ixfast.chips.registry import distinct_schemes
from ixfast.chips.scheme import Scheme
from ixfast.chips.url_fields import Encoding, Sample, dissect, encodings, glued_encodings, named_encodings
from ixfast.chips.url_readings import NXP
from ixfast.chips.window_candidates import mac_windows, registrable
from ixfast.domain.model import EncodingProfile, Evidence, Key
from ixfast.errors import InputError, ProfileError

SAMPLES_MAX = 64  # Two taps of three tags are enough.
KEYS_MAX = 64  # Each is tried as it is, as a meta key, and as the master of every derivation.
PROPOSALS_MAX = 8
# The search for texts beside mirrors ends after this many samples without a result, and derives keys for this many UIDs of each.
GLUED_ATTEMPTS_MAX = 4
GLUED_UIDS_MAX = 4

_ZERO = bytes(16)
_NXP = bytes.fromhex(NXP)


class Derivation(Protocol):
    """The part of a `keys.diversify` derivation that is used here; `chips` does not import `keys`."""

    def derive_file_key(self, master: bytes, uid: bytes) -> bytes: ...
    def derive_meta_key(self, master: bytes) -> bytes | None: ...


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A profile, the indexes of the samples whose MAC it verifies, and descriptions of the keys that did.

    `file_keys` and `meta_keys` describe keys by place and check value. `derivation` is the scheme by which they are derived,
    None if they are used as they are. `notes` are warnings and hints for people.
    """

    profile: EncodingProfile
    verified: tuple[int, ...]
    file_keys: tuple[str, ...]
    meta_keys: tuple[str, ...] = ()
    derivation: Any = None  # one of the `derivations` passed in, if the tags' keys are derived
    notes: tuple[str, ...] = ()


class Detection(msgspec.Struct, frozen=True, kw_only=True):
    """`proposals`, ordered by the number of samples explained; `reasons` for the samples that no proposal explains."""

    proposals: tuple[Proposal, ...]
    unexplained: tuple[int, ...]
    reasons: tuple[str, ...]


class _Source(NamedTuple):
    """The origin of a file key: a key as it is, or a master with a derivation."""

    key: Key
    label: str
    derivation: Derivation | None = None

    def file_key(self, uid: bytes) -> bytes | None:
        if self.derivation is None:
            return self.key.value
        # Deriving a key takes up to 10 ms, too long for each UID that a wrong reading yields.
        return self.derivation.derive_file_key(self.key.value, uid) if uid[:1] == _NXP else None


class _Hit(NamedTuple):
    """An encoding that verifies the MAC of one sample."""

    scheme: Scheme
    encoding: Encoding
    window: str
    uid: bytes  # b"" where it is not in the session vector
    counter: int
    source: _Source
    uid_is_sent: bool


def detect(
    urls: Sequence[str],
    file_keys: Sequence[Key],
    meta_keys: Sequence[Key] = (),
    *,
    derivations: Sequence[Derivation] = (),
    uids: Sequence[bytes] = (),
    name: str = "detected",
) -> Detection:
    """Propose encoding profiles for tap URLs, each verbatim or lower-cased, with or without scheme and host.

    `file_keys` are tried as file keys, as meta keys and as masters of the `derivations`, `meta_keys` only as meta keys; the
    factory key (all zeros) is always tried. `uids` (7 bytes each) are UIDs that the session vector may include although the URL
    does not. Raises InputError for text that is not a URL and for more than `SAMPLES_MAX` URLs or `KEYS_MAX` keys.
    """
    if not 0 < len(urls) <= SAMPLES_MAX:
        raise InputError("invalid_parameter", f"between 1 and {SAMPLES_MAX} sample URLs are required", "urls")
    if len(file_keys) + len(meta_keys) > KEYS_MAX:
        raise InputError("invalid_parameter", f"at most {KEYS_MAX} keys are allowed", "keys")
    return _Detector([dissect(url) for url in urls], file_keys, meta_keys, derivations, uids, name).detect()


class _Detector:
    """One detection. Each sample is visited once; a profile that is found is tried on all samples at once."""

    def __init__(
        self,
        samples: list[Sample],
        file_keys: Sequence[Key],
        meta_keys: Sequence[Key],
        derivations: Sequence[Derivation],
        uids: Sequence[bytes],
        name: str,
    ) -> None:
        self._samples = samples
        self._uids = tuple(uids)
        self._name = name
        masters = [(key, f"key {place} ({key.check_value.hex()})") for place, key in enumerate(file_keys, start=1)]
        zero = Key(0, _ZERO, cmac.aes_cmac(_ZERO, _ZERO)[:3])
        self._sources = [_Source(key, label) for key, label in [*masters, (zero, "the all-zero key")]]
        self._sources += [_Source(key, label, derivation) for derivation in derivations for key, label in masters]
        self._meta = _distinct(
            [
                *((key.value, f"meta key {place} ({key.check_value.hex()})") for place, key in enumerate(meta_keys, start=1)),
                *((source.key.value, source.label) for source in self._sources if source.derivation is None),
                *_derived_meta_keys(self._sources),
            ]
        )
        self._count = len({key.value for key in (*file_keys, *meta_keys)} - {_ZERO})
        self._schemes = distinct_schemes()
        derives = any(source.derivation is not None for source in self._sources)
        self._tried = Tried(len({source.key.value for source in self._sources}), self._count, derives, self._meta, self._schemes)
        self._tags: dict[EncodingProfile, int] = {}  # how many different ones a profile verifies
        self._proposals: list[Proposal] = []
        self._seen: set[tuple[object, ...]] = set()
        self._opened: dict[str, bool] = {}
        self._alone: dict[int, tuple[str, Alone]] = {}  # what samples prove by themselves, with the name of the scheme
        self._held = False

    def detect(self) -> Detection:
        # Verbatim samples first: static texts of a lower-cased one have lost their case.
        order = sorted(range(len(self._samples)), key=lambda i: self._samples[i].url == self._samples[i].url.lower())
        why: dict[int, str] = {}
        for index in order:
            if not self._is_explained(index):
                why[index] = self._explain(index) or ""
        self._explain_glued([index for index in order if not self._is_explained(index)], why)
        unexplained = tuple(index for index in range(len(self._samples)) if not self._is_explained(index))
        reasons = Counter(why[index] for index in order if index in unexplained)
        return Detection(
            proposals=tuple(sorted(self._proposals, key=lambda proposal: -len(proposal.verified))[:PROPOSALS_MAX]),
            unexplained=unexplained,
            reasons=tuple(f"{count} x {text}" if count > 1 else text for text, count in reasons.most_common()),
        )

    def _is_explained(self, index: int) -> bool:
        return any(index in proposal.verified for proposal in self._proposals)

    def _explain_glued(self, indexes: Sequence[int], why: dict[int, str]) -> None:
        """Explain samples whose mirrors have texts of the owner's directly beside them: each alone, then those of one layout."""
        attempts = GLUED_ATTEMPTS_MAX
        for index in indexes:
            sample = self._samples[index]
            if attempts == 0:
                break
            if index in self._alone:
                continue
            candidates = glued_encodings(sample, self._opens)
            hit = next(self._hits(candidates, GLUED_UIDS_MAX), None)
            if hit is None:
                attempts -= 1
                why[index] = why_not_beside(sample, candidates, self._tried, why[index])
                continue
            self._prefer(hit.source)
            self._alone[index] = _alone(sample, hit)
        layouts: dict[object, list[int]] = {}
        for index, (scheme, alone) in self._alone.items():
            layouts.setdefault((self._samples[index].shape, scheme, alone.layout), []).append(index)
        for alike in layouts.values():
            self._explain_layout(alike, why)

    def _explain_layout(self, indexes: list[int], why: dict[int, str]) -> None:
        """Explain samples of one layout: by one profile, or by more of them if their windows or derivations differ."""
        while indexes:
            first = self._samples[indexes[0]]
            labels = [field.label() for field in first.fields]
            parts = merged([self._alone[index][1] for index in indexes], labels, wrong_lengths(first))
            problem = parts if isinstance(parts, str) else self._confirm(list(named_encodings(first, parts[0])), parts[1])
            if problem is not None:
                why.update(dict.fromkeys(indexes, problem))
                return
            indexes = [index for index in indexes[1:] if not self._is_explained(index)]

    def _confirm(self, candidates: list[Encoding], notes: Sequence[str]) -> str | None:
        """Propose a profile for encodings that samples have shown. Returns the problem if there is one."""
        problem: str | None = "the MAC matches, but the encoding cannot be expressed as a profile"
        for hit in self._hits(candidates):
            proposal, reason = self._propose(hit)
            if proposal is not None:
                self._proposals.append(msgspec.structs.replace(proposal, notes=(*proposal.notes, *notes)))
                return None
            problem = reason or problem
        return problem

    def _opens(self, text: str) -> bool:
        """Whether one of the keys reads a text as an encrypted mirror with a UID of NXP's."""
        if text not in self._opened:
            picc = bytes.fromhex(text)
            readings = (
                scheme.read_picc(key, picc)
                for scheme in self._schemes
                if 2 * len(picc) == scheme.picc_chars
                for key, _ in self._meta
            )
            self._opened[text] = any(reading is not None and (reading.uid or b"")[:1] == _NXP for reading in readings)
        return self._opened[text]

    def _prefer(self, source: _Source) -> None:
        """Try the same source first for the next sample: the tags of a fleet usually share it."""
        self._sources.remove(source)
        self._sources.insert(0, source)

    def _explain(self, index: int) -> str | None:
        """Propose a profile for a sample, or return why there is none. None, too, if other samples must be read first."""
        sample = self._samples[index]
        alike = [other for other in self._samples if other.shape == sample.shape]
        # One tap beside texts that change, such as a session's, looks like a constant beside mirrors.
        candidates = encodings(sample, alike) or encodings(sample, [sample])
        if not candidates:
            wrong = not_filled_in(sample) or wrong_lengths(sample)
            return "; ".join(wrong) or without_encoding(sample)
        reason = "the MAC matches, but the encoding cannot be expressed as a profile"
        chosen: tuple[Proposal, _Source] | None = None
        for hit in self._hits(candidates):
            alone = _alone(sample, hit)
            if hit.encoding.misfits and alone[1].has_own_text:
                self._alone[index] = alone  # its text beside the mirrors is not that of all samples
                self._prefer(hit.source)
                return None
            proposal, problem = self._propose(hit)
            if proposal is not None and (chosen is None or len(proposal.verified) >= len(chosen[0].verified)):
                chosen = proposal, hit.source
                # A template that names the tag is better for tags with meta keys of their own, and one without a constant if the
                # samples do not show that it is the same for several tags.
                one_tag = hit.encoding.assumes_constant and self._tags[proposal.profile] < 2
                if not one_tag and (len(proposal.meta_keys) < 2 or names_tag(proposal.profile)):
                    break
            reason = problem or reason
        if chosen is not None:
            proposal, source = chosen
            self._proposals.append(proposal)
            self._prefer(source)
            return None
        return reason if self._held else why_not(sample, candidates, self._tried)

    def _hits(self, candidates: list[Encoding], uids_max: int = -1) -> Iterator[_Hit]:
        """Every candidate whose MAC verifies under some key and window.

        Keys are derived for the first `uids_max` UIDs, or for all if it is negative.
        """
        self._held = False
        attempts = [
            (scheme, encoding, identity, windows)
            for encoding in candidates
            for scheme in self._schemes
            if suits(scheme, encoding)
            for windows in [mac_windows(encoding, scheme)]
            for identity in self._identities(scheme, encoding)
        ]
        for source in list(self._sources):
            keys: dict[bytes, bytes | None] = {}
            for scheme, encoding, (uid, counter, is_sent, known_uid), windows in attempts:
                if known_uid not in keys:
                    if len(keys) == uids_max and source.derivation is not None:
                        continue
                    keys[known_uid] = source.file_key(known_uid)
                key = keys[known_uid]
                if key is None:
                    continue
                mac = bytes.fromhex(encoding.texts["mac"])
                for notation, text in windows:
                    if "tamper" in encoding.slots and "{tamper}" not in notation:
                        continue  # unauthenticated text is not a tamper state; another encoding treats it as a constant
                    if scheme.verify(key, uid, counter, text, mac):
                        self._held = True
                        yield _Hit(scheme, encoding, notation, uid, counter, source, is_sent)

    def _identities(self, scheme: Scheme, encoding: Encoding) -> Iterator[tuple[bytes, int, bool, bytes]]:
        """UID and counter of the session vector, whether the URL contains that UID, and the tag's UID (b"" if unknown)."""
        texts = encoding.texts
        if encoding.encrypted:
            for value, _ in self._meta:
                picc = scheme.read_picc(value, bytes.fromhex(texts["picc"]))
                if picc is not None:
                    uid = picc.uid or b""
                    yield uid, -1 if picc.counter is None else picc.counter, True, uid
            return
        counter = int(texts["counter"], 16) if "counter" in texts else -1
        if "uid" in texts:
            uid = bytes.fromhex(texts["uid"])
            yield uid, counter, True, uid
            return
        for known in self._uids:
            yield known, counter, False, known
        if scheme.signed_fields is None:
            yield b"", counter, True, b""
            for known in self._uids:  # not in the session vector, but needed to derive the tag's key
                yield b"", counter, True, known

    def _propose(self, hit: _Hit) -> tuple[Proposal | None, str | None]:
        """Turn a hit into a profile and examine all samples with it. Returns the proposal, or None and the problem if any."""
        encoding, window = registrable(hit.encoding, hit.window)
        hit = hit._replace(encoding=encoding, window=window)
        template = encoding.template
        if not hit.uid_is_sent:
            template += ("&" if "=" in template else "?") + "u={uid}"
        counts = hit.counter > 0 or (hit.counter == 0 and not hit.scheme.counter_can_be_off)
        profile = EncodingProfile(
            name=self._name,
            scheme=hit.scheme.name,
            template=template,
            window=window,
            allow_without_counter=not counts,
        )
        key = (hit.scheme.name, template, window, repr(hit.source.derivation))
        if key in self._seen:
            return None, None
        self._seen.add(key)
        try:
            compiled = compile_profile(profile)
        except ProfileError as error:
            return None, f"the MAC matches, but {error}"
        verified: dict[int, tuple[Evidence, _Source, str | None]] = {}
        refused: Evidence | None = None
        for index, sample in enumerate(self._samples):
            judged = self._judge(compiled, sample, hit.source.derivation)
            if judged is not None and judged[0].authentic:
                verified[index] = judged
            elif judged is not None and judged[0].reason == "counter_range":
                refused = judged[0]
        if not verified:
            reason = refused.reason if refused is not None else None
            return None, f"the MAC matches, but the tap is refused: {REASONS[reason]}" if reason else None
        return self._proposal(profile, hit, verified), None

    def _judge(
        self, compiled: CompiledProfile, sample: Sample, derivation: Derivation | None
    ) -> tuple[Evidence, _Source, str | None] | None:
        """Examine a sample with a profile, under the keys of one derivation or, without one, under the keys as they are."""
        try:
            message = compiled.read_url(sample.url)
        except InputError:
            return None
        if not isinstance(message, Message):
            return None
        sources = [source for source in self._sources if source.derivation is derivation]
        last: tuple[Evidence, _Source, str | None] | None = None
        for meta_key, label in self._meta if compiled.encrypted else [(_ZERO, None)]:
            meta = (Key(0, meta_key, b"\0\0\0"),)
            claims: list[bytes | None] = [claim[0] for claim in compiled.find_uid(message, meta)] or [message.uid]
            for uid in dict.fromkeys([*claims, *(self._uids if None in claims else ())]):
                keys = [(source.file_key(uid or b""), source) for source in sources]
                known = tuple(Key(place, value, b"\0\0\0") for place, (value, _) in enumerate(keys) if value is not None)
                evidence = compiled.examine(message, uid=uid, file_keys=known, meta_keys=meta)
                if evidence.authentic or evidence.reason == "counter_range":
                    last = evidence, keys[evidence.key_version][1], label
                if evidence.authentic:
                    return last
        return last

    def _proposal(
        self, profile: EncodingProfile, hit: _Hit, verified: dict[int, tuple[Evidence, _Source, str | None]]
    ) -> Proposal:
        notes = []
        offset, note = tamper_offset([evidence.file_data for evidence, _, _ in verified.values()])
        if note is not None:
            notes.append(note)
        if not hit.uid_is_sent:
            notes.append("the session vector includes the UID but the URL does not: register the tags' UIDs")
        if (covered := texts_in_window(profile, hit.encoding.fields)) is not None:
            notes.append(covered)
        if profile.allow_without_counter:
            notes.append("no counter is mirrored: a tap of such a tag can be replayed forever")
        meta_keys = tuple(dict.fromkeys(label for _, _, label in verified.values() if label is not None))
        if len(meta_keys) > 1:
            notes.append(several_meta_keys(profile))
        elif (unused := unused_path_text(profile, [self._samples[index].url for index in verified])) is not None:
            notes.append(unused)
        if any(source.key.value == _ZERO and source.derivation is None for _, source, _ in verified.values()):
            notes.append("the tags have their factory keys, which are public")
        derived = "" if hit.source.derivation is None else f", derived by {hit.source.derivation!r}"
        profile = msgspec.structs.replace(profile, tamper_offset=offset)
        uids = {evidence.uid for evidence, _, _ in verified.values()}
        self._tags[profile] = len(uids)
        if len(uids) == 1 and (None not in uids or len(verified) == 1) and (note := text_of_one_tag(profile)) is not None:
            notes.append(note)
        return Proposal(
            profile=profile,
            verified=tuple(verified),
            file_keys=tuple(dict.fromkeys(f"{source.label}{derived}" for _, source, _ in verified.values())),
            meta_keys=meta_keys,
            derivation=hit.source.derivation,
            notes=tuple(notes),
        )


def _alone(sample: Sample, hit: _Hit) -> tuple[str, Alone]:
    return hit.scheme.name, Alone(hit.uid, tuple(field.text for field in sample.fields), hit.encoding.parts)


def _distinct(keys: Sequence[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    labels: dict[bytes, str] = {}
    for value, label in keys:
        labels.setdefault(value, label)
    return list(labels.items())


def _derived_meta_keys(sources: Sequence[_Source]) -> Iterator[tuple[bytes, str]]:
    for source in sources:
        value = source.derivation.derive_meta_key(source.key.value) if source.derivation is not None else None
        if value is not None:
            yield value, f"{source.label}, derived by {source.derivation!r}"
