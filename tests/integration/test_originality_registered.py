"""Originality signatures from the management API to the response: checked once, reported with every genuine tap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_derived_groups import OLD
from test_derived_groups import Stack as Worker
from test_management import KEY, Stack, open_stack

from ixfast.chips import originality
from ixfast.domain.scan import Extras, Scan
from ixfast.responses import bodies
from ixfast.store.catalogue.catalogue import Change
from ixfast.store.connections import session
from ixfast.testing.virtual_tags import VirtualTag

UID = "04518DFAA96180"  # NXP's own example (AN12196)
SIGNATURE = "d1940d17cfeda4bff80359ab975f9f6514313e8f90c1d3caaf5941ad744a1cdf9a83f883cafe0fe95d1939b1b7e47113993324473b785d21"
WRONG = SIGNATURE[:-1] + "0"
RULES = {
    "groups": [
        {"name": "clone", "when": "authentication == pass and originality == forged", "response": "Not NXP's chip"},
        {"name": "real", "when": {"fact": "originality", "op": "==", "value": "genuine"}, "response": "NXP's chip"},
    ],
    "default": "Who knows",
}


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


async def group(stack: Stack, profile: Any) -> int:
    folders = (await stack.ask("GET", "/v2/folders")).json["items"]
    folder = folders[0] if folders else (await stack.ask("POST", "/v2/folders", {"name": "F"})).made
    body = {"folder_id": folder["id"], "name": str(profile), "profile": profile, "rules": RULES}
    return int((await stack.ask("POST", "/v2/groups", body)).made["id"])


async def test_a_signature_is_checked_when_it_is_given(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    group_id = await group(stack, "plain-uid-counter")
    body = {"group_id": group_id, "xuid": "nxptag01", "key": KEY}
    assert (await stack.ask("POST", "/v2/tags", {**body, "originality_signature": SIGNATURE})).problem == (
        400,
        "invalid_parameter",
    )
    made = (await stack.ask("POST", "/v2/tags", {**body, "uid": UID, "originality_signature": SIGNATURE.upper()})).made
    assert made["originality"] == "genuine"
    path = "/v2/tags/nxptag01"
    monkeypatch.setattr(originality, "verify_originality", None)  # from here on any check would fail
    assert (await stack.ask("PATCH", path, {"name": "N"})).json["originality"] == "genuine"
    assert (await stack.ask("GET", path)).json["originality"] == "genuine"
    monkeypatch.undo()
    assert (await stack.ask("PATCH", path, {"originality_signature": WRONG})).json["originality"] == "forged"
    stored = await stack.pool.fetchval("SELECT originality_signature FROM tag WHERE xuid = 'nxptag01'")
    assert stored.hex() == WRONG
    assert (await stack.ask("PATCH", path, {"originality_signature": None})).json["originality"] is None
    for bad in (SIGNATURE[:-2], SIGNATURE + "00", "x" * 112):
        assert (await stack.ask("PATCH", path, {"originality_signature": bad})).problem == (400, "invalid_request")
    later = (await stack.ask("POST", "/v2/tags", {"group_id": group_id, "xuid": "nxptag02"})).made
    assert later["originality"] is None
    await stack.ask("DELETE", path)
    both = {"uid": UID, "originality_signature": SIGNATURE}
    assert (await stack.ask("PATCH", "/v2/tags/nxptag02", both)).json["originality"] == "genuine"


async def test_chips_with_other_keys_have_no_known_signature(stack: Stack) -> None:
    body = {"group_id": await group(stack, "ntag224"), "uid": UID, "originality_signature": SIGNATURE}
    assert (await stack.ask("POST", "/v2/tags", body)).problem == (400, "invalid_parameter")
    body["group_id"] = await group(stack, None)
    assert (await stack.ask("POST", "/v2/tags", body)).made["originality"] == "genuine"


async def test_answers_and_rules_have_it_once_the_tap_is_genuine(stack: Stack, database: str) -> None:
    stack.keks.adopt([OLD.id], {OLD.id: OLD})
    body = {"group_id": await group(stack, "plain-uid-counter"), "xuid": "nxptag01", "uid": UID, "key": KEY}
    await stack.ask("POST", "/v2/tags", {**body, "originality_signature": SIGNATURE})
    tag = VirtualTag("plain-uid-counter", xuid="nxptag01", uid=bytes.fromhex(UID), file_key=bytes.fromhex(KEY))
    pool = await session.make_pool(database, 2)
    worker = Worker(database, pool)
    worker.keks.adopt([OLD.id], {OLD.id: OLD})

    async def scan(url: str) -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Scan] = loop.create_future()
        worker.engine.submit(
            Scan(done.set_result, b"nxptag01", -1, None, None, worker.dispatcher.next_scan_id(), loop.time(), Extras(url=url))
        )
        answer = bodies.v2_scan(await done)
        return answer["verdict"], answer["originality"], answer["response"]

    await pool.execute("UPDATE account SET open = true")
    url = tag.tap()
    assert await scan(url) == ("genuine", "genuine", "NXP's chip")
    assert await scan(url) == ("replayed", "genuine", "NXP's chip")
    assert await scan(tag.forged()) == ("forged", None, "Who knows")
    tag_id = await pool.fetchval("SELECT tag_id FROM tag")
    for signature, expected in ((WRONG, ("genuine", "forged", "Not NXP's chip")), (None, ("genuine", None, "Who knows"))):
        await stack.ask("PATCH", "/v2/tags/nxptag01", {"originality_signature": signature})
        await worker.catalogue.apply([Change("tag", tag_id, "nxptag01")])
        assert await scan(tag.tap()) == expected
    await worker.ledger.stop()
    await pool.close()
