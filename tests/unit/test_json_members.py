"""Members that stand twice: found at any depth, however they are written, and nowhere else."""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast.json_members import repeated_in_line, repeated_members


class Pairs(list[tuple[str, Any]]):
    """An object as it is written, with members that stand twice."""


names = st.sampled_from(["UID", "KEY", "", 'a"b', "\\", "Größe", "at"])
objects = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(names, inner), max_size=4).map(Pairs),
    max_leaves=8,
)


def written(value: Any, *, ascii_only: bool) -> str:
    if isinstance(value, Pairs):
        members = (f"{written(name, ascii_only=ascii_only)} :{written(each, ascii_only=ascii_only)}" for name, each in value)
        return "{" + ", ".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, ascii_only=ascii_only) for each in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def twice(value: Any) -> set[str]:
    if isinstance(value, Pairs):
        own = [name for name, _ in value]
        return {name for name in own if own.count(name) > 1}.union(*(twice(each) for _, each in value))
    return set().union(*(twice(each) for each in value)) if isinstance(value, list) else set()


@given(objects, st.booleans())
def test_what_stands_twice_is_found(value: Any, ascii_only: bool) -> None:
    text = written(value, ascii_only=ascii_only)
    assert set(repeated_members(text)) == set(repeated_members(text.encode())) == twice(value)


@given(st.lists(st.tuples(names, objects), max_size=5).map(Pairs), st.booleans())
def test_a_line_is_searched_where_quotation_marks_are_left_over(value: Pairs, ascii_only: bool) -> None:
    line = written(value, ascii_only=ascii_only)
    assert set(repeated_in_line(line, orjson.loads(line))) == twice(value)


@pytest.mark.parametrize(
    ("line", "repeated"),
    [
        ('{"UID": 1, "UID": 1}', ["UID"]),
        ('{"UID": 1, "\\u0055ID": 2}', ["UID"]),
        ('{"UID": 1, "uid": 2}', []),
        ('{"a": {"UID": 1, "KEY": 2}, "UID": 3}', []),
        ('{"a": [{"UID": 1, "UID": 2}]}', ["UID"]),
        ('{"a": "\\"UID\\": 1, \\"UID\\": 2"}', []),
        ('{"a": 1e999, "a": ' + 5000 * "9" + "}", ["a"]),
        ("{}", []),
    ],
)
def test_members_that_are_easily_taken_for_others(line: str, repeated: Sequence[str]) -> None:
    assert repeated_members(line) == repeated


def test_what_is_nested_too_deeply_is_an_error_as_other_decoders_have_it() -> None:
    deep = 100_000 * "[" + 100_000 * "]"
    for decode in (repeated_members, msgspec.json.decode):
        with pytest.raises(RecursionError):
            decode(deep)
