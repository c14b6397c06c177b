"""The letters under which the scan log stores verdicts.

`scan_log.verdict` is a "char": one byte a row instead of a word. The statements in `sql/ledger.sql` write `g` and `p` themselves,
in the commit that raises the counter; all other letters are written for refusals, or for a repeat, which consumes nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ixfast.domain.model import Verdict

VERDICTS: Mapping[str, Verdict] = MappingProxyType(
    {
        "g": Verdict.GENUINE,
        "p": Verdict.PLAIN,
        "a": Verdict.REPEAT,
        "r": Verdict.REPLAYED,
        "f": Verdict.FORGED,
        "i": Verdict.INCOMPLETE,
        "x": Verdict.INACTIVE,
        "u": Verdict.UNKNOWN,
    }
)
"""Verdicts by letter."""

LETTERS: Mapping[Verdict, str] = MappingProxyType({verdict: letter for letter, verdict in VERDICTS.items()})
"""Letters by verdict."""

PASS_LETTERS = frozenset((LETTERS[Verdict.GENUINE], LETTERS[Verdict.PLAIN]))
"""What the ledger's statement logs."""
