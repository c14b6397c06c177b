"""Identifies the tag of a scan that names none: by texts in the URL, by a mirrored UID, or by a decrypted one.

The account is known (from the API key, a parameter or the path), and the profiles of its groups show how its tags encode a tap.
The result is a claim, sufficient to look up a tag; the engine then examines the tap with the profile and keys of that tag.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from ixfast import limits
from ixfast.chips import Message, Missing
from ixfast.chips.complaints import Complaint, complaint_about, malformed
from ixfast.chips.tap_text import parameters_in
from ixfast.domain import references, tap_readings, tap_url
from ixfast.domain.model import EncodingProfile, Key
from ixfast.domain.owner_texts import statements
from ixfast.domain.protocols import TapProfile
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Extras
from ixfast.errors import InputError


class Accounts(Protocol):
    """Finds accounts."""

    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        """The account with this id and its groups; None if there is none, or if it is closed and the caller is not its owner."""

    async def batch_meta_keys(self, account_id: int, name: str) -> tuple[Key, ...]:
        """The own meta keys of the account's batches of this name."""


async def identify(accounts: Accounts, aid: str, extras: Extras, *, is_owner: bool, sent: bytes = b"") -> list[bytes]:
    """The references under which the tag may be found, the most specific first; empty if no profile of the account matches.

    `sent` is the reference that the caller sent and that names no tag, if any. If a profile reads it as a tag code as well, the
    rest of the tap does not excuse that, and the result is empty. `is_owner` means that the caller has an API key of the account.
    To other callers a closed account has no tags, and no error reveals its profiles. An incomplete tap leads to its tag as well.
    Raises InputError if the tap resembles a profile of the account but neither leads to a tag nor is well-formed under any.
    """
    known = await accounts.account(aid, is_owner=is_owner)
    if known is None:
        return []
    account, groups = known
    extras.cors = account.cors
    found: dict[bytes, None] = {}
    incomplete: dict[bytes, None] = {}
    complaints: list[Complaint] = []
    well_formed = False
    for profile, meta_keys in _distinct_profiles(groups):
        try:
            message = _read(profile, extras)
        except InputError as problem:
            complaints.append((profile, problem))
            continue
        if message is None:
            continue
        if message.batch is not None and profile.encrypted:
            for name in statements(message.batch):
                meta_keys = await accounts.batch_meta_keys(account.account_id, name) + meta_keys
        claims = dict.fromkeys(_claims(profile, message, aid, meta_keys))
        complaint = complaint_about(profile, message, leads_to_tag=bool(claims))
        if complaint is not None:
            complaints.append((profile, complaint))
        well_formed = well_formed or complaint is None
        (found if isinstance(message, Message) else incomplete).update(claims)
    if not well_formed:
        _complain(complaints, extras, leads_to_tag=bool(incomplete))
    found |= incomplete
    if sent in found and references.kind(sent) == references.XUID:
        return []
    found.pop(sent, None)
    return list(found)


def _complain(complaints: list[Complaint], extras: Extras, *, leads_to_tag: bool) -> None:
    """Raise what is wrong with the whole URL or, unless the tap leads to a tag, the complaint of the profile that fits it best.

    A tap that is only incomplete under that profile is unknown, whatever is wrong with it under the others.
    """
    mistake = tap_url.mistake(extras.url) if extras.url is not None else None
    if mistake is not None:
        raise InputError("invalid_parameter", mistake, "url")
    if complaints and not leads_to_tag:
        parameters = parameters_in(extras.url) if extras.url is not None else extras.parameters or {}
        if (error := malformed(complaints, parameters, extras.url)) is not None:
            raise error


def readings(extras: Extras) -> Iterator[tuple[str | None, Mapping[str, str] | None]]:
    """What the URL, or else the parameters, of a scan may stand for, in the order in which the tag is looked for."""
    if extras.url is not None:
        for url in tap_readings.readings(extras.url):
            yield url, extras.parameters
    else:
        for parameters in tap_readings.parameter_readings(extras.parameters or {}):
            yield None, parameters


async def account_in_path(accounts: Accounts, url: str) -> str | None:
    """The open account (AID) whose id is in the path of a tap URL at the position of `{aid}` in one of its profiles, or None.

    A closed account is not found, as for every caller without an API key. At most `limits.ACCOUNTS_IN_PATH_MAX` segments are
    looked up.
    """
    segments: list[str] = []
    for place in tap_url.places(url):
        _, scheme, rest = place.path.partition("://")
        segments += rest.split("/")[1:] if scheme else place.path.split("/")
    aids = [segment for segment in segments if references.AID.fullmatch(segment)]
    for aid in aids[: limits.ACCOUNTS_IN_PATH_MAX]:
        known = await accounts.account(aid, is_owner=False)
        if known is not None and any(_names(profile, url, aid) for profile, _ in _distinct_profiles(known[1])):
            return aid
    return None


def _names(profile: TapProfile, url: str, aid: str) -> bool:
    """Whether the profile finds the id of this account in the path of the URL."""
    if not any("aid" in piece.slots for piece in profile.template.path):
        return False
    with contextlib.suppress(InputError):  # a malformed tap identifies no account
        message = profile.read_url(url)
        return isinstance(message, Message) and message.aid == aid
    return False


def _distinct_profiles(groups: Iterable[Group]) -> list[tuple[TapProfile, tuple[Key, ...]]]:
    """Each distinct profile with the distinct meta keys of all its groups.

    All keys are tried even after one has opened the mirror, so that the time does not depend on which one it is.
    """
    found: dict[EncodingProfile, tuple[TapProfile, dict[bytes, Key]]] = {}
    for group in groups:
        if group.profile is not None:
            _, keys = found.setdefault(group.profile.profile, (group.profile, {}))
            keys.update((key.value, key) for key in group.meta_keys)
    return [(profile, tuple(keys.values())) for profile, keys in found.values()]


def _read(profile: TapProfile, extras: Extras) -> Message | Missing | None:
    url = extras.url
    read: Message | Missing | None = (
        profile.read_url(url) if url is not None else profile.read_parameters(extras.parameters or {})
    )
    return read


def _claims(profile: TapProfile, message: Message | Missing, aid: str, meta_keys: tuple[Key, ...]) -> list[bytes]:
    """The references that a tap claims: tag code, customer id, mirrored UID, decrypted UIDs."""
    claims = []
    if message.xuid is not None:
        claims.append(message.xuid.encode())
    if message.cuid is not None:
        claims.extend(references.by_cuid(aid, text) for text in statements(message.cuid))
    if message.uid is not None:
        claims.append(references.by_uid(aid, message.uid))
    for start in range(0, len(meta_keys), limits.META_KEYS_TRIED_MAX):  # batches of one name in many groups have many keys
        some = meta_keys[start : start + limits.META_KEYS_TRIED_MAX]
        claims.extend(references.by_uid(aid, uid) for uid, _, _ in profile.find_uid(message, some))
    return claims
