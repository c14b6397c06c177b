"""A deleted tag that comes back through an import and a management request at the same moment: whichever commits first, the other
one knows of it, and no tap that passed before the deletion passes again.

Each request runs in a transaction of its own connection. Both are held at what they lock last, the number of the next change, or
at what the other one has locked, so that the order does not depend on speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple

import asyncpg
import pytest
import test_returning_tags
from support import eventually
from test_management import Answer
from test_returning_tags import BOLT, CARD, CARD_UID, NEXT, TAG, USED, Shop, some

from ixfast.store.admin import transactions
from ixfast.store.queries import load

shop = test_returning_tags.shop
CHANGED = "A tag was changed or deleted concurrently; nothing was imported. Try again."
WAITING = """
SELECT query FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() ORDER BY query_start
"""
LOCKS = load("importing")["lock_returning"]
UNLOCKED = "SELECT greatest(cardinality($1::bigint[]), 0 * cardinality($2::bytea[]), 0 * cardinality($3::bigint[]))"
"""The control: looks at no tag."""
UNCOMPARED = """
SELECT count(*)
FROM (SELECT FROM tag WHERE tag_id = ANY ($1::bigint[]) ORDER BY tag_id FOR NO KEY UPDATE) AS held
WHERE $2::bytea[] IS NOT NULL AND $3::bigint[] IS NOT NULL
"""
"""Another one: waits for the tag, but does not notice that it was changed meanwhile."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request gives up while it is held, however slow the machine is."""
    monkeypatch.setattr(transactions, "_LOCK_TIMEOUT_MS", 60_000)
    monkeypatch.setattr(transactions, "_STATEMENT_TIMEOUT_MS", 60_000)
    monkeypatch.setattr(transactions, "_DEADLINE_S", 60.0)


class Raced(NamedTuple):
    answers: list[Answer]
    waited: list[str]
    """The statements at which both requests waited."""


async def race(shop: Shop, *requests: Coroutine[Any, Any, Answer], cancelled: bool = False) -> Raced:
    """Start the second request when the first one has changed what it changes and is about to commit. With `cancelled`, the first
    one is then rolled back."""
    holder = await asyncpg.connect(shop.dsn)
    tasks: list[asyncio.Task[Answer]] = []

    async def waiting() -> list[str] | None:
        found = [row["query"] for row in await shop.pool.fetch(WAITING)]
        return found if len(found) == len(tasks) else None

    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM catalogue_generation FOR UPDATE")
            for request in requests:
                tasks.append(asyncio.create_task(request))
                waited = await eventually(waiting, 20)
            if cancelled:
                cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query = $1 AND pid <> pg_backend_pid()"
                await shop.pool.fetch(cancel, load("catalogue")["raise_generation"])
                await tasks[0]
        return Raced(await asyncio.gather(*tasks), waited)
    finally:
        holder.terminate()


class Return(NamedTuple):
    """A tag without a UID or key, whose taps at `USED` pass again if the import of `columns` does not know of the change."""

    columns: dict[str, str]
    patch: dict[str, Any]
    uid: bytes
    tap: Any


async def gets_its_uid(shop: Shop) -> Return:
    """The import adds the key, the request the UID."""
    await shop.used_and_deleted()
    await shop.created(xuid="other")
    return Return(some("key", xuid="other"), some("uid"), TAG.uid, TAG.tap_at)


async def moves_to_the_group(shop: Shop) -> Return:
    """The import adds the UID, the request moves the tag to a group that derives keys."""
    await shop.created("derives", **CARD_UID)
    assert await shop.verdict(CARD.tap_at(USED)) == "genuine"
    await shop.deleted(await shop.code(CARD.uid))
    await shop.created(xuid="other")
    return Return({"xuid": "other", **CARD_UID}, {"group_id": shop.groups["derives"]}, CARD.uid, CARD.tap_at)


async def moves_to_another_group_with_the_master(shop: Shop) -> Return:
    """The same with a group that derives the same keys as that of the deleted tag, at another version."""
    tag = await moves_to_the_group(shop)
    await shop.done("PATCH", f"/v2/groups/{shop.groups['later']}", {"derivation": BOLT})
    await shop.add_master("later", "0f" * 16)
    await shop.add_master("later")
    return tag._replace(patch={"group_id": shop.groups["later"]})


RETURNS = (gets_its_uid, moves_to_the_group, moves_to_another_group_with_the_master)
ways = pytest.mark.parametrize("way", RETURNS, ids=lambda way: str(way.__name__))


def patched(shop: Shop, tag: Return) -> Coroutine[Any, Any, Answer]:
    return shop.management.ask("PATCH", "/v2/tags/other", tag.patch)


async def assert_used_taps_stay_used(shop: Shop, tag: Return) -> None:
    assert await shop.verdict(tag.tap(USED)) == "replayed"
    assert await shop.verdict(tag.tap(NEXT)) == "genuine"


@ways
async def test_an_import_waits_for_a_change_and_is_refused(shop: Shop, way: Any) -> None:
    tag = await way(shop)
    keys = await shop.pool.fetchval("SELECT count(*) FROM tag_key")
    (changed, imported), waited = await race(shop, patched(shop, tag), shop.imports(**tag.columns))
    assert waited[-1] == LOCKS
    assert changed.status == 200, changed.text
    assert imported.problem == (404, "not_found") and imported.json["error"]["message"] == CHANGED
    assert await shop.pool.fetchval("SELECT count(*) FROM tag_key") == keys
    await shop.imported(**tag.columns)
    await assert_used_taps_stay_used(shop, tag)


@ways
async def test_a_change_waits_for_an_import(shop: Shop, way: Any) -> None:
    tag = await way(shop)
    (imported, changed), _ = await race(shop, shop.imports(**tag.columns), patched(shop, tag))
    assert (imported.status, changed.status) == (200, 200), (imported.text, changed.text)
    await assert_used_taps_stay_used(shop, tag)


@ways
async def test_an_import_goes_on_after_a_change_that_was_rolled_back(shop: Shop, way: Any) -> None:
    tag = await way(shop)
    (changed, imported), _ = await race(shop, patched(shop, tag), shop.imports(**tag.columns), cancelled=True)
    assert (changed.status, imported.status) == (503, 200), (changed.text, imported.text)
    await shop.done("PATCH", "/v2/tags/other", tag.patch)
    await assert_used_taps_stay_used(shop, tag)


async def test_an_import_waits_for_a_deletion_and_is_refused(shop: Shop) -> None:
    tag = await gets_its_uid(shop)
    deletion = shop.management.ask("DELETE", "/v2/tags/other")
    (deleted, imported), waited = await race(shop, deletion, shop.imports(**tag.columns))
    assert waited[-1] == LOCKS
    assert deleted.status == 204
    assert imported.problem == (404, "not_found") and imported.json["error"]["message"] == CHANGED


async def test_an_import_waits_for_a_change_that_does_not_matter(shop: Shop) -> None:
    tag = await gets_its_uid(shop)
    renamed = shop.management.ask("PATCH", "/v2/tags/other", {"name": "A shoe"})
    (changed, imported), _ = await race(shop, renamed, shop.imports(**tag.columns))
    assert (changed.status, imported.status) == (200, 200), (changed.text, imported.text)
    await shop.done("PATCH", "/v2/tags/other", tag.patch)
    await assert_used_taps_stay_used(shop, tag)


@pytest.mark.parametrize("broken", [UNLOCKED, UNCOMPARED], ids=["unlocked", "uncompared"])
@ways
async def test_control_without_the_lock_or_the_comparison_it_passes_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, way: Any, broken: str
) -> None:
    tag = await way(shop)
    monkeypatch.setitem(load("importing"), "lock_returning", broken)
    (changed, imported), _ = await race(shop, patched(shop, tag), shop.imports(**tag.columns))
    assert (changed.status, imported.status) == (200, 200), (changed.text, imported.text)
    assert await shop.verdict(tag.tap(USED)) == "genuine"
