"""One step of a scan at a time, each with a hash of its results."""
