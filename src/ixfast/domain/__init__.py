"""The domain model: tags with their groups and accounts, scans, and what a tap proves.

Plain values and records without I/O, look-ups or compilers. What a record needs from a package above (a compiled profile, a
rule set, response texts) is described in `protocols` and passed in by the code that creates the record. May import the root
modules only.
"""

from ixfast import compiled

compiled.why_plain()  # raises ImportError for half a build, before a compiled module fails on a plain one
