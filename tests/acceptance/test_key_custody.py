"""Key custody as an operator sees it: a real server, real commands, and scans throughout."""

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest
from support import eventually, eventually_sync
from support.key_services import VAULT_TOKEN, Vault
from support.served import Connection, Served, once, plain_target

from ixfast.cli.exit_codes import ExitCode
from ixfast.embedded import free_port
from ixfast.keys import KeyEncryptionKeys, key_file, sealing
from ixfast.keys.diversify import BoltCard
from ixfast.keys.key_file import KeyFile
from ixfast.store.admin import rotation
from ixfast.testing.virtual_tags import VirtualFleet

HOST = socket.gethostname()
DEAF_SERVER = Path(__file__).parents[1] / "support" / "deaf_server.py"
PLAIN = VirtualFleet(11, 3000, "ixkio-plain", account="acme")
ENCRYPTED = VirtualFleet(12, 20, "encrypted", account="acme")
DERIVED = VirtualFleet(86, 5, "boltcard", account="derived", derivation=BoltCard())
RESEALING_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'UPDATE tag_key%' AND datname = current_database()"


def kek_ids(server: Served) -> list[str]:
    return [line.id for line in KeyFile.read(server.kek_file).lines]


def used(server: Served) -> dict[str, int]:
    counted: dict[str, rotation.Usage] = server.in_database(rotation.usage)
    return {id_: rows.rows for id_, rows in counted.items()}


def metric(server: Served, name: str) -> float:
    text = server.ask_private("/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def dump(server: Served) -> str:
    """Everything the database holds about keys, as text."""
    rows = [row for table in ("tag_key", "meta_key", "group_key") for row in server.fetch(f"SELECT t::text FROM {table} AS t")]
    return "\n".join(row[0] for row in rows)


def shapes(secret: bytes) -> set[str]:
    encoded = base64.b64encode(secret).decode()
    return {secret.hex(), secret.hex().upper(), encoded, encoded.rstrip("="), repr(secret)[2:-1]}


class Scans:
    """Scans fresh taps of one tag after the other over several connections until stopped; each has to pass."""

    def __init__(self, server: Served) -> None:
        self._server = server
        self._counters = dict.fromkeys(range(len(PLAIN)), 0)
        self.tags = range(len(PLAIN))
        self._leaving = False
        self.passed = 0
        self.failures: list[Any] = []

    async def _ask(self, lane: int, lanes: int) -> None:
        async with await Connection.open(self._server.port) as connection:
            while not self._leaving:
                for index in self.tags[lane::lanes]:
                    if self._leaving:
                        return
                    self._counters[index] += 1
                    answer = await connection.get(plain_target(PLAIN, index, self._counters[index]))
                    if answer.passed:
                        self.passed += 1
                    else:
                        self.failures.append((index, answer.status, answer.body))

    async def __aenter__(self) -> Self:
        self._lanes = [asyncio.create_task(self._ask(lane, 4)) for lane in range(4)]
        await eventually(lambda: self.passed > 20, 10)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._leaving = True
        await asyncio.gather(*self._lanes)

    async def during(self, work: Any) -> Any:
        async with self:
            return await asyncio.to_thread(work)


async def test_rotation_under_load_fails_no_scan_and_shows_no_key(tmp_path: Path, database: str) -> None:
    with Served(tmp_path / "s", dsn=database, cache_tags=50, log_level="debug") as server:  # nearly every scan opens its key
        server.provision(PLAIN, ENCRYPTED)
        (first,) = kek_ids(server)
        scans = Scans(server)
        said = await scans.during(lambda: server.cli("keys", "rotate"))
        assert scans.failures == []
        second = kek_ids(server)[0]
        assert second != first
        assert used(server) == {second: 3021}
        assert f"resealed 3021 envelopes under {second}" in said
        assert f"ixfast keys remove {first}" in said
        server.cli("keys", "remove", first)
        assert kek_ids(server) == [second]
        scans = Scans(server)
        scans._counters = dict.fromkeys(range(len(PLAIN)), 1000)
        third = await scans.during(lambda: server.cli("keys", "rotate", "--provider", "file"))
        assert scans.failures == []
        assert used(server).keys() == {kek_ids(server)[0]}
        for index, fleet in ((0, PLAIN), (7, PLAIN), (3, ENCRYPTED)):
            for shape in shapes(fleet.file_key(index)) | shapes(ENCRYPTED.meta_key):
                for text in (said, third, server.log, server.output, dump(server)):
                    assert shape not in text
        for line in KeyFile.read(server.kek_file).lines:
            for shape in shapes(line.sealed):
                assert shape not in said + third + server.log + server.output + dump(server)


async def test_a_server_that_does_not_look_stops_the_rotation(tmp_path: Path, database: str) -> None:
    """It does not reread its key file, so it never announces the new key. The control: if all is resealed nevertheless, its
    scans fail."""
    with Served(tmp_path / "s", dsn=database, cache_tags=50, entry=(str(DEAF_SERVER),)) as server:
        server.provision(PLAIN)
        (first,) = kek_ids(server)
        scans = Scans(server)
        status, said = await scans.during(lambda: run(server, "keys", "rotate"))
        assert (status, scans.failures) == (1, [])
        assert kek_ids(server)[0] == first and used(server) == {first: 3000}
        added = kek_ids(server)[1]
        assert f"Nothing was resealed: {added} is not open on {HOST} ({server.kek_file})." in said
        scans = Scans(server)
        scans._counters = dict.fromkeys(range(len(PLAIN)), 1000)
        await scans.during(lambda: server.in_database(lambda connection: reseal(connection, server, added)))
        await eventually(lambda: asyncio.to_thread(lambda: "cannot open its key (UnknownKekError)" in server.log))
        assert any(status == 503 and b"key_unavailable" in body for _, status, body in scans.failures)


async def test_a_rotation_that_was_killed_goes_on(tmp_path: Path, database: str) -> None:
    with Served(tmp_path / "s", dsn=database, workers=1, cache_tags=50) as server:
        server.provision(PLAIN)
        (first,) = kek_ids(server)
        await asyncio.to_thread(server.in_database, slow_down)
        rotating = await asyncio.to_thread(
            lambda: subprocess.Popen(server.command("keys", "rotate"), env=server.environ, stdout=subprocess.DEVNULL)
        )
        try:
            await eventually(lambda: asyncio.to_thread(lambda: 0 < used(server)[first] < 3000), 30)
        finally:
            rotating.kill()
            rotating.wait()
        await eventually(lambda: asyncio.to_thread(lambda: not server.fetch(RESEALING_SESSIONS + " AND state = 'active'")[0][0]))
        second = kek_ids(server)[0]
        left = used(server)
        assert left[first] and left[second]
        server.in_database(speed_up)
        answers = [await once(server.port, plain_target(PLAIN, index, 1)) for index in (0, 1500, 2999)]
        assert all(answer.passed for answer in answers)
        said = server.cli("keys", "rotate")
        assert f"resume the rotation to {second}: reseal {left[first]} envelopes that are under older keys" in said
        assert kek_ids(server) == [second, first]
        assert used(server) == {second: 3000}


async def slow_down(connection: Any) -> None:
    await connection.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$"
    )
    await connection.execute("CREATE TRIGGER slow AFTER UPDATE ON tag_key FOR EACH STATEMENT EXECUTE FUNCTION slow()")


async def speed_up(connection: Any) -> None:
    await connection.execute("DROP TRIGGER slow ON tag_key")


def test_a_swapped_envelope_is_told_and_the_command_fails(tmp_path: Path, database: str) -> None:
    server = Served(tmp_path / "s", dsn=database)
    server.home.mkdir()
    server.cli("keys", "init")
    server.provision(PLAIN)
    (first,) = kek_ids(server)
    ids = [row[0] for row in server.fetch("SELECT tag_id FROM tag_key ORDER BY tag_id LIMIT 2")]
    server.fetch(
        "UPDATE tag_key AS a SET wrapped = b.wrapped FROM tag_key AS b "
        "WHERE a.tag_id = ANY ($1) AND b.tag_id = ANY ($1) AND a.tag_id <> b.tag_id",
        ids,
    )
    for words, left in ((("--dry-run",), 3000), ((), 2), ((), 2)):
        done = subprocess.run(server.command("keys", "rotate", *words), env=server.environ, capture_output=True, text=True)
        assert done.returncode == 1
        assert "2 envelopes cannot be opened" in done.stderr
        assert all(f"tag {tag_id}, slot 2, version 1: The envelope" in done.stderr for tag_id in ids)
        assert used(server)[first] == left
    assert len(kek_ids(server)) == 2  # the third call resumed the rotation and made no further key
    done = subprocess.run(server.command("keys", "remove", first), env=server.environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 rows are sealed under" in done.stderr


def test_custody_moves_from_the_file_to_a_key_service(tmp_path: Path, database: str, vault: Vault) -> None:
    server = Served(tmp_path / "s", dsn=database)
    server.home.mkdir()
    assert "provider file" in server.cli("keys", "init")
    server.provision(ENCRYPTED)
    server.provision(DERIVED)
    (first,) = kek_ids(server)
    server.cli("keys", "rotate", "--provider", "vault-transit", "--key-ref", "transit/ixfast")
    server.cli("keys", "remove", first)
    (line,) = KeyFile.read(server.kek_file).lines
    assert (line.provider, line.reference) == ("vault-transit", "transit/ixfast")
    assert line.sealed.startswith(b"vault:v1:")
    shown = server.cli("keys", "status")
    assert re.search(rf"^\* {line.id} +20 +1 +1 +yes +vault-transit transit/ixfast$", shown, re.MULTILINE)
    again = server.cli("keys", "rotate")  # another key of the same provider
    assert KeyFile.read(server.kek_file).lines[0].provider == "vault-transit"
    assert VAULT_TOKEN not in shown + again
    vault.failure = 503
    done = subprocess.run(server.command("keys", "status"), env=server.environ, capture_output=True, text=True)
    assert done.returncode == ExitCode.FAILED
    assert f"{line.id} cannot be opened: Vault: HTTP 503 Vault is sealed" in done.stderr


async def test_cached_tags_pass_while_the_key_service_is_away_and_others_are_503(
    tmp_path: Path, database: str, vault: Vault
) -> None:
    home = tmp_path / "s"
    home.mkdir()
    key_file.create(home / "kek", sealing.make_line("vault-transit", "transit/ixfast"))
    with Served(home, dsn=database, workers=1, log_format="json", log_level="debug") as server:
        await asyncio.to_thread(server.provision, PLAIN)
        assert (await once(server.port, plain_target(PLAIN, 0, 1))).passed
        vault.failure = 503
        vault_line = KeyFile.read(server.kek_file).lines[0].text
        # A key that cannot be opened is added to the file, and a tag is sealed under it.
        vault.failure = None
        line = sealing.make_line("vault-transit", "transit/ixfast")
        vault.failure = 503
        key_file.edit(server.kek_file, lambda file: file.with_line(line, current=False))
        await asyncio.to_thread(
            server.fetch, "UPDATE tag_key SET kek_id = $1 WHERE tag_id = (SELECT max(tag_id) FROM tag)", line.id
        )
        assert server.process is not None
        server.signal(signal.SIGHUP)
        await eventually(lambda: asyncio.to_thread(metric, server, "ixfast_key_unwrap_failures_total"))
        for counter in (2, 3):
            assert (await once(server.port, plain_target(PLAIN, 0, counter))).passed  # cached
        assert (await once(server.port, plain_target(PLAIN, 1, 1))).passed  # not cached, but its key is still open
        answer = await once(server.port, plain_target(PLAIN, len(PLAIN) - 1, 1))
        assert answer.status == 503
        assert b"key_unavailable" in answer.body
        assert server.ready  # a failed addition takes no worker out of service
        assert f"key-encryption key {line.id} is not open: Vault: HTTP 503" in server.log
        assert vault_line not in server.log


async def test_a_server_starts_without_its_key_service_and_recovers(tmp_path: Path, database: str, vault: Vault) -> None:
    home = tmp_path / "s"
    home.mkdir()
    key_file.create(home / "kek", sealing.make_line("vault-transit", "transit/ixfast"))
    port, private_port = free_port(), free_port()
    server = Served(home, dsn=database, workers=1, port=port, private_port=private_port)
    await asyncio.to_thread(server.provision, PLAIN, ENCRYPTED)
    server.private_port = private_port
    vault.stop()
    server.start(ready=False)
    try:

        def problems() -> Any:
            try:
                return json.loads(server.ask_private("/readyz")[1])["problems"]
            except OSError:
                return None

        await eventually(lambda: asyncio.to_thread(lambda: problems() == {"keys": "key_unavailable"}), 30)
        for target in (plain_target(PLAIN, 0, 1), f"/v1/t?{query_of(ENCRYPTED)}"):
            answer = await once(port, target)
            assert answer.status == 503
            assert b"key_unavailable" in answer.body
        assert (await once(port, "/v1/t?x=nosuchtag&n=000001&e=0011223344556677")).status != 503
        vault.start()
        await eventually(lambda: asyncio.to_thread(lambda: server.ready), 30)
        assert (await once(port, plain_target(PLAIN, 0, 1))).passed
        assert (await once(port, f"/v1/t?{query_of(ENCRYPTED)}")).passed
    finally:
        server.stop()


def query_of(fleet: VirtualFleet) -> str:
    return "&".join(f"{name}={value}" for name, value in fleet[0].parameters_at(5).items())


def test_sighup_reads_the_file_at_once_and_ends_nothing(tmp_path: Path, database: str) -> None:
    with Served(tmp_path / "s", dsn=database) as server:
        workers = server.workers()
        key_file.edit(server.kek_file, lambda file: file.with_line(key_file.plain_line(secrets.token_bytes(32)), current=True))
        server.signal(signal.SIGHUP)
        both = ", ".join(kek_ids(server))
        eventually_sync(lambda: server.log.count(f"open key-encryption keys: {both}") == 2)
        assert server.workers() == workers
        assert server.ready


def run(server: Served, *words: str) -> tuple[int, str]:
    """The exit status of a command, and what it said on both outputs."""
    done = subprocess.run(server.command(*words), env=server.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


async def reseal(connection: Any, server: Served, target: str) -> None:
    """Reseal all envelopes without asking any server."""
    key_file.edit(server.kek_file, lambda file: file.with_current(target))
    await rotation.reseal_all(connection, KeyEncryptionKeys.load_file(server.kek_file), advanced=lambda _count: None)


async def test_a_server_that_announces_nothing_stops_the_rotation(tmp_path: Path, database: str, postgres: Any) -> None:
    """A server of an earlier release, which only its sessions show."""
    server = Served(tmp_path / "s", dsn=database)
    server.home.mkdir()
    await asyncio.to_thread(run, server, "keys", "init")
    await asyncio.to_thread(server.provision, ENCRYPTED)
    (first,) = kek_ids(server)
    elsewhere = postgres.dsn_of(database.rpartition("/")[2].partition("?")[0], tcp=True)
    other_host = await asyncpg.connect(elsewhere, server_settings={"application_name": "ixfast"})
    try:
        status, said = await asyncio.to_thread(run, server, "keys", "rotate")
    finally:
        await other_host.close()
    assert status == 1
    assert "Nothing was resealed: 127.0.0.1 uses this database and does not announce its keys." in said
    assert await asyncio.to_thread(used, server) == {first: 21}
    added = kek_ids(server)[1]
    status, said = await asyncio.to_thread(run, server, "keys", "rotate", "--to", "0" * 16)
    assert status == ExitCode.CONFIGURATION
    assert "has no key 0000" in said
    assert (await asyncio.to_thread(run, server, "keys", "rotate"))[0] == 0
    assert kek_ids(server) == [added, first]
    assert await asyncio.to_thread(used, server) == {added: 21}


def test_no_step_of_a_rotation_adds_a_second_key(tmp_path: Path, database: str) -> None:
    server = Served(tmp_path / "s", dsn=database)
    server.home.mkdir()
    server.cli("keys", "init")
    server.provision(ENCRYPTED)
    (first,) = kek_ids(server)
    server.cli("keys", "add")
    _, second = kek_ids(server)
    for _ in range(3):
        said = server.cli("keys", "rotate")
        assert kek_ids(server) == [second, first]
    assert f"nothing to reseal: all envelopes are under the current key {second}" in said
    assert f"remove it with: ixfast keys remove {first}" in said
    server.cli("keys", "remove", first)
    server.cli("keys", "rotate")  # the next rotation
    third, *others = kek_ids(server)
    assert others == [second] and third not in (first, second)
    server.cli("keys", "rotate", "--new-key")
    assert kek_ids(server)[1:] == [third, second]


# Two hosts, each with a key file of its own.

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "rotate-keys.md"
RSYNC = """#!/bin/sh
# Copies a file to another host, as rsync does: under another name first.
set -e
test "$1" = --perms
cp -p "$2" "$OTHER_HOST/.kek.copy"
mv "$OTHER_HOST/.kek.copy" "$OTHER_HOST/kek"
"""


def steps_for_several_hosts() -> list[str]:
    """The commands of the guide, one block after the other."""
    part = GUIDE.read_text().partition("\n## Several hosts\n")[2].partition("\n## ")[0]
    return re.findall(r"^ *```sh\n(.*?)^ *```$", part, re.MULTILINE | re.DOTALL)


@pytest.fixture
def hosts(tmp_path: Path, database: str) -> Iterator[tuple[Served, Served]]:
    """Servers with one database and equal key files. The first one has tags."""
    with Served(tmp_path / "a", dsn=database, cache_tags=50) as one:
        one.provision(PLAIN)
        (tmp_path / "b").mkdir(mode=0o711)
        shutil.copy(one.kek_file, tmp_path / "b" / "kek")
        with Served(tmp_path / "b", dsn=database, cache_tags=50) as two:
            yield one, two


def copy_key_file(source: Served, target: Served) -> None:
    copy = target.home / ".kek.copy"
    shutil.copy(source.kek_file, copy)
    copy.replace(target.kek_file)


def key_problem(server: Served) -> str:
    """What `/readyz` says of the keys; empty if nothing."""
    try:
        problems: dict[str, str] = json.loads(server.ask_private("/readyz")[1])["problems"]
    except OSError:
        return "no response"  # of a worker that is being replaced
    return problems.get("keys", "")


async def becomes_unready(server: Served) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: key_problem(server) == "key_unavailable"), 60)


async def becomes_ready(server: Served) -> None:
    await eventually(lambda: asyncio.to_thread(lambda: server.all_ready and not key_problem(server)), 60)


async def test_the_steps_for_several_hosts_fail_no_scan_on_any(hosts: tuple[Served, Served], tmp_path: Path) -> None:
    one, two = hosts
    (first,) = kek_ids(one)
    programs = tmp_path / "bin"
    programs.mkdir()
    ixfast = f'#!/bin/sh\nexec {sys.executable} -m ixfast "$@" --config {one.command()[-1]}\n'
    for name, text in (("rsync", RSYNC), ("ixfast", ixfast)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environ = one.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "OTHER_HOST": str(two.home)}
    steps = steps_for_several_hosts()
    assert len(steps) == 6
    transcript: list[str] = []

    def follow() -> None:
        for step in steps:
            done = subprocess.run(
                ["sh", "-ec", step], cwd=one.home, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            transcript.append(f"{step}{done.stdout}")
            assert done.returncode == 0, "\n".join(transcript)
            assert key_problem(one) == key_problem(two) == "", "\n".join(transcript)

    here, there = Scans(one), Scans(two)
    half = len(PLAIN) // 2
    here.tags, there.tags = range(half), range(half, 2 * half)
    async with there:
        await here.during(follow)
    assert here.failures == there.failures == []
    assert there.passed > 20
    assert kek_ids(one) == kek_ids(two) and first not in kek_ids(one)
    assert used(one) == {kek_ids(one)[0]: 3000}
    for server in hosts:
        assert "key_unavailable" not in server.log


async def test_a_host_without_the_new_key_stops_the_rotation_and_is_named(hosts: tuple[Served, Served]) -> None:
    one, two = hosts
    status, said = await asyncio.to_thread(run, one, "keys", "rotate")
    assert status == 1
    first, added = kek_ids(one)
    assert f"Nothing was resealed: {added} is not open on {HOST} ({two.kek_file})." in said
    assert used(one) == {first: 3000}
    shown = await asyncio.to_thread(one.cli, "keys", "status")
    assert f"running on {HOST} ({two.kek_file}): seals under {first}, also opens no other key" in shown
    two.stop()  # it withdraws what it has announced
    await asyncio.to_thread(one.cli, "keys", "rotate")
    assert used(one) == {added: 3000}


async def test_a_host_that_comes_back_with_its_old_file_is_not_ready(hosts: tuple[Served, Served]) -> None:
    """It was gone during the rotation, so its announcement expired."""
    one, two = hosts
    assert two.process is not None
    family = [two.process.pid, *two.workers()]  # the supervisor, too: it replaces workers that hang
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    expire = "UPDATE key_holder SET at = at - interval '31 s' WHERE key_file = $1"
    await asyncio.to_thread(one.fetch, expire, str(two.kek_file))
    await asyncio.to_thread(one.cli, "keys", "rotate")
    added = kek_ids(one)[0]
    assert used(one) == {added: 3000}
    for pid in reversed(family):
        os.kill(pid, signal.SIGCONT)
    await becomes_unready(two)
    assert f"envelopes are sealed under {added}, which the key file lacks: copy the file here" in two.log
    assert key_problem(one) == ""
    await eventually(lambda: asyncio.to_thread(lambda: names_the_lack(one, two, added)), 30)
    copy_key_file(one, two)
    await becomes_ready(two)
    assert (await once(two.port, plain_target(PLAIN, 7, 1))).passed


def names_the_lack(one: Served, two: Served, added: str) -> bool:
    status, said = run(one, "keys", "status")
    lack = f"3000 rows are sealed under {added}, which is not open on {HOST} ({two.kek_file}); copy the key file there"
    return status == ExitCode.FAILED and lack in said


async def test_a_key_that_another_host_seals_under_is_not_removed(hosts: tuple[Served, Served]) -> None:
    one, two = hosts
    await asyncio.to_thread(one.cli, "keys", "add")
    copy_key_file(one, two)
    said = await asyncio.to_thread(one.cli, "keys", "rotate")
    second, first = kek_ids(one)
    assert f"copy {one.kek_file} to {HOST} ({two.kek_file}), which still seals under an older key" in said
    assert "is no longer used" not in said  # `keys remove` refuses, too
    status, said = await asyncio.to_thread(run, one, "keys", "remove", first)
    assert status == 1
    assert f"{HOST} ({two.kek_file}) still seals under {first}." in said
    assert kek_ids(one) == [second, first]
    copy_key_file(one, two)

    async def named_as_unused() -> bool:
        said = await asyncio.to_thread(one.cli, "keys", "rotate")
        return f"{first} is no longer used; remove it with: ixfast keys remove {first}" in said

    await eventually(named_as_unused, 60)
    await asyncio.to_thread(one.cli, "keys", "remove", first)
    assert kek_ids(one) == [second]


async def test_a_host_that_is_started_with_its_old_file_ends_at_once(hosts: tuple[Served, Served]) -> None:
    one, two = hosts
    await asyncio.to_thread(two.stop)
    await asyncio.to_thread(one.cli, "keys", "rotate")
    added = kek_ids(one)[0]
    status, said = await asyncio.to_thread(run, two, "serve")
    assert status == ExitCode.CONFIGURATION
    assert f"The database has keys that are sealed under {added}, which {two.kek_file} lacks" in said
    copy_key_file(one, two)
    await asyncio.to_thread(two.start)
    await becomes_ready(two)


async def test_a_lost_key_is_of_no_matter_once_what_it_sealed_is_retired(hosts: tuple[Served, Served]) -> None:
    one, two = hosts
    lost = "f" * 16
    add = (
        "INSERT INTO meta_key (account_id, version, kek_id, wrapped, check_value)"
        " SELECT min(account_id), 9, $1, '\\x00'::bytea, '\\x000000'::bytea FROM account"
    )
    await asyncio.to_thread(one.fetch, add, lost)
    await becomes_unready(one)
    await becomes_unready(two)
    status, said = await asyncio.to_thread(run, one, "keys", "status")
    assert status == 1 and f"1 rows are sealed under {lost}, which is not in the key file" in said
    await asyncio.to_thread(one.fetch, "UPDATE meta_key SET live = false WHERE kek_id = $1", lost)
    await becomes_ready(one)
    await becomes_ready(two)
    status, said = await asyncio.to_thread(run, one, "keys", "status")
    note = f"1 rows of retired versions are sealed under {lost}, which is not in the key file; nothing needs them"
    assert status == 0 and note in said
    status, said = await asyncio.to_thread(run, one, "keys", "rotate", "--dry-run")
    assert status == 0 and "1 envelopes of retired versions cannot be opened; nothing needs them" in said


async def test_a_host_whose_key_the_others_lack_stores_no_keys(hosts: tuple[Served, Served], tmp_path: Path) -> None:
    """Someone has edited the key file by hand, or uses another one: the tags would get no verdict on the other host."""
    one, two = hosts
    (first,) = kek_ids(one)
    line = key_file.plain_line(secrets.token_bytes(32))
    key_file.edit(one.kek_file, lambda file: file.with_line(line, current=True))
    tags = tmp_path / "tags.csv"
    tags.write_text("XUID,UID,KEY\nq8w3sbcz,04A1B2C3D4E5F6,000102030405060708090A0B0C0D0E0F\n")
    await asyncio.to_thread(one.cli, "group", "create", "acme", "Red", "--profile", "ixkio-plain")
    words = ("import", str(tags), "--account", "acme", "--group", "Red")
    status, said = await asyncio.to_thread(run, one, *words)
    assert status == ExitCode.CONFIGURATION
    assert f"The key file seals under {line.id}, which is not open on" in said and f"{HOST} ({two.kek_file})" in said
    assert used(one) == {first: 3000}
    copy_key_file(one, two)

    async def imported() -> bool:
        return (await asyncio.to_thread(run, one, *words))[0] == 0

    await eventually(imported, 60)
    assert used(one) == {first: 3000, line.id: 1}


@pytest.mark.parametrize("choice", ["min", "max"])
async def test_readiness_fails_while_some_envelopes_have_an_unknown_key(hosts: tuple[Served, Served], choice: str) -> None:
    """The first rows that a rotation reseals, and rows that another host adds."""
    one, two = hosts
    (first,) = kek_ids(one)
    line = key_file.plain_line(secrets.token_bytes(32))
    key_file.edit(one.kek_file, lambda file: file.with_line(line, current=False))
    change = f"UPDATE tag_key SET kek_id = $1 WHERE tag_id = (SELECT {choice}(tag_id) FROM tag)"
    await asyncio.to_thread(one.fetch, change, line.id)
    await becomes_unready(two)
    assert key_problem(one) == ""
    await asyncio.to_thread(one.fetch, change, first)
    await becomes_ready(two)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_no_command_reads_another_users_key_file(database: str, server_dir: Path) -> None:
    server = Served(server_dir, dsn=database)
    server_dir.mkdir(mode=0o711)
    key_file.create(server.kek_file, sealing.make_line("file", ""))
    kek_id = kek_ids(server)[0]
    (server_dir / "tags.csv").write_text("XUID,KEY\nq8w3sbcz,000102030405060708090A0B0C0D0E0F\n")
    server.cli("account", "create", "acme")
    os.chown(server.kek_file, 65534, -1)
    for words in (
        "serve",
        "keys status",
        "keys add",
        "keys rotate",
        "keys rotate --dry-run",
        f"keys remove {kek_id}",
        f"import {server_dir / 'tags.csv'} --account acme --group Red",
        "verify https://example.org/?x=q8w3sbcz&n=000001&e=0123456789ABCDEF --account acme",
        "demo",
    ):
        done = subprocess.run(server.command(*words.split()), env=server.environ, capture_output=True, text=True, timeout=60)
        lines = [line for line in done.stderr.splitlines() if "belongs to" in line]
        assert done.returncode == ExitCode.CONFIGURATION and len(lines) == 1 and "Traceback" not in done.stderr, (words, done)
        assert lines[0].endswith(f"chown 0 {server.kek_file}")
