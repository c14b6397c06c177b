"""Reads for people who search and browse: tag codes by their beginning, similar account ids, and how many tags there are.

No query reads more than a bounded part of a table, however many tags there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ixfast.store.queries import load

SIMILAR_MAX = 1000
"""Maximum number of names that are read to find similar ones."""
COUNT_MAX = 1000
"""Up to this number of tags, the number is exact."""
_ABOVE_ALL_CODES = "~"  # In the collation of tag codes it comes after letters and digits.


class TagCount(NamedTuple):
    """A number of tags, exact or the planner's estimate."""

    tags: int
    exact: bool


async def count_tags(
    connection: Any, place: Literal["account", "group", "batch"], place_ids: Sequence[int]
) -> dict[int, TagCount]:
    """The numbers of tags of accounts, groups or batches: exact up to `COUNT_MAX`, then estimates from the statistics."""
    sql = load("management")
    counts = {}
    for row in await connection.fetch(sql[f"count_tags_of_{place}"], place_ids, COUNT_MAX + 1):
        place_id, tags, exact = row["id"], row["tags"], row["tags"] <= COUNT_MAX
        if not exact:
            plan = json.loads(await connection.fetchval("EXPLAIN (FORMAT JSON) " + sql[f"tag_ids_of_{place}"], place_id))
            tags = max(tags, round(plan[0]["Plan"]["Plan Rows"]))
        counts[place_id] = TagCount(tags, exact)
    return counts


async def codes_with_prefix(connection: Any, account_id: int | None, prefix: str, after: str, rows: int) -> list[str]:
    """Tag codes of an account, or of all, that begin with `prefix`, in order, from the one after `after` on."""
    sql = load("management")["codes_with_prefix"]
    found = await connection.fetch(sql, account_id, prefix, prefix + _ABOVE_ALL_CODES, after, rows)
    return [row["xuid"] for row in found]


async def similar_codes(connection: Any, account_id: int | None, code: str) -> list[str]:
    """Tag codes of an account, or of all, with the longest common beginning that any tag has, of at least three characters."""
    for characters in range(len(code), 2, -1):
        found = await codes_with_prefix(connection, account_id, code[:characters], "", SIMILAR_MAX)
        if found:
            return found
    return []


async def similar_aids(connection: Any, aid: str) -> list[str]:
    """AIDs around this one in alphabetical order; all of them if there are no more than `SIMILAR_MAX`."""
    rows = await connection.fetch(load("management")["aids_around"], aid, SIMILAR_MAX)
    return [row["aid"] for row in rows]
