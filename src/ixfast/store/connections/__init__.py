"""Connections to PostgreSQL: opening them, pooling them, and watching which server, timeline and clock they lead to.

This package knows nothing of tags, scans or the catalogue. It imports `ixfast.errors`, `ixfast.limits`, `ixfast.meters`, the keys
(to try some envelopes) and the small modules of `ixfast.store`.
"""
