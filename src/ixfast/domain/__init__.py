"""The nouns: tags and their groups, scans, what a tap proves. No look-ups, no compilers, no I/O."""
