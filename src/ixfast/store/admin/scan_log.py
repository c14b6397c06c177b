"""Reads the scan log: single scans, newest first, and counts over a range.

The log has only a BRIN index on time, because every scan would pay for any other index. A page is therefore collected from
windows that start small at the end of the range and grow towards the past: where scans are dense, a page comes from the last
second, and where they are rare, the range is read once. A page that takes too long ends early, with a cursor to continue.
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
STATEMENT_TIMEOUT_MS = 5000  # Below the deadline of a management request.
_PAGE_S = 3.0  # After this long a page ends with the scans found so far.
_FIRST_WINDOW = dt.timedelta(seconds=1)
_GROWTH = 8

BY = ("hour", "day", "group", "batch", "tag", "country")
"""What scans can be counted by."""

_LETTERS = {word: letter for letter, word in WORDS.items()}
_END = (1 << 63) - 1


class Filter(NamedTuple):
    """Which scans are wanted. `verdicts` are words, None for all; `group_id` and `batch_id` are 0 for all."""

    tags: Sequence[int] | None = None
    group_id: int = 0
    batch_id: int = 0
    verdicts: Sequence[str] | None = None


_ALL = Filter()


class PageCursor(NamedTuple):
    """A page begins before the scan with this time (microseconds of Unix time), scan id and tag id."""

    at_us: int
    scan_id: int
    tag_id: int


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def microseconds(moment: dt.datetime) -> int:
    """Microseconds of Unix time of an aware datetime."""
    return (moment - _EPOCH) // _MICROSECOND


def moment_of(at_us: int) -> dt.datetime:
    """The datetime in UTC of microseconds of Unix time."""
    return _EPOCH + at_us * _MICROSECOND


async def tag_ids(connection: Any, account_id: int, xuid: str) -> list[int]:
    """The ids of the account's tag with this code and of deleted tags that had it."""
    return [row["tag_id"] for row in await connection.fetch(load("management")["tag_ids_of_xuid"], account_id, xuid)]


async def scans(
    connection: Any,
    account_id: int,
    begin: dt.datetime,
    end: dt.datetime,
    *,
    limit: int,
    wanted: Filter = _ALL,
    before: PageCursor | None = None,
) -> tuple[list[Any], PageCursor | None]:
    """Up to `limit` logged scans of [begin, end), newest first, and the cursor of the next page, None at the end.

    Raises InputError `range_too_wide` if reading a single window exceeds the statement timeout.
    """
    await connection.execute(load("management")["plan_by_values"])
    loop = asyncio.get_running_loop()
    until = loop.time() + _PAGE_S
    cursor = before or PageCursor(microseconds(end), -_END, -_END)
    rows: list[Any] = []
    last = min(moment_of(cursor.at_us) + _MICROSECOND, end)
    window = _FIRST_WINDOW
    while True:
        first = max(begin, last - window)
        rows += await _window(connection, account_id, first, last, cursor, limit + 1 - len(rows), wanted)
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
    cursor: PageCursor,
    limit: int,
    wanted: Filter,
) -> list[Any]:
    letters = [_LETTERS[verdict] for verdict in wanted.verdicts] if wanted.verdicts is not None else None
    before = moment_of(cursor.at_us), cursor.scan_id, cursor.tag_id
    places = wanted.group_id or None, wanted.batch_id or None
    try:
        found: list[Any] = await connection.fetch(
            load("management")["scans"], account_id, first, last, letters, *before, limit, wanted.tags, *places
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
    wanted: Filter = _ALL,
) -> dict[str | None, dict[str, int]]:
    """Numbers of scans of [begin, end) by verdict, and by `by`, one of `BY`. The verdicts of `wanted` are ignored.

    Hours and days are in chronological order, all others in descending order of their scans. None stands for scans of unknown
    tags and, by batch, for tags without one. Raises InputError `range_too_wide` if counting exceeds the statement timeout.
    """
    sql = load("management")
    await connection.execute(sql["plan_by_values"])
    arguments = account_id, begin, end, wanted.group_id or None, wanted.tags, limit
    batch_id = wanted.batch_id or None
    try:
        if by == "country":
            rows = await connection.fetch(sql["counts_by_country"], *arguments, batch_id)
        else:
            rows = await connection.fetch(sql["counts"], *arguments, by, batch_id)
    except asyncpg.QueryCanceledError:
        raise too_wide() from None
    found: dict[str | None, dict[str, int]] = {}
    for row in rows:
        found.setdefault(row["object"], {})[verdict_of(row["verdict"])] = row["scans"]
    return found


def verdict_of(letter: bytes | str) -> str:
    """The verdict for a letter of the log. asyncpg returns the type "char" as bytes."""
    return WORDS[letter.decode() if isinstance(letter, bytes) else letter]


def too_wide() -> InputError:
    """The error for a range that cannot be read in time."""
    return InputError("range_too_wide", "The range contains too many scans; choose a shorter one.", "from")
