"""Rules: which of the owner's answers a scan gets.

A rule set is an ordered list of rule groups, each with a condition and a response, and a default response. The first matching
group wins. A loaded set is one function from a scan to the index of its response, so that the path calls it without
knowing what is in it.

`read_rules` checks a document, `compile_rules` makes of it what the engine calls, `load_rules` does both; `explain` says why a
group matches or does not. Documents, lines and facts are described in docs/rules.md.
"""

from __future__ import annotations

from typing import Any

from ixfast.rules.compiler import compile_rules
from ixfast.rules.interpreter import Step, decide, explain
from ixfast.rules.rule_document import RuleGroup, Rules, read_rules, schema, to_document
from ixfast.rules.rule_error import RuleError
from ixfast.rules.rule_set import AUTHENTICATION_PASS, RuleSet

__all__ = [
    "AUTHENTICATION_PASS",
    "RuleError",
    "RuleGroup",
    "RuleSet",
    "Rules",
    "Step",
    "compile_rules",
    "decide",
    "explain",
    "load_rules",
    "read_rules",
    "schema",
    "to_document",
]


def load_rules(document: bytes | str | dict[str, Any]) -> RuleSet:
    """A rule set from its document, JSON text or decoded; RuleError if it is not one."""
    return compile_rules(read_rules(document))
