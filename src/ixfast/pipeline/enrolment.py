"""Enrolment: creates a tag on its first genuine tap, if its group allows it.

A scan comes here if its reference is a UID and the tag does not exist, in an account that enrols. A group that enrols derives its
keys, so the tap can be verified before the tag exists: only a MAC that is right under a derived key creates one. The scan then
continues like that of any other tag. Creating the tag consumes nothing, and only the ledger decides whether the tap passes. A
worker that dies in between leaves a tag that was never tapped.

A tap that proves nothing ends as the scan of an unknown tag. A scan with `peek` creates no tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from ixfast import limits
from ixfast.chips import Message
from ixfast.chips.tap_text import first_complete
from ixfast.domain import references
from ixfast.domain.protocols import TapProfile
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Scan, parameters_of
from ixfast.domain.tap_readings import parameter_readings, readings
from ixfast.errors import InputError, UnavailableError
from ixfast.keys import KeyUnavailableError
from ixfast.pipeline.engine import Engine


class Catalogue(Protocol):
    """What enrolment needs of the catalogue."""

    def may_enrol(self, aid: str) -> bool: ...
    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None: ...
    def fetch(self, scan: Scan, ref: bytes, found: Any) -> None: ...
    def forget_absent(self, scan: Scan) -> None: ...


class Register(Protocol):
    """Creates tags."""

    async def enrol(self, account_id: int, group_id: int, uid: bytes) -> None:
        """Create the tag unless it exists; `uid` is 7 bytes. On UnavailableError it may exist or not."""


class Enrolment:
    """The enrolment of one worker; the engine offers it scans through `takes`."""

    def __init__(self, engine: Engine, catalogue: Catalogue, register: Register) -> None:
        self._engine = engine
        self._catalogue = catalogue
        self._register = register
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deriving = 0

    @property
    def idle(self) -> bool:
        return not self._tasks

    def takes(self, scan: Scan) -> bool:
        """Take over this scan of an absent tag and answer it later. False if it cannot enrol; then the engine ends it."""
        if references.kind(scan.ref) != references.UID or (scan.extras is not None and scan.extras.peek):
            return False
        aid, _ = references.split(scan.ref)
        if not self._catalogue.may_enrol(aid):
            return False
        if len(self._tasks) >= limits.ENROLMENTS_WAITING_MAX:
            self._engine.fail(scan, "overloaded", "enrolment_queue_full")
            return True
        task = self._loop.create_task(self._enrol(scan, aid))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _enrol(self, scan: Scan, aid: str) -> None:
        try:
            owner = await self._owner(scan, aid)
            if owner is None:
                self._engine.unknown(scan)
                return
            group, uid = owner
            await self._register.enrol(group.account.account_id, group.group_id, uid)
        except UnavailableError as error:
            self._engine.fail(scan, error.code, error.reason)
        except KeyUnavailableError:
            self._engine.fail(scan, "unavailable", "key_unavailable")
        except Exception:  # the database can raise anything, and no failure may become a verdict
            self._engine.fail(scan, "unavailable", "lookup_failed")
        else:
            scan.ref = references.by_uid(aid, uid)
            self._catalogue.forget_absent(scan)
            self._catalogue.fetch(scan, scan.ref, self._engine.found)

    async def _owner(self, scan: Scan, aid: str) -> tuple[Group, bytes] | None:
        """The first group under whose derived keys the tap is genuine, with the chip's UID; None if there is none."""
        known = await self._catalogue.account(aid, is_owner=scan.api_key is not None and scan.api_key.aid == aid)
        if known is None:
            return None
        account, groups = known
        admitted = account.open if scan.api_key is None else scan.api_key.account_id == account.account_id
        if not (account.active and admitted):
            return None
        for group in groups:
            if group.enrols and group.active and group.folder_active:
                uid = await self._genuine(scan, group)
                if uid is not None:
                    return group, uid
                await asyncio.sleep(0)
        return None

    async def _genuine(self, scan: Scan, group: Group) -> bytes | None:
        """The UID under whose keys, derived by the group, the tap is genuine; None if there is none."""
        profile = group.profile
        assert profile is not None
        message = _read(profile, scan)
        if message is None:
            return None
        for uid in _uids(profile, message, group, scan):
            evidence = profile.examine(
                message,
                uid=uid,
                file_keys=await self._keys(group, uid),
                meta_keys=group.meta_keys,
                statics={"aid": group.account.aid},
            )
            if evidence.authentic and evidence.counter is not None:
                return uid
        return None

    async def _keys(self, group: Group, uid: bytes) -> Any:
        """The file keys that a tag with this UID would have. Callers without an API key can trigger slow derivations, so their
        number is limited."""
        derived = group.derived
        assert derived is not None
        if not derived.slow:
            return derived.file_keys(uid)
        if self._deriving >= limits.ENROLMENT_DERIVATIONS_MAX:
            raise UnavailableError("overloaded", "enrolment_queue_full")
        self._deriving += 1
        try:
            return await derived.derive(uid)
        finally:
            self._deriving -= 1


def _read(profile: TapProfile, scan: Scan) -> Message | None:
    url = scan.extras.url if scan.extras is not None else None
    try:
        if url is not None:
            message = first_complete(profile.read_url, readings(url))
        else:
            message = first_complete(profile.read_parameters, parameter_readings(parameters_of(scan)))
    except InputError:  # malformed under this group's profile
        return None
    return message if isinstance(message, Message) else None


def _uids(profile: TapProfile, message: Message, group: Group, scan: Scan) -> Iterator[bytes]:
    """The candidate UIDs: those that the mirror decrypts to under each meta key, or the one in the clear."""
    if profile.encrypted:
        yield from (uid for uid, _, _ in profile.find_uid(message, group.meta_keys))
    else:
        yield message.uid or references.split(scan.ref)[1]
