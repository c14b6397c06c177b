"""Validates one comparison for both notations: fact, operator, value and time zone.

Values are returned in the normal form of the condition tree: words in lower case, countries in upper case, times as 09:30, no
duplicates. Every message says how to correct the comparison. Errors are raised without a place, which the notation adds.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from datetime import date

from ixfast.limits import FIELD_NAME_CHARS_MAX, RULE_NUMBER_MAX, RULE_TEXT_CHARS_MAX, RULE_VALUES_MAX
from ixfast.rules import visitors, wall_clock
from ixfast.rules.condition_tree import Scalar, Value
from ixfast.rules.facts import ALIASES, FACTS, FIELD, WEEKDAYS, ZONED, Fact, Kind, find_fact
from ixfast.rules.rule_error import RuleError, nearest, quoted, quoted_name

LISTED = ("in", "not in", "between")
VALUELESS = ("known", "unknown")
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_COUNTRY_HINTS = {"UK": "GB", "EL": "GR"}


def check_fact(name: str) -> Fact:
    """The fact of this name or alias."""
    fact = find_fact(name)
    if fact is None:
        known = [*FACTS, *ALIASES, FIELD + "NAME"]
        raise RuleError(f"Unknown fact {quoted_name(name)}.", suggestion=nearest(name, known))
    if fact.name.startswith(FIELD):
        own = fact.name.removeprefix(FIELD)
        if len(own) > FIELD_NAME_CHARS_MAX or not own.isprintable() or own != own.strip():
            raise RuleError(f"The name of an extended field must have 1 to {FIELD_NAME_CHARS_MAX} printable characters.")
    return fact


def check_operator(fact: Fact, op: str) -> str:
    """The operator in normal form."""
    op = "==" if op == "=" else op
    if op not in fact.operators:
        known = ", ".join(fact.operators)
        raise RuleError(
            f"{fact.name} does not support the operator {quoted(op)}; it supports {known}.",
            suggestion=nearest(op, fact.operators),
        )
    return op


def check_value(fact: Fact, op: str, value: object) -> Value:
    """The value in normal form. `value` is a scalar, a list or None, depending on the operator."""
    if op in VALUELESS:
        if value is not None:
            raise RuleError(f"{op!r} takes no value.")
        return None
    if op not in LISTED:
        return _scalar(fact, value)
    if not isinstance(value, (list, tuple)):
        raise RuleError(f"{op!r} requires a list of values.")
    if op == "between":
        return _range(fact, value)
    if not 0 < len(value) <= RULE_VALUES_MAX:
        raise RuleError(f"{op!r} requires 1 to {RULE_VALUES_MAX} values.")
    return tuple(dict.fromkeys(_scalar(fact, item) for item in value))


def check_zone(fact: Fact, zone: str | None) -> str | None:
    """The time zone, if it exists and the fact takes one."""
    if zone is None:
        return None
    if fact.kind not in ZONED:
        raise RuleError(f"{fact.name} does not take a time zone; only time, date and weekday do.")
    return check_zone_name(zone)


def check_zone_name(zone: str) -> str:
    try:
        return wall_clock.find_zone(zone).name
    except ValueError:
        names = {name.lower(): name for name in wall_clock.zone_names()}
        near = names.get(nearest(zone, names) or "")
        raise RuleError(f"Unknown time zone {quoted(zone)}.", suggestion=near) from None


def _range(fact: Fact, value: list[object] | tuple[object, ...]) -> tuple[Scalar, ...]:
    if len(value) != 2:
        raise RuleError("'between' requires two values, the first and the last.")
    first, last = _scalar(fact, value[0]), _scalar(fact, value[1])
    if fact.kind is Kind.TIME:
        if first == last:
            raise RuleError("'between' requires two different times.")
    elif first > last:  # type: ignore[operator]  # both have the type of the fact
        raise RuleError(f"'between' requires the smaller value first: {last} and {first}.")
    return first, last


def _scalar(fact: Fact, value: object) -> Scalar:
    if fact.kind is Kind.NUMBER:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= RULE_NUMBER_MAX:
            raise RuleError(f"{fact.name} must be compared with a whole number from 0 to {RULE_NUMBER_MAX}.")
        return value
    if fact.kind is Kind.TRUTH:
        if not isinstance(value, bool):
            raise RuleError(f"{fact.name} must be compared with true or false.")
        return value
    if not isinstance(value, str):
        raise RuleError(f"{fact.name} must be compared with text: {fact.kind.value}.")
    return _TEXTS[fact.kind](fact, value)


def _word(fact: Fact, value: str) -> str:
    if value.lower() not in fact.words:
        raise RuleError(
            f"{fact.name} must be one of {', '.join(fact.words)} (got {quoted(value)}).", suggestion=nearest(value, fact.words)
        )
    return value.lower()


def _text(fact: Fact, value: str) -> str:
    # Unprintable characters cannot be typed in a line, and an unpaired surrogate cannot be encoded.
    if not 0 < len(value) <= RULE_TEXT_CHARS_MAX or not value.isprintable():
        raise RuleError(f"{fact.name} must be compared with 1 to {RULE_TEXT_CHARS_MAX} printable characters.")
    return value


def _folded(fact: Fact, value: str) -> str:
    return _text(fact, value).lower()


def _country(fact: Fact, value: str) -> str:
    code = value.upper()
    if code not in visitors.countries():
        raise RuleError(f"{quoted(value)} is not a two-letter country code (ISO 3166).", suggestion=_COUNTRY_HINTS.get(code))
    return code


def _time(fact: Fact, value: str) -> str:
    if not _TIME.fullmatch(value):
        raise RuleError(f"{fact.name} must be compared with a time from 00:00 to 23:59, optionally with seconds.")
    return value.removesuffix(":00") if len(value) > 5 else value


def _date(fact: Fact, value: str) -> str:
    with contextlib.suppress(ValueError):  # the form of a date, but not in the calendar
        if _DATE.fullmatch(value):
            return date.fromisoformat(value).isoformat()
    raise RuleError(f"{fact.name} must be compared with a date such as 2026-01-31.")


def _weekday(fact: Fact, value: str) -> str:
    day = value.lower()
    if day not in WEEKDAYS and day not in _LONG_DAYS:
        raise RuleError(
            f"{fact.name} must be one of {', '.join(WEEKDAYS)} (got {quoted(value)}).", suggestion=nearest(value, WEEKDAYS)
        )
    return day[:3]


_LONG_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TEXTS: Mapping[Kind, Callable[[Fact, str], str]] = {
    Kind.WORD: _word,
    Kind.TEXT: _text,
    Kind.FOLDED: _folded,
    Kind.COUNTRY: _country,
    Kind.TIME: _time,
    Kind.DATE: _date,
    Kind.WEEKDAY: _weekday,
}


def seconds_of(time_text: str) -> int:
    """The second of the day of a time in normal form."""
    hours, minutes, seconds = (time_text + ":00").split(":")[:3]
    return (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
