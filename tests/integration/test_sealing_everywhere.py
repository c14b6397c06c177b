"""No route stores a key that a running server could not open: its tags would get no verdict there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from test_management import KEY, OTHER_KEY, Answer, Stack, folder_with_groups, open_stack

from ixfast.http.management import ROUTES
from ixfast.keys import KeyEncryptionKey, KeyEncryptionKeys
from ixfast.store.admin import key_edits

DERIVATION = {"scheme": "sdm-backend"}
ELSEWHERE = KeyEncryptionKey(bytes([7]) * 32)
TABLES = ("tag", "tag_key", "meta_key", "batch_key", "group_key", "batch", "audit_log")


def takes_keys(route: Any) -> bool:
    """Whether a body of this route may contain a key: a member of that name, or a file of tags."""
    if not route.writes or route.method not in ("POST", "PUT", "PATCH"):
        return False
    if route.body is None or not issubclass(route.body, msgspec.Struct):
        return route.body_types != ("application/json",)
    return any("key" in field.encode_name.lower() for field in msgspec.structs.fields(route.body))


TAKING_KEYS = sorted((route.method, route.path) for route in ROUTES if takes_keys(route))


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


class Writes:
    """Requests that store keys, by route. Each has variants that are independent of each other."""

    def __init__(self, group: int, deriving: int, batch: int, xuid: str) -> None:
        file = f"/v2/imports?group={group}"
        self.by_route: dict[tuple[str, str], list[tuple[str, Any]]] = {
            ("POST", "/v2/imports"): [
                (file, b"UID,KEY\n04A1B2C3D4E5F6," + KEY.encode() + b"\n"),
                (f"{file}&meta_keys=account", b"UID,META_KEY\n04A1B2C3D4E5F7," + b"5a" * 16 + b"\n"),
                (f"{file}&meta_keys=tag", b"UID,META_KEY\n04A1B2C3D4E5F8," + b"5b" * 16 + b"\n"),
                (f"{file}&batch={batch}&meta_keys=batch", b"UID,META_KEY\n04A1B2C3D4E5F9," + b"5c" * 16 + b"\n"),
            ],
            ("POST", "/v2/tags"): [
                ("/v2/tags", {"batch_id": batch, "key": KEY}),
                ("/v2/tags", {"batch_id": batch, "meta_key": KEY}),
                ("/v2/tags", {"batch_id": batch, "key": KEY, "meta_key": OTHER_KEY}),
            ],
            ("POST", "/v2/tags/{xuid}/keys"): [(f"/v2/tags/{xuid}/keys", {"key": OTHER_KEY, "retire_others": True})],
            ("POST", "/v2/tags/{xuid}/meta-keys"): [(f"/v2/tags/{xuid}/meta-keys", {"key": KEY})],
            ("POST", "/v2/batches/{id}/meta-keys"): [(f"/v2/batches/{batch}/meta-keys", {"key": KEY})],
            ("POST", "/v2/groups/{id}/keys"): [(f"/v2/groups/{deriving}/keys", {"key": KEY})],
            ("POST", "/v2/meta-keys"): [("/v2/meta-keys", {"key": KEY})],
        }

    @classmethod
    async def of(cls, stack: Stack) -> Writes:
        folder, group, batch = await folder_with_groups(stack)
        other = {"folder_id": folder, "name": "Deriving", "profile": "ixkio-plain", "derivation": DERIVATION}
        deriving = (await stack.ask("POST", "/v2/groups", other)).made
        tag = (await stack.ask("POST", "/v2/tags", {"batch_id": batch, "key": KEY})).made
        return cls(group, deriving["id"], batch, tag["xuid"])


async def other_host(stack: Stack, *keys: KeyEncryptionKey) -> None:
    """Announce a server of another host that has these keys open."""
    ids = [key.id for key in keys]
    insert = "INSERT INTO key_holder VALUES ('other', 0, 'host-b', NULL, '/etc/ixfast/kek', $1, $2, now() + interval '1 hour')"
    await stack.pool.execute("DELETE FROM key_holder")
    await stack.pool.execute(insert, ids, ids[0])


async def stored(stack: Stack) -> list[int]:
    return [await stack.pool.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES]


async def ask(stack: Stack, route: tuple[str, str], request: tuple[str, Any]) -> Answer:
    path, body = request
    headers = {"Content-Type": "text/csv"} if isinstance(body, bytes) else {}
    return await stack.ask(route[0], path, body, headers=headers)


def test_every_route_that_takes_keys_has_requests_below() -> None:
    assert sorted(Writes(0, 0, 0, "").by_route) == TAKING_KEYS


@pytest.mark.parametrize("route", TAKING_KEYS, ids="{0[0]} {0[1]}".format)
async def test_a_key_that_another_host_could_not_open_is_not_stored(
    stack: Stack, route: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    requests = (await Writes.of(stack)).by_route[route]
    before = await stored(stack)
    for known in ([ELSEWHERE], [ELSEWHERE, KeyEncryptionKey(bytes([8]) * 32)]):
        await other_host(stack, *known)
        for request in requests:
            caplog.clear()
            answer = await ask(stack, route, request)
            assert answer.problem == (503, "unavailable") and answer.json["error"]["reason"] == "key_unavailable"
            assert f"seals under {stack.keks.current.id}, which is not open on host-b (/etc/ixfast/kek)" in caplog.text
    assert await stored(stack) == before
    await other_host(stack, ELSEWHERE, stack.keks.current)  # it has been given the key
    for request in requests:
        assert (await ask(stack, route, request)).status in (200, 201)
    assert await stored(stack) != before


@pytest.mark.parametrize("route", TAKING_KEYS, ids="{0[0]} {0[1]}".format)
async def test_without_the_check_every_one_of_these_requests_stores(
    stack: Stack, route: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: nothing else refuses these requests."""

    async def unchecked(_connection: Any, _keks: KeyEncryptionKeys) -> None: ...

    monkeypatch.setattr(key_edits, "check_sealing", unchecked)
    requests = (await Writes.of(stack)).by_route[route]
    await other_host(stack, ELSEWHERE)
    for request in requests:
        before = await stored(stack)
        assert (await ask(stack, route, request)).status in (200, 201)
        assert await stored(stack) != before


async def test_what_stores_no_key_goes_on(stack: Stack) -> None:
    await Writes.of(stack)
    await other_host(stack, ELSEWHERE)
    batch = (await stack.ask("GET", "/v2/batches")).json["items"][0]["id"]
    assert (await stack.ask("POST", "/v2/tags", {"batch_id": batch})).status == 201
    assert (await stack.ask("POST", "/v2/folders", {"name": "Hats"})).status == 201
    (tag,) = await stack.pool.fetch("SELECT xuid FROM tag JOIN tag_key USING (tag_id)")
    assert (await stack.ask("PATCH", f"/v2/tags/{tag['xuid']}", {"name": "N"})).status == 200


async def test_a_host_that_is_gone_does_not_stand_in_the_way(stack: Stack) -> None:
    await other_host(stack, ELSEWHERE)
    await stack.pool.execute("UPDATE key_holder SET at = now() - interval '1 hour'")
    assert (await stack.ask("POST", "/v2/meta-keys", {"key": KEY})).status == 201
