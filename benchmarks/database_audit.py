"""The audit: does the database hold exactly what was acknowledged?

`held` has for each tag (by its index in the fleet) the number of taps that were answered as passed, the last counter of these,
and the number of taps that ended without a verdict, which may or may not have been accepted. An audit lists the problems that
it found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.load.traffic import Traffic, fleet_of
from ixfast.domain.scan import POSITION_COUNTER_MASK

Held = Mapping[int, tuple[int, int, int]]
_SHOWN_MAX = 5


class Audit(NamedTuple):
    passes_acknowledged: int
    passes_uncertain: int
    passes_in_database: int
    tags: int
    problems: list[str]


def nothing() -> Audit:
    """The audit of a contender without a database."""
    return Audit(0, 0, 0, 0, [])


async def of_ixfast(connection: Any, traffic: Traffic, held: Held) -> Audit:
    """Counters and scan log of an ixfast database."""
    rows = await connection.fetch(
        "SELECT t.xuid, c.last_position & $1 AS counter, c.scan_count"
        " FROM tag_counter AS c JOIN tag AS t USING (tag_id) WHERE c.scan_count > 0",
        POSITION_COUNTER_MASK,
    )
    audit = _compare({row["xuid"]: (row["scan_count"], row["counter"]) for row in rows}, traffic, held)
    logged = await connection.fetch(
        "SELECT t.xuid, c.scan_count, count(l.*) AS logged,"
        " count(DISTINCT l.position) AS positions, count(DISTINCT l.scan_id) AS ids"
        " FROM tag_counter AS c JOIN tag AS t USING (tag_id) LEFT JOIN scan_log AS l ON l.tag_id = c.tag_id AND l.verdict = 'g'"
        " WHERE c.scan_count > 0 OR l.tag_id IS NOT NULL"  # there may be millions of tags that were never tapped
        " GROUP BY t.xuid, c.scan_count HAVING count(l.*) <> c.scan_count"
        " OR count(DISTINCT l.position) <> c.scan_count OR count(DISTINCT l.scan_id) <> c.scan_count"
    )
    audit.problems.extend(
        _shortened(
            f"tag {row['xuid']}: {row['scan_count']} passes counted, {row['logged']} logged,"
            f" {row['positions']} different positions, {row['ids']} different scans"
            for row in logged
        )
    )
    return audit


async def of_peer(connection: Any, traffic: Traffic, held: Held) -> Audit:
    """Counters of the peers' table."""
    rows = await connection.fetch("SELECT code, last_counter, scan_count FROM peer_tag WHERE scan_count > 0")
    return _compare({row["code"]: (row["scan_count"], row["last_counter"]) for row in rows}, traffic, held)


async def of_ledger(connection: Any, advanced: int) -> Audit:
    """Totals after a run of the ledger's statement alone."""
    counted = await connection.fetchval("SELECT coalesce(sum(scan_count), 0)::bigint FROM tag_counter")
    logged = await connection.fetchval("SELECT count(*) FROM scan_log WHERE verdict = 'g'")
    tags = await connection.fetchval("SELECT count(*) FROM tag_counter WHERE scan_count > 0")
    problems = [] if advanced == counted == logged else [f"{advanced} advanced, {counted} counted, {logged} logged"]
    return Audit(advanced, 0, counted, tags, problems)


def _compare(found: Mapping[str, tuple[int, int]], traffic: Traffic, held: Held) -> Audit:
    fleet = fleet_of(traffic)
    expected = {fleet.xuid(tag): state for tag, state in held.items()}
    problems = []
    for code in expected.keys() | found.keys():
        passes, last, uncertain = expected.get(code, (0, 0, 0))
        counted, counter = found.get(code, (0, 0))
        if not passes <= counted <= passes + uncertain:
            problems.append(f"tag {code}: {passes} passes acknowledged ({uncertain} uncertain), {counted} counted")
        elif counter < last or (not uncertain and counter != last):
            problems.append(f"tag {code}: the last acknowledged counter is {last}, the database has {counter}")
    return Audit(
        sum(state[0] for state in expected.values()),
        sum(state[2] for state in expected.values()),
        sum(counted for counted, _ in found.values()),
        len(found),
        _shortened(problems),
    )


def _shortened(problems: Any) -> list[str]:
    found = list(problems)
    return found[:_SHOWN_MAX] + ([f"and {len(found) - _SHOWN_MAX} more"] if len(found) > _SHOWN_MAX else [])


Auditor = Callable[[Any, Traffic, Held], Any]
