"""Conditions written as a line: `authentication == pass and (scan_count < 5 or not country in (DE, AT))`.

    condition  = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation   = "not" negation | "(" condition ")" | comparison
    comparison = fact [operator [value]] [ "at" time zone ]

A true-or-false fact by itself means `== true`. Values are words, numbers, or text in double quotes with JSON's escapes; `in`
takes a list in parentheses, `between` two values joined by `and`. Keywords are case-insensitive.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from ixfast.limits import RULE_DEPTH_MAX, RULE_LINE_CHARS_MAX, RULE_NUMBER_MAX
from ixfast.rules.comparison import LISTED, VALUELESS, check_fact, check_operator, check_value, check_zone
from ixfast.rules.condition_tree import All, Any, Comparison, Node, Not, Scalar, all_of, any_of, negation
from ixfast.rules.facts import FIELD, Fact, Kind
from ixfast.rules.rule_error import RuleError, quoted

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign><=|>=|==|!=|[<>=(),])|(?P<word>[\w.:/+-]+))')
_WORD = re.compile(r"[\w.:/+-]+")
_FIELD_NAME = re.compile(r"[\w-]+")
_NUMBER_DIGITS_MAX = len(str(RULE_NUMBER_MAX))
RESERVED = frozenset(("and", "or", "not"))
"""Words that are values only in quotes. AT, IN and IS are not among them: they are countries."""
KEYWORDS = RESERVED | frozenset(
    ("in", "between", "starts", "with", "is", "known", "unknown", "before", "after", "at", "true", "false")
)


class _Token(NamedTuple):
    kind: str  # "text", "sign", "word", or "end"
    text: str  # as typed
    column: int  # from 1
    end: int


def parse(line: str) -> Node:
    """The validated tree of a line. RuleError carries the column of the mistake."""
    if len(line) > RULE_LINE_CHARS_MAX:
        reason = f"A line must have at most {RULE_LINE_CHARS_MAX} characters; write the condition as JSON."
        raise RuleError(reason, column=RULE_LINE_CHARS_MAX)
    return _Parser(_tokens(line)).whole()


def _tokens(line: str) -> list[_Token]:
    found = []
    place, end = 0, len(line.rstrip())
    while place < end:
        match = _TOKEN.match(line, place)
        if match is None:
            place += len(line[place:]) - len(line[place:].lstrip())
            if line[place] == '"':
                raise RuleError("The text has no closing quote.", column=place + 1)
            raise RuleError(f"Unexpected {quoted(line[place])}; put text in double quotes.", column=place + 1)
        assert match.lastgroup is not None
        found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1, match.end()))
        place = match.end()
    found.append(_Token("end", "", end + 1, end))
    return found


class _Parser:
    """A recursive descent parser for the tokens of one line; RULE_DEPTH_MAX limits its recursion."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._place = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._condition()
        token = self._peek()
        if token.kind != "end":
            raise self._unexpected(token, "and, or, or the end")
        return node

    def _peek(self) -> _Token:
        return self._tokens[self._place]

    def _next(self) -> _Token:
        token = self._tokens[self._place]
        if token.kind != "end":
            self._place += 1
        return token

    def _accept(self, *words: str) -> str | None:
        """Consume the next token and return it in lower case if it is one of these keywords or signs, otherwise None."""
        token = self._peek()
        word = token.text.lower() if token.kind == "word" else token.text
        if token.kind in ("word", "sign") and word in words:
            self._place += 1
            return word
        return None

    def _expect(self, word: str) -> None:
        if self._accept(word) is None:
            raise self._unexpected(self._peek(), word)

    def _unexpected(self, token: _Token, expected: str) -> RuleError:
        found = "the end" if token.kind == "end" else quoted(token.text)
        return RuleError(f"Expected {expected}, found {found}.", column=token.column)

    def _condition(self) -> Node:
        parts = [self._conjunction()]
        while self._accept("or"):
            parts.append(self._conjunction())
        return any_of(parts)

    def _conjunction(self) -> Node:
        parts = [self._negation()]
        while self._accept("and"):
            parts.append(self._negation())
        return all_of(parts)

    def _negation(self) -> Node:
        column = self._peek().column
        opened = self._accept("not", "(")
        if opened is None:
            return self._comparison()
        self._depth += 1
        if self._depth > RULE_DEPTH_MAX:
            raise RuleError(f"Conditions can be nested at most {RULE_DEPTH_MAX} deep.", column=column)
        if opened == "not":
            node = negation(self._negation())
        else:
            node = self._condition()
            self._expect(")")
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        token = self._next()
        if token.kind != "word" or token.text.lower() in KEYWORDS:
            raise self._unexpected(token, "a fact")
        name = token.text
        following = self._peek()
        if name == FIELD and following.kind == "text" and following.column - 1 == token.end:
            name += _unquoted(self._next())
        try:
            fact = check_fact(name)
        except RuleError as error:
            raise _at(error, token.column) from None
        op, value = self._operation(fact)
        zone = None
        if self._accept("at"):
            place = self._next()
            if place.kind != "word":
                raise self._unexpected(place, "a time zone")
            try:
                zone = check_zone(fact, place.text)
            except RuleError as error:
                raise _at(error, place.column) from None
        return Comparison(fact.name, op, value, zone)

    def _operation(self, fact: Fact) -> tuple[str, Scalar | tuple[Scalar, ...] | None]:
        """The validated operator and value."""
        token = self._peek()
        op = self._operator(fact)
        if op is None:
            raise self._unexpected(token, f"an operator of {fact.name}: {', '.join(fact.operators)}")
        column = self._peek().column
        try:
            op = check_operator(fact, op)
        except RuleError as error:
            raise _at(error, token.column) from None
        if op in VALUELESS:
            value: object = None
        elif fact.kind is Kind.TRUTH and token is self._peek():  # a bare fact
            value = True
        else:
            value = self._values(fact, op)
        try:
            return op, check_value(fact, op, value)
        except RuleError as error:
            raise _at(error, column) from None

    def _operator(self, fact: Fact) -> str | None:
        sign = self._accept("==", "!=", "<=", ">=", "<", ">", "=", "in", "between", "before", "after")
        if sign is not None:
            return sign
        if self._accept("not"):
            self._expect("in")
            return "not in"
        if self._accept("starts"):
            self._expect("with")
            return "starts with"
        if self._accept("is"):
            word = self._accept("known", "unknown")
            if word is None:
                raise self._unexpected(self._peek(), "known or unknown")
            return word
        return "==" if fact.kind is Kind.TRUTH else None

    def _values(self, fact: Fact, op: str) -> object:
        if op not in LISTED:
            return self._value(fact)
        if op == "between":
            first = self._value(fact)
            self._expect("and")
            return [first, self._value(fact)]
        self._expect("(")
        values = [self._value(fact)]
        while self._accept(","):
            values.append(self._value(fact))
        self._expect(")")
        return values

    def _value(self, fact: Fact) -> Scalar:
        token = self._next()
        if token.kind == "text":
            return _unquoted(token)
        word = token.text.lower()
        if token.kind != "word" or word in RESERVED:
            raise self._unexpected(token, "a value")
        if fact.kind is Kind.NUMBER and token.text.isascii() and token.text.isdigit() and len(word) <= _NUMBER_DIGITS_MAX:
            return int(token.text)
        if fact.kind is Kind.TRUTH and word in ("true", "false"):
            return word == "true"
        return token.text


def _unquoted(token: _Token) -> str:
    try:
        return str(json.loads(token.text))
    except ValueError:
        raise RuleError(
            "The quoted text contains an escape or a character that JSON does not allow.", column=token.column
        ) from None


def _at(error: RuleError, column: int) -> RuleError:
    return RuleError(error.reason, column=column, suggestion=error.suggestion)


def print_line(node: Node) -> str:
    """A tree as a line; `parse` of it gives an equal tree."""
    if isinstance(node, Any):
        return " or ".join(map(print_line, node.parts))
    if isinstance(node, All):
        return " and ".join(_inner(part, Any) for part in node.parts)
    if isinstance(node, Not):
        return "not " + _inner(node.part, All, Any)
    words = [_print_fact(node.fact), f"is {node.op}" if node.op in VALUELESS else node.op]
    if isinstance(node.value, tuple):
        values = [_print_value(value) for value in node.value]
        words.append(" and ".join(values) if node.op == "between" else f"({', '.join(values)})")
    elif node.value is not None:
        words.append(_print_value(node.value))
    if node.zone is not None:
        words.append(f"at {node.zone}")
    return " ".join(words)


def _inner(node: Node, *binding_less: type) -> str:
    line = print_line(node)
    return f"({line})" if isinstance(node, binding_less) else line


def _print_fact(name: str) -> str:
    own = name.removeprefix(FIELD)
    if own is name or _FIELD_NAME.fullmatch(own):
        return name
    return FIELD + json.dumps(own, ensure_ascii=False)


def _print_value(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (_WORD.fullmatch(value) and value.lower() not in RESERVED):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
