"""A rule set as the engine holds it, and the built-in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan


class RuleSet:
    """`decide(scan)` gives the index of the matched rule group, or -1, which is the default's place in `responses`.

    `facts` names what `decide` reads, so that the engine computes costly facts only when a loaded rule asks for them.
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
        """The matched group's name; None for the default."""
        return self.names[rule] if rule >= 0 else None


def _authentication_pass(scan: Scan) -> int:
    return 0 if scan.authentic else -1


AUTHENTICATION_PASS = RuleSet(_authentication_pass, (("authenticated", "Pass"),), "Fail", frozenset({"authentication"}))
"""What a group answers that has no rule set of its own."""
