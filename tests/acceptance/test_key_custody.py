"""Key custody as an operator sees it: a real server, real commands, and scans throughout."""

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import eventually, eventually_sync
from support.key_services import VAULT_TOKEN, Vault
from support.served import Connection, Served, once, plain_target

from ixfast.cli.exit_codes import ExitCode
from ixfast.embedded import free_port
from ixfast.keys import key_file, sealing
from ixfast.keys.diversify import BoltCard
from ixfast.keys.key_file import KeyFile
from ixfast.store.admin import rotation
from ixfast.testing.virtual_tags import VirtualFleet

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
        self._leaving = False
        self.passed = 0
        self.failures: list[Any] = []

    async def _ask(self, lane: int, lanes: int) -> None:
        async with await Connection.open(self._server.port) as connection:
            while not self._leaving:
                for index in range(lane, len(PLAIN), lanes):
                    if self._leaving:
                        return
                    self._counters[index] += 1
                    answer = await connection.get(plain_target(PLAIN, index, self._counters[index]))
                    if answer.passed:
                        self.passed += 1
                    else:
                        self.failures.append((index, answer.status, answer.body))

    async def during(self, work: Any) -> Any:
        lanes = [asyncio.create_task(self._ask(lane, 4)) for lane in range(4)]
        try:
            await eventually(lambda: self.passed > 20, 10)
            return await asyncio.to_thread(work)
        finally:
            self._leaving = True
            await asyncio.gather(*lanes)


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


async def test_a_server_that_does_not_look_fails_scans(tmp_path: Path, database: str) -> None:
    """The control: if the server does not reread the key file, the same rotation makes scans fail."""
    with Served(tmp_path / "s", dsn=database, cache_tags=50, entry=(str(DEAF_SERVER),)) as server:
        server.provision(PLAIN)
        scans = Scans(server)
        await scans.during(lambda: server.cli("keys", "rotate"))
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
        assert f"{left[first]} rows are still sealed under older keys: resuming the rotation to {second}" in said
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


async def test_other_hosts_get_the_key_first(tmp_path: Path, database: str, postgres: Any) -> None:
    server = Served(tmp_path / "s", dsn=database)
    server.home.mkdir()

    def run(*words: str) -> tuple[int, str]:
        command = server.command("keys", *words)
        done = subprocess.run(command, env=server.environ, capture_output=True, text=True)
        return done.returncode, done.stderr

    await asyncio.to_thread(run, "init")
    await asyncio.to_thread(server.provision, ENCRYPTED)
    (first,) = kek_ids(server)
    elsewhere = postgres.dsn_of(database.rpartition("/")[2].partition("?")[0], tcp=True)
    other_host = await asyncpg.connect(elsewhere, server_settings={"application_name": "ixfast"})
    status, said = await asyncio.to_thread(run, "rotate")
    assert status == 1
    assert "Servers at 127.0.0.1 use this database too" in said
    assert kek_ids(server) == [first]
    await asyncio.to_thread(run, "add")
    added = kek_ids(server)[1]
    assert kek_ids(server) == [first, added]
    assert (await asyncio.to_thread(run, "rotate", "--to", added))[0] == 0
    assert kek_ids(server) == [added, first]
    assert await asyncio.to_thread(used, server) == {added: 21}
    assert (await asyncio.to_thread(run, "rotate", "--shared-file"))[0] == 0
    assert len(kek_ids(server)) == 3
    status, said = await asyncio.to_thread(run, "rotate", "--to", "0" * 16)
    assert status == ExitCode.CONFIGURATION
    assert "has no key 0000" in said
    await other_host.close()


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
