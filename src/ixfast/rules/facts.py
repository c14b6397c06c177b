"""Facts: what rules may ask of a scan, which operators fit, and where each is read.

This is the only module of the rules that knows how a scan and its record look. Every reader gives None for what is not known:
a scan of a forged tap has no counter that could be believed, most scans have no visitor.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ixfast.domain.model import Verdict
from ixfast.domain.scan import COUNTED_ONLY, POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, Scan
from ixfast.rules import visitors, wall_clock

FIELD = "field."
"""What the name of an extended field begins with as a fact."""


class Kind(enum.Enum):
    """What a fact's values are, and so which operators it has."""

    WORD = "one of a few words"
    NUMBER = "a whole number, not negative"
    TRUTH = "true or false"
    TEXT = "text, compared exactly"
    FOLDED = "text, upper and lower case alike"
    COUNTRY = "a country code of two letters (ISO 3166)"
    TIME = "a time of day, as 09:30 or 09:30:00"
    DATE = "a date, as 2026-01-31"
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
        """Words that may be unknown can be asked for that, too."""
        return (*OPERATORS[self.kind], *_KNOWN) if self.words in (_STATES, ORIGINALITY_WORDS) else OPERATORS[self.kind]


TAMPER_WORDS = {"C": "closed", "O": "open", "I": "not_enabled"}
ORIGINALITY_WORDS = ("genuine", "forged")
_STATES = tuple(TAMPER_WORDS.values())
_VERDICTS = tuple(v.value for v in Verdict if v not in (Verdict.INACTIVE, Verdict.UNKNOWN))

FACTS: Mapping[str, Fact] = MappingProxyType(
    {
        fact.name: fact
        for fact in (
            Fact("authentication", Kind.WORD, "`pass`: verdict `genuine` or `repeat`; `fail`: every other", ("pass", "fail")),
            Fact("verdict", Kind.WORD, "what became of the scan", _VERDICTS),
            Fact("scan_count", Kind.NUMBER, "scans of this tag, this one included"),
            Fact("first_scan", Kind.TRUTH, "whether `scan_count` is 1"),
            Fact("chip_count", Kind.NUMBER, "the chip's own counter of this tap"),
            Fact("gap", Kind.NUMBER, "taps that the chip counted since the last accepted one, and that never came here"),
            Fact("tamper", Kind.WORD, "the tamper wire now, as mirrored by the chip", _STATES),
            Fact("tamper.stored", Kind.WORD, "whether the tamper wire was ever found open", _STATES),
            Fact("originality", Kind.WORD, "what NXP's signature says of the chip, if one was registered", ORIGINALITY_WORDS),
            Fact("time", Kind.TIME, "the time of day"),
            Fact("date", Kind.DATE, "the day"),
            Fact("weekday", Kind.WEEKDAY, "the day of the week"),
            Fact("country", Kind.COUNTRY, "where the visitor's address is"),
            Fact("os", Kind.FOLDED, "the visitor's operating system, as `iOS`, `Android`, `Windows`, `macOS`"),
            Fact("browser", Kind.FOLDED, "the visitor's browser, as `Safari`, `Chrome`, `Firefox`, `Edge`"),
            Fact("assigned", Kind.TRUTH, "whether the tag is assigned"),
            Fact("cuid", Kind.TEXT, "the customer's own id of the tag"),
            Fact("batch", Kind.TEXT, "the name of the tag's batch"),
        )
    }
)

ALIASES = {"tamper.current": "tamper"}


def find_fact(name: str) -> Fact | None:
    """A fact by its name; `field.NAME` is the extended field NAME."""
    if name.startswith(FIELD) and len(name) > len(FIELD):
        return Fact(name, Kind.TEXT, "an extended field")
    return FACTS.get(ALIASES.get(name, name))


# Readers. Compiled rules call those of the costly facts; the cheap ones they read in place (compiler.py).


def scan_count(scan: Scan) -> int | None:
    """Scans of the tag with this one. Of a refused scan it is not known: it was not counted, and often not even asked for."""
    return scan.scan_count if scan.authentic or scan.verdict is Verdict.PLAIN else None


def chip_count(scan: Scan) -> int | None:
    """The chip's counter of this tap, once its MAC has been found right; a replayed tap has one, too."""
    return scan.position & POSITION_COUNTER_MASK if scan.position != COUNTED_ONLY else None


def gap(scan: Scan) -> int | None:
    """Taps between this accepted one and the accepted one before, under one key version."""
    before = scan.previous_position
    if not scan.authentic or before is None or scan.position <= before:
        return None
    if before >> POSITION_COUNTER_BITS != scan.position >> POSITION_COUNTER_BITS:
        return None
    return scan.position - before - 1


def tamper_states(scan: Scan) -> tuple[str | None, str | None]:
    """The wire now and ever, in words."""
    extras = scan.extras
    evidence = extras.evidence if extras is not None else None
    tamper = evidence.tamper if evidence is not None else None
    if tamper is None:
        return None, None
    return TAMPER_WORDS.get(tamper.current), TAMPER_WORDS.get(tamper.stored)


def originality(scan: Scan) -> str | None:
    """What the signature says that was registered for the chip, of a tap that the chip's key has made."""
    proved = scan.authentic or scan.verdict is Verdict.REPLAYED
    return getattr(scan.record, "originality", None) if proved else None


def field_value(scan: Scan, name: str) -> str | None:
    """An extended field of the tag, by its own name or as a URL parameter is called (`field_key`)."""
    fields: Mapping[str, str] | None = getattr(scan.record, "fields", None)
    if not fields:
        return None
    value = fields.get(name)
    if value is None:
        key = field_key(name)
        value = next((own for other, own in fields.items() if field_key(other) == key), None)
    return value


def reply_fields(scan: Scan) -> Mapping[str, str]:
    """The extended fields that are switched on to be part of the reply, by name, in their order."""
    fields: Mapping[str, str] | None = getattr(scan.record, "reply_fields", None)
    return fields or {}


def created_at(scan: Scan) -> float | None:
    """When the tag was made known here, Unix time in seconds."""
    return getattr(scan.record, "created_at", None)


def assigned_at(scan: Scan) -> float | None:
    """When the tag was assigned, Unix time in seconds."""
    return getattr(scan.record, "assigned_at", None)


def field_key(name: str) -> str:
    """An extended field's name as a parameter of a URL: in lower case, `_` for spaces."""
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
    """These facts of a scan by name, None being unknown, and `now` if a zoned one is among them. For the interpreter."""
    found: dict[str, Any] = {}
    for name in names:
        fact = find_fact(name)
        assert fact is not None, name
        if fact.kind in ZONED:
            found["now"] = wall_clock.now()
        else:
            found[name] = (_READERS.get(name) or _of_field(name.removeprefix(FIELD)))(scan)
    return found
