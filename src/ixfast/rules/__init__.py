"""Rules: which of the owner's answers a scan gets.

A rule set is an ordered list of rule groups, each with a response, and a default response. The first matching group wins.
A loaded set is one function from a scan to the index of its response, so that the path calls it without knowing what is in it.
"""

from ixfast.rules.rule_set import AUTHENTICATION_PASS, RuleSet

__all__ = ["AUTHENTICATION_PASS", "RuleSet"]
