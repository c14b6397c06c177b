"""Offline bulk verification: many taps of a file or a pipe judged at once, without a server and without a ledger.

What a verdict means here is what the engine means by it; the difference is where the memory of used counters lives. The
engine asks a durable ledger, an audit asks nobody: it takes the taps that it was given, puts those of each tag in order of
time, and says which of them would have passed. Nothing is consumed, and nothing is written but the report.

Rooms: `tag_catalogue` (whose keys), `key_file` and `account` (where they come from), `tap_lines` (what a line says),
`judge` (what one tap proves), `layout` (many taps of one form at a time), `judged` (the columns in between), `order`
(which of them were first), `audit` (all of it), `report` (the words).

Invariants:
1. The fast way (`layout`) only ever says that a MAC holds. Whatever it does not find authentic goes to
   `CompiledProfile.examine`, which alone refuses, so that both ways give one verdict.
2. Keys are in no message, report, repr or pickle; worker processes get them by being forked.
3. Each line of input has exactly one place in the columns, so that its number is its place.
"""

from ixfast.audit.auditor import Audit
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.named_profiles import find_profile, read_profile_file
from ixfast.audit.report import all_genuine, count, json_lines, summary_lines
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.audit.tag_key_file import KEY_COLUMNS, read_keys

__all__ = [
    "KEY_COLUMNS",
    "OUTCOMES",
    "Audit",
    "TagCatalogue",
    "all_genuine",
    "count",
    "find_profile",
    "json_lines",
    "read_keys",
    "read_profile_file",
    "summary_lines",
]
