"""One scan on its way from the socket to the answer.

A `Scan` is asked by an edge (`ref`, `counter`, `mac` …), judged by the engine (`record`, `authentic`, `position`), settled by
the ledger (`outcome`, `previous_position`, `scan_count`) and decided by the rules (`verdict`, `rule`). It is answered
exactly once, through `reply`. There is one object a scan and no Future or Task, because at 50,000 scans a second each
of those costs more than the cryptography.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ixfast.domain.model import Evidence, Verdict

if TYPE_CHECKING:
    from ixfast.domain.records import ApiKey, TagRecord
    from ixfast.trace import Trace

COUNTED_ONLY = -1
"""The position of a scan that has no counter to compare and is only counted."""

KEYED_FROM = 1 << 62
"""Scans with an Idempotency-Key have an id of this or more, all others a smaller one: the ledger's statement tells them apart by
it (`sql/ledger.sql`)."""

POSITION_COUNTER_BITS = 24
POSITION_COUNTER_MASK = 0xFFFFFF


class Outcome(enum.IntEnum):
    """What the ledger found. `UNDECIDED` never reaches an answer."""

    UNDECIDED = 0
    ADVANCED = 1  # durably newer than everything before: the only one that may pass
    REPLAYED = 2  # durably not newer
    REPEATED = 3  # this very tap was the newest accepted one, inside the group's retry window


_UNDECIDED = Outcome.UNDECIDED


class Visitor:
    """The person who tapped, passed through by the caller."""

    __slots__ = ("address", "user_agent")

    def __init__(self, address: str | None, user_agent: str | None) -> None:
        self.address = address
        self.user_agent = user_agent


class Extras:
    """What only some scans carry; a scan of the hot form has none."""

    __slots__ = (
        "evidence",
        "first_at",
        "idempotent",
        "parameters",
        "peek",
        "url",
        "visitor",
        "wants_state",
    )

    def __init__(
        self,
        parameters: Mapping[str, str] | None = None,
        url: str | None = None,
        *,
        peek: bool = False,
        idempotent: bool = False,
        wants_state: bool = False,
        visitor: Visitor | None = None,
    ) -> None:
        self.parameters = parameters  # by name, percent-decoded
        self.url = url  # the tapped URL or query string, verbatim
        self.peek = peek  # look, do not consume
        self.idempotent = idempotent  # scan_id was derived from the caller's key
        self.wants_state = wants_state  # the answer shows the durable counter even of a refused scan
        self.visitor = visitor
        self.evidence: Evidence | None = None
        self.first_at: float | None = None  # when this scan was first answered (Unix time), if it was answered before


class Scan:
    """One scan; see the module's docstring for who fills in what."""

    __slots__ = (
        "answered", "api_key", "arrived", "authentic", "counter", "error", "error_detail", "error_field", "extras", "held_rounds",
        "mac", "outcome", "position", "previous_position", "reason", "record", "ref", "reply", "rule", "scan_count", "scan_id",
        "tag_id", "trace", "unresolved", "verdict",
    )  # fmt: skip

    def __init__(
        self,
        reply: Callable[[Scan], None],
        ref: bytes,
        counter: int,
        mac: bytes | None,
        api_key: ApiKey | None,
        scan_id: int,
        arrived: float,
        extras: Extras | None = None,
    ) -> None:
        self.reply = reply
        self.ref = ref  # catalogue reference, see refs.py
        self.counter = counter  # as mirrored in the clear; -1: not given
        self.mac = mac  # SDMMAC, 8 bytes
        self.api_key = api_key
        self.scan_id = scan_id  # below 2^62 and unique, or derived from an Idempotency-Key; what a lost reply is resolved by
        self.arrived = arrived  # loop time in seconds
        self.extras = extras
        self.trace: Trace | None = None
        # Judged by the engine.
        self.record: TagRecord | None = None
        self.authentic = False
        self.reason: str | None = None
        self.tag_id = 0
        self.position = COUNTED_ONLY
        # Settled by the ledger.
        self.outcome = _UNDECIDED
        self.previous_position = 0  # 0: none
        self.scan_count = 0
        self.unresolved = False  # an earlier attempt's reply was lost: it may have been accepted
        self.held_rounds = 0
        # Decided by the rules, or ended without a verdict.
        self.verdict: Verdict | None = None
        self.rule = -1  # index of the matched rule group, -1 for the default
        self.answered = False
        self.error: str | None = None  # the wire's error code
        self.error_detail: str | None = None  # the reason behind it
        self.error_field: str | None = None  # the parameter that an `invalid_parameter` is about


def parameters_of(scan: Scan) -> dict[str, str]:
    """The scan's parameters by name, with those that the edge had already read in their standard names."""
    parameters = dict(scan.extras.parameters) if scan.extras is not None and scan.extras.parameters is not None else {}
    if scan.counter >= 0:
        parameters.setdefault("n", f"{scan.counter:06X}")
    if scan.mac is not None:
        parameters.setdefault("e", scan.mac.hex().upper())
    return parameters


def position(key_version: int, counter: int) -> int:
    """The place of a tap in the life of its tag: newer keys above older ones, counters rising inside each."""
    return key_version << POSITION_COUNTER_BITS | counter
