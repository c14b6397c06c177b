"""The state room, and the only one that imports asyncpg: catalogue queries, ledger, scan log, migrations, listening.

PostgreSQL is the only truth. What a worker holds in memory is either a copy that may be dropped at any moment or a
lower bound of what is durable (`TagRecord.floor`).
"""
