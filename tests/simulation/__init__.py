"""A seeded simulation of workers, their database and everything that can go wrong between them.

The real classes run: ledger, committer, catalogue, change follower, engine, dispatcher, front door. Time, the network and
PostgreSQL are simulated, on one event loop with a clock of its own, so that a minute takes milliseconds and a seed determines
everything that happens. `judge.py` compares what the callers were told with what the database did.

    python -m tests.simulation --seed 42          one run, with its trace
    python -m tests.simulation --seeds 100000     many, until the first violation
"""
