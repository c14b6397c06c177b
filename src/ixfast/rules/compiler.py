"""Compiles validated rules to one Python function, `decide(scan)`: the index of the first group that matches, or -1.

How the source is generated:

1. It consists of the fragments below and of generated names (`k0`, `k1` …). Nothing that an owner typed ever becomes part of it:
   every value in a rule, including numbers, is the default of an argument. So rule sets of the same shape share one code object
   with different defaults.
2. `not` is pushed down to the comparisons, and a comparison with an unknown fact is false, negated or not. For a whole condition
   this gives the same result as three-valued logic (`interpreter.py`) at the cost of two-valued logic.
3. Cheap facts are read at the beginning, each at most once. Costly facts are read where they are first needed.

The code runs without builtins. A decision by a typical rule set of three groups takes about 60 ns on top of the call.
"""

from __future__ import annotations

import hashlib
import itertools
import weakref
from collections.abc import Callable
from datetime import date
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from ixfast.domain.model import Verdict
from ixfast.rules import condition_tree, visitors, wall_clock
from ixfast.rules import facts as readers
from ixfast.rules.comparison import seconds_of
from ixfast.rules.condition_tree import Comparison, Node
from ixfast.rules.facts import FIELD, WEEKDAYS, Kind, find_fact
from ixfast.rules.rule_set import RuleSet

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan
    from ixfast.rules.rule_document import Rules

Decide = Callable[["Scan"], int]

# Statements before the first group, by the variable that they set. An unknown number is -1, an unknown text None.
_AUTHENTIC = "    a = scan.authentic"
_VERDICT = "    v = scan.verdict"
_RECORD = "    r = scan.record"
_CHEAP = {
    "a": (_AUTHENTIC,),
    "v": (_VERDICT,),
    "r": (_RECORD,),
    "n": (_AUTHENTIC, "    n = scan.scan_count if a or scan.verdict is PLAIN else -1"),
    "c": ("    p = scan.position", "    c = -1 if p == -1 else p & 0xFFFFFF"),
    "g": ("    g = gap(scan)", "    if g is None: g = -1"),
    # Most tags have no tamper wire and their scans no extras; a call that finds nothing costs as much as all the rest.
    "t": ("    t = s = None", "    if scan.extras is not None: t, s = tamper_states(scan)"),
    "q": (_AUTHENTIC, _RECORD, "    q = r.originality if a or scan.verdict is REPLAYED else None"),
    "cuid": (_RECORD, "    cuid = r.cuid"),
    "batch": (_RECORD, "    batch = r.batch", "    if batch is not None: batch = batch.name"),
}
_ARGUMENTS: dict[str, object] = {
    "PLAIN": Verdict.PLAIN,
    "REPLAYED": Verdict.REPLAYED,
    "gap": readers.gap,
    "tamper_states": readers.tamper_states,
    "field_value": readers.field_value,
    "country": visitors.country,
    "system": visitors.system,
    "browser": visitors.browser,
    "now": wall_clock.now,
    "local": wall_clock.local,
}
_NUMBERS = {"scan_count": "n", "chip_count": "c", "gap": "g"}
_TEXTS = {
    "tamper": ("t", "t"), "tamper.stored": ("t", "s"), "originality": ("q", "q"), "cuid": ("cuid", "cuid"),
    "batch": ("batch", "batch"),
}  # fmt: skip
_COSTLY = {"country": ("C", "country"), "os": ("O", "system"), "browser": ("B", "browser")}
_PARTS = {Kind.TIME: 0, Kind.DATE: 1, Kind.WEEKDAY: 2}
_OPPOSITES = {
    "==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">", "in": "not in", "not in": "in", "known": "unknown",
    "unknown": "known", "between": "outside", "starts with": "not starting with", "before": "not before", "after": "not after",
}  # fmt: skip
# X is the fact, K and L are constants. Rule 2 above covers unknown facts; an unknown number is below every K.
_OF_NUMBERS = {
    "==": "X == K", "!=": "-1 != X != K", "<": "-1 < X < K", "<=": "-1 < X <= K", ">": "X > K", ">=": "X >= K",
    "between": "K <= X <= L", "outside": "(-1 < X < K or X > L)", "known": "X >= 0", "unknown": "X < 0",
}  # fmt: skip
_OF_TEXTS = {
    "==": "X == K", "!=": "None is not X != K", "in": "X in K", "not in": "None is not X not in K", "known": "X is not None",
    "unknown": "X is None", "starts with": "((y := X) is not None and y.startswith(K))",
    "not starting with": "((y := X) is not None and not y.startswith(K))",
}  # fmt: skip
_OF_WALLS = {
    "==": "X == K", "!=": "X != K", "in": "X in K", "not in": "X not in K", "before": "X < K", "not before": "X >= K",
    "between": "K <= X <= L", "outside": "not K <= X <= L",
}  # fmt: skip


class _Source:
    """The generated source of one rule set, with its constants."""

    def __init__(self, time_zone: str) -> None:
        self._time_zone = time_zone
        self._statements: dict[str, None] = {}  # in order, each once
        self._arguments: dict[str, object] = {}
        self._constants = itertools.count()
        self._walls: dict[str, str] = {}
        self._fields: dict[str, str] = {}

    def write(self, rules: Rules) -> tuple[str, dict[str, object]]:
        """The source of `decide`, and the defaults of its arguments by name."""
        tests = [f"    if {self._node(group.when, False)}: return {index}" for index, group in enumerate(rules.groups)]
        head = f"def decide({', '.join(('scan', *self._arguments))}):"
        return "\n".join((head, *self._statements, *tests, "    return -1", "")), self._arguments

    def _need(self, variable: str) -> str:
        """Read a cheap fact at the beginning of the function; returns its variable."""
        for statement in _CHEAP[variable]:
            self._statements[statement] = None
            for name in ("PLAIN", "REPLAYED", "gap", "tamper_states"):
                if name in statement:
                    self._arguments[name] = _ARGUMENTS[name]
        return variable

    def _call(self, name: str) -> str:
        self._arguments[name] = _ARGUMENTS[name]
        return name

    def _constant(self, value: object) -> str:
        name = f"k{next(self._constants)}"
        self._arguments[name] = value
        return name

    def _node(self, node: Node, negated: bool) -> str:
        if isinstance(node, Comparison):
            return self._comparison(node, negated)
        if isinstance(node, condition_tree.Not):
            return self._node(node.part, not negated)
        word = " and " if isinstance(node, condition_tree.All) is not negated else " or "
        return f"({word.join(self._node(part, negated) for part in node.parts)})"

    def _comparison(self, node: Comparison, negated: bool) -> str:
        fact = find_fact(node.fact)
        assert fact is not None, node.fact
        op = _OPPOSITES[node.op] if negated else node.op
        if fact.kind is Kind.NUMBER:
            return self._fill(_OF_NUMBERS[op], self._need(_NUMBERS[fact.name]), node.value)
        if fact.kind is Kind.TRUTH:
            return self._truth(fact.name, (op == "==") is node.value)
        if fact.name == "authentication":
            passes = "pass" in (node.value if isinstance(node.value, tuple) else (node.value,))
            fails = "fail" in (node.value if isinstance(node.value, tuple) else (node.value,))
            return self._authentication(*((passes, fails) if op in ("==", "in") else (not passes, not fails)))
        if fact.name == "verdict":
            return self._verdict(node, op in ("==", "in"))
        if fact.kind in _PARTS:
            return self._wall(node, fact.kind, op)
        value = frozenset(node.value) if isinstance(node.value, tuple) else node.value
        return self._fill(_OF_TEXTS[op], self._text(fact.name), value)

    def _fill(self, pattern: str, fact: str, value: object) -> str:
        """A pattern with the fact inserted, and with its constants as arguments."""
        values = value if isinstance(value, tuple) else (value,)
        for letter, constant in zip("KL", values, strict=False):
            if letter in pattern:
                pattern = pattern.replace(letter, self._constant(constant))
        return pattern.replace("X", fact)

    def _truth(self, name: str, wanted: bool) -> str:
        if name == "first_scan":
            return f"{self._need('n')} == 1" if wanted else f"-1 != {self._need('n')} != 1"
        self._need("r")
        return "r.assigned" if wanted else "not r.assigned"

    def _authentication(self, passes: bool, fails: bool) -> str:
        if passes is fails:
            return "True" if passes else "False"
        return self._need("a") if passes else f"not {self._need('a')}"

    def _verdict(self, node: Comparison, wanted: bool) -> str:
        """Compared by identity, because hash and comparison of an enumeration member run Python code."""
        self._need("v")
        values = node.value if isinstance(node.value, tuple) else (node.value,)
        constants = [self._constant(Verdict(str(value))) for value in values]
        if wanted:
            return f"({' or '.join(f'v is {name}' for name in constants)})"
        return f"({' and '.join(f'v is not {name}' for name in ['None', *constants])})"

    def _text(self, name: str) -> str:
        if name in _TEXTS:
            statement, variable = _TEXTS[name]
            self._need(statement)
            return variable
        if name in _COSTLY:
            variable, function = _COSTLY[name]
            return self._lazy(variable, f"{self._call(function)}(scan)")
        variable = self._fields.setdefault(name, f"f{len(self._fields)}")
        own = name.removeprefix(FIELD)
        return self._lazy(variable, f"{self._call('field_value')}(scan, {self._constant(own)})")

    def _lazy(self, variable: str, reading: str) -> str:
        self._statements[f"    {variable} = ..."] = None
        return f"({variable} if {variable} is not ... else ({variable} := {reading}))"

    def _wall(self, node: Comparison, kind: Kind, op: str) -> str:
        zone = node.zone or self._time_zone
        variable = self._walls.setdefault(zone, f"w{len(self._walls)}")
        # All zones use the same moment, so that one decision never sees two days.
        self._statements["    m = 0"] = self._statements[f"    {variable} = None"] = None
        moment = f"(m or (m := {self._call('now')}()))"
        zone_constant = self._constant(wall_clock.find_zone(zone))
        fact = f"({variable} or ({variable} := {self._call('local')}({zone_constant}, {moment})))[{_PARTS[kind]}]"
        values = tuple(_wall_number(kind, value) for value in (node.value if isinstance(node.value, tuple) else (node.value,)))
        if kind is Kind.TIME:
            return self._time(op, fact, values)
        if op in ("after", "not after"):  # of a date: the days after it
            return self._fill("X > K" if op == "after" else "X <= K", fact, values)
        return self._fill(_OF_WALLS[op], fact, (frozenset(values),) if op in ("in", "not in") else values)

    def _time(self, op: str, fact: str, values: tuple[int, ...]) -> str:
        """From the first time, included, to the last, excluded; across midnight if the first is the later one."""
        if op in ("between", "outside"):
            inside = "K <= X < L" if values[0] < values[1] else "not L <= X < K"
            if op == "outside":
                inside = "L <= X < K" if inside.startswith("not") else f"not {inside}"
            return self._fill(inside, fact, values)
        return self._fill("X < K" if op in ("before", "not after") else "X >= K", fact, values)


def _wall_number(kind: Kind, value: object) -> int:
    text = str(value)
    if kind is Kind.TIME:
        return seconds_of(text)
    return date.fromisoformat(text).toordinal() if kind is Kind.DATE else WEEKDAYS.index(text)


# Weak caches: they hold exactly what the loaded rule sets use.
_functions: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
_codes: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
_facts: weakref.WeakValueDictionary[frozenset[str], Any] = weakref.WeakValueDictionary()
_GLOBALS: dict[str, Any] = {"__builtins__": {}}


def compile_rules(rules: Rules) -> RuleSet:
    """Compile a rule set. Rule sets with equal conditions share one function, those of the same shape share its code object."""
    names = rules.facts
    visitors.prepare(names)
    return RuleSet(
        compile_conditions(rules),
        tuple((group.name, group.response) for group in rules.groups),
        rules.default,
        _facts.setdefault(names, names),
    )


def compile_conditions(rules: Rules) -> Decide:
    """The function `decide`, from the cache if a rule set with equal conditions is loaded."""
    key = _digest(msgspec.msgpack.encode(([group.when for group in rules.groups], rules.time_zone)))
    function = _functions.get(key)
    if function is None:
        source, arguments = _Source(rules.time_zone).write(rules)
        function = FunctionType(_code(source), _GLOBALS, "decide", tuple(arguments.values()))
        _functions[key] = function
    return cast("Decide", function)


def source_of(rules: Rules) -> str:
    """The generated source, for tests and debugging."""
    return _Source(rules.time_zone).write(rules)[0]


def _code(source: str) -> CodeType:
    """The code object of the only function in `source`, which is compiled but never executed as a module."""
    key = _digest(source.encode())
    code = _codes.get(key)
    if code is None:
        module = compile(source, "<rules>", "exec", dont_inherit=True, optimize=2)
        code = next(constant for constant in module.co_consts if isinstance(constant, CodeType))
        _codes[key] = code
    return cast("CodeType", code)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).digest()
