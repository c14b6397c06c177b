"""Enrolment: a tag made by its first genuine tap, where its group allows that.

The way of a scan ends here if its tag, named by a UID, is absent in an account that enrols. A group that enrols derives keys, so
the tap can be judged before there is a tag: only a MAC that holds under a derived key makes one. The scan then goes on as that of
any tag: making the tag consumes nothing, and the ledger alone says whether the tap passes. A worker that dies in between leaves
a tag that was never tapped.

A tap that proves nothing ends as it always did, as that of an unknown tag. Looking (`peek`) makes no tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Protocol

from ixfast import limits
from ixfast.chips import Message
from ixfast.domain import references
from ixfast.domain.protocols import TapProfile
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Scan, parameters_of
from ixfast.errors import InputError, UnavailableError
from ixfast.keys import KeyUnavailableError
from ixfast.pipeline.engine import Engine


class Catalogue(Protocol):
    def may_enrol(self, aid: str) -> bool: ...
    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None: ...
    def fetch(self, scan: Scan, ref: bytes, found: Any) -> None: ...
    def forget_absent(self, scan: Scan) -> None: ...


class Register(Protocol):
    async def enrol(self, account_id: int, group_id: int, uid: bytes) -> None:
        """Make the tag unless it is there. Raises UnavailableError; then it may or may not be there."""


class Enrolment:
    """One a worker; `takes` is the engine's question."""

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
        """Whether this scan of an absent tag is answered from here; False for what cannot enrol."""
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
        except Exception:  # every kind that a database can raise; no answer is no verdict
            self._engine.fail(scan, "unavailable", "lookup_failed")
        else:
            scan.ref = references.by_uid(aid, uid)
            self._catalogue.forget_absent(scan)
            self._catalogue.fetch(scan, scan.ref, self._engine.found)

    async def _owner(self, scan: Scan, aid: str) -> tuple[Group, bytes] | None:
        """The group under whose derived keys the tap is genuine, and the chip's UID; the first of several groups."""
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
        """The UID for which the group's keys prove the tap; None if there is none."""
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
        """The file keys of a tag that may be none. Who has no key can ask for the slow ones as often as the queue lets him."""
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
        message = profile.read_url(url) if url is not None else profile.read_parameters(parameters_of(scan))
    except InputError:  # not this group's way of writing
        return None
    return message if isinstance(message, Message) else None


def _uids(profile: TapProfile, message: Message, group: Group, scan: Scan) -> Iterator[bytes]:
    """Whose tap it may be: what the mirror says, under every meta key that reads it, or what the caller said."""
    if profile.encrypted:
        yield from (uid for uid, _, _ in profile.find_uid(message, group.meta_keys))
    else:
        yield message.uid or references.split(scan.ref)[1]
