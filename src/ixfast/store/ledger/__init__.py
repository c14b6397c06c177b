"""Counters: which taps are new."""
