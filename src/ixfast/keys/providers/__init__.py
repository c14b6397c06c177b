"""Key services that ixfast can ask itself, one module each. They are found by entry point; see `keys/provider.py`."""
