"""Whom a committer tells how its scans ended."""

from __future__ import annotations

from typing import Protocol

from ixfast.domain.scan import Scan


class Resolver(Protocol):
    """What the committer hands its scans to."""

    def passed(self, scan: Scan) -> None:
        """The scan advanced its counter, durably."""

    def unproven(self, scan: Scan) -> None:
        """The scan did not advance; why is to be read."""

    def known_replay(self, scan: Scan) -> bool:
        """Settle the scan if what this worker knows to be durable already refuses it."""

    def failed(self, scan: Scan, code: str, reason: str | None) -> None:
        """The scan ends without a verdict."""
