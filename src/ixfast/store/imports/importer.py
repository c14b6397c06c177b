"""Import of tags: a file of any length into one transaction, or nothing of it.

The file is read in blocks of some thousand lines. While the database writes one block, the keys of the next are sealed and the
one after that is parsed: the database is what takes longest, and it hardly waits. A new tag goes by COPY into its tables, a
changed one through a temporary table, and what becomes of every good line into another, of which the report is made and in which
lines that repeat each other are found. From the first problem on nothing is written any more and the rest is only checked.

A UID or CUID is looked up only if a tag may have it: those of the account's tags are read, and those of earlier lines are
remembered. That saves a quarter of the time. Those of a large account are read by and by, no more than the file is worth, and
until then each is looked up.

Held in memory: three blocks, a bit for each tag, eight bytes for each new one, and the CUIDs that were replaced.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import asyncpg
import msgspec
import orjson

from ixfast.domain.model import FieldDefinition
from ixfast.errors import InputError
from ixfast.keys import KeyEncryptionKeys, KeySlot
from ixfast.limits import CHANGES_READ_MAX, TAG_FILE_SILENCE_MS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports.group_names import batch_named
from ixfast.store.imports.import_plan import (
    CHANGE_TABLE,
    COPIED_COLUMNS,
    FIRST_VERSION,
    Context,
    Matcher,
    Meant,
    Plan,
    names_of,
    plan,
)
from ixfast.store.imports.seen_tags import Names
from ixfast.store.imports.stored_keys import MetaKeys, deleted_before, keys_of
from ixfast.store.queries import load
from ixfast.store.random_codes import CODE_CHARS, draw_codes
from ixfast.tag_files import PRESETS, PROBLEMS_MAX, Layout, Problem, Problems, TagFile, TagRow

_TAGS_NOTED_MAX = CHANGES_READ_MAX // 2  # More changed tags empty the workers' caches instead.
# Reading the names of a tag takes a sixth of the time in which those of a line are looked up.
_NAMES_READ_FIRST = 100_000
_NAMES_READ_A_LINE = 5
_NAMES_READ_AT_ONCE = 20_000

T = TypeVar("T")
Pieces = AsyncIterable[bytes] | Iterable[bytes]
LineSink = Callable[[Sequence[dict[str, Any]]], None]


class Options(NamedTuple):
    """How a file is read and what is done with it."""

    preset: str | None = None
    ignored: Sequence[str] = ()
    allow_keys: bool = True
    allow_zero_keys: bool = False
    retire_old_keys: bool = False
    code_chars: int = CODE_CHARS[-1]
    dry_run: bool = False
    problems_max: int = PROBLEMS_MAX


class Report(msgspec.Struct):
    """What was done, or with problems or in a dry run, would have been. It has no key."""

    stored: bool = False
    dry_run: bool = False
    lines: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    keys_added: int = 0
    keys_replaced: int = 0
    meta_keys_added: int = 0
    batch_created: bool = False
    problems: list[Problem] = []
    more_problems: bool = False
    """Whether the file was left unread after the last of `problems`."""


class _RefusedError(Exception):
    """Ends the transaction of a file with problems, and that of a dry run."""


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
    """Import a tag file that comes in `pieces` of any size. New tags get into the group and batch; others stay where they are.

    `batch` is an id, or a name that is made if the group has none. Mistakes of the file are in the report, and nothing is stored
    then. `on_lines` is told what became of each line, just before the commit; `on_bytes` how many bytes of the file were
    worked on. `by` is the API key of who asked, for the audit log. InputError: no such group or batch, an unknown preset,
    another import into the account under way, or somebody else who has added or deleted such a tag meanwhile.
    """
    report = Report(dry_run=options.dry_run)
    try:
        async with connection.transaction():
            work = await _begin(connection, keks, account_id, group_id, batch, options, report)
            await work.read(pieces, on_bytes or (lambda count: None))
            await work.finish(on_lines, by)
    except _RefusedError:
        return report
    except asyncpg.UniqueViolationError as error:
        field = (error.constraint_name or "tag").rpartition("_")[2].upper()
        raise InputError(
            "already_exists",
            f"Somebody else added a tag with the same {field} meanwhile; nothing was imported. Try again.",
            field,
        ) from None
    report.stored = True
    return report


async def _begin(
    connection: Any,
    keks: KeyEncryptionKeys,
    account_id: int,
    group_id: int,
    batch: int | str | None,
    options: Options,
    report: Report,
) -> _Import:
    sql = load("importing")
    if options.preset is not None and options.preset not in PRESETS:
        raise InputError("invalid_parameter", f"A preset is one of {', '.join(PRESETS)}.", "preset")
    if options.code_chars not in CODE_CHARS:
        raise InputError(
            "invalid_parameter", f"A made tag code has {' or '.join(map(str, CODE_CHARS))} characters.", "code_chars"
        )
    if not await connection.fetchval(sql["only_one"], account_id):
        raise InputError("import_running", "Another import into the account is under way; wait for it to end.")
    await connection.execute(sql["bounds"], str(TAG_FILE_SILENCE_MS_MAX))
    await edits.announce_keys(connection, keks)
    group = await connection.fetchrow(sql["group_held"], account_id, group_id)
    if group is None:
        raise InputError("not_found", "The account has no such group.", "group")
    batch_id, report.batch_created = await _batch(connection, group_id, batch)
    definitions = msgspec.json.decode(group["fields"], type=list[FieldDefinition])
    layout = Layout(
        preset=options.preset,
        ignored=options.ignored,
        fields=[each.name for each in definitions],
        allow_keys=options.allow_keys,
        allow_zero_keys=options.allow_zero_keys,
    )
    groups = await connection.fetch(sql["groups"], account_id)
    siblings = frozenset(row["group_id"] for row in groups if row["folder_id"] == group["folder_id"])
    deriving = frozenset(row["group_id"] for row in groups if row["derives"])
    masters = None
    if group_id in deriving:
        rows = await connection.fetch(load("management")["group_keys"], group_id)
        masters = {row["identity"]: row["version"] for row in rows}
    now = await connection.fetchval("SELECT now()")
    await connection.execute(sql["stage"])
    await connection.execute(sql["stage_changes"])
    context = Context(account_id, group_id, batch_id, siblings, deriving, masters, keks, now)
    work = _Import(connection, context, layout, options, report)
    await work.read_names()
    return work


async def _batch(connection: Any, group_id: int, batch: int | str | None) -> tuple[int | None, bool]:
    """The id of the batch, which is kept from being deleted, and whether it was made now."""
    if batch is None:
        return None, False
    batch_id = batch if isinstance(batch, int) else await batch_named(connection, group_id, batch)
    if batch_id is None:
        assert isinstance(batch, str)
        return await edits.create_batch(connection, group_id, batch), True
    if await connection.fetchval(load("importing")["batch_held"], group_id, batch_id) is None:
        raise InputError("not_found", "The group has no such batch.", "batch")
    return batch_id, False


class _Block(NamedTuple):
    """Lines of a file, the names in them that may be known, and a drawn code for each line without one."""

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
        self._names = Names()  # those of the tags that were read, and of all lines
        self._names_read = 0
        self._names_read_to: int | None = 0  # the id of the last tag whose names were read; None: they all were
        self._sql = load("importing")
        self._problems = Problems(options.problems_max)
        self._file = TagFile(layout, self._problems)
        self._matcher = Matcher(context.account_id, context.folder_groups, self._problems)
        self._meta_keys = MetaKeys(connection, context.keks, context.account_id)
        self._new_ids = array("q")
        self._positions: dict[int, int] = {}
        self._touched: dict[int, str] | None = {}  # None: too many to be named
        self._blocks = 0  # written
        self._storing: asyncio.Task[None] | None = None
        # Parsing and planning need the interpreter both; two threads would only make each other and the loop wait for it.
        self._turn = asyncio.Lock()
        self._planned: Plan | None = None  # the block to be written next

    @property
    def _writes(self) -> bool:
        return not self._problems and not self._matcher.repeats

    async def read(self, pieces: Pieces, on_bytes: Callable[[int], None]) -> None:
        """Read the file to its end, or until there are too many problems. Parsing runs in a thread, beside the database."""
        try:
            async for piece in _asynchronous(pieces):
                await self._pass_on(self._file.feed(piece))
                on_bytes(len(piece))
                if self._file.done:
                    break
            await self._pass_on(self._file.finish())
            await self._stored()
            await self._write_planned()
        except BaseException:
            if self._storing is not None:
                self._storing.cancel()
                await asyncio.gather(self._storing, return_exceptions=True)
            raise

    async def _pass_on(self, blocks: Iterator[list[TagRow]]) -> None:
        while (block := await self._in_thread(self._read, blocks)) is not None:
            await self._stored()
            if block.rows and not self._problems.full:
                self._storing = asyncio.create_task(self._store(block))

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        async with self._turn:
            return await asyncio.to_thread(call, *arguments)

    def _read(self, blocks: Iterator[list[TagRow]]) -> _Block | None:
        """The next block, with all that can be made ready while the database works on those before."""
        rows = next(blocks, None)
        if rows is None:
            return None
        xuids, uids, cuids = names_of(rows)
        all_read = self._names_read_to is None
        known_uids, known_cuids = self._names.known(uids), self._names.known(cuids)
        if all_read:
            uids, cuids = known_uids, known_cuids
        return _Block(rows, xuids, uids, cuids, draw_codes(len(rows) - len(xuids), self._options.code_chars))

    async def read_names(self) -> None:
        """Read names of the account's tags, as many as the lines so far are worth."""
        worth = _NAMES_READ_FIRST + _NAMES_READ_A_LINE * self._report.lines
        while self._names_read_to is not None and self._names_read < worth:
            row = await self._connection.fetchrow(
                self._sql["stored_names"], self._context.account_id, self._names_read_to, _NAMES_READ_AT_ONCE
            )
            await self._in_thread(self._names.known, row["uids"])
            await self._in_thread(self._names.known, row["cuids"])
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
        for row in rows:
            if row.meta_key is not None and not await self._meta_keys.has(row.meta_key):
                if self._meta_keys.full:
                    self._problems.add(row.line, "META_KEY", "meta_keys_full")
                elif self._writes:
                    await self._meta_keys.add(row.meta_key)
                    self._report.meta_keys_added += 1
        await self.read_names()
        found = await connection.fetch(sql["found"], context.account_id, xuids, uids, cuids) if xuids or uids or cuids else []
        meant = Meant(found, context.account_id)
        stored = {row.line: found for row in rows if (found := meant.of(row)) is not None} if meant.by_xuid else {}
        fresh = [row for row in rows if row.line not in stored] if stored else rows
        rekeyed = [stored[row.line]["tag_id"] for row in rows if row.key and row.line in stored] if stored else []
        keys = await keys_of(connection, context.keks, rekeyed)
        deleted = await deleted_before(connection, context.account_id, fresh)
        ids: list[int] = await connection.fetchval(sql["ids"], len(fresh))
        codes = await self._fresh_codes(drawn[: sum(row.xuid is None for row in fresh)])

        def settle() -> Plan:
            matches = self._matcher.match(rows, meant)
            self._matcher.saw(ids)
            return plan(context, matches, keys, deleted, (ids, codes), self._problems)

        planning = asyncio.create_task(self._in_thread(settle))
        try:
            await self._write_planned()
        finally:
            self._planned = await planning

    async def _write_planned(self) -> None:
        """Write the block that was planned last. A block is looked up before the one before it is written: the matcher knows
        what that one has."""
        made, self._planned = self._planned, None
        if made is None:
            return
        await self._connection.execute(self._sql["stage_lines"], self._blocks, made.staged_lines)
        self._blocks += 1
        if not self._writes:
            return
        await self._write(made)
        self._count(made)

    async def _write(self, made: Plan) -> None:
        connection, sql = self._connection, self._sql
        await self._copy(made, "tag")
        if made.changes:
            await self._copy(made, CHANGE_TABLE)
            changed = await connection.execute(sql["change"])
            await connection.execute(sql["forget_changes"])
            if changed != f"UPDATE {len(made.changes)}":
                raise InputError("not_found", "A tag was deleted meanwhile; nothing was imported. Try again.")
        if made.rekeyed and await connection.fetchval(sql["hold_tags"], made.rekeyed) != len(made.rekeyed):
            raise InputError("not_found", "A tag was deleted meanwhile; nothing was imported. Try again.")
        await self._copy(made, "tag_key")
        if made.rekeyed and self._options.retire_old_keys:
            await connection.execute(sql["retire_keys"], made.rekeyed, KeySlot.FILE)

    async def _copy(self, made: Plan, table: str) -> None:
        if table in made.copies:
            data = _asynchronous((made.copies[table],))
            await self._connection.copy_to_table(table, source=data, columns=COPIED_COLUMNS[table], format="binary")

    def _count(self, made: Plan) -> None:
        report = self._report
        self._new_ids.extend(row[0] for row in made.tags)
        self._positions |= made.positions
        if self._touched is not None:
            self._touched |= made.touched
            if len(self._touched) > _TAGS_NOTED_MAX:
                self._touched = None
        report.added += len(made.tags)
        report.changed += len(made.touched)
        report.unchanged += len(made.lines) - len(made.tags) - len(made.touched)
        replaced = sum(version > FIRST_VERSION for _, _, version, *_ in made.keys) if made.rekeyed else 0
        report.keys_replaced += replaced
        report.keys_added += len(made.keys) - replaced

    async def _fresh_codes(self, drawn: list[str]) -> list[str]:
        """Tag codes that no tag has, as many as were drawn. Of long ones it is certain enough that they are fresh;
        should one be taken, the unique index says so."""
        length, count = self._options.code_chars, len(drawn)
        if length == CODE_CHARS[-1] or not count:
            return drawn
        codes = set(drawn)
        while True:
            codes.difference_update([row["xuid"] for row in await self._connection.fetch(self._sql["taken"], list(codes))])
            if len(codes) == count:
                break
            codes.update(draw_codes(count - len(codes), length))
        return list(codes)

    async def finish(self, on_lines: LineSink | None, by: int | None) -> None:
        """What comes last in the transaction. Raises `_RefusedError` if it must not be committed."""
        report, connection = self._report, self._connection
        if not self._writes and not self._problems.full:
            await self._find_repeats()
        report.problems = sorted(self._problems.found)
        report.more_problems = self._problems.full
        if self._problems:
            raise _RefusedError
        if self._matcher.repeats:
            raise RuntimeError("lines repeat each other, and none was found that does")
        if report.added:
            await connection.execute(self._sql["wait_long"])
            await edits.add_counters(connection, _Counters(self._new_ids, self._positions))
        if on_lines is not None:
            await self._tell(on_lines)
        changes: list[tuple[str, int | None, str | None]] = []
        if self._touched is None:
            changes.append(("all", None, None))
        else:
            changes += [("tag", tag_id, xuid) for tag_id, xuid in self._touched.items()]
        if report.added:
            changes.append(("tags_added", None, None))
        if report.meta_keys_added:
            changes.append(("account", self._context.account_id, None))
        if changes or report.batch_created:
            counts = {
                name: getattr(report, name) for name in ("lines", "added", "changed", "unchanged", "keys_added", "keys_replaced")
            }
            await edits.record(connection, self._context.account_id, by, "import", "group", self._context.group_id, None, counts)
        if changes:
            await edits.changed(connection, *changes)
        if report.dry_run:
            raise _RefusedError

    async def _find_repeats(self) -> None:
        room = self._options.problems_max - len(self._problems)
        for row in await self._connection.fetch(self._sql["repeated"], room):
            code = "two_keys" if row["two_keys"] else "duplicate"
            self._problems.add(row["line"], row["field"], code, f"It stands in line {row['earlier']}.")

    async def _tell(self, on_lines: LineSink) -> None:
        cursor = await self._connection.cursor(self._sql["staged_lines"])
        while block := await cursor.fetchrow():
            on_lines([_outcome(line) for line in orjson.loads(block["lines"])])


def _outcome(staged: Sequence[Any]) -> dict[str, Any]:
    line, _, xuid, uid, cuid, _, outcome, changed = staged
    told = {"line": line, "outcome": outcome, "xuid": xuid}
    told |= {name: value for name, value in (("uid", uid), ("cuid", cuid), ("changed", changed)) if value is not None}
    return told


class _Counters(Sequence[tuple[int, int]]):
    """Rows of `tag_counter` for new tags, made one by one."""

    def __init__(self, ids: array[int], positions: dict[int, int]) -> None:
        self._ids = ids
        self._positions = positions

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: Any) -> Any:
        return self._ids[place], self._positions.get(self._ids[place], 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        positions = self._positions
        return ((tag_id, positions.get(tag_id, 0)) for tag_id in self._ids)


async def _asynchronous(pieces: Pieces) -> AsyncIterable[bytes]:
    if isinstance(pieces, AsyncIterable):
        async for piece in pieces:
            yield piece
    else:
        for piece in pieces:
            yield piece
