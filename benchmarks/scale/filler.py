"""Fills a database with millions of tags: real rows with real key envelopes, as fast as PostgreSQL accepts them.

The product's own management functions create the account, the group, the batch and the first tags. The others come through
binary COPY, from one process per core, into tables whose indexes are created afterwards; each key is in an AES-GCM envelope for
its own tag, made by `ixfast.keys.wrap`. This is not an import (docs/how-to/import-tags.md):
nothing is checked, because the fleet is known to be correct.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from ixfast import cmac
from ixfast.keys import KeyEncryptionKeys, KeySlot, wrap
from ixfast.store.admin import edits
from ixfast.store.migrate import migrate
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet

TABLES = ("tag", "tag_key", "tag_counter")
FIRST_TAGS = 1000
_CHUNK_TAGS = 50_000
_PIECE_TAGS = 2000  # Rows sent at once: about 200 KB.
_VERSION = 1
# PostgreSQL's binary COPY: a header, rows of a field count and fields with their length before them, and -1 at the end.
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_TAG = struct.Struct(">hiqiqiqiqi8si7s").pack
_COUNTER = struct.Struct(">hiq").pack
_COLUMNS = {
    "tag": ("tag_id", "account_id", "group_id", "batch_id", "xuid", "uid"),
    "tag_key": ("tag_id", "slot", "version", "kek_id", "wrapped", "check_value"),
    "tag_counter": ("tag_id",),
}
_QUICKLY = {"synchronous_commit": "off", "maintenance_work_mem": "1GB", "max_parallel_maintenance_workers": "2"}


class Chunk(NamedTuple):
    """Tags of a fleet from index `start` up to, but not including, `stop`, and their owner. The tag at index i has the id i +
    1.
    """

    dsn: str
    kek_file: Path
    seed: int
    start: int
    stop: int
    account_id: int
    group_id: int
    batch_id: int


def fleet(seed: int, count: int) -> VirtualFleet:
    return VirtualFleet(seed, count, "ixkio-plain", account="bench")


def fill(dsn: str, kek_file: Path, seed: int, count: int, *, processes: int, progress: Callable[[str], None]) -> None:
    """Create the schema and `count` tags in an empty database."""
    owner = asyncio.run(_begin(dsn, kek_file, seed, min(count, FIRST_TAGS)))
    starts = range(min(count, FIRST_TAGS), count, _CHUNK_TAGS)
    chunks = [Chunk(dsn, kek_file, seed, start, min(count, start + _CHUNK_TAGS), *owner) for start in starts]
    if chunks:
        left = asyncio.run(_without_indexes(dsn))
        done = 0
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for number, rows in enumerate(pool.imap_unordered(_fill_chunk, chunks), start=1):
                done += rows
                if number % 20 == 0 or number == len(chunks):
                    progress(f"{done:,} of {count:,} tags")
        asyncio.run(_with_indexes(dsn, left, count, progress))


async def _begin(dsn: str, kek_file: Path, seed: int, first: int) -> tuple[int, int, int]:
    await migrate(dsn)
    connection = await asyncpg.connect(dsn)
    try:
        await provision(connection, KeyEncryptionKeys.load_file(kek_file), [fleet(seed, first)])
        row = await connection.fetchrow("SELECT account_id, group_id, batch_id FROM tag WHERE tag_id = 1")
        return row["account_id"], row["group_id"], row["batch_id"]
    finally:
        await connection.close()


async def _without_indexes(dsn: str) -> list[str]:
    """Drop the indexes of the tables; returns the statements that create them again."""
    connection = await asyncpg.connect(dsn)
    try:
        again = []
        for row in await connection.fetch(
            "SELECT conrelid::regclass::text AS name, conname, pg_get_constraintdef(oid) AS text FROM pg_constraint"
            " WHERE contype IN ('p', 'u') AND conrelid::regclass::text = ANY ($1)",
            TABLES,
        ):
            again.append(f"ALTER TABLE {row['name']} ADD CONSTRAINT {row['conname']} {row['text']}")
            await connection.execute(f"ALTER TABLE {row['name']} DROP CONSTRAINT {row['conname']}")
        for row in await connection.fetch("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = ANY ($1)", TABLES):
            again.append(row["indexdef"])
            await connection.execute(f"DROP INDEX {row['indexname']}")
        # Like `edits.add_tags`: pages are filled to 70 %, in a table that does not reserve space itself.
        await connection.execute("ALTER TABLE tag_counter SET (fillfactor = 70)")
        return again
    finally:
        await connection.close()


async def _with_indexes(dsn: str, again: list[str], count: int, progress: Callable[[str], None]) -> None:
    connection = await asyncpg.connect(dsn, server_settings=_QUICKLY)
    try:
        await connection.execute("ALTER TABLE tag_counter RESET (fillfactor)")
        for number, statement in enumerate(again, start=1):
            await connection.execute(statement, timeout=None)
            progress(f"index {number} of {len(again)} over {count:,} tags")
        await connection.execute("SELECT setval(pg_get_serial_sequence('tag', 'tag_id'), $1)", count)
        await edits.changed(connection, ("tags_added", None, None))
    finally:
        await connection.close()


def _fill_chunk(chunk: Chunk) -> int:
    return asyncio.run(_copy(chunk))


async def _copy(chunk: Chunk) -> int:
    made: dict[str, Callable[[Chunk], Iterator[bytes]]] = {"tag": _tags, "tag_key": _keys, "tag_counter": _counters}
    connection = await asyncpg.connect(chunk.dsn, server_settings=_QUICKLY)
    try:
        for table, rows in made.items():
            await connection.copy_to_table(table, source=_pieces(rows(chunk)), columns=_COLUMNS[table], format="binary")
    finally:
        await connection.close()
    return chunk.stop - chunk.start


async def _pieces(rows: Iterator[bytes]) -> Any:
    yield _HEADER
    piece: list[bytes] = []
    for row in rows:
        piece.append(row)
        if len(piece) == _PIECE_TAGS:
            yield b"".join(piece)
            piece.clear()
    yield b"".join([*piece, _END])


def _tags(chunk: Chunk) -> Iterator[bytes]:
    tags = fleet(chunk.seed, chunk.stop)
    account_id, group_id, batch_id = chunk.account_id, chunk.group_id, chunk.batch_id
    for i in range(chunk.start, chunk.stop):
        yield _TAG(6, 8, i + 1, 8, account_id, 8, group_id, 8, batch_id, 8, tags.xuid(i).encode(), 7, tags.uid(i))


def _keys(chunk: Chunk) -> Iterator[bytes]:
    tags, kek = fleet(chunk.seed, chunk.stop), KeyEncryptionKeys.load_file(chunk.kek_file).current
    account_id, slot, kek_id, zeros = chunk.account_id, int(KeySlot.FILE), kek.id.encode(), bytes(16)
    row = struct.Struct(f">hiqihihi{len(kek_id)}si45si3s").pack
    for i in range(chunk.start, chunk.stop):
        key = tags.file_key(i)
        wrapped = wrap(kek, key, account_id=account_id, tag_id=i + 1, slot=slot, version=_VERSION)
        check_value = cmac.aes_cmac(key, zeros)[:3]
        yield row(6, 8, i + 1, 2, slot, 2, _VERSION, len(kek_id), kek_id, 45, wrapped, 3, check_value)


def _counters(chunk: Chunk) -> Iterator[bytes]:
    for i in range(chunk.start, chunk.stop):
        yield _COUNTER(1, 8, i + 1)
