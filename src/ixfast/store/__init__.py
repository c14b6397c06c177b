"""The state in PostgreSQL, which is the only source of truth. Only this package imports asyncpg.

`ledger` decides taps, `catalogue` reads tags and rules, `admin` changes them, `imports` reads and writes tag files, and
`connections` opens connections. What a worker holds in memory is either a copy that may be dropped at any time, or a lower bound
of what is durable (`TagRecord.floor`). This package does not import `ixfast.http`, `ixfast.process` or `ixfast.cli`.
"""
