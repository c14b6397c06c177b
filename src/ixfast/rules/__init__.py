"""Rules: which of the owner's response texts a scan is answered with.

A rule set is an ordered list of rule groups, each with a condition and a response text, and a default text. The first matching
group wins. A loaded rule set is one function from a scan to the index of a response text.

`read_rules` validates a document, `compile_rules` compiles the result for the engine, `load_rules` does both; `explain` shows why
a group matches or does not. docs/reference/rules.md describes documents, lines and facts. Rules are not response
texts (`responses`), and they never change a verdict. May import `domain` and the root modules.
"""

from __future__ import annotations

from typing import Any

from ixfast.rules.compiler import compile_rules
from ixfast.rules.interpreter import RuleStep, decide, explain
from ixfast.rules.rule_document import RuleGroup, Rules, read_rules, schema, to_document
from ixfast.rules.rule_error import RuleError
from ixfast.rules.rule_set import AUTHENTICATION_PASS, RuleSet

__all__ = [
    "AUTHENTICATION_PASS",
    "RuleError",
    "RuleGroup",
    "RuleSet",
    "RuleStep",
    "Rules",
    "compile_rules",
    "decide",
    "explain",
    "load_rules",
    "read_rules",
    "schema",
    "to_document",
]


def load_rules(document: bytes | str | dict[str, Any]) -> RuleSet:
    """Compile a rule set from its document, JSON text or decoded. Raises RuleError if it is invalid."""
    return compile_rules(read_rules(document))
