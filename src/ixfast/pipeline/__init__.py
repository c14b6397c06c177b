"""The way of a scan from a reference to a verdict."""
