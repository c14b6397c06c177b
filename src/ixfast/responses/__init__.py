"""What a decided scan is answered: the owner's response texts, and the bodies of HTTP responses.

A response text is split into constant and variable parts when its rule set is loaded; a response set joins a rule set with its
texts; `bodies` writes the JSON. Sends nothing and decides nothing: verdicts come from `pipeline`, HTTP is in `http`. May import
`rules`, `domain` and the root modules.
"""
