"""What a committer needs from the ledger: where its scans go when they leave it.

A seam on purpose: the ledger owns committers, and committers call the ledger back without importing it.
"""

from __future__ import annotations

from typing import Protocol

from ixfast.domain.scan import Scan


class Resolver(Protocol):
    """Receives the scans of a committer. Each scan is passed, unproven or failed exactly once."""

    def passed(self, scan: Scan) -> None:
        """The scan advanced its counter, durably."""

    def unproven(self, scan: Scan) -> None:
        """The scan did not advance its counter; its durable state has to be read."""

    def known_replay(self, scan: Scan) -> bool:
        """Settle the scan as a replay if its counter was already seen to be used, durably. Returns whether it did."""

    def failed(self, scan: Scan, code: str, reason: str | None) -> None:
        """The scan ends without a verdict."""
