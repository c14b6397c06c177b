"""A compiled rule set, as the engine calls it, and the built-in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan


class RuleSet:
    """`decide(scan)` returns the index of the matched rule group, or -1, which is the index of the default in `responses`.

    `responses` are the response texts as typed. `facts` are the names of the facts that `decide` reads.
    """

    __slots__ = ("decide", "facts", "names", "responses")

    def __init__(
        self,
        decide: Callable[[Scan], int],
        groups: tuple[tuple[str, str], ...],
        default: str,
        facts: frozenset[str],
    ) -> None:
        self.decide = decide
        self.names = tuple(name for name, _ in groups)
        self.responses = (*(response for _, response in groups), default)
        self.facts = facts

    def name_of(self, rule: int) -> str | None:
        """The name of the rule group with this index; None for the default, -1."""
        return self.names[rule] if rule >= 0 else None


def _authentication_pass(scan: Scan) -> int:
    return 0 if scan.authentic else -1


AUTHENTICATION_PASS = RuleSet(_authentication_pass, (("authenticated", "Pass"),), "Fail", frozenset({"authentication"}))
"""The rule set of a group without one: Pass if the tap is authentic, otherwise Fail."""
