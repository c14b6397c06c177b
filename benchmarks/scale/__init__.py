"""Ten thousand to ten million registered tags: `filler.py` makes the databases, `sizes.py` measures over them."""
