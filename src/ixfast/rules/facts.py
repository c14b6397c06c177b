"""Facts: what rules can ask about a scan, with the operators of each fact and the function that reads it.

Only this module and the compiler's fragments depend on the attributes of scans and records. A reader returns None for an unknown
fact: a forged tap has no trustworthy counter, and most scans have no visitor.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ixfast.domain.model import ORIGINALITY_WORDS, TAMPER_WORDS, Verdict
from ixfast.domain.scan import COUNTED_ONLY, POSITION_COUNTER_MASK, Scan, gap_before
from ixfast.rules import visitors, wall_clock

FIELD = "field."
"""The prefix of an extended field's name as a fact."""


class Kind(enum.Enum):
    """The kind of a fact's values, which determines its operators. The value describes them in messages."""

    WORD = "one of a few words"
    NUMBER = "a whole number of 0 or more"
    TRUTH = "true or false"
    TEXT = "text, compared exactly"
    FOLDED = "text, compared without regard to case"
    COUNTRY = "a two-letter country code (ISO 3166)"
    TIME = "a time of day such as 09:30 or 09:30:00"
    DATE = "a date such as 2026-01-31"
    WEEKDAY = "mon, tue, wed, thu, fri, sat or sun"


WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_KNOWN = ("known", "unknown")
_IN = ("in", "not in")
_EQUAL = ("==", "!=")
OPERATORS: Mapping[Kind, tuple[str, ...]] = {
    Kind.WORD: _EQUAL + _IN,
    Kind.NUMBER: (*_EQUAL, "<", "<=", ">", ">=", "between", *_KNOWN),
    Kind.TRUTH: _EQUAL,
    Kind.TEXT: (*_EQUAL, *_IN, "starts with", *_KNOWN),
    Kind.FOLDED: (*_EQUAL, *_IN, *_KNOWN),
    Kind.COUNTRY: (*_EQUAL, *_IN, *_KNOWN),
    Kind.TIME: ("between", "before", "after"),
    Kind.DATE: (*_EQUAL, *_IN, "between", "before", "after"),
    Kind.WEEKDAY: _EQUAL + _IN,
}

ZONED = frozenset((Kind.TIME, Kind.DATE, Kind.WEEKDAY))


class Fact(NamedTuple):
    name: str
    kind: Kind
    meaning: str
    words: tuple[str, ...] = ()  # of Kind.WORD

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators of its kind; words that may be unknown also have `known` and `unknown`."""
        return (*OPERATORS[self.kind], *_KNOWN) if self.words in (_STATES, ORIGINALITY_WORDS) else OPERATORS[self.kind]


_STATES = tuple(TAMPER_WORDS.values())
_VERDICTS = tuple(v.value for v in Verdict if v not in (Verdict.INACTIVE, Verdict.UNKNOWN))

FACTS: Mapping[str, Fact] = MappingProxyType(
    {
        fact.name: fact
        for fact in (
            Fact(
                "authentication",
                Kind.WORD,
                "`pass` for the verdicts `genuine` and `repeat`, `fail` for every other",
                ("pass", "fail"),
            ),
            Fact("verdict", Kind.WORD, "what the engine decided about the scan", _VERDICTS),
            Fact("scan_count", Kind.NUMBER, "scans of this tag, including this one"),
            Fact("first_scan", Kind.TRUTH, "whether `scan_count` is 1"),
            Fact("chip_count", Kind.NUMBER, "the chip's counter at this tap"),
            Fact("gap", Kind.NUMBER, "taps that the chip counted since the last accepted one and that never arrived"),
            Fact("tamper", Kind.WORD, "the current state of the tamper wire, as mirrored by the chip", _STATES),
            Fact("tamper.stored", Kind.WORD, "whether the tamper wire was ever found open", _STATES),
            Fact("originality", Kind.WORD, "the result of NXP's originality signature, if one was registered", ORIGINALITY_WORDS),
            Fact("time", Kind.TIME, "the time of day"),
            Fact("date", Kind.DATE, "the day"),
            Fact("weekday", Kind.WEEKDAY, "the day of the week"),
            Fact("country", Kind.COUNTRY, "the country of the visitor's IP address"),
            Fact("os", Kind.FOLDED, "the visitor's operating system, such as `iOS`, `Android`, `Windows`, `macOS`"),
            Fact("browser", Kind.FOLDED, "the visitor's browser, such as `Safari`, `Chrome`, `Firefox`, `Edge`"),
            Fact("assigned", Kind.TRUTH, "whether the tag is assigned"),
            Fact("cuid", Kind.TEXT, "the customer's own id for the tag"),
            Fact("batch", Kind.TEXT, "the name of the tag's batch"),
        )
    }
)

ALIASES = {"tamper.current": "tamper"}


def find_fact(name: str) -> Fact | None:
    """The fact of this name or alias, None if there is none; `field.NAME` is the extended field NAME."""
    if name.startswith(FIELD) and len(name) > len(FIELD):
        return Fact(name, Kind.TEXT, "an extended field")
    return FACTS.get(ALIASES.get(name, name))


# Readers. Compiled rules call those of the costly facts and read the cheap ones in place (compiler.py).


def scan_count(scan: Scan) -> int | None:
    """Scans of the tag, including this one. Unknown for a refused scan, which is not counted and often needs no read."""
    return scan.scan_count if scan.authentic or scan.verdict is Verdict.PLAIN else None


def chip_count(scan: Scan) -> int | None:
    """The chip's counter at this tap, if its MAC is right; a replayed tap has one, too."""
    return scan.position & POSITION_COUNTER_MASK if scan.position != COUNTED_ONLY else None


def gap(scan: Scan) -> int | None:
    """Taps that the chip counted between this accepted tap and the accepted one before, under one key version."""
    return gap_before(scan.position, scan.previous_position) if scan.authentic else None


def tamper_states(scan: Scan) -> tuple[str | None, str | None]:
    """The current and the stored state of the tamper wire, as words."""
    extras = scan.extras
    evidence = extras.evidence if extras is not None else None
    tamper = evidence.tamper if evidence is not None else None
    if tamper is None:
        return None, None
    return TAMPER_WORDS.get(tamper.current), TAMPER_WORDS.get(tamper.stored)


def originality(scan: Scan) -> str | None:
    """The result of the chip's originality signature, for a tap that was made with the chip's key."""
    made_by_chip = scan.authentic or scan.verdict is Verdict.REPLAYED
    return getattr(scan.record, "originality", None) if made_by_chip else None


def field_value(scan: Scan, name: str) -> str | None:
    """An extended field of the tag, by its name or by its name as a URL parameter (`field_key`)."""
    fields: Mapping[str, str] | None = getattr(scan.record, "fields", None)
    if not fields:
        return None
    value = fields.get(name)
    if value is None:
        key = field_key(name)
        value = next((own for other, own in fields.items() if field_key(other) == key), None)
    return value


def reply_fields(scan: Scan) -> Mapping[str, str]:
    """The extended fields that are enabled for the response, by name, in their order."""
    fields: Mapping[str, str] | None = getattr(scan.record, "reply_fields", None)
    return fields or {}


def created_at(scan: Scan) -> float | None:
    """When the tag was created, Unix time in seconds."""
    return getattr(scan.record, "created_at", None)


def assigned_at(scan: Scan) -> float | None:
    """When the tag was assigned, Unix time in seconds."""
    return getattr(scan.record, "assigned_at", None)


def field_key(name: str) -> str:
    """An extended field's name as a URL parameter: lower case, with `_` for spaces."""
    return name.lower().replace(" ", "_")


def _of_field(name: str) -> Callable[[Scan], str | None]:
    return lambda scan: field_value(scan, name)


_READERS: dict[str, Callable[[Scan], Any]] = {
    "authentication": lambda scan: "pass" if scan.authentic else "fail",
    "verdict": lambda scan: scan.verdict.value if scan.verdict is not None else None,
    "scan_count": scan_count,
    "first_scan": lambda scan: None if (count := scan_count(scan)) is None else count == 1,
    "chip_count": chip_count,
    "gap": gap,
    "tamper": lambda scan: tamper_states(scan)[0],
    "tamper.stored": lambda scan: tamper_states(scan)[1],
    "originality": originality,
    "country": visitors.country,
    "os": visitors.system,
    "browser": visitors.browser,
    "assigned": lambda scan: getattr(scan.record, "assigned", None),
    "cuid": lambda scan: getattr(scan.record, "cuid", None),
    "batch": lambda scan: getattr(getattr(scan.record, "batch", None), "name", None),
}


def read_facts(scan: Scan, names: frozenset[str]) -> dict[str, Any]:
    """These facts of a scan by name, None if unknown, with `now` in place of zoned ones. For the interpreter."""
    found: dict[str, Any] = {}
    for name in names:
        fact = find_fact(name)
        assert fact is not None, name
        if fact.kind in ZONED:
            found["now"] = wall_clock.now()
        else:
            found[name] = (_READERS.get(name) or _of_field(name.removeprefix(FIELD)))(scan)
    return found
