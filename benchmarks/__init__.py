"""Benchmarks of ixfast and of other servers under the same load, with every response checked (docs/explanations/performance.md).

They run from a checkout and import what they need of `ixfast`; nothing in `ixfast` imports them. `experiment.py` has what the
longer ones share, `load_test.py` a contender under load, `load/` the generator, `peers/` the other servers.
"""
