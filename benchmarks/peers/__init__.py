"""The contenders that ixfast is compared with, one file each.

A server serves one worker: it is started once for each, and the kernel shares the port among them (SO_REUSEPORT). Its port
is the first argument, its database the environment variable `BENCH_DSN`. It answers `GET /v1/t?x=…&n=…&e=…` as ixfast does.
`table.sql` is the peers' own database.
"""
