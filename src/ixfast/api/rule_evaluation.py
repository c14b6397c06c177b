"""Rule sets in the Python API: load a document, choose the response for given facts, and explain the choice.

The interpreter decides, not the compiled form that the engine runs; tests compare the two.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ixfast import rules as rule_sets
from ixfast.api.arguments import check_type, shortened
from ixfast.errors import InputError, quoted
from ixfast.responses.response_text import compile_response
from ixfast.rules import RuleError, Rules, RuleStep
from ixfast.rules.comparison import check_fact, check_value

Fact = bool | int | str
"""The value of a fact."""


class Choice(msgspec.Struct, frozen=True):
    """The response that a rule set chooses. `group` is the name of the rule group that matched, None for the default."""

    group: str | None
    response: str


def read_rules(document: Path | bytes | str | dict[str, Any]) -> Rules:
    """Read a rule set: JSON text of at most 256 KiB, the decoded document, or the `Path` of a file.

    docs/reference/rules.md describes rule sets.

    Raises `RuleError`, an `InputError`, with the place of the mistake and what was probably meant; nothing of an invalid document
    is used. Raises `InputError` for an invalid response text and for a file that cannot be read.

    >>> import ixfast
    >>> sealed = "authentication == pass and tamper == closed"
    >>> rules = ixfast.read_rules(
    ...     {
    ...         "groups": [{"name": "sealed", "when": sealed, "response": "Sealed"}],
    ...         "default": "Do not trust",
    ...     }
    ... )
    >>> sorted(rules.facts)
    ['authentication', 'tamper']
    """
    check_type(document, Path | bytes | str | dict, "document", "JSON text, a dict or a Path", "invalid_rule")
    checked = rule_sets.read_rules(_bytes_of(document) if isinstance(document, Path) else document)
    for response in (*(group.response for group in checked.groups), checked.default):
        compile_response(response)
    return checked


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("invalid_parameter", shortened(f"Cannot read {path}: {error.strerror}."), "document") from None
    except ValueError:  # NUL, or an unpaired surrogate
        raise InputError("invalid_parameter", shortened(f"Cannot read {path}: Invalid path."), "document") from None


def choose_response(rules: Rules, facts: Mapping[str, Fact], *, now: datetime | None = None) -> Choice:
    """The response that the rule set chooses for a scan with these facts: that of the first group whose condition is true.

    - `facts`: values by the names in docs/reference/rules.md, such as `{"authentication": "pass", "scan_count": 3}`. A fact that
      is absent is unknown; `first_scan` follows from `scan_count`.
    - `now`: the time of the scan, for conditions about time, date and weekday; the current time by default. A time without a
      time zone is in UTC.

    The response is the text as its owner wrote it, with its subtags. Raises `RuleError` for a name that is not a fact, and for a
    value that the fact cannot have.

    >>> import ixfast
    >>> rules = ixfast.read_rules(
    ...     {
    ...         "groups": [{"name": "new", "when": "scan_count < 5", "response": "Welcome"}],
    ...         "default": "Hello again",
    ...     }
    ... )
    >>> ixfast.choose_response(rules, {"scan_count": 1})
    Choice(group='new', response='Welcome')
    >>> ixfast.choose_response(rules, {})
    Choice(group=None, response='Hello again')
    """
    check_type(rules, Rules, "rules", "what ixfast.read_rules returns")
    index = rule_sets.decide(rules, checked_facts(facts, now))
    if index < 0:
        return Choice(None, rules.default)
    return Choice(rules.groups[index].name, rules.groups[index].response)


def explain_rules(rules: Rules, facts: Mapping[str, Fact], *, now: datetime | None = None) -> list[RuleStep]:
    """Every group up to and including the one that matches, with the result of each part of its condition.

    The steps are in document order. `depth` is 0 for a group and its result, 1 for its condition, 2 and more for the parts of a
    condition; `holds` is true, false, or None for unknown; `found` is the value of the fact. The arguments and errors are those
    of `choose_response`.

    >>> import ixfast
    >>> rules = ixfast.read_rules(
    ...     {
    ...         "groups": [{"name": "new", "when": "scan_count < 5", "response": "Welcome"}],
    ...         "default": "Hello again",
    ...     }
    ... )
    >>> for step in ixfast.explain_rules(rules, {"scan_count": 7}):
    ...     print(step.depth, step.name, step.holds, step.found or "-")
    0 new False -
    1 scan_count < 5 False 7
    0 default True -
    """
    check_type(rules, Rules, "rules", "what ixfast.read_rules returns")
    return rule_sets.explain(rules, checked_facts(facts, now))


def checked_facts(facts: Mapping[str, Fact], now: datetime | None = None) -> dict[str, Any]:
    """Facts by name in normal form, each checked like a value in a rule, with `now` and what follows from others."""
    check_type(facts, Mapping, "facts", "a mapping")
    check_type(now, datetime | None, "now", "a datetime")
    moment = time.time() if now is None else (now if now.tzinfo is not None else now.replace(tzinfo=UTC)).timestamp()
    found: dict[str, Any] = {"now": moment}
    for name, value in facts.items():
        check_type(name, str, "facts", "a mapping from names to values")
        try:
            fact = check_fact(name)
            found[fact.name] = check_value(fact, "==", value)
        except RuleError as error:
            raise error.within(shortened(f"facts[{quoted(name)}]")) from None
    if "scan_count" in found:  # first_scan follows from it
        found.setdefault("first_scan", found["scan_count"] == 1)
    return found
