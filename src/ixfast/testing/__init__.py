"""Simulated tags, and a catalogue and a ledger in memory, for tests, demos and benchmarks.

Nothing that serves taps may use the catalogue and the ledger: they lose everything at a restart. May import every package except
`audit`, `embedded`, `http`, `process` and `cli`.
"""

from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

__all__ = ["VirtualFleet", "VirtualTag"]
