"""Simulated tags, and a catalogue and a ledger in memory, for tests, simulations and benchmarks.

Nothing that serves taps may use them: they keep no promise over a restart. May import everything but `audit`, `embedded`, `http`,
`process` and `cli`.
"""

from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

__all__ = ["VirtualFleet", "VirtualTag"]
