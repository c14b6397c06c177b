"""The reasons of `detect`: why no profile explains a sample, in the words that help most."""

from __future__ import annotations

from typing import NamedTuple

from ixfast.chips.mirror_lengths import REVERSED, not_filled_in, wrong_lengths
from ixfast.chips.scheme import Scheme
from ixfast.chips.template import STATICS
from ixfast.chips.url_fields import Encoding, Sample
from ixfast.chips.url_readings import NXP
from ixfast.domain.chip_uids import is_reversed


class Tried(NamedTuple):
    """What a detection has tried: the number of file keys, and of the caller's own keys; whether keys were derived from them."""

    file_keys: int
    own_keys: int
    derives: bool
    meta_keys: list[tuple[bytes, str]]  # each with its description
    schemes: list[Scheme]


def why_not(sample: Sample, candidates: list[Encoding], tried: Tried) -> str:
    """The most helpful reason for a sample whose MAC could not be verified."""
    if zeros := not_filled_in(sample):
        return "; ".join(zeros)
    likely = [encoding for encoding in candidates if encoding.likely]
    explained = {label for encoding in likely for slot, label in encoding.fields.items() if slot not in STATICS}
    explained_slots = {slot for encoding in likely for slot in encoding.slots}
    wrong = wrong_lengths(sample, explained)
    by_name = sorted(likely or candidates, key=lambda each: "picc" not in each.fields.get("picc", "").lower())
    reasons = [_no_match(by_name, tried)] if likely or not wrong else []
    if not {"uid", "picc"} & explained_slots and (turned := _reversed_uid(candidates)) is not None and turned not in wrong:
        wrong = [*wrong, turned]
    return "; ".join([*reasons, *wrong])


def _reversed_uid(candidates: list[Encoding]) -> str | None:
    """What to say of the first text in place of a UID whose bytes are in reverse order, if there is one."""
    for encoding in candidates:
        if "uid" in encoding.texts and is_reversed(bytes.fromhex(encoding.texts["uid"])):
            return f"{encoding.fields['uid']}: {REVERSED}"
    return None


def _no_match(candidates: list[Encoding], tried: Tried) -> str:
    how = "as they are or derived" if tried.derives else "as they are"
    keys = f"any of the {tried.file_keys} keys, {how}, over any window"
    reasons = []
    for encoding in candidates:
        mac = f"the MAC in {encoding.fields['mac']} does not match under {keys}"
        if not encoding.encrypted:
            mirrored = " and ".join(f"{slot} {encoding.texts[slot]}" for slot in ("uid", "counter") if slot in encoding.slots)
            odd = "" if encoding.likely else f", which does not begin with {NXP} as UIDs do"
            reasons.append(f"{mac}, with {mirrored}{odd}; is the tag's key among them?")
            continue
        for scheme, label in ((scheme, key) for scheme in tried.schemes if suits(scheme, encoding) for key in tried.meta_keys):
            picc = scheme.read_picc(label[0], bytes.fromhex(encoding.texts["picc"]))
            if picc is not None and picc.uid is not None and picc.uid[:1] == bytes.fromhex(NXP):  # unlikely under a wrong key
                counter = "no counter" if picc.counter is None else f"counter {picc.counter}"
                read = f"{encoding.fields['picc']} is decrypted by {label[1]}: UID {picc.uid.hex().upper()}, {counter}"
                return f"{read}; but {mac}; is the tag's key among them?"
        mirror = f"{encoding.fields['picc']} is an encrypted mirror"
        if not tried.own_keys:
            reasons.append(f"{mirror} that the factory key does not decrypt; pass the tag's keys")
            continue
        own = "neither your key nor" if tried.own_keys == 1 else f"none of your {tried.own_keys} keys, nor"
        end = "the factory key decrypts" if tried.own_keys == 1 else "the factory key, decrypts"
        reasons.append(f"{mirror} that {own} {end}, as they are or derived")
    return reasons[0]


def why_not_beside(sample: Sample, candidates: list[Encoding], tried: Tried, without: str) -> str:
    """The reason for a sample that none of the encodings with texts beside mirrors explains.

    `without` is the reason without such texts. It is better, unless it took a text of the owner's for a mirror although one of
    the keys decrypts another.
    """
    if not candidates:
        return without
    if without == without_encoding(sample):
        return (
            f"{candidates[0].fields['mac']} may have a MAC beside a text of your own, but none there matches under any of the"
            f" {tried.file_keys} keys; is the tag's key among them?"
        )
    encrypted = [encoding for encoding in candidates if encoding.encrypted]
    return _no_match(encrypted, tried) if encrypted and not wrong_lengths(sample) else without


def suits(scheme: Scheme, encoding: Encoding) -> bool:
    """Whether chips of the scheme can have written an encoding."""
    slots = encoding.slots
    if not scheme.mirrors.issuperset(name for name in slots if name not in STATICS):
        return False
    if scheme.signed_fields is not None:
        return {"uid", "counter", *scheme.signed_fields} <= slots.keys()
    return "picc" not in slots or slots["picc"].chars == scheme.picc_chars


def without_encoding(sample: Sample) -> str:
    widths = ", ".join(f"{field.label()} ({len(field.text)} characters)" for field in sample.fields) or "no parameters"
    return f"no field can be a MAC (16 hex digits) together with a mirror; the URL has: {widths}"
