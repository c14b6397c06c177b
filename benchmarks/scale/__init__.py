"""The benchmark with 10,000 to 10,000,000 registered tags: `filler.py` fills the databases, `sizes.py` measures in them."""
