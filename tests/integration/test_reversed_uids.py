"""The management API notices UIDs whose bytes are in reverse order, in the words of an import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_management import Stack, open_stack
from test_management_roles import furnish

from ixfast.domain.chip_uids import REVERSED_UID

IN_ORDER, REVERSED = "04A1B2C3D4E5F6", "F6E5D4C3B2A104"
ORDER = "Write them in the order in which the chip sends them"


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


def assert_refused(answer: Any, remedy: str, field: str = "uid") -> None:
    assert answer.problem == (422, "uid_reversed")
    error = answer.json["error"]
    assert (error["field"], error["message"]) == (field, f"{REVERSED_UID} {remedy}.")


ALLOWED = f"{ORDER}, or allow such UIDs (allow_any_uid=true)"


async def test_a_new_tag_cannot_have_a_reversed_uid_unless_it_is_allowed(stack: Stack) -> None:
    group = (await furnish(stack, "mine", stack.tokens["both"])).group
    tags = await stack.pool.fetchval("SELECT count(*) FROM tag")
    for uid in (REVERSED, "00000000000004", "05A1B2C3D4E504"):
        assert_refused(await stack.ask("POST", "/v2/tags", {"group_id": group, "uid": uid}), ALLOWED)
    assert await stack.pool.fetchval("SELECT count(*) FROM tag") == tags
    for uid in ("05A1B2C3D4E5F6", "04A1B2C3D4E504", "04E5D4C3B2A1F6"):
        assert (await stack.ask("POST", "/v2/tags", {"group_id": group, "uid": uid})).made["uid"] == uid
    made = (await stack.ask("POST", "/v2/tags?allow_any_uid=true", {"group_id": group, "uid": REVERSED})).made
    assert made["uid"] == REVERSED
    refused = await stack.ask("POST", "/v2/tags?allow_any_uid=yes", {"group_id": group, "uid": REVERSED})
    assert refused.problem == (400, "invalid_parameter")


async def test_a_tag_cannot_get_a_reversed_uid_later_unless_it_is_allowed(stack: Stack) -> None:
    group = (await furnish(stack, "mine", stack.tokens["both"])).group
    path = f"/v2/tags/{(await stack.ask('POST', '/v2/tags', {'group_id': group})).made['xuid']}"
    assert_refused(await stack.ask("PATCH", path, {"uid": REVERSED}), ALLOWED)
    assert (await stack.ask("GET", path)).json["uid"] is None
    assert (await stack.ask("PATCH", f"{path}?allow_any_uid=true", {"uid": REVERSED})).json["uid"] == REVERSED
    # A tag that has the UID can be changed with it, as a client does that sends the whole object.
    assert (await stack.ask("PATCH", path, {"uid": REVERSED, "name": "odd"})).json["name"] == "odd"


async def test_looking_for_a_tag_by_a_reversed_uid_is_no_empty_list(stack: Stack) -> None:
    group = (await furnish(stack, "mine", stack.tokens["both"])).group
    made = (await stack.ask("POST", "/v2/tags", {"group_id": group, "uid": IN_ORDER})).made
    assert_refused(await stack.ask("GET", f"/v2/tags?uid={REVERSED}"), ORDER)
    changed = await stack.ask("PATCH", "/v1/a/mine", {"ix_status": "inactive"}, headers={"ix_u": REVERSED})
    assert (changed.status, changed.json["error"], changed.json["parameter"]) == (422, "uid_reversed", "ix_u"), changed.text
    assert [each["xuid"] for each in (await stack.ask("GET", f"/v2/tags?uid={IN_ORDER}")).json["items"]] == [made["xuid"]]
    assert (await stack.ask("GET", "/v2/tags?uid=05A1B2C3D4E5F6")).json["items"] == []
    odd = (await stack.ask("POST", "/v2/tags?allow_any_uid=true", {"group_id": group, "uid": REVERSED})).made
    assert [each["xuid"] for each in (await stack.ask("GET", f"/v2/tags?uid={REVERSED}")).json["items"]] == [odd["xuid"]]
    assert (await stack.ask("PATCH", "/v1/a/mine", {"ix_status": "inactive"}, headers={"ix_u": REVERSED})).status == 200
