"""Offline bulk verification: judges many taps from a file or a pipe, without a server and without a ledger.

Verdicts mean the same as in the engine. The engine checks replays against a durable ledger; an audit sorts the taps that it is
given by tag and time and determines which of them would have passed. It consumes no taps and writes nothing but its report. May
import everything except `http`, `process` and `cli`.

Modules: `tag_catalogue` (tags and their keys), `tag_key_file` and `account_tags` (where these come from), `tap_bytes`,
`tap_names`, `tap_format`, `tap_lines`, `tap_objects`, `log_lines` and `tap_times` (input), `tap_likeness` and `judge` (one tap at
a time), `url_layout` (batches of taps with the same layout), `findings` (results, in columns), `tap_order` (replays), `auditor`
(the whole audit), `report` and `summary` (output).

Invariants:
1. The fast path (`url_layout`) only ever finds that a MAC is valid. Every other tap goes to `CompiledProfile.examine`, which
   alone refuses, so that both paths give the same verdict.
2. Keys appear in no message, report, `repr` or pickle; worker processes inherit them by being forked.
3. Each line of input has exactly one row in the columns, and its number follows from its row.
"""

from ixfast.audit.auditor import Audit
from ixfast.audit.findings import OUTCOMES
from ixfast.audit.report import json_lines
from ixfast.audit.summary import Summary
from ixfast.audit.tag_catalogue import TagCatalogue
from ixfast.audit.tag_key_file import read_keys
from ixfast.audit.tap_bytes import read_chunks
from ixfast.chips.named_profiles import find_profile, read_profile_file

__all__ = [
    "OUTCOMES",
    "Audit",
    "Summary",
    "TagCatalogue",
    "find_profile",
    "json_lines",
    "read_chunks",
    "read_keys",
    "read_profile_file",
]
