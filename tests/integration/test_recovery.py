"""Recovery of counters: what an asynchronous failover lost is found in the old primary's log, measured, and added once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support.ledger_kit import ADVANCED, REPLAYED, open_ledger
from support.replication import Replicated, Server, replicated

from ixfast.store import partitions
from ixfast.store.admin import recovery
from ixfast.store.admin.recovery import RecoveryError, Report, SkippedTag
from ixfast.store.migrate import migrate
from ixfast.store.partitions import SCAN_LOG

TAGS = 8
COUNTERS = "SELECT tag_id, last_position, previous_position, scan_count FROM tag_counter ORDER BY tag_id"
STATE = "SELECT (SELECT json_agg(c ORDER BY tag_id) FROM tag_counter c), (SELECT json_agg(s ORDER BY tag_id, at) FROM scan_log s)"


async def run(dsn: str, *statements: str) -> list[tuple[Any, ...]]:
    """Execute statements; the rows of the last."""
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            rows = await connection.fetch(statement)
        return [tuple(row) for row in rows]
    finally:
        await connection.close()


async def tap(dsn: str, *taps: tuple[int, int]) -> list[str]:
    """The ledger's answers to (tag id, position), one after the other."""
    async with open_ledger(dsn) as kit:
        return [await kit.word(tag_id, position) for tag_id, position in taps]


class Failover:
    """A failover that lost the second and third tap of every tag; what was done is in the names of the methods."""

    def __init__(self, servers: Replicated) -> None:
        self.servers = servers
        self.dsn = servers.dsn
        self.old: Server

    async def prepare(self) -> None:
        await migrate(self.dsn)
        await run(
            self.dsn,
            f"INSERT INTO tag (tag_id, account_id, group_id, xuid) SELECT n, 1, 1, 'tag' || n FROM generate_series(1, {TAGS}) n",
            "INSERT INTO tag_counter (tag_id) SELECT tag_id FROM tag",
        )
        before = [(tag_id, 1) for tag_id in range(1, TAGS + 1)]
        assert set(await tap(self.dsn, *before)) == {ADVANCED}

    async def fail_over(self, gap: Sequence[tuple[int, int]]) -> None:
        await asyncio.to_thread(self.servers.catch_up)
        await asyncio.to_thread(self.servers.hold_back)
        assert set(await tap(self.dsn, *gap)) == {ADVANCED}
        self.servers.kill_primary()
        await asyncio.to_thread(self.servers.promote)

    async def revive(self) -> None:
        self.old = await asyncio.to_thread(self.servers.start_old_primary)

    async def recover(self, **options: Any) -> Report:
        options = {"since": None, "dry_run": False, "advanced": lambda _: None} | options
        return await recovery.recover(self.dsn, self.old.dsn, **options)

    async def counters(self) -> dict[int, tuple[int, int, int]]:
        """Last position, previous position and scan count by tag."""
        return {row[0]: row[1:] for row in await run(self.dsn, COUNTERS)}


QUICK = {"fsync": "off"}
GAP = [(tag_id, position) for tag_id in range(1, TAGS + 1) for position in (2, 3)]


@pytest.fixture
async def failover(server_dir: Path) -> AsyncIterator[Failover]:
    with replicated(server_dir, settings=QUICK) as servers:
        failover = Failover(servers)
        await failover.prepare()
        await failover.fail_over(GAP)
        yield failover


async def test_taps_of_the_gap_are_recovered_measured_and_pass_no_more(failover: Failover) -> None:
    # Two taps of the gap pass once more, one tag goes on, and the rest was never asked again.
    assert await tap(failover.dsn, (1, 2), (2, 3), (3, 9)) == [ADVANCED] * 3
    await failover.revive()
    measured = await failover.recover(dry_run=True)
    assert (measured.lost, measured.accepted_again, measured.raised, measured.done) == (16, 2, 6, 0)
    report = await failover.recover()
    assert (report.read, report.lost, report.todo, report.done) == (TAGS + 16, 16, 16, 16)
    assert (report.accepted_again, report.raised, report.resent, report.skipped) == (2, 6, 0, [])
    assert await failover.counters() == {
        1: (3, 2, 4),  # 1; 2 and 3 on the old primary; 2 again
        2: (3, 1, 4),  # as high already: keeps what it says of its last scan
        3: (9, 1, 4),
        **dict.fromkeys(range(4, TAGS + 1), (3, 2, 3)),
    }
    taps = [*GAP, (3, 9)]
    assert await tap(failover.dsn, *taps) == [REPLAYED] * len(taps)
    assert await tap(failover.dsn, (1, 4), (3, 10)) == [ADVANCED] * 2
    assert await failed_invariants(failover.dsn) == []


async def failed_invariants(dsn: str) -> list[tuple[Any, ...]]:
    """Tags whose counter is not what their log says."""
    return await run(
        dsn,
        "SELECT tag_id, c.scan_count, l.passes, c.last_position, l.top FROM tag_counter c"
        " JOIN (SELECT tag_id, count(*) AS passes, max(position) AS top FROM scan_log WHERE verdict IN ('g', 'p') GROUP BY 1) l"
        " USING (tag_id) WHERE c.scan_count <> l.passes OR c.last_position <> l.top",
    )


async def test_what_was_recovered_is_as_if_it_had_been_replicated(failover: Failover) -> None:
    await failover.revive()
    await failover.recover()
    assert await run(failover.dsn, STATE) == await run(failover.old.dsn, STATE)


async def test_an_old_primary_may_be_started_read_only(failover: Failover) -> None:
    assert failover.servers.old_primary is not None
    (failover.servers.old_primary.data / "standby.signal").touch()
    await failover.revive()
    assert await run(failover.old.dsn, "SELECT pg_is_in_recovery()") == [(True,)]
    report = await failover.recover()
    assert (report.lost, report.raised, report.done) == (16, 8, 16)


async def test_a_second_run_changes_nothing(failover: Failover) -> None:
    await tap(failover.dsn, (1, 2), (3, 9))
    await failover.revive()
    await failover.recover()
    before = await run(failover.dsn, STATE)
    for dry_run in (True, False):
        report = await failover.recover(dry_run=dry_run)
        assert (report.lost, report.raised, report.done) == (0, 0, 0)
    assert await run(failover.dsn, STATE) == before


async def test_a_dry_run_changes_nothing(failover: Failover) -> None:
    await failover.revive()
    before = await run(failover.dsn, STATE)
    report = await failover.recover(dry_run=True)
    assert (report.lost, report.raised, report.done) == (16, 8, 0)
    assert await run(failover.dsn, STATE) == before


@pytest.mark.parametrize("rows", [1, 3, 500])
async def test_chunks_of_any_size_come_to_the_same(failover: Failover, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(recovery, "READ_ROWS", rows)
    await failover.revive()
    report = await failover.recover(write_rows=rows)
    assert (report.lost, report.raised, report.done) == (16, 8, 16)
    assert set((await failover.counters()).values()) == {(3, 2, 3)}


async def test_only_what_was_accepted_since_a_moment_is_compared(failover: Failover) -> None:
    await failover.revive()
    ((moment,),) = await run(failover.old.dsn, "SELECT at FROM scan_log WHERE tag_id = 5 AND position = 2")
    report = await failover.recover(since=moment)
    assert (report.read, report.lost, report.raised) == (8, 8, 4)
    late = moment + dt.timedelta(hours=1)
    assert (await failover.recover(since=late)).read == 0


async def test_a_scan_that_a_server_sent_again_is_no_second_one(failover: Failover) -> None:
    """Its commit was acknowledged by neither primary, so the committer sent it again with the same id."""
    await failover.revive()
    ((scan_id,),) = await run(failover.old.dsn, "SELECT scan_id FROM scan_log WHERE tag_id = 1 AND position = 2")
    async with open_ledger(failover.dsn) as kit:
        assert await kit.word(1, 2, scan_id) == ADVANCED
    report = await failover.recover()
    assert (report.lost, report.resent, report.accepted_again, report.raised) == (15, 1, 0, 8)
    assert await failover.counters() == dict.fromkeys(range(1, TAGS + 1), (3, 2, 3))
    report = await failover.recover()
    assert (report.lost, report.resent, report.done) == (0, 1, 0)
    assert await failed_invariants(failover.dsn) == []


# Tags that are not the same on both sides.


async def test_a_tag_whose_id_was_given_anew_is_left_and_reported(failover: Failover) -> None:
    await failover.revive()
    await run(
        failover.dsn,
        "UPDATE tag SET xuid = 'other' WHERE tag_id = 4",  # its id belongs to another
        "UPDATE tag SET tag_id = 105 WHERE tag_id = 5",  # and it has another id
        "UPDATE tag_counter SET tag_id = 105 WHERE tag_id = 5",
        "DELETE FROM tag WHERE tag_id = 6",
        "DELETE FROM tag_counter WHERE tag_id = 7",
    )
    await run(failover.old.dsn, "DELETE FROM tag WHERE tag_id = 8")
    report = await failover.recover()
    assert (report.lost, report.skipped_passes, report.done, report.raised) == (16, 10, 6, 3)
    assert report.skipped == [
        SkippedTag(4, "tag4", 2, "its id belongs to another tag here"),
        SkippedTag(5, "tag5", 2, "it has another id here"),
        SkippedTag(6, "tag6", 2, "it does not exist here"),
        SkippedTag(7, "tag7", 2, "it has no counter here"),
        SkippedTag(8, None, 2, "the old primary does not know its code"),
    ]
    counters = await failover.counters()
    assert counters[4] == counters[105] == (1, 0, 1)
    assert await tap(failover.dsn, (4, 2)) == [ADVANCED]  # it is another tag's, and not held against it


async def test_a_deleted_tag_remembers_how_far_it_was_used(failover: Failover) -> None:
    deleted = "INSERT INTO deleted_tag SELECT {0}, 1, 1, 'tag{0}', NULL, {1}, '{{}}', '{{}}'"
    gone = [f"DELETE FROM {table} WHERE tag_id = {tag_id}" for tag_id in (1, 2) for table in ("tag", "tag_counter")]
    await run(failover.dsn, *gone, deleted.format(1, 1), deleted.format(2, 7))
    await failover.revive()
    report = await failover.recover()
    assert (report.lost, report.done, report.skipped) == (16, 16, [])
    assert await run(failover.dsn, "SELECT tag_id, last_position FROM deleted_tag ORDER BY 1") == [(1, 3), (2, 7)]
    assert await run(failover.dsn, "SELECT count(*) FROM scan_log WHERE tag_id = 1") == [(3,)]
    assert (await failover.recover()).lost == 0


@pytest.mark.parametrize(("version", "used"), [(1, (1 << 24) + 3), (2, (2 << 24) + 3)], ids=["same_version", "next_version"])
async def test_a_deleted_tag_that_has_returned_passes_no_lost_tap(server_dir: Path, version: int, used: int) -> None:
    """The lost passes belong to the deleted tag; the tag that the chip has now must know of them."""
    key, uid = b"abc", bytes.fromhex("04000000000001")
    with replicated(server_dir, settings=QUICK) as servers:
        failover = Failover(servers)
        await failover.prepare()
        await failover.fail_over([(1, (1 << 24) + 2), (1, (1 << 24) + 3)])
        deleted = "DELETE FROM tag_counter WHERE tag_id = 1", "DELETE FROM tag WHERE tag_id = 1"
        connection = await asyncpg.connect(failover.dsn)
        for statement in deleted:
            await connection.execute(statement)
        await connection.execute(
            "INSERT INTO deleted_tag (tag_id, account_id, group_id, xuid, uid, last_position, key_versions, check_values)"
            " VALUES (1, 1, 1, 'tag1', $1, $2, '{1}', $3)", uid, (1 << 24) + 1, [key],
        )  # fmt: skip
        for statement in (
            "INSERT INTO account (aid) VALUES ('a')",
            "INSERT INTO folder (account_id, name) SELECT account_id, 'f' FROM account",
            "INSERT INTO tag_group (folder_id, name, kind) SELECT folder_id, 'g', 'standard' FROM folder",
            "INSERT INTO tag (tag_id, account_id, group_id, xuid, uid)"
            " SELECT 99, f.account_id, g.group_id, 'again', '\\x04000000000001' FROM tag_group g JOIN folder f USING (folder_id)",
            f"INSERT INTO tag_counter (tag_id, last_position) VALUES (99, {(version << 24) + 1})",
            f"INSERT INTO tag_key (tag_id, slot, version, kek_id, wrapped, check_value) VALUES (99, 2, {version}, '', '', 'abc')",
        ):
            await connection.execute(statement)
        await connection.close()
        await failover.revive()
        await failover.recover()
        assert (await failover.counters())[99][0] == used


# Months that the current primary does not have.


async def test_what_the_retention_dropped_does_not_come_back(server_dir: Path) -> None:
    with replicated(server_dir, settings=QUICK) as servers:
        failover = Failover(servers)
        await failover.prepare()
        begins, ends = SCAN_LOG.bounds(dt.date(2020, 1, 1))
        await run(
            failover.dsn,
            f"CREATE TABLE scan_log_2020_01 PARTITION OF scan_log FOR VALUES FROM ('{begins}') TO ('{ends}')",
            "INSERT INTO scan_log VALUES ('2020-01-10', 7, 1, 1, 'g'), ('2020-01-10', 8, 2, 5, 'g')",
        )
        await failover.fail_over(GAP)
        await run(failover.dsn, "DROP TABLE scan_log_2020_01")
        await failover.revive()
        report = await failover.recover()
        assert (report.read, report.lost, report.not_logged, report.uncompared) == (26, 17, 1, {"scan_log_2020_01"})
        assert await run(failover.dsn, "SELECT count(*) FROM scan_log WHERE at < '2021-01-01'") == [(0,)]
        counters = await failover.counters()
        assert counters[1] == (3, 2, 3)
        assert counters[2] == (5, 3, 3)  # an accepted position all the same
        assert (await failover.recover()).lost == 0


async def test_passes_are_logged_when_their_partition_is_attached_again(failover: Failover) -> None:
    connection = await asyncpg.connect(failover.dsn)
    await connection.execute(f"ALTER TABLE scan_log DETACH PARTITION {SCAN_LOG.name(dt.datetime.now(dt.UTC).date())}")
    await failover.revive()
    report = await failover.recover()
    assert (report.lost, report.not_logged, report.raised) == (16, 16, 8)
    assert {row[:2] for row in (await failover.counters()).values()} == {(3, 2)}
    await partitions.make_ahead(connection)
    assert (await failover.recover()).lost == 16
    assert await failed_invariants(failover.dsn) == []
    await connection.close()


# While scans are served, and cut short.


async def test_scans_go_on_meanwhile(failover: Failover) -> None:
    """Whatever the order, of each position one scan passes here at most, and nobody waits for long."""
    await failover.revive()
    async with open_ledger(failover.dsn) as kit:
        recovering = asyncio.create_task(failover.recover(write_rows=1))
        passed: list[tuple[int, int]] = []
        position = 2
        while not recovering.done() or position < 20:
            tags = range(1, TAGS + 1)
            words = await asyncio.gather(*(kit.word(tag_id, position) for tag_id in tags))
            assert set(words) <= {ADVANCED, REPLAYED}
            passed += [(tag_id, position) for tag_id, word in zip(tags, words, strict=True) if word == ADVANCED]
            position += 1
        report = await recovering
    assert report.done == 16
    assert len(passed) == len(set(passed))
    assert await failed_invariants(failover.dsn) == []
    assert all(row[0] == position - 1 for row in (await failover.counters()).values())


async def test_a_run_that_was_cut_short_says_how_far_it_came_and_is_gone_on_with(
    failover: Failover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_LOCK_TIMEOUT_MS", 50)
    await failover.revive()
    holder = await asyncpg.connect(failover.dsn)
    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM tag_counter WHERE tag_id = 3 FOR UPDATE")
            said = "failed after recovering 4 of 16 lost passes: .*lock timeout. Run the command again"
            with pytest.raises(RecoveryError, match=said):
                await failover.recover(write_rows=2)
        assert [row[0] for row in (await failover.counters()).values()] == [3, 3, 1, 1, 1, 1, 1, 1]
        assert await failed_invariants(failover.dsn) == []
    finally:
        await holder.close()
    report = await failover.recover()
    assert (report.lost, report.done, report.raised) == (12, 12, 6)
    assert await failed_invariants(failover.dsn) == []


async def test_an_old_primary_that_goes_away_leaves_everything_as_it_was(
    failover: Failover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "READ_ROWS", 8)
    await failover.revive()
    before = await run(failover.dsn, STATE)
    with pytest.raises(RecoveryError, match="failed after reading 8 passes, and changed nothing: "):
        await failover.recover(advanced=lambda _: failover.old.kill9())
    assert await run(failover.dsn, STATE) == before


# Servers that do not belong together.


@contextlib.asynccontextmanager
async def refused(words: str) -> AsyncIterator[None]:
    with pytest.raises(RecoveryError, match=words) as caught:
        yield
    assert "\n" not in str(caught.value)


async def test_servers_that_do_not_belong_together_are_refused(failover: Failover, postgres: Any, template: str) -> None:
    await failover.revive()
    old, new = failover.old, failover.servers.primary

    async def recover(dsn: str, old_dsn: str) -> None:
        await recovery.recover(dsn, old_dsn, since=None, dry_run=False, advanced=lambda _: None)

    async with refused("do not belong to one cluster"):
        await recover(failover.dsn, postgres.dsn)
    async with refused("leads to the current primary or to one of its standbys"):
        await recover(failover.dsn, new.dsn)
    async with refused("on timeline 2 and the current primary on 1\\. .* are swapped"):
        await recover(old.dsn, new.dsn)
    async with refused("different databases"):
        await recover(failover.dsn, old.dsn_of("postgres"))
    async with refused("no ixfast schema"):
        await recover(failover.dsn.replace("/ixfast?", "/postgres?"), old.dsn_of("postgres"))
    async with refused("Cannot connect to the old primary: "):
        await recover(failover.dsn, "postgresql://ixfast:p4ss@127.0.0.1:1/ixfast")
    async with refused("The connection string of the old primary is malformed"):
        await recover(failover.dsn, "postgresql://ixfast:p4ss@word@127.0.0.1:port/ixfast")
    standby = await asyncio.to_thread(failover.servers.add_standby)
    async with refused("or to one of its standbys"):
        await recover(failover.dsn, standby.dsn)
    async with refused("Cannot connect to the current primary: "):
        await recover(standby.dsn, old.dsn)
    only = await asyncpg.connect(failover.dsn)
    assert await only.fetchval("SELECT pg_try_advisory_lock($1)", 0x6978_6661_7377)
    async with refused("Another `ixfast recover-counters`"):
        await recover(failover.dsn, old.dsn)
    await only.close()


async def test_an_old_primary_without_passes_is_no_error(failover: Failover, tmp_path: Path) -> None:
    await failover.revive()
    await run(failover.old.dsn, "TRUNCATE scan_log")
    assert await command(failover, tmp_path) == (
        0,
        "the scan log of the old primary has no passes since that time: nothing to recover\n",
    )


# The command.


async def command(failover: Failover, folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and everything that is printed."""
    file = folder / "old-dsn"
    file.write_text(failover.old.dsn + "\n")
    file.chmod(0o600)
    line = [sys.executable, "-m", "ixfast", "recover-counters", "--from-dsn-file", str(file), *words]
    done = await asyncio.to_thread(subprocess.run, line, env={"IXFAST_DSN": failover.dsn}, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


async def test_the_command_prints_what_was_lost(failover: Failover, tmp_path: Path) -> None:
    await tap(failover.dsn, (1, 2))
    await run(failover.dsn, "DELETE FROM tag WHERE tag_id = 8")
    await failover.revive()
    expected = (
        "passes of the old primary compared: 24\n"
        "passes lost in the failover: 16\n"
        "  accepted again by the current primary: 1\n"
        "  of skipped tags: 2\n"
        "counters {}: 7\n"
        "skipped: tag tag8 with id 8, 2 passes: it does not exist here\n"
    )
    dry = expected.format("to raise") + "dry run: nothing was changed\n"
    assert await command(failover, tmp_path, "--dry-run") == (0, dry)
    assert await command(failover, tmp_path, "--since", "2020-01-01") == (0, expected.format("raised"))
    status, text = await command(failover, tmp_path, "--since", "2200-01-01T00:00:00+01:00")
    assert (status, "nothing to recover" in text) == (0, True)


async def test_unusable_files_and_moments_are_told(failover: Failover, tmp_path: Path) -> None:
    await failover.revive()
    status, text = await command(failover, tmp_path, "--since", "yesterday")
    assert (status, text.splitlines()[-1]) == (2, "Error: --since yesterday: expected a time such as 2026-01-31T09:30:00+01:00.")
    status, text = await command(failover, tmp_path, "--from-dsn-file", str(tmp_path / "none"))
    assert (status, text) == (2, f"Error: --from-dsn-file: cannot read {tmp_path / 'none'}: No such file or directory.\n")
    other = tmp_path / "other"
    for content, mode, words in (
        ("", 0o600, "is empty"),
        (
            "host=db",
            0o600,
            "must contain a URL of the form postgresql://user:password@host:port/database, not a list of keywords",
        ),
        ("", 0o644, "chmod 600"),
    ):
        other.write_text(content)
        other.chmod(mode)
        status, text = await command(failover, tmp_path, "--from-dsn-file", str(other))
        assert status == 2
        assert words in text
