"""The path of a scan, from a tag reference to a decision: identification, engine, enrolment.

Depends on neither HTTP nor SQL: the catalogue and the ledger are protocols, implemented by `store` and by `testing.memory`. May
import `responses`, `chips`, `keys`, `rules`, `domain` and the root modules.
"""
