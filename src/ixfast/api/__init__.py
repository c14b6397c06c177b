"""The Python API: what `import ixfast` offers, without a server or a database.

A thin layer over `chips`, `keys` and `rules`: it accepts keys as bytes or hex digits and profiles by name, and raises one class
of exception, `InputError`, for every mistake in its arguments. It neither reads nor writes a ledger, so it detects no replays.

The package imports nothing here: `ixfast` loads each name from its module when it is first used. May import `chips`, `keys`,
`rules`, `responses` and everything below them.
"""
