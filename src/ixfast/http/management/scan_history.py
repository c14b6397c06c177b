"""The audit log, the scan log, and counts of scans."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
from aiohttp import web

from ixfast.domain.scan import POSITION_COUNTER_BITS, POSITION_COUNTER_MASK
from ixfast.errors import InputError
from ixfast.http.management import validation
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, not_found
from ixfast.http.management.schemas import ID_MAX, Act, Count, LoggedScan, Stats
from ixfast.store.admin import scan_log

OBJECTS = ("account", "api_key", "folder", "group", "batch", "tag")
"""The kinds of objects in the audit log."""

_COUNTS = 100
_COUNTS_MAX = 1000  # more than the hours of the longest range


def _act(row: Any) -> Act:
    before, after = (msgspec.json.decode(row[name]) if row[name] is not None else None for name in ("before", "after"))
    head = row["audit_id"], row["at"], row["api_key_id"]
    return Act(*head, row["act"], row["object"], row["object_id"], before, after)


async def list_acts(call: Call) -> web.Response:
    limit, cursor = call.limit(), call.cursor()
    before = cursor[0] if cursor is not None else ID_MAX
    filters = call.word("object", OBJECTS), call.parameter("object_id")
    rows = await call.connection.fetch(call.sql["audit"], call.account_id, before, *filters, limit + 1)
    last = (rows[limit - 1]["audit_id"],) if len(rows) > limit else None
    return call.page([_act(row) for row in rows[:limit]], last)


def _range(call: Call, days: int, default_days: int) -> tuple[dt.datetime, dt.datetime]:
    begin, end = call.parameter("from"), call.parameter("to")
    now = dt.datetime.now(dt.UTC)
    last = validation.moment(end, "to") if end is not None else now
    first = validation.moment(begin, "from") if begin is not None else last - dt.timedelta(days=default_days)
    if first >= last:
        raise InputError("invalid_parameter", "from must be before to.", "from")
    if last - first > dt.timedelta(days=days):
        raise InputError("range_too_wide", f"The range between from and to must be at most {days} days.", "from")
    return first, last


async def _wanted(call: Call) -> scan_log.Filter:
    """The scans that the query selects. Raises InputError if it names an object that the account does not have."""
    xuid, group_id, batch_id = call.parameter("tag"), call.optional_id("group"), call.optional_id("batch")
    for kind, statement, key in (("group", "tag_group", group_id), ("batch", "batch", batch_id)):
        if key is not None:
            await call.row(kind, statement, key)
    tags = None
    if xuid is not None:
        tags = await scan_log.tag_ids(call.connection, call.account_id, xuid)
        if not tags:
            raise not_found("tag")
    return scan_log.Filter(tags, group_id or 0, batch_id or 0)


def _scan(row: Any) -> LoggedScan:
    position = row["position"]
    version, counter = (None, None)
    if position is not None:
        version, counter = position >> POSITION_COUNTER_BITS, position & POSITION_COUNTER_MASK
    verdict = scan_log.verdict_of(row["verdict"])
    return LoggedScan(f"{row['scan_id']:016x}", row["at"], row["xuid"], verdict, row["reason"], version, counter)


async def list_scans(call: Call) -> web.Response:
    limit, cursor = call.limit(), call.cursor(3)
    begin, end = _range(call, scan_log.SCANS_RANGE_DAYS_MAX, default_days=1)
    verdicts = call.words("verdict", list(scan_log.WORDS.values()))
    before = scan_log.PageCursor(*cursor) if cursor is not None else None
    if before is not None and not scan_log.microseconds(begin) <= before.at_us <= scan_log.microseconds(end):
        raise InputError(
            "invalid_parameter", "cursor belongs to a different range; send it with the from and to of the first page.", "cursor"
        )
    wanted = (await _wanted(call))._replace(verdicts=verdicts)
    rows, following = await scan_log.scans(
        call.connection, call.account_id, begin, end, limit=limit, wanted=wanted, before=before
    )
    return call.page([_scan(row) for row in rows], following)


async def count_scans(call: Call) -> web.Response:
    by = call.word("by", scan_log.BY, "day")
    assert by is not None
    limit = call.number("limit", _COUNTS_MAX if by == "hour" else _COUNTS, _COUNTS_MAX)
    begin, end = _range(call, scan_log.COUNTS_RANGE_DAYS_MAX, default_days=7)
    wanted = await _wanted(call)
    found = await scan_log.counts(call.connection, call.account_id, begin, end, by=by, limit=limit, wanted=wanted)
    counts = [Count(name, sum(verdicts.values()), verdicts) for name, verdicts in found.items()]
    return json_response(msgspec.to_builtins(Stats(begin, end, by, counts)))  # type: ignore[arg-type]
