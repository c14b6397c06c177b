"""ixfast verifies taps of authentication NFC tags: durably, and each at most once."""

from ixfast import compiled

__version__ = "0.1.0"

compiled.choose()  # before any module with two forms is imported
