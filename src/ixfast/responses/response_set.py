"""Answers: a rule set with its responses prepared, so that most replies are a look-up.

A response that no scan can change is JSON already when its rule set is loaded; the others are rendered for the scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import orjson

from ixfast.responses import response_text
from ixfast.rules import AUTHENTICATION_PASS, RuleSet

if TYPE_CHECKING:
    from ixfast.domain.scan import Scan


class ResponseSet:
    """`fragments` are the responses as JSON by the rule set's indices, None where the scan decides."""

    __slots__ = ("fragments", "responses", "rules")

    def __init__(self, rules: RuleSet) -> None:
        """Raises InputError `invalid_response` for a response that cannot be."""
        self.rules = rules
        self.responses = tuple(response_text.compile_response(text) for text in rules.responses)
        self.fragments = tuple(response.constant for response in self.responses)

    @property
    def subtags(self) -> frozenset[str]:
        """What the responses ask for."""
        return frozenset().union(*(response.subtags for response in self.responses))

    def json(self, scan: Scan) -> bytes:
        """The response to a decided scan, as a JSON string."""
        return self.fragments[scan.rule] or self.responses[scan.rule].json(scan)

    def text(self, scan: Scan) -> str:
        """The response to a decided scan."""
        return self.responses[scan.rule].render(scan)


def members(fields: Mapping[str, str], names: Iterable[str]) -> bytes | None:
    """The extended fields `names` as further members of a JSON object; None if one of them is another for every scan."""
    texts = [(name, response_text.inner_text(fields.get(name, "")).constant) for name in names]
    if any(text is None for _, text in texts):
        return None
    return b"".join(b"," + orjson.dumps(name) + b":" + text for name, text in texts if text is not None)


BUILT_IN = ResponseSet(AUTHENTICATION_PASS)
"""What a group answers that has no rule set of its own: Pass if the authentication passed, else Fail."""
