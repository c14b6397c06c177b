"""The ledger: decides which taps are new, and makes that durable before it is announced.

`Ledger` connects a `Committer` for each group of tags, the `StateReader` that proves refusals, and the `RefusalLog`. HTTP, keys
and rules are not its concern: a scan comes here after its cryptography was checked. May import `domain`, `store.connections`, the
modules of `store` itself and the root, but not `store.catalogue`, `store.admin` or `store.imports`.
"""
