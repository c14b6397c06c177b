"""Which scans of absent tags create a tag, in which group, and how they end if none can be created."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support import eventually

from ixfast.chips import compile_profile, preset
from ixfast.domain import references
from ixfast.domain.model import Key
from ixfast.domain.records import Account, Group
from ixfast.domain.scan import Extras, Scan
from ixfast.errors import UnavailableError
from ixfast.keys import DerivedKeys
from ixfast.keys.derived_keys import Master
from ixfast.keys.diversify import An10922, BoltCard, Derivation
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.enrolment import Enrolment
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger
from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

PLAIN = VirtualFleet(1, 3, "plain-uid-counter", derivation=An10922())
ENCRYPTED = VirtualFleet(2, 3, "encrypted", derivation=BoltCard())


class EnrolmentKit:
    """The engine in memory with an account `acme`, and a register that records and creates tags."""

    def __init__(self) -> None:
        self.catalogue = MemoryCatalogue()
        self.account_record = self.catalogue.add_account("acme")
        meters = Meters()
        self.engine = Engine(self.catalogue, meters)
        self.ledger = MemoryLedger(self.engine.settled)
        self.engine.use(self.ledger)
        self.enrolment = Enrolment(self.engine, self, self)
        self.engine.enrol_by(self.enrolment.takes)
        self.groups: list[Group] = []
        self.made: list[tuple[int, bytes]] = []
        self.problem: Exception | None = None
        self.forgotten: list[bytes] = []

    def add_group(
        self, fleet: VirtualFleet, profile: str | None = None, *, enrols: bool = True, master: bytes | None = None
    ) -> Group:
        group = self.catalogue.add_group("acme", compile_profile(preset(profile or fleet.profile.name)))
        assert fleet.derivation is not None
        group.derived = derived(fleet.derivation, master or fleet.master)
        group.enrols = enrols
        self.groups.append(group)
        return group

    # What enrolment asks of the catalogue and the register.

    def may_enrol(self, aid: str) -> bool:
        return aid == "acme"

    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        return (self.account_record, self.groups) if aid == "acme" and (is_owner or self.account_record.open) else None

    def fetch(self, scan: Scan, ref: bytes, found: Callable[[Scan, Any], None]) -> None:
        self.catalogue.fetch(scan, ref, found)

    def forget_absent(self, scan: Scan) -> None:
        self.forgotten.append(scan.ref)

    async def enrol(self, account_id: int, group_id: int, uid: bytes) -> None:
        assert account_id == self.account_record.account_id
        if self.problem is not None:
            raise self.problem
        self.made.append((group_id, uid))
        group = next(group for group in self.groups if group.group_id == group_id)
        assert group.derived is not None
        self.ledger.add(self.catalogue.add_tag(group, f"new{len(self.made)}", uid=uid, keys=group.derived.file_keys(uid)))

    async def ask(self, tag: VirtualTag, url: str, *, peek: bool = False, aid: str = "acme") -> Scan:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Scan] = loop.create_future()
        ref = references.by_uid(aid, tag.uid)
        self.engine.submit(Scan(done.set_result, ref, -1, None, None, id(done), 0.0, Extras(url=url, peek=peek)))
        return await done


def derived(derivation: Derivation, master: bytes) -> DerivedKeys:
    return DerivedKeys([Master(derivation, Key(1, master, b"\1\2\3"))])


@pytest.fixture
async def kit() -> EnrolmentKit:
    return EnrolmentKit()


@pytest.mark.parametrize("fleet", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
async def test_a_genuine_tap_is_enrolled_and_goes_on_as_any_other(kit: EnrolmentKit, fleet: VirtualFleet) -> None:
    group, tag = kit.add_group(fleet), fleet[0]
    scan = await kit.ask(tag, tag.tap())
    assert scan.verdict == "genuine" and kit.made == [(group.group_id, tag.uid)]
    assert kit.forgotten == [references.by_uid("acme", tag.uid)]
    assert (await kit.ask(tag, tag.tap_at(1))).verdict == "replayed"
    assert (await kit.ask(tag, tag.tap())).verdict == "genuine" and len(kit.made) == 1
    await eventually(lambda: kit.enrolment.idle, 5)


async def test_an_encrypted_tap_is_enrolled_by_the_uid_that_is_inside(kit: EnrolmentKit) -> None:
    """Another meta key may decrypt the mirror to something, too; the scan then has a UID that no tag has."""
    kit.add_group(ENCRYPTED)
    scan = await kit.ask(PLAIN[2], ENCRYPTED[1].tap())
    assert scan.verdict == "genuine" and [uid for _, uid in kit.made] == [ENCRYPTED[1].uid]


async def test_the_first_of_several_groups_under_whose_keys_it_is_genuine_has_the_tag(kit: EnrolmentKit) -> None:
    kit.add_group(PLAIN, master=bytes(range(16)))
    kit.add_group(PLAIN, enrols=False)
    kit.add_group(ENCRYPTED)
    first, _ = kit.add_group(PLAIN), kit.add_group(PLAIN)
    tag = PLAIN[0]
    await kit.ask(tag, tag.tap())
    assert kit.made == [(first.group_id, tag.uid)]


async def test_what_enrols_nothing_is_unknown(kit: EnrolmentKit) -> None:
    group, tag = kit.add_group(PLAIN), PLAIN[0]
    url = tag.tap()
    scans = [
        await kit.ask(tag, tag.forged("flipped_bit")),
        await kit.ask(tag, tag.forged("wrong_key")),
        await kit.ask(tag, url, peek=True),
        await kit.ask(tag, url, aid="other"),
        await kit.ask(tag, "https://tag.example/t?nothing=here"),
        await kit.ask(tag, f"uid={tag.uid.hex()}&ctr=xx&cmac=00"),
    ]
    for name in ("active", "folder_active", "enrols"):
        setattr(group, name, False)
        scans.append(await kit.ask(tag, url))
        setattr(group, name, True)
    for name in ("active", "open"):
        setattr(kit.account_record, name, False)
        scans.append(await kit.ask(tag, url))
        setattr(kit.account_record, name, True)
    assert {(scan.verdict, scan.error, scan.error_detail) for scan in scans} == {("unknown", "not_found", None)}
    assert kit.made == []
    assert (await kit.ask(tag, url)).verdict == "genuine"


async def test_a_tap_without_a_counter_enrols_nothing(kit: EnrolmentKit) -> None:
    kit.add_group(PLAIN, "plain-uid-only")
    tag = VirtualFleet(1, 1, "plain-uid-only", derivation=An10922())[0]
    assert (await kit.ask(tag, tag.tap())).verdict == "unknown" and kit.made == []


async def test_nothing_that_fails_is_taken_for_a_proof(kit: EnrolmentKit) -> None:
    group, tag = kit.add_group(PLAIN), PLAIN[0]
    url = tag.tap()
    for problem, detail in (
        (UnavailableError("unavailable", "connection_lost"), "connection_lost"),
        (RuntimeError("anything"), "lookup_failed"),
    ):
        kit.problem = problem
        scan = await kit.ask(tag, url)
        assert (scan.verdict, scan.error, scan.error_detail) == (None, "unavailable", detail)
    kit.problem, group.derived = None, DerivedKeys(None)
    scan = await kit.ask(tag, url)
    assert (scan.verdict, scan.error, scan.error_detail) == (None, "unavailable", "key_unavailable")
