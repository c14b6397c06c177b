"""ixfast verifies scans of authentication NFC tags, durably and each at most once."""

from ixfast import compiled

__version__ = "0.1.0"

compiled.choose()  # before any module that has two forms is imported
