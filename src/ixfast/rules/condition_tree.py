"""The validated tree of a condition, in one normal form for both notations.

Normal form: no `all` directly inside an `all`, no `any` directly inside an `any`, none with a single part, no double `not`;
values as `comparison.py` returns them. So conditions that differ only in how they were typed are equal, and the line notation
prints only the parentheses that it needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

Scalar = str | int | bool
Value = Scalar | tuple[Scalar, ...] | None


class Comparison(msgspec.Struct, frozen=True, tag=True):
    """A comparison of a fact with a value: a scalar, a tuple for `in` and `between`, None for `known` and `unknown`.

    `zone` is the time zone of a zoned fact; None means that of the rule set.
    """

    fact: str
    op: str
    value: Value = None
    zone: str | None = None


class All(msgspec.Struct, frozen=True, tag=True):
    parts: tuple[Node, ...]


class Any(msgspec.Struct, frozen=True, tag=True):
    parts: tuple[Node, ...]


class Not(msgspec.Struct, frozen=True, tag=True):
    part: Node


Node = Comparison | All | Any | Not


def all_of(parts: Iterable[Node]) -> Node:
    """`all` in normal form; `parts` must not be empty."""
    flat = tuple(_flat(parts, All))
    return flat[0] if len(flat) == 1 else All(flat)


def any_of(parts: Iterable[Node]) -> Node:
    """`any` in normal form; `parts` must not be empty."""
    flat = tuple(_flat(parts, Any))
    return flat[0] if len(flat) == 1 else Any(flat)


def negation(part: Node) -> Node:
    """`not` in normal form."""
    return part.part if isinstance(part, Not) else Not(part)


def _flat(parts: Iterable[Node], kind: type[All | Any]) -> Iterator[Node]:
    for part in parts:
        if isinstance(part, kind):
            yield from part.parts
        else:
            yield part


def comparisons(node: Node) -> Iterator[Comparison]:
    """Every comparison of a tree, from left to right."""
    if isinstance(node, Comparison):
        yield node
    elif isinstance(node, Not):
        yield from comparisons(node.part)
    else:
        for part in node.parts:
            yield from comparisons(part)


def depth(node: Node) -> int:
    """How many `all`, `any` and `not` enclose the innermost comparison."""
    if isinstance(node, Comparison):
        return 0
    return 1 + max(map(depth, (node.part,) if isinstance(node, Not) else node.parts))
