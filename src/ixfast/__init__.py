"""ixfast verifies scans of authentication NFC tags, durably and each at most once."""

__version__ = "0.1.0"
