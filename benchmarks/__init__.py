"""Benchmarks: what ixfast reaches beside others, with every answer checked. See docs/performance.md."""
