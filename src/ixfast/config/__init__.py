"""Configuration of a server: which settings there are (`settings`) and how their values are loaded (`settings_loader`).

Not here: command-line parsing (`cli`) and the use of any setting; each module gets the values that it needs passed in. May import
`errors` only.
"""
