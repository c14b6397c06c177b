"""The servers that ixfast is compared with, one module for each.

One process serves one worker; it is started once for each worker, and the kernel distributes connections among them
(SO_REUSEPORT). Its port is the first argument, its database the environment variable `BENCH_DSN`. It answers `GET
/v1/t?x=…&n=…&e=…` like ixfast. `table.sql` is the database of the peers. They import nothing from `ixfast`.
"""
