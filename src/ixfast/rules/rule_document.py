"""Rule sets as JSON documents: their form, their validation, and how they are written.

    {"groups": [{"name": "fresh", "when": "authentication == pass and scan_count < 5", "response": "Welcome"},
                {"name": "sealed", "when": {"fact": "tamper", "op": "==", "value": "closed"}, "response": "Sealed"}],
     "default": "Fail", "time_zone": "Europe/Berlin"}

A condition is a line (`line_notation.py`), a comparison, or `all`, `any` or `not` of conditions. A document is accepted as a
whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec

from ixfast.json_members import repeated_members
from ixfast.limits import (
    RESPONSE_CHARS_MAX,
    RULE_CONDITIONS_MAX,
    RULE_DEPTH_MAX,
    RULE_GROUPS_MAX,
    RULE_NAME_CHARS_MAX,
    RULE_SET_BYTES_MAX,
)
from ixfast.rules import condition_tree, line_notation
from ixfast.rules.comparison import check_fact, check_operator, check_value, check_zone, check_zone_name
from ixfast.rules.condition_tree import Comparison, Node
from ixfast.rules.facts import OPERATORS
from ixfast.rules.rule_error import RuleError, nearest, quoted_name

_FORMS = ("all", "any", "not", "fact")
_OPERATORS = list(dict.fromkeys(op for ops in OPERATORS.values() for op in ops))
_Scalar = bool | int | str
_Checked = TypeVar("_Checked")


class ConditionDocument(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, rename={"not_": "not"}):
    """One comparison (`fact`, `op`, and `value` unless the operator takes none), or `all`, `any` or `not` of conditions."""

    all: Annotated[list[str | ConditionDocument], msgspec.Meta(min_length=1)] | None = None
    any: Annotated[list[str | ConditionDocument], msgspec.Meta(min_length=1)] | None = None
    not_: str | ConditionDocument | None = None
    fact: str | None = None
    op: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*_OPERATORS, "="]})] | None = None
    value: _Scalar | list[_Scalar] | msgspec.UnsetType = msgspec.UNSET
    zone: str | None = None


class GroupDocument(msgspec.Struct, forbid_unknown_fields=True):
    """A rule group: its response is used if its condition is true and that of no earlier group is."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=RULE_NAME_CHARS_MAX)]
    when: str | ConditionDocument
    response: Annotated[str, msgspec.Meta(max_length=RESPONSE_CHARS_MAX)]


class RuleSetDocument(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A rule set: groups in the order in which they are tried, and the response if none matches."""

    groups: Annotated[list[GroupDocument], msgspec.Meta(max_length=RULE_GROUPS_MAX)]
    default: Annotated[str, msgspec.Meta(max_length=RESPONSE_CHARS_MAX)]
    time_zone: str = "UTC"


class RuleGroup(msgspec.Struct, frozen=True):
    name: str
    when: Node
    response: str


class Rules(msgspec.Struct, frozen=True):
    """A checked rule set."""

    groups: tuple[RuleGroup, ...]
    default: str
    time_zone: str = "UTC"

    @property
    def facts(self) -> frozenset[str]:
        """The names of the facts that the conditions use."""
        return frozenset(part.fact for group in self.groups for part in condition_tree.comparisons(group.when))


def read_rules(document: bytes | str | dict[str, Any]) -> Rules:
    """Validate a rule set, JSON text or decoded. RuleError carries the place and the reason."""
    return _checked(_decoded(document))


def schema() -> dict[str, Any]:
    """The JSON schema of rule sets. `read_rules` also checks what a schema cannot express, such as the operators of a fact."""
    found = msgspec.json.schema(RuleSetDocument)
    condition = found["$defs"]["ConditionDocument"]
    condition["oneOf"] = [{"required": [form]} for form in _FORMS[:3]] + [{"required": ["fact", "op"]}]
    for name in ("all", "any", "not", "fact", "op", "zone"):  # absent, never null
        found_property = condition["properties"][name]
        found_property["anyOf"] = [option for option in found_property["anyOf"] if option != {"type": "null"}]
        found_property.pop("default", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ixfast rule set", **found}


def to_document(rules: Rules, *, lines: bool = False) -> dict[str, Any]:
    """A validated rule set as a JSON document, with conditions as objects or lines; `read_rules` of it gives an equal rule
    set."""
    groups = [
        GroupDocument(g.name, line_notation.print_line(g.when) if lines else condition_document(g.when), g.response)
        for g in rules.groups
    ]
    found: dict[str, Any] = msgspec.to_builtins(RuleSetDocument(groups, rules.default, rules.time_zone))
    return found


def condition_document(node: Node) -> ConditionDocument:
    """A condition in JSON notation."""
    if isinstance(node, condition_tree.All):
        return ConditionDocument(all=[condition_document(part) for part in node.parts])
    if isinstance(node, condition_tree.Any):
        return ConditionDocument(any=[condition_document(part) for part in node.parts])
    if isinstance(node, condition_tree.Not):
        return ConditionDocument(not_=condition_document(node.part))
    value: Any = list(node.value) if isinstance(node.value, tuple) else node.value
    return ConditionDocument(fact=node.fact, op=node.op, value=msgspec.UNSET if value is None else value, zone=node.zone)


def _decoded(document: bytes | str | dict[str, Any]) -> RuleSetDocument:
    try:
        if isinstance(document, dict):
            document = msgspec.json.encode(document)
        elif isinstance(document, str):
            document = document.encode()
        if len(document) > RULE_SET_BYTES_MAX:
            raise RuleError(f"A rule set must have at most {RULE_SET_BYTES_MAX} bytes.", path="$")
        found = msgspec.json.decode(document, type=RuleSetDocument)
        repeated = repeated_members(document)
    except msgspec.ValidationError as error:
        raise _explained(str(error)) from None
    except RecursionError:
        raise RuleError(f"Conditions can be nested at most {RULE_DEPTH_MAX} deep.", path="$") from None
    except (msgspec.DecodeError, UnicodeError, TypeError) as error:
        raise RuleError(f"The rule set is not valid JSON: {error}.", path="$") from None
    if repeated:
        raise RuleError(f"An object repeats the member {quoted_name(repeated[0])}; keep one of them.", path="$")
    return found


_PLACED = re.compile(r"(?s)(.*?)(?: - at `(\$.*)`)?")
_UNKNOWN_FIELD = re.compile(r"(?s)Object contains unknown field `(.*)`")


def _explained(message: str) -> RuleError:
    """The decoder's message as a RuleError: with its path, and a suggestion for a misspelt member."""
    match = _PLACED.fullmatch(message)
    assert match is not None
    reason, path = match[1], match[2] or "$"
    unknown = _UNKNOWN_FIELD.fullmatch(reason)
    if unknown is None:
        return RuleError(reason.rstrip(".") + ".", path=path)
    members = {name for kind in (RuleSetDocument, GroupDocument, ConditionDocument) for name in kind.__struct_encode_fields__}
    return RuleError(f"Unknown member {quoted_name(unknown[1])}.", path=path, suggestion=nearest(unknown[1], members))


def _checked(document: RuleSetDocument) -> Rules:
    _placed("$.time_zone", check_zone_name, document.time_zone)
    groups: list[RuleGroup] = []
    names: set[str] = set()
    conditions = 0
    for index, group in enumerate(document.groups):
        path = f"$.groups[{index}]"
        if not group.name.isprintable() or group.name != group.name.strip():
            raise RuleError("A group's name must be printable and must not begin or end with a space.", path=path + ".name")
        if group.name in names:
            raise RuleError(
                f"Group names must be unique, but an earlier group is named {quoted_name(group.name)}.", path=path + ".name"
            )
        names.add(group.name)
        when = _condition(group.when, path + ".when", 0)
        if condition_tree.depth(when) > RULE_DEPTH_MAX:  # a line inside a condition is within it, but perhaps not the whole
            raise RuleError(f"Conditions can be nested at most {RULE_DEPTH_MAX} deep.", path=path + ".when")
        conditions += sum(1 for _ in condition_tree.comparisons(when))
        if conditions > RULE_CONDITIONS_MAX:
            raise RuleError(f"A rule set must have at most {RULE_CONDITIONS_MAX} comparisons.", path=path + ".when")
        groups.append(RuleGroup(group.name, when, group.response))
    return Rules(tuple(groups), document.default, document.time_zone)


def _condition(condition: str | ConditionDocument, path: str, depth: int) -> Node:
    if depth > RULE_DEPTH_MAX:
        raise RuleError(f"Conditions can be nested at most {RULE_DEPTH_MAX} deep.", path=path)
    if isinstance(condition, str):
        return _placed(path, line_notation.parse, condition)
    forms = [form for form in _FORMS if getattr(condition, "not_" if form == "not" else form) is not None]
    stray = [n for n in ("op", "zone") if getattr(condition, n) is not None] + ["value"] * (condition.value is not msgspec.UNSET)
    if len(forms) != 1 or (stray and forms != ["fact"]):
        found = ", ".join(forms + stray) or "none"
        raise RuleError(f"A condition must have one of all, any, not, or fact with op and value; found {found}.", path=path)
    if condition.all is not None:
        return condition_tree.all_of(_condition(part, f"{path}.all[{i}]", depth + 1) for i, part in enumerate(condition.all))
    if condition.any is not None:
        return condition_tree.any_of(_condition(part, f"{path}.any[{i}]", depth + 1) for i, part in enumerate(condition.any))
    if condition.not_ is not None:
        return condition_tree.negation(_condition(condition.not_, f"{path}.not", depth + 1))
    return _comparison(condition, path)


def _comparison(condition: ConditionDocument, path: str) -> Comparison:
    fact = _placed(path + ".fact", check_fact, condition.fact or "")
    if condition.op is None:
        raise RuleError(f"op is missing; {fact.name} supports {', '.join(fact.operators)}.", path=path)
    op = _placed(path + ".op", check_operator, fact, condition.op)
    typed = None if condition.value is msgspec.UNSET else condition.value
    value = _placed(path + ".value", check_value, fact, op, typed)
    return Comparison(fact.name, op, value, _placed(path + ".zone", check_zone, fact, condition.zone))


def _placed(path: str, check: Callable[..., _Checked], *arguments: Any) -> _Checked:
    try:
        return check(*arguments)
    except RuleError as error:
        raise error.within(path) from None
