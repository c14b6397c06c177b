"""A seeded simulation of workers, their database, and everything that can go wrong between them.

The real classes run: ledger, committer, catalogue, change follower, engine, dispatcher, front door. Time, the network and
PostgreSQL are simulated on one event loop with its own clock, so a minute takes milliseconds and the seed determines everything
that happens. `judge.py` compares the answers that callers got with what the database did.

    python -m tests.simulation --seed 42          one run with its trace
    python -m tests.simulation --seeds 100000     many runs, until the first violation
"""
