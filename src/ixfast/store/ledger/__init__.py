"""The ledger: decides which taps are new, and makes that durable before anyone is told.

`Ledger` connects a `Committer` for each group of tags, the `StateReader` that proves refusals, and the `RefusalLog`. It knows
nothing about HTTP, keys or rules: a scan comes here after its cryptography was checked. May import `domain`, `store.connections`,
the modules of `store` itself and the root, but not `store.catalogue`, `store.admin` or `store.imports`.
"""
