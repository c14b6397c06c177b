"""Imports tags: a file of any length in one transaction, all of it or nothing.

The file is read in blocks of some thousand lines. While the database writes one block, the keys of the next one are sealed and
the one after that is parsed, so that the database, which takes longest, hardly ever waits. New tags are written by COPY, changes
through a temporary table. The outcome of every valid line is staged in another temporary table, from which the report is
written and in which lines that repeat each other are found. After the first problem nothing more is written; the rest of the
file is only checked.

A UID or CUID is looked up only if a tag may have it, which saves a quarter of the time: the names of the account's tags are read,
and those of earlier lines are remembered. The names of a large account are read gradually, in proportion to the length of the
file; until all have been read, every UID and CUID is looked up.

Memory: three blocks, one bit per tag, twenty bytes per new tag and per raised counter, and the CUIDs that were replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import asyncpg
import msgspec
import orjson

from ixfast.domain.model import EncodingProfile
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys, KeySlot
from ixfast.limits import CHANGES_READ_MAX
from ixfast.store.admin import edits
from ixfast.store.connections.lost import unless_lost
from ixfast.store.imports.counter_columns import CounterColumns, counters_of, raise_counters
from ixfast.store.imports.import_plan import (
    CHANGE_TABLE,
    COPIED_COLUMNS,
    FIRST_VERSION,
    Context,
    KeyVersion,
    Plan,
    StoredKeys,
    StoredTags,
    names_of,
    plan,
)
from ixfast.store.imports.import_setup import Options, prepare
from ixfast.store.imports.line_matcher import Matcher
from ixfast.store.imports.meta_key_owners import MetaKeys
from ixfast.store.imports.profile_warnings import place_warnings, profile_warnings
from ixfast.store.imports.seen_tags import SeenNames
from ixfast.store.imports.stored_keys import deleted_before, keys_of, read_masters
from ixfast.store.queries import load
from ixfast.store.random_codes import CODE_CHARS, draw_codes
from ixfast.tag_files import Layout, Problem, Problems, TagFile, TagRow

__all__ = ["LineSink", "Options", "Report", "import_tags"]

_TAGS_NOTED_MAX = CHANGES_READ_MAX // 2  # If more tags change, the workers drop their whole caches instead.
# Reading the names of a stored tag takes a sixth of the time of looking up those of a line.
_NAMES_READ_FIRST = 100_000
_NAMES_READ_A_LINE = 5
_NAMES_READ_AT_ONCE = 20_000

T = TypeVar("T")
Pieces = AsyncIterable[bytes] | Iterable[bytes]
LineSink = Callable[[Sequence[dict[str, Any]]], None]
"""Called with the outcomes of some lines, as JSON objects."""


class Report(msgspec.Struct):
    """What was done, or with problems or in a dry run, would have been done. Contains no keys."""

    stored: bool = False
    dry_run: bool = False
    lines: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    keys_added: int = 0
    keys_replaced: int = 0
    meta_keys_added: int = 0
    """Meta keys of the account."""
    batch_meta_keys_added: int = 0
    tag_meta_keys_added: int = 0
    batch_created: bool = False
    warnings: list[str] = []
    """Why taps of the tags may be unknown although the import succeeds."""
    problems: list[Problem] = []
    more_problems: bool = False
    """Whether reading stopped at the last of `problems`."""


class _RollbackError(Exception):
    """Ends the transaction of a file with problems, or of a dry run."""


async def import_tags(
    connection: Any,
    keks: KeyEncryptionKeys,
    pieces: Pieces,
    *,
    account_id: int,
    group_id: int,
    batch: int | str | None = None,
    options: Options = Options(),  # noqa: B008 - immutable
    on_lines: LineSink | None = None,
    on_bytes: Callable[[int], None] | None = None,
    by: int | None = None,
) -> Report:
    """Import a tag file that arrives in `pieces` of any size. New tags are added to the group and batch; existing tags stay in
    theirs.

    `batch` is an id, or a name; a batch with that name is created if the group has none. If the file has problems, they are in
    the report and nothing is stored. `on_lines` gets the outcome of every line, just before the commit; `on_bytes` gets the
    number of bytes processed. `by` is the API key of the caller, for the audit log.

    Raises InputError if there is no such group or batch, the preset is unknown, another import into the account is running, or a
    tag was concurrently added or deleted.
    """
    report = Report(dry_run=options.dry_run)
    try:
        async with connection.transaction():
            context, layout, report.batch_created, profile = await prepare(connection, keks, account_id, group_id, batch, options)
            work = _Import(connection, context, layout, options, report)
            await work.read_names()
            await work.read(pieces, on_bytes or (lambda count: None))
            await work.finish(profile, on_lines, by)
    except _RollbackError:
        return report
    except asyncpg.UniqueViolationError as error:
        field = (error.constraint_name or "tag").rpartition("_")[2].upper()
        raise InputError(
            "already_exists",
            f"A tag with the same {field} was added concurrently; nothing was imported. Try again.",
            field,
        ) from None
    report.stored = True
    return report


class _Block(NamedTuple):
    """Lines of a file, the names in them that must be looked up, and a random code for each line without one."""

    rows: list[TagRow]
    xuids: list[str]
    uids: list[bytes]
    cuids: list[str]
    drawn: list[str]


class _Import:
    """One import inside its transaction."""

    def __init__(self, connection: Any, context: Context, layout: Layout, options: Options, report: Report) -> None:
        self._connection = connection
        self._context = context
        self._options = options
        self._report = report
        self._names = SeenNames()  # of the stored tags read so far, and of all lines
        self._names_read = 0
        self._names_read_to: int | None = 0  # the id of the last tag whose names were read; None when all were
        self._sql = load("importing")
        self._problems = Problems(options.problems_max)
        self._file = TagFile(layout, self._problems)
        self._matcher = Matcher(context.account_id, context.folder_groups, self._problems)
        self._meta_keys = MetaKeys(
            connection, context, options.meta_keys, self._problems, self._in_thread, retire_old_keys=options.retire_old_keys
        )
        self._new_counters = CounterColumns()
        self._raised_counters = CounterColumns()  # of stored tags
        self._elsewhere = 0
        self._touched: dict[int, str] | None = {}  # None: too many to list
        self._blocks = 0  # number of blocks written
        self._storing: asyncio.Task[None] | None = None
        # Parsing and planning both hold the GIL; running them concurrently would only delay each other and the event loop.
        self._turn = asyncio.Lock()
        self._planned: Plan | None = None  # the next block to write

    @property
    def _writes(self) -> bool:
        return not self._problems and not self._matcher.repeats

    async def read(self, pieces: Pieces, on_bytes: Callable[[int], None]) -> None:
        """Read the file to its end, or until there are too many problems. Parsing runs in a thread while the database works."""
        try:
            async for piece in _asynchronous(pieces):
                await self._store_blocks(self._file.feed(piece))
                on_bytes(len(piece))
                if self._file.done:
                    break
            await self._store_blocks(self._file.finish())
            await self._stored()
            await self._write_planned()
        except BaseException:
            if self._storing is not None:
                self._storing.cancel()
                await asyncio.gather(self._storing, return_exceptions=True)
            raise

    async def _store_blocks(self, blocks: Iterator[list[TagRow]]) -> None:
        while (block := await self._in_thread(self._read, blocks)) is not None:
            await self._stored()
            if block.rows and not self._problems.full:
                self._storing = asyncio.create_task(self._store(block))

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        async with self._turn:
            return await asyncio.to_thread(call, *arguments)

    def _read(self, blocks: Iterator[list[TagRow]]) -> _Block | None:
        """Parse the next block, and prepare what can be prepared while the database works on earlier ones."""
        rows = next(blocks, None)
        if rows is None:
            return None
        xuids, uids, cuids = names_of(rows)
        all_read = self._names_read_to is None
        known_uids, known_cuids = self._names.add_all(uids), self._names.add_all(cuids)
        if all_read:
            uids, cuids = known_uids, known_cuids
        return _Block(rows, xuids, uids, cuids, draw_codes(len(rows) - len(xuids), self._options.code_chars))

    async def read_names(self) -> None:
        """Read names of the account's tags, as many as the number of lines so far justifies."""
        budget = _NAMES_READ_FIRST + _NAMES_READ_A_LINE * self._report.lines
        while self._names_read_to is not None and self._names_read < budget:
            row = await self._connection.fetchrow(
                self._sql["stored_names"], self._context.account_id, self._names_read_to, _NAMES_READ_AT_ONCE
            )
            await self._in_thread(self._names.add_all, row["uids"])
            await self._in_thread(self._names.add_all, row["cuids"])
            self._names_read += row["tags"]
            self._names_read_to = row["last"] if row["tags"] == _NAMES_READ_AT_ONCE else None

    async def _stored(self) -> None:
        if self._storing is not None:
            storing, self._storing = self._storing, None
            try:
                await storing
            except asyncio.CancelledError:
                storing.cancel()
                await asyncio.gather(storing, return_exceptions=True)
                raise

    async def _store(self, block: _Block) -> None:
        connection, sql, context = self._connection, self._sql, self._context
        rows, xuids, uids, cuids, drawn = block
        self._report.lines += len(rows)
        await self._meta_keys.place(rows)
        await self.read_names()
        found = await connection.fetch(sql["find_tags"], context.account_id, xuids, uids, cuids) if xuids or uids or cuids else []
        tags = StoredTags(found, context.account_id)
        stored = {row.line: tag for row in rows if (tag := tags.find(row)) is not None} if tags.by_xuid else {}
        fresh = [row for row in rows if row.line not in stored] if stored else rows
        matched = [(row, stored[row.line]) for row in rows if row.line in stored] if stored else []
        counted = [tag["tag_id"] for row, tag in matched if _has_counter(row)]
        keyed = [tag["tag_id"] for row, tag in matched if row.key]
        meta_rekeyed = [tag["tag_id"] for row, tag in matched if row.meta_key]
        file_keys = await keys_of(connection, context.keks, [*keyed, *counted], KeySlot.FILE)
        returning = [(row, tag) for row, tag in matched if _may_return(row, tag, file_keys.get(tag["tag_id"], ()))]
        returning_ids = [tag["tag_id"] for _, tag in returning]
        await self._lock([tag for _, tag in returning])
        file_keys |= await keys_of(connection, context.keks, returning_ids, KeySlot.FILE)
        keys = StoredKeys(file_keys, await keys_of(connection, context.keks, meta_rekeyed, KeySlot.META))
        ids, any_deleted = await connection.fetchrow(sql["draw_ids"], len(fresh), context.account_id)
        may_return = any_deleted and (fresh or returning)
        deleted = await deleted_before(connection, context.account_id, fresh, returning) if may_return else {}
        counters = await counters_of(connection, [*counted, *returning_ids] if deleted else counted)
        codes = await self._fresh_codes(drawn[: sum(row.xuid is None for row in fresh)])

        def make_plan() -> Plan:
            matches = self._matcher.match(rows, tags)
            self._matcher.add_new_ids(ids)
            return plan(context, matches, keys, counters, deleted, (ids, codes), self._problems)

        planning = asyncio.create_task(self._in_thread(make_plan))
        try:
            await self._write_planned()
        finally:
            self._planned = await planning

    async def _lock(self, tags: Sequence[Any]) -> None:
        """Lock stored tags (`find_tags`) that get a key or their UID, before their keys are read."""
        own = {tag["tag_id"]: tag for tag in tags if tag["account_id"] == self._context.account_id}
        columns = list(own), [tag["uid"] for tag in own.values()], [tag["group_id"] for tag in own.values()]
        if own and await self._connection.fetchval(self._sql["lock_returning"], *columns) != len(own):
            raise InputError("not_found", "A tag was changed or deleted concurrently; nothing was imported. Try again.")

    async def _write_planned(self) -> None:
        """Write the block that was planned last. The next block was looked up before this write; the matcher covers the gap,
        because it remembers the names of this block."""
        block_plan, self._planned = self._planned, None
        if block_plan is None:
            return
        await self._connection.execute(self._sql["stage_lines"], self._blocks, block_plan.staged_lines)
        self._blocks += 1
        if not self._writes:
            return
        await self._write(block_plan)
        self._count(block_plan)

    async def _write(self, block_plan: Plan) -> None:
        connection, sql = self._connection, self._sql
        await self._copy(block_plan, "tag")
        if block_plan.changes:
            await self._copy(block_plan, CHANGE_TABLE)
            changed = await connection.execute(sql["change"])
            await connection.execute(sql["clear_changes"])
            if changed != f"UPDATE {len(block_plan.changes)}":
                raise InputError("not_found", "A tag was deleted concurrently; nothing was imported. Try again.")
        locked = set(block_plan.locked)
        if locked and await connection.fetchval(sql["lock_tags"], list(locked)) != len(locked):
            raise InputError("not_found", "A tag was deleted concurrently; nothing was imported. Try again.")
        await self._copy(block_plan, "tag_key")
        if block_plan.rekeyed and self._options.retire_old_keys:
            await connection.execute(sql["retire_keys"], block_plan.rekeyed, KeySlot.FILE)
        await self._meta_keys.take(block_plan.meta_keys)

    async def _copy(self, block_plan: Plan, table: str) -> None:
        if table in block_plan.copies:
            data = _asynchronous((block_plan.copies[table],))
            connection, columns = self._connection, COPIED_COLUMNS[table]
            await unless_lost(connection, lambda: connection.copy_to_table(table, source=data, columns=columns, format="binary"))

    def _count(self, block_plan: Plan) -> None:
        report = self._report
        self._new_counters.extend(block_plan.counters)
        self._raised_counters.extend(block_plan.raised)
        if self._touched is not None:
            self._touched |= block_plan.touched
            if len(self._touched) > _TAGS_NOTED_MAX:
                self._touched = None
        self._elsewhere += block_plan.elsewhere
        report.added += len(block_plan.tags)
        report.changed += len(block_plan.touched)
        report.unchanged += len(block_plan.lines) - len(block_plan.tags) - len(block_plan.touched)
        replaced = sum(version > FIRST_VERSION for _, _, version, *_ in block_plan.keys) if block_plan.rekeyed else 0
        report.keys_replaced += replaced
        report.keys_added += len(block_plan.keys) - replaced

    async def _fresh_codes(self, drawn: list[str]) -> list[str]:
        """Unused tag codes, as many as were drawn. Long codes are not checked, because a collision is improbable and the unique
        index would detect it."""
        length, count = self._options.code_chars, len(drawn)
        if length == CODE_CHARS[-1] or not count:
            return drawn
        codes = set(drawn)
        while True:
            codes.difference_update(
                [row["xuid"] for row in await self._connection.fetch(self._sql["existing_codes"], list(codes))]
            )
            if len(codes) == count:
                break
            codes.update(draw_codes(count - len(codes), length))
        return list(codes)

    async def finish(self, profile: EncodingProfile | None, on_lines: LineSink | None, by: int | None) -> None:
        """Add the counters, report the lines and announce the changes. Raises `_RollbackError` if nothing must be committed."""
        report, connection = self._report, self._connection
        if not self._writes and not self._problems.full:
            await self._find_repeats()
        report.problems = self._problems.by_line()
        report.more_problems = self._problems.full
        if self._problems:
            raise _RollbackError
        if self._matcher.repeats:
            raise RuntimeError("lines repeat each other, but no repeated line was found")
        if report.added:
            await connection.execute(self._sql["allow_long_lock_wait"])
            await edits.add_counters(connection, self._new_counters, CounterColumns.NAMES)
        await self._meta_keys.finish()
        added = self._meta_keys.added
        report.meta_keys_added, report.batch_meta_keys_added, report.tag_meta_keys_added = (
            added["account"], added["batch"], added["tag"],
        )  # fmt: skip
        report.warnings = [*profile_warnings(profile, added), *place_warnings(self._elsewhere, batch=self._context.batch_id)]
        if on_lines is not None:
            await self._report_lines(on_lines)
        changes: list[tuple[str, int | None, str | None]] = []
        if self._touched is None:
            changes.append(("all", None, None))
        else:
            changes += [("tag", tag_id, xuid) for tag_id, xuid in self._touched.items()]
        if report.added:
            changes.append(("tags_added", None, None))
        if report.meta_keys_added:
            changes.append(("account", self._context.account_id, None))
        if report.batch_meta_keys_added:
            changes.append(("batch", self._context.batch_id, None))
        if changes or report.batch_created:
            counts = {
                name: getattr(report, name) for name in ("lines", "added", "changed", "unchanged", "keys_added", "keys_replaced")
            }
            await edits.record(connection, self._context.account_id, by, "import", "group", self._context.group_id, None, counts)
        await connection.fetchval(self._sql["lock_groups"], self._context.account_id)
        if await read_masters(connection, self._context.account_id) != self._context.masters:
            raise InputError("already_exists", "A master key was added concurrently; nothing was imported. Try again.")
        if not report.dry_run:
            await raise_counters(connection, self._raised_counters)
        if changes:
            await edits.changed(connection, *changes)
        if report.dry_run:
            raise _RollbackError

    async def _find_repeats(self) -> None:
        limit = self._options.problems_max - len(self._problems)
        for row in await self._connection.fetch(self._sql["find_repeats"], limit):
            self._problems.add(row["line"], row["field"], row["code"], f"See line {row['earlier']}.")

    async def _report_lines(self, on_lines: LineSink) -> None:
        cursor = await self._connection.cursor(self._sql["staged_lines"])
        while block := await cursor.fetchrow():
            on_lines([_outcome(line) for line in orjson.loads(block["lines"])])


def _outcome(staged: Sequence[Any]) -> dict[str, Any]:
    line, _, xuid, uid, cuid, _, outcome, changed = staged
    members = {"line": line, "outcome": outcome, "xuid": xuid}
    members |= {name: value for name, value in (("uid", uid), ("cuid", cuid), ("changed", changed)) if value is not None}
    return members


def _may_return(row: TagRow, stored: Any, keys: Sequence[KeyVersion]) -> bool:
    """Whether a line gives a stored tag a key or its UID, under which taps of a deleted tag could pass."""
    has_key = len(keys) > 0 and keys[0].live and keys[0].check_value == row.check_value
    return (row.uid is not None and stored["uid"] is None) or (row.key is not None and not has_key)


def _has_counter(row: TagRow) -> bool:
    return row.last_counter is not None or row.scan_count is not None


async def _asynchronous(pieces: Pieces) -> AsyncIterable[bytes]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece
