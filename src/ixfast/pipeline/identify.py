"""Whose tap is this? For scans that name no tag: the URL's own texts, a mirrored UID, or a decrypted one.

The account is known (from the API key, a parameter or the path); its groups say how its tags write themselves. What is found
here is a claim, enough to look a tag up; the engine then examines the tap with that tag's own profile and keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Protocol

from ixfast import limits
from ixfast.chips import Message
from ixfast.domain import references
from ixfast.domain.model import EncodingProfile, Key
from ixfast.domain.protocols import TapProfile
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Extras
from ixfast.errors import InputError


class Accounts(Protocol):
    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        """An account with its groups; a closed one is none unless its owner asks."""


async def identify(accounts: Accounts, aid: str, extras: Extras, *, is_owner: bool) -> list[bytes]:
    """References under which the tap's tag may be found, most telling first; empty if the account has no such tag.

    `is_owner` is whether a key of the account was shown: without one a closed account has no tags, and its profiles are not told.
    Raises InputError if the tap looks like one of the account's profiles and like none of them in good form.
    """
    known = await accounts.account(aid, is_owner=is_owner)
    if known is None:
        return []
    _, groups = known
    found: dict[bytes, None] = {}
    error: InputError | None = None
    well_formed = False
    for profile, meta_keys in _distinct_profiles(groups):
        try:
            message = _read(profile, extras)
        except InputError as problem:
            error = error or problem
            continue
        if message is not None:
            well_formed = True
            found.update(dict.fromkeys(_claims(profile, message, aid, meta_keys)))
    if error is not None and not well_formed:
        raise error
    return list(found)


async def account_in_path(accounts: Accounts, url: str) -> str | None:
    """The open account (AID) whose id stands in the path of a tap URL where one of its own profiles has `{aid}`; None if there is
    none. A closed account is none, as for everybody who shows no key. Looks `limits.ACCOUNTS_IN_PATH_MAX` segments up at most.
    """
    place = url.partition("#")[0].partition("?")[0]
    _, scheme, rest = place.partition("://")
    segments = rest.split("/")[1:] if scheme else place.split("/")
    aids = [segment for segment in segments if references.AID.fullmatch(segment)]
    for aid in aids[: limits.ACCOUNTS_IN_PATH_MAX]:
        known = await accounts.account(aid, is_owner=False)
        if known is not None and any(_names(profile, url, aid) for profile, _ in _distinct_profiles(known[1])):
            return aid
    return None


def _names(profile: TapProfile, url: str, aid: str) -> bool:
    """Does the profile read this account out of the URL's path?"""
    if not any("aid" in piece.slots for piece in profile.template.path):
        return False
    with contextlib.suppress(InputError):  # whose tap it is cannot be said of one in bad form
        message = profile.read_url(url)
        return isinstance(message, Message) and message.aid == aid
    return False


def _distinct_profiles(groups: Iterable[Group]) -> list[tuple[TapProfile, tuple[Key, ...]]]:
    """Each profile once, with the meta keys of all groups that have it, each once. All of them are tried, whichever opens the
    mirror."""
    found: dict[EncodingProfile, tuple[TapProfile, dict[bytes, Key]]] = {}
    for group in groups:
        if group.profile is not None:
            _, keys = found.setdefault(group.profile.profile, (group.profile, {}))
            keys.update((key.value, key) for key in group.meta_keys)
    return [(profile, tuple(keys.values())) for profile, keys in found.values()]


def _read(profile: TapProfile, extras: Extras) -> Message | None:
    url = extras.url
    message = profile.read_url(url) if url is not None else profile.read_parameters(extras.parameters or {})
    return message if isinstance(message, Message) else None


def _claims(profile: TapProfile, message: Message, aid: str, meta_keys: tuple[Key, ...]) -> list[bytes]:
    claims = []
    if message.xuid is not None:
        claims.append(message.xuid.encode())
    if message.cuid is not None:
        claims.append(references.by_cuid(aid, message.cuid))
    if message.uid is not None:
        claims.append(references.by_uid(aid, message.uid))
    claims.extend(references.by_uid(aid, uid) for uid, _, _ in profile.find_uid(message, meta_keys))
    return claims
