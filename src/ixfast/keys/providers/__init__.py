"""The built-in key providers, one module per key service. They are registered as entry points; see `keys/provider.py`."""
