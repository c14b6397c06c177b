"""The catalogue: tags, groups, accounts and API keys as a worker looks them up.

`Catalogue` is a bounded cache in front of PostgreSQL, `LookupRounds` resolves its misses, `Loader` turns rows into records, and
`ChangeFollower` keeps the cache in step with management changes. Nothing here decides a scan or writes to the catalogue's tables.
May import `domain`, `chips`, `keys`, `rules`, `responses`, `store.connections`, the modules of `store` itself and the root, but
not `store.ledger`, `store.admin` or `store.imports`.
"""
