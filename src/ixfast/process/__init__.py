"""The server's processes: the supervisor, its workers, their logging and the hardening of both.

This package assembles a server from all other packages, and only `ixfast.cli` and the entry point import it. It holds no logic of
scans or management.
"""
