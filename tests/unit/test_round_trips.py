"""Every scheme with every preset: the URL of a simulated tag, intact and altered, through the real application and engine.

The application is the one that a worker runs, on a catalogue and a ledger in memory.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ixfast.audit import find_profile
from ixfast.chips import PRESETS, Message, compile_profile, scheme_names
from ixfast.chips.profile import CompiledProfile
from ixfast.chips.registry import find_scheme
from ixfast.chips.scheme import SDM_MIRRORS
from ixfast.domain.model import Verdict
from ixfast.domain.records import Account, Group
from ixfast.errors import ProfileError
from ixfast.http.dispatcher import ScanDispatcher
from ixfast.http.scan_app import make_scan_app
from ixfast.http.server_state import ServerState
from ixfast.meters import Meters
from ixfast.pipeline.engine import Engine
from ixfast.testing.memory import MemoryCatalogue, MemoryLedger
from ixfast.testing.virtual_tags import VirtualTag

AID = "acme"
COUNTER = 0xA1B2C3  # no other part of a URL has these digits
UID = bytes.fromhex("04a1f2c3d4e5f6")
RICHEST = {
    "ntag424-aes": "encrypted-tamper",
    "desfire-ev3-aes": "plain-tamper",
    "ntag424-lrp": "lrp-tamper",
    "ntag223": "ntag223",
    "ntag224": "ntag224",
    "ntag22x-sd": "ntag22x-sd",
}
"""The preset of each scheme with the most authenticated parts."""


def combinations() -> Iterator[tuple[str, CompiledProfile]]:
    """Every preset with every chip that can write it."""
    for name in PRESETS:
        for scheme in scheme_names():
            notation = f"{name}/{scheme}"
            try:
                yield notation, compile_profile(find_profile(notation))
            except ProfileError:
                # A chip cannot write another chip's fields, but a chip with SDM can write every SDM preset.
                sdm = "-aes", "-lrp"
                assert not (scheme.endswith(sdm) and PRESETS[name].scheme.endswith(sdm)), notation


COMBINATIONS = dict(combinations())


def test_every_chip_with_sdm_writes_every_preset_of_such_chips() -> None:
    sdm = [name for name in scheme_names() if find_scheme(name).mirrors == SDM_MIRRORS]
    presets = [name for name, profile in PRESETS.items() if profile.scheme in sdm]
    assert {f"{name}/{scheme}" for name in presets for scheme in sdm} <= COMBINATIONS.keys()
    assert {f"{profile.name}/{profile.scheme}" for profile in PRESETS.values()} <= COMBINATIONS.keys()
    assert len(COMBINATIONS) >= 50
    assert set(RICHEST) == set(scheme_names())


class Catalogue(MemoryCatalogue):
    """Looks up the account as the real catalogue does, for taps that name no tag."""

    groups: list[Group]

    async def account(self, aid: str, *, is_owner: bool) -> tuple[Account, list[Group]] | None:
        return (self.groups[0].account, self.groups) if aid == AID else None


class Stack:
    def __init__(self, client: Any, tag: VirtualTag) -> None:
        self.client = client
        self.tag = tag

    async def scan(self, **body: Any) -> dict[str, Any]:
        response = await self.client.post("/v2/scans", json=body)
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer

    async def verdict_of(self, url: str) -> str:
        """The verdict on the parameters of the URL. It names the tag separately: an altered UID must not select another."""
        parts = urlsplit(url)
        if parts.query:
            parameters = dict(parse_qsl(parts.query))
        else:
            picc, mac = parts.path.split("/")[-2:]
            parameters = {"picc": picc, "mac": mac}
        return (await self.scan(xuid=self.tag.xuid, parameters=parameters))["verdict"]


@asynccontextmanager
async def stack(profile: CompiledProfile) -> AsyncIterator[Stack]:
    tag = VirtualTag(profile, xuid="q8w3sbcz", uid=UID, file_key=bytes(range(16)), meta_key=bytes(range(16, 32)), aid=AID)
    tag.counter = COUNTER - 1
    catalogue, gauges = Catalogue(), Meters()
    catalogue.add_account(AID, meta_keys=tag.meta_keys())
    group = catalogue.add_group(AID, profile)
    catalogue.groups = [group]
    record = catalogue.add_tag(group, tag.xuid, uid=tag.uid, keys=tag.file_keys())
    engine = Engine(catalogue, gauges)
    ledger = MemoryLedger(engine.settled)
    ledger.add(record)
    engine.use(ledger)
    dispatcher = ScanDispatcher(engine, catalogue, gauges, asyncio.get_running_loop())  # type: ignore[arg-type]
    server_state = ServerState(dispatcher, connections_max=10, idle_timeout_s=75)
    async with TestClient(TestServer(make_scan_app(server_state))) as client:
        yield Stack(client, tag)
    server_state.close()


@pytest.mark.parametrize("notation", COMBINATIONS)
async def test_a_tap_passes_once_and_a_changed_one_never(notation: str) -> None:
    profile = COMBINATIONS[notation]
    async with stack(profile) as here:
        forged = here.tag.forged()
        assert (await here.scan(url=forged, account=AID))["verdict"] == Verdict.FORGED
        url = here.tag.tap()
        first = await here.scan(url=url, account=AID)
        assert (first["verdict"], first["authentic"]) == (Verdict.GENUINE, True)
        assert first["counter"] == (COUNTER + 1 if profile.counter_expected else None)
        again = await here.scan(url=url, account=AID)
        if profile.counter_expected:
            assert (again["verdict"], again["reason"]) == (Verdict.REPLAYED, "counter_used")
            older = await here.scan(url=here.tag.tap_at(COUNTER - 7), account=AID)
            assert older["verdict"] == Verdict.REPLAYED
        else:
            assert (again["verdict"], again["reason"]) == (Verdict.GENUINE, "not_replay_checked")
        assert (await here.scan(url=here.tag.forged("wrong_key"), account=AID))["verdict"] == Verdict.FORGED
        assert (await here.scan(url=here.tag.tap(), account=AID))["verdict"] == Verdict.GENUINE


def changed(url: str, message: Message) -> Iterator[tuple[str, str]]:
    """The URL with each single bit of each mirrored value flipped, and with each tamper character replaced by every other one."""
    parts = {"mac": message.mac, "uid": message.uid, "picc": message.picc, "enc": message.enc}
    if message.counter is not None:
        parts["counter"] = message.counter.to_bytes(3)
    status = message.tt or message.tamper
    if message.tt is not None:
        parts["tt"] = bytes.fromhex(message.tt[2:])
    for name, value in parts.items():
        if value is None:
            continue
        text = value.hex().upper()
        assert url.count(text) == 1, name
        for bit in range(8 * len(value)):
            other = (int.from_bytes(value) ^ 1 << bit).to_bytes(len(value))
            yield f"{name}, bit {bit}", url.replace(text, other.hex().upper())
    if status is not None:
        at = url.index(status)
        for place in (0, 1):
            for state in set("COI") - {status[place]}:
                yield f"tamper {place}, {state}", url[: at + place] + state + url[at + place + 1 :]


@pytest.mark.parametrize("scheme", RICHEST)
async def test_every_single_bit_counts(scheme: str) -> None:
    profile = COMBINATIONS[f"{RICHEST[scheme]}/{scheme}"]
    async with stack(profile) as here:
        here.tag.status = bytes.fromhex("0badcafe")
        here.tag.stored = "O"
        url = here.tag.tap()
        message = profile.read_url(url)
        assert isinstance(message, Message)
        tried = 0
        for what, forgery in changed(url, message):
            assert await here.verdict_of(forgery) == Verdict.FORGED, what
            tried += 1
        assert tried >= 8 * (8 + 7 + 3)
        # The control: the unaltered tap still passes.
        assert await here.verdict_of(url) == Verdict.GENUINE
        assert await here.verdict_of(url) == Verdict.REPLAYED


def test_the_documentation_tells_every_preset_and_scheme() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "chips.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \| (?:`([^`]+)`|-) \|", text, re.MULTILINE)
    documented = {name: (scheme, template, window) for name, scheme, template, window in rows}
    assert documented == {name: (p.scheme, p.template, p.window) for name, p in PRESETS.items()}
    assert list(documented) == list(PRESETS)
    for scheme in scheme_names():
        assert re.search(rf"^\| `{scheme}` \|", text, re.MULTILINE), scheme
