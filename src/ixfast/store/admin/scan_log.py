"""Reading the scan log: single scans, newest first, and counts over a range. Nothing here is on the way of a scan.

The log has no index but the coarse one on time, because every other one is paid for by each scan. So a page is looked for in
windows that begin small at its end and grow towards the past: where scans are dense a page comes out of the last second, and
where they are rare the range is read once. A page ends early, with the place to go on from, when its time is over.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import asyncpg

from ixfast.errors import InputError
from ixfast.store.queries import load
from ixfast.store.verdict_letters import VERDICTS

WORDS: Mapping[str, str] = MappingProxyType({letter: verdict.value for letter, verdict in VERDICTS.items()})
"""Verdicts by the letters of the log."""

SCANS_RANGE_DAYS_MAX = 92
COUNTS_RANGE_DAYS_MAX = 31
STATEMENT_TIMEOUT_MS = 5000  # Longer than a management act may take, shorter than its deadline.
_PAGE_S = 3.0  # After this long a page ends with what it has.
_FIRST_WINDOW = dt.timedelta(seconds=1)
_GROWTH = 8

_LETTERS = {word: letter for letter, word in WORDS.items()}
_END = (1 << 63) - 1


class PageCursor(NamedTuple):
    """Where a page begins: before the scan with this moment (microseconds of Unix time), scan id and tag id."""

    at_us: int
    scan_id: int
    tag_id: int


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def microseconds(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(at_us: int) -> dt.datetime:
    return _EPOCH + at_us * _MICROSECOND


async def tag_ids(connection: Any, account_id: int, xuid: str) -> list[int]:
    """The tag of this code and those that had it before, of one account."""
    return [row["tag_id"] for row in await connection.fetch(load("management")["tag_ids_of_xuid"], account_id, xuid)]


async def scans(
    connection: Any,
    account_id: int,
    begin: dt.datetime,
    end: dt.datetime,
    *,
    limit: int,
    verdict: str | None = None,
    tags: Sequence[int] | None = None,
    before: PageCursor | None = None,
) -> tuple[list[Any], PageCursor | None]:
    """Up to `limit` logged scans of [begin, end), newest first, and where the next page begins; None is the end.

    Raises InputError `range_too_wide` if a single window takes longer than its statement may.
    """
    await connection.execute(load("management")["plan_by_values"])
    loop = asyncio.get_running_loop()
    until = loop.time() + _PAGE_S
    place = before or PageCursor(microseconds(end), -_END, -_END)
    rows: list[Any] = []
    last = min(moment_of(place.at_us) + _MICROSECOND, end)
    window = _FIRST_WINDOW
    while True:
        first = max(begin, last - window)
        rows += await _window(
            connection, account_id, first, last, _LETTERS.get(verdict or ""), place, limit + 1 - len(rows), tags
        )
        if len(rows) > limit:
            end_of_page = rows[limit - 1]
            following = PageCursor(microseconds(end_of_page["at"]), end_of_page["scan_id"], end_of_page["tag_id"])
            return rows[:limit], following
        if first <= begin:
            return rows, None
        if loop.time() > until:
            return rows, PageCursor(microseconds(first), -_END, -_END)
        last, window = first, window * _GROWTH


async def _window(
    connection: Any,
    account_id: int,
    first: dt.datetime,
    last: dt.datetime,
    letter: str | None,
    place: PageCursor,
    limit: int,
    tags: Sequence[int] | None,
) -> list[Any]:
    moment = moment_of(place.at_us)
    statement = load("management")["scans"]
    try:
        found: list[Any] = await connection.fetch(
            statement, account_id, first, last, letter, moment, place.scan_id, place.tag_id, limit, tags
        )
    except asyncpg.QueryCanceledError:
        raise too_wide() from None
    return found


async def counts(
    connection: Any,
    account_id: int,
    begin: dt.datetime,
    end: dt.datetime,
    *,
    by: str,
    limit: int,
    group_id: int | None = None,
    tags: Sequence[int] | None = None,
) -> dict[str, dict[str, int]]:
    """Scans of [begin, end) by day, group or tag and by verdict: days in their order, the others by their number of scans.

    Raises InputError `range_too_wide` if counting takes longer than a statement may.
    """
    sql = load("management")
    await connection.execute(sql["plan_by_values"])
    try:
        rows = await connection.fetch(sql[f"counts_by_{by}"], account_id, begin, end, group_id, tags, limit)
    except asyncpg.QueryCanceledError:
        raise too_wide() from None
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["object"], {})[verdict_of(row["verdict"])] = row["scans"]
    return found


def verdict_of(letter: bytes | str) -> str:
    """The word of a letter of the log; asyncpg gives the type "char" as bytes."""
    return WORDS[letter.decode() if isinstance(letter, bytes) else letter]


def too_wide() -> InputError:
    return InputError("range_too_wide", "There are too many scans in this range: take a shorter one.", "from")
