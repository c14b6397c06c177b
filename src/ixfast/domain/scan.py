"""One scan, from the request to the response.

An endpoint creates a `Scan` (`ref`, `counter`, `mac` …); the engine examines the tap (`record`, `authentic`, `position`), the
ledger settles it (`outcome`, `previous_position`, `scan_count`), and the engine and the rules decide (`verdict`, `rule`). The
scan is answered exactly once, through `reply`. There is one object per scan and no Future or Task, because at 50,000 scans a
second each of those costs more than the cryptography.

`scan.pxd` declares the fields for the compiled form.
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
"""The position of a scan without a counter: there is nothing to compare, and it is only counted."""

KEYED_FROM = 1 << 62
"""Scans with an Idempotency-Key have an id of at least this, all others a smaller one; the ledger's statement distinguishes
them by it (`sql/ledger.sql`)."""

POSITION_COUNTER_BITS = 24
POSITION_COUNTER_MASK = 0xFFFFFF


class Outcome(enum.IntEnum):
    """What the ledger returns for a scan. `UNDECIDED` is the initial value and never reaches a response."""

    UNDECIDED = 0
    ADVANCED = 1  # durably newer than every accepted tap: the only outcome that may pass
    REPLAYED = 2  # durably not newer
    REPEATED = 3  # the same tap as the newest accepted one, within the group's retry window
    REFUSED = 4  # refused before it reached the ledger, which only bound its Idempotency-Key


_UNDECIDED = Outcome.UNDECIDED


class Visitor:
    """The person who tapped, as far as the caller passes it on: IP address and user agent."""

    __slots__ = ("address", "user_agent")

    def __init__(self, address: str | None, user_agent: str | None) -> None:
        self.address = address
        self.user_agent = user_agent


class Extras:
    """What only some scans carry; a plain scan on the hot path has none."""

    __slots__ = (
        "aid",
        "complaint",
        "cors",
        "evidence",
        "fingerprint",
        "first_at",
        "idempotent",
        "named",
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
        fingerprint: int = 0,
        wants_state: bool = False,
        visitor: Visitor | None = None,
        aid: str | None = None,
        named: bool = False,
    ) -> None:
        self.parameters = parameters  # by name, percent-decoded
        self.url = url  # the tapped URL or query string, verbatim
        self.peek = peek  # examine the tap without consuming it
        self.idempotent = idempotent  # scan_id is derived from the caller's Idempotency-Key
        self.fingerprint = fingerprint  # of the tap as it was sent, with an Idempotency-Key; 0: unknown
        self.wants_state = wants_state  # the response shows the durable counter even for a refused scan
        self.visitor = visitor
        self.aid = aid  # the account that the caller names, unless an API key does
        self.named = named  # scan.ref is what names the tag; otherwise the tap may name another one if that tag does not exist
        self.complaint: str | None = None  # what is wrong with the parameter that `scan.error_field` names, without its value
        self.cors = True  # whether pages may read the complaint: False if the account whose profiles read the tap forbids it
        self.evidence: Evidence | None = None
        self.first_at: float | None = None  # Unix time of the first response under this Idempotency-Key, if there was one


class Scan:
    """One scan; the module docstring says which step sets which attributes."""

    __slots__ = (
        "aid", "answered", "api_key", "arrived", "authentic", "counter", "error", "error_detail", "error_field", "extras",
        "held_rounds", "mac", "outcome", "position", "previous_position", "reason", "record", "ref", "reply", "route", "rule",
        "scan_count", "scan_id", "tag_id", "trace", "unresolved", "verdict",
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
        self.ref = ref  # catalogue reference, see references.py
        self.counter = counter  # mirrored in the clear; -1: absent
        self.mac = mac  # SDMMAC, 8 bytes
        self.api_key = api_key
        self.aid: str | None = None  # the account to which a caller without an API key confines the scan
        self.scan_id = scan_id  # unique and below KEYED_FROM, or derived from an Idempotency-Key; resolves a lost reply
        self.arrived = arrived  # event loop time in seconds
        self.route = -1  # index in `meters.ROUTES`; -1: the duration is not measured
        self.extras = extras
        self.trace: Trace | None = None
        # Set by the engine.
        self.record: TagRecord | None = None
        self.authentic = False
        self.reason: str | None = None
        self.tag_id = 0
        self.position = COUNTED_ONLY
        # Set by the ledger.
        self.outcome = _UNDECIDED
        self.previous_position = 0  # 0: none
        self.scan_count = 0
        self.unresolved = False  # the reply to an earlier attempt was lost: it may have been accepted
        self.held_rounds = 0
        # The decision, or the error that ended the scan without a verdict.
        self.verdict: Verdict | None = None
        self.rule = -1  # index of the matched rule group; -1: the default
        self.answered = False
        self.error: str | None = None  # error code of the response
        self.error_detail: str | None = None  # its machine-readable reason
        self.error_field: str | None = None  # the parameter that `invalid_parameter` refers to


def parameters_of(scan: Scan) -> dict[str, str]:
    """The scan's parameters by name, with counter and MAC under the names of `/v1/t` (`n`, `e`) if the endpoint has read them."""
    parameters = dict(scan.extras.parameters) if scan.extras is not None and scan.extras.parameters is not None else {}
    if scan.counter >= 0:
        parameters.setdefault("n", f"{scan.counter:06X}")
    if scan.mac is not None:
        parameters.setdefault("e", scan.mac.hex().upper())
    return parameters


def position(key_version: int, counter: int) -> int:
    """The position of a tap among all taps of its tag: newer keys above older ones, counters ascending within each.

    24 bits of counter below 7 bits of key version, so that one integer comparison orders taps.
    """
    return key_version << POSITION_COUNTER_BITS | counter


def gap_before(position: int, previous: int) -> int | None:
    """How many taps the chip counted between two accepted positions, which never arrived here.

    None if it is unknown: there is no previous position (0), it is not below `position`, or a key change lies between them.
    """
    if not 0 < previous < position or previous >> POSITION_COUNTER_BITS != position >> POSITION_COUNTER_BITS:
        return None
    return position - previous - 1
