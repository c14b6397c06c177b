"""A rule set with its response texts prepared, so that most responses are a look-up.

A response text without variable parts is encoded as JSON when its rule set is loaded; any other is rendered for each scan.
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
    """A rule set with its compiled response texts.

    `responses` and `fragments` are indexed by the result of `rules.decide`, with the default last (-1). A fragment is the text as
    a JSON string, or None if it depends on the scan.
    """

    __slots__ = ("fragments", "responses", "rules")

    def __init__(self, rules: RuleSet) -> None:
        """Compile the response texts; raises InputError `invalid_response` if one is invalid."""
        self.rules = rules
        self.responses = tuple(response_text.compile_response(text) for text in rules.responses)
        self.fragments = tuple(response.constant for response in self.responses)

    @property
    def subtags(self) -> frozenset[str]:
        """The names of all subtags that the response texts use."""
        return frozenset().union(*(response.subtags for response in self.responses))

    def json(self, scan: Scan) -> bytes:
        """The response text for a decided scan, as a JSON string."""
        return self.fragments[scan.rule] or self.responses[scan.rule].json(scan)

    def text(self, scan: Scan) -> str:
        """The response text for a decided scan."""
        return self.responses[scan.rule].render(scan)


def members(fields: Mapping[str, str], names: Iterable[str]) -> bytes | None:
    """The extended fields `names` as members of a JSON object, each with a leading comma; None if one depends on the scan."""
    texts = [(name, response_text.inner_text(fields.get(name, "")).constant) for name in names]
    if any(text is None for _, text in texts):
        return None
    return b"".join(b"," + orjson.dumps(name) + b":" + text for name, text in texts if text is not None)


BUILT_IN = ResponseSet(AUTHENTICATION_PASS)
"""The response set of a group without a rule set: Pass if the tap is authentic, otherwise Fail."""
