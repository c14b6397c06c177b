"""Micro-benchmarks: one step of a scan at a time, each with a hash of its results. They need no server and no database."""
