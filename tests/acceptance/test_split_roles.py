"""A server whose role can create and alter nothing: an owner migrates, grants and maintains, and everything else works.

The processes and the server are real, and the role has only what `ixfast migrate --grant-to` grants.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from support import administer, eventually, eventually_sync
from support.replication import Server, replicated
from support.served import Connection, Served, once, plain_target, request

from ixfast.store import migrate
from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(515, 300, account="shop")  # more tags than are written without a change of the table's fillfactor
TODAY = dt.datetime.now(dt.UTC).date()
MAINTAIN = "run `ixfast maintain` as ixfast"


class Roles:
    """A PostgreSQL with an owner (the role ixfast) and a role `app` for servers."""

    def __init__(self, server: Server, home: Path) -> None:
        self.server = server
        self.home = home
        self.owner = server.dsn
        self.app = server.dsn_of("ixfast", role="app")

    def run(self, dsn: str, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")}
        environ |= {"IXFAST_DSN": dsn, "IXFAST_KEK_FILE": str(self.home / "kek")}
        command = [sys.executable, "-m", "ixfast", *words]
        return subprocess.run(command, env=environ, input=stdin, capture_output=True, text=True, timeout=60)

    def ixfast(self, dsn: str, *words: str, stdin: str | None = None) -> str:
        """The output of a command that must succeed."""
        done = self.run(dsn, *words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def serve(self, **settings: Any) -> Served:
        return Served(self.home, dsn=self.app, workers=1, **settings)

    def checks(self) -> dict[str, tuple[str, str]]:
        """What `ixfast doctor` says to the server's role, by check."""
        found = json.loads(self.run(self.app, "doctor", "--json").stdout)["checks"]
        return {each["name"]: (each["status"], each["text"]) for each in found}


@pytest.fixture
def roles(server_dir: Path, tmp_path: Path) -> Iterator[Roles]:
    with replicated(server_dir, standbys=0) as alone:
        server = alone.primary
        server.fetchval("CREATE ROLE app LOGIN")
        roles = Roles(server, tmp_path / "server")
        assert roles.ixfast(roles.owner, "migrate", "--grant-to", "app").endswith("granted app what a server needs\n")
        yield roles


FORBIDDEN = (
    "CREATE TABLE mine ()",
    "CREATE SCHEMA mine",
    "CREATE TABLE scan_log_mine PARTITION OF scan_log FOR VALUES FROM ('2001-01-01') TO ('2002-01-01')",
    "ALTER TABLE scan_log ADD COLUMN mine int",
    "ALTER TABLE tag_counter SET (fillfactor = 70)",
    f"DROP TABLE scan_log_{TODAY:%Y_%m}",
    f"ALTER TABLE scan_log DETACH PARTITION scan_log_{TODAY:%Y_%m}",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION audit_log_stays() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "DROP TRIGGER audit_log_stays ON audit_log",
    "DELETE FROM schema_migration",
    "UPDATE audit_log SET act = 'mine'",
    "DELETE FROM audit_log",
    "TRUNCATE tag",
)


async def test_the_role_of_servers_can_create_and_alter_nothing(roles: Roles) -> None:
    app, owner = await asyncpg.connect(roles.app), await asyncpg.connect(roles.owner)
    for statement in FORBIDDEN:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await app.execute(statement)
    for statement in FORBIDDEN[:4]:  # the control: none fails for another reason
        transaction = owner.transaction()
        await transaction.start()
        await owner.execute(statement.replace("CREATE SCHEMA mine", "CREATE TABLE mine_too ()"))
        await transaction.rollback()
    # A table of a later migration is granted, too.
    await owner.execute("CREATE TABLE later (n bigint GENERATED ALWAYS AS IDENTITY, x int); INSERT INTO later (x) VALUES (1)")
    await app.execute("INSERT INTO later (x) VALUES (2); UPDATE later SET x = 3; DELETE FROM later WHERE n = 1")
    assert await app.fetch("SELECT * FROM later") == [(2, 3)]
    for connection in (app, owner):
        await connection.close()


async def test_everything_that_a_server_does_works(roles: Roles) -> None:
    administer(roles.owner, f"DROP TABLE keyed_scan_{TODAY + dt.timedelta(days=7):%Y_%m_%d}")  # as before the owner's daily run
    with roles.serve() as served:
        served.provision(FLEET)
        assert roles.server.fetchval("SELECT reloptions::text FROM pg_class WHERE relname = 'tag_counter'", dsn=roles.owner) == (
            "{autovacuum_analyze_scale_factor=100}"
        )
        tap = plain_target(FLEET, 0, 1)
        assert (await once(served.port, tap)).passed and (await once(served.port, tap)).failed
        ixfast = roles.ixfast
        scopes = [word for scope in ("scan", "manage", "keys") for word in ("--scope", scope)]
        token = ixfast(roles.app, "api-key", "create", "shop", *scopes).strip()
        tap_by_name = dict(zip(("xuid", "counter", "code"), FLEET.plain_tap(1, 1), strict=True))
        for _ in "12":
            async with await Connection.open(served.port) as connection:
                answer = await connection.post("/v2/scans", tap_by_name, {"X-API-Key": token, "Idempotency-Key": "k1"})
            assert answer.json["verdict"] == "genuine"
        eventually_sync(lambda: roles.server.fetchval("SELECT count(*) FROM scan_log", dsn=roles.owner) >= 3)
        code = FLEET.xuid(2)
        for method, path, body in (
            ("POST", "/v2/folders", {"name": "New"}),
            ("PATCH", f"/v2/tags/{code}", {"name": "renamed"}),
            ("POST", f"/v2/tags/{code}/keys", {"key": "00112233445566778899aabbccddeeff"}),
            ("DELETE", f"/v2/tags/{FLEET.xuid(3)}", None),
            ("GET", f"/v2/tags/{FLEET.xuid(0)}/counter", None),
        ):
            async with await Connection.open(served.private_port) as connection:
                content = json.dumps(body).encode() if body is not None else None
                connection.writer.write(request(method, path, {"X-API-Key": token}, content))
                answer = await connection.answer()
            assert answer.status < 300, (path, answer)
        lines = "".join(f"X{n:07},04{n:012x},{n:032x}\n" for n in range(1, 301))
        place = ("--account", "shop", "--group", "ixkio-plain")
        imported = await asyncio.to_thread(ixfast, roles.app, "import", "-", *place, stdin=f"XUID,UID,KEY\n{lines}")
        assert imported.startswith("300 tags: 300 added")
        for words in (("keys", "rotate"), ("keys", "status"), ("tag", "deactivate", FLEET.xuid(4)), ("demo",), ("migrate",)):
            await asyncio.to_thread(ixfast, roles.app, *words)
        assert (await once(served.port, plain_target(FLEET, 0, 2))).passed
        assert await asyncio.to_thread(lambda: served.ready)
    checks = roles.checks()
    expected = "app may read and write and creates nothing; the owner runs `ixfast maintain` daily"
    assert checks["role"] == ("OK", expected)
    assert {name for name, (status, _) in checks.items() if status == "FAIL"} == set(), checks
    assert "denied" not in served.log and MAINTAIN not in served.log


async def test_a_server_asks_for_partitions_in_time_and_scans_go_on(roles: Roles) -> None:
    later = [TODAY + dt.timedelta(days=n) for n in range(2, 9)]
    month = (TODAY.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
    after_next = [(month + dt.timedelta(days=days)).replace(day=1) for days in (0, 32, 63)]
    gone = [f"keyed_scan_{day:%Y_%m_%d}" for day in later] + [f"scan_log_{day:%Y_%m}" for day in after_next]
    administer(roles.owner, *(f"DROP TABLE IF EXISTS {name}" for name in gone))
    old = "CREATE TABLE scan_log_2001_01 PARTITION OF scan_log FOR VALUES FROM ('2001-01-01 00:00+00') TO ('2001-02-01 00:00+00')"
    administer(roles.owner, old)
    with roles.serve() as served:
        served.provision(FLEET)
        keyed, month_text = f"keyed_scan_{later[0]:%Y_%m_%d}", f"scan_log_{month:%Y_%m}"
        for name, when in ((keyed, later[0]), (month_text, month)):
            table = name.rpartition("_2")[0]
            problem = f"app does not own {table}. Scans fail without it; {MAINTAIN} before {when}"
            line = f"partition {name} could not be created: {problem}"
            await eventually(lambda line=line: line in served.log, 20.0)
        await eventually(lambda: f"partition scan_log_2001_01 is beyond its retention: {MAINTAIN}" in served.log, 20.0)
        assert served.ready and (await once(served.port, plain_target(FLEET, 0, 1))).passed
        assert roles.checks()["partitions"][0] == "WARN"
        assert roles.run(roles.app, "maintain").stderr == (
            "Error: The role app does not own the tables. Run this command as ixfast.\n"
        )
        printed = await asyncio.to_thread(roles.ixfast, roles.owner, "maintain")
        assert "dropped partition scan_log_2001_01\n" in printed
        assert f"created partition {keyed}\n" in printed and f"created partition {month_text}\n" in printed
        assert roles.ixfast(roles.owner, "maintain") == "nothing to do\n"
        assert roles.checks()["partitions"][0] == "OK"
        assert (await once(served.port, plain_target(FLEET, 0, 2))).passed
    requests = served.log.count(MAINTAIN)
    with roles.serve() as served:  # the new partitions are granted, and nothing is asked for
        assert (await once(served.port, plain_target(FLEET, 0, 3))).passed
        assert served.log.count(MAINTAIN) == requests


async def test_a_missing_current_partition_is_reported_and_repaired_while_serving(roles: Roles) -> None:
    administer(roles.owner, f"DROP TABLE scan_log_{TODAY:%Y_%m}")
    with roles.serve() as served:
        served.provision(FLEET)
        answer = await once(served.port, plain_target(FLEET, 0, 1))
        assert (answer.status, answer.json["reason"]) == (503, "log_partition_missing")
        await eventually(lambda: f"scan_log_{TODAY:%Y_%m} could not be created: app does not own scan_log" in served.log, 20.0)
        assert f"{MAINTAIN} now" in served.log
        roles.ixfast(roles.owner, "maintain")

        async def passes() -> bool:
            return bool((await once(served.port, plain_target(FLEET, 0, 1))).passed)

        await eventually(passes, 30.0)


def test_a_role_without_all_grants_is_found(roles: Roles) -> None:
    """The control of the check: each privilege that is taken away is named."""
    assert roles.checks()["role"][0] == "OK"
    for taken, named in (
        ("INSERT ON scan_log", "INSERT on scan_log"),
        ("TRUNCATE ON room_probe", "TRUNCATE on room_probe"),
        ("USAGE ON SEQUENCE tag_tag_id_seq", "USAGE on tag_tag_id_seq"),
        ("EXECUTE ON FUNCTION spread_new_counters(boolean)", "EXECUTE on spread_new_counters"),
    ):
        administer(roles.owner, f"REVOKE {taken} FROM app")
        expected = f"The role app lacks {named}: run `ixfast migrate --grant-to app` as the owner of the tables."
        assert roles.checks()["role"] == ("FAIL", expected)
        roles.ixfast(roles.owner, "migrate", "--grant-to", "app")
    assert roles.checks()["role"][0] == "OK"


def test_a_server_asks_for_the_owner_if_a_migration_is_pending(roles: Roles) -> None:
    last = migrate.migrations()[-1]
    administer(roles.owner, f"DELETE FROM schema_migration WHERE number = {last.number}")
    roles.home.mkdir()
    assert roles.run(roles.owner, "keys", "init").returncode == 0
    done = roles.run(roles.app, "serve", "--port", "0", "--private-port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Run `ixfast migrate` as that role; with --grant-to app it also grants app what a server needs." in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: The role app may not do this (permission denied for schema public)")


def test_grants_in_a_schema_of_its_own(roles: Roles) -> None:
    """Names that must be quoted, and a schema that is not public."""
    roles.server.fetchval('CREATE ROLE "my App" LOGIN')
    roles.server.fetchval("CREATE DATABASE other OWNER ixfast")
    owner = roles.server.dsn_of("other")
    administer(owner, 'CREATE SCHEMA "my Tags"', 'ALTER ROLE ixfast IN DATABASE other SET search_path = "my Tags"')
    roles.server.fetchval('ALTER ROLE "my App" IN DATABASE other SET search_path = "my Tags"')
    roles.ixfast(owner, "migrate", "--grant-to", "my App")
    app = roles.server.dsn_of("other", role="my%20App")
    roles.ixfast(app, "account", "create", "shop")
    assert roles.run(owner, "migrate", "--grant-to", "nobody").stderr.startswith('Error: The server has no role "nobody". ')
