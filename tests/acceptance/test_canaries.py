"""Sends known keys, tokens and codes through every interface, then searches for them in everything that leaves the process.

That covers answers, the logs of all processes, PostgreSQL's log of every statement, metrics, what other sessions of the database
see, a dump of it, and its files, raw bytes included. Each token appears in one answer and nowhere else.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from support import eventually, eventually_sync
from support.served import Answer, Served
from test_isolation_of_secrets import GUESSED, MIRROR, PLAIN, mixed_run, spellings

STORED_ON_PURPOSE = bytes.fromhex("5ca1ab1e" * 4)
"""A key that someone wrote into the name of a tag: finding it proves that the search works."""


class Canaries:
    """Secrets by name, generated on demand, with all their spellings."""

    def __init__(self) -> None:
        self.forms: dict[str, set[bytes]] = {}

    def key(self, name: str) -> str:
        """A fresh AES key, in hexadecimal."""
        value = secrets.token_bytes(16)
        self.forms[name] = spellings(value)
        return value.hex()

    def text(self, name: str, value: str) -> str:
        self.forms[name] = {value.encode(), value.encode().hex().encode(), base64.b64encode(value.encode())}
        return value

    def found_in(self, places: dict[str, bytes]) -> list[tuple[str, str]]:
        return [
            (name, place) for name, forms in self.forms.items() for place, text in places.items() if any(f in text for f in forms)
        ]


@pytest.fixture(scope="module")
def server(open_scratch: Path) -> Iterator[Served]:
    """A server on a private PostgreSQL that logs every statement."""
    with Served(open_scratch / "canaries", log_level="debug", log_format="json") as served:
        cluster = served.data_dir / "postgresql/cluster"
        with (cluster / "postgresql.auto.conf").open("a") as file:
            file.write("log_statement = 'all'\nlog_min_duration_statement = 0\n")
        os.kill(served.postmaster(), signal.SIGHUP)
        eventually_sync(lambda: served.fetch("SHOW log_statement")[0][0] == "all", 20.0)
        yield served


class ManagementClient:
    """Sends requests to the private listener and keeps every answer except those that show a token."""

    def __init__(self, server: Served, session: ClientSession, token: str) -> None:
        self.server = server
        self.session = session
        self.token = token
        self.answers: list[Answer] = []

    async def ask(self, method: str, path: str, body: Any = None, *, keep: bool = True, **headers: str) -> Answer:
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        given = {"X-API-Key": self.token, **headers}
        asked = self.session.request(method, self.server.private_url + path, data=content, headers=given)
        async with asked as response:
            answer = Answer(response.status, dict(response.headers), await response.read())
        if keep:
            self.answers.append(answer)
        return answer

    async def made(self, path: str, body: Any, *, keep: bool = True) -> Any:
        answer = await self.ask("POST", path, body, keep=keep)
        assert answer.status == 201, answer
        return answer.json


async def manage(client: ManagementClient, canaries: Canaries) -> None:
    """Send keys and tokens in every request that takes one, correctly and incorrectly."""
    folder = (await client.made("/v2/folders", {"name": "F"}))["id"]
    group = (await client.made("/v2/groups", {"folder_id": folder, "name": "G", "profile": "ixkio-plain"}))["id"]
    draft = {"group_id": group, "xuid": "canary01", "uid": "04A1A2A3A4A5A6", "key": canaries.key("a tag's key")}
    await client.made("/v2/tags", draft)
    await client.made("/v2/tags/canary01/keys", {"key": canaries.key("its second key"), "retire_others": True})
    await client.made("/v2/meta-keys", {"key": canaries.key("a meta key")})
    own = {"group_id": group, "xuid": "canary03", "meta_key": canaries.key("a tag's meta key")}
    await client.made("/v2/tags", own)
    await client.made("/v2/tags/canary03/meta-keys", {"key": canaries.key("its second meta key")})
    batch = (await client.made("/v2/batches", {"group_id": group, "name": "B"}))["id"]
    await client.made(f"/v2/batches/{batch}/meta-keys", {"key": canaries.key("a batch's meta key")})
    derivation = {"scheme": "boltcard", "version": 1}
    cards = {"folder_id": folder, "name": "Cards", "profile": "boltcard", "derivation": derivation}
    derived = (await client.made("/v2/groups", cards))["id"]
    await client.made(f"/v2/groups/{derived}/keys", {"key": canaries.key("a master")})
    card = await client.made("/v2/tags", {"group_id": derived, "uid": "04B1B2B3B4B5B6"})
    keys = f"{canaries.key('an imported key')};{canaries.key('an imported meta key')}"
    file = f"XUID;UID;KEY;META_KEY\nimport01;04C1C2C3C4C5C6;{keys}\n".encode()
    assert (await client.ask("POST", f"/v2/imports?group={group}&meta_keys=tag", file)).status == 200
    made = await client.made("/v2/api-keys", {"scopes": ["manage", "keys", "scan"]}, keep=False)
    token = canaries.text("a made token", made["token"])
    rotated = await client.made(f"/v2/api-keys/{made['id']}/rotate", {}, keep=False)
    canaries.text("a rotated token", rotated["token"])
    await wrong(client, canaries, group, token)
    await client.made("/v2/tags", {"group_id": group, "xuid": "onpurpos", "name": STORED_ON_PURPOSE.hex()})
    for path in ("tags", "groups", "folders", "api-keys", "meta-keys", "audit", "tags/canary01/keys", f"groups/{derived}/keys",
                 "tags/canary03/meta-keys", f"batches/{batch}/meta-keys",
                 f"tags/{card['xuid']}", "scans", "stats", "exports", "exports?format=jsonl"):  # fmt: skip
        assert (await client.ask("GET", f"/v2/{path}")).status == 200, path


async def wrong(client: ManagementClient, canaries: Canaries, group: int, token: str) -> None:
    key = canaries.key("a key in the wrong place")
    tag = {"group_id": group, "xuid": "canary02"}
    bad: list[tuple[str, str, Any]] = [
        ("POST", "/v2/tags", {**tag, "key": key[:-1]}),
        ("POST", "/v2/tags", {**tag, "key": key + "00"}),
        ("POST", "/v2/tags", {**tag, "key": [key]}),
        ("POST", "/v2/tags", {**tag, "meta_key": key[:-1]}),
        ("POST", "/v2/tags", {**tag, "meta_key": {key: key}}),
        ("POST", "/v2/tags/canary03/meta-keys", {"key": key + "00"}),
        ("POST", "/v2/tags", {**tag, "key": key, "uid": key}),
        ("POST", "/v2/tags", {**tag, "uid": key}),
        ("POST", "/v2/tags", {"group_id": key}),
        ("POST", "/v2/tags", {**tag, "fields": {key: key}}),
        ("POST", "/v2/tags", {**tag, "rules": {"groups": [{"name": key, "when": "a b", "response": key}], "default": key}}),
        ("POST", "/v2/tags/canary01/keys", {"key": key, "retire_others": key}),
        ("POST", f"/v2/tags/{key}/keys", {"key": key}),
        ("DELETE", f"/v2/tags/canary01/keys/{key}", None),
        ("GET", f"/v2/tags?key={key}&uid={key}&limit={key}", None),
        ("GET", f"/v2/{key}", None),
        ("POST", "/v2/meta-keys", f'{{"key": "{key}"'.encode()),
        ("POST", "/v2/api-keys", {"scopes": [token]}),
        ("POST", "/v2/api-keys", {"scopes": ["scan"], "expires_at": token}),
        ("PATCH", f"/v2/api-keys/{token}", {"label": "x"}),
        ("GET", f"/v2/audit?r={token}&object={token}&cursor={token}", None),
        ("PATCH", "/v1/x/canary01", {"ix_status": key, "r": token}),
        ("PATCH", f"/v1/a/{token}", b"ix_status=Active"),
        ("POST", f"/v2/imports?group={group}", f"XUID;UID;KEY\nimport02;{key};{key[:-1]}\nimport03;x;{key}!\n".encode()),
        ("POST", f"/v2/imports?group={group}", f"XUID;{key}\nimport02;{key}\n".encode()),
        ("POST", f"/v2/imports?group={group}&preset={key}", f"{{{key}".encode()),
    ]
    for method, path, body in bad:
        answer = await client.ask(method, path, body, ix_c=token, **{"If-Match": token})
        assert 400 <= answer.status < 500, (method, path, answer)
        refused = await client.ask(method, path, body, **{"X-API-Key": token + "x", "Authorization": f"Basic {token}"})
        assert refused.status in (401, 404), (method, path)


def dumped(server: Served) -> dict[str, bytes]:
    """The whole database by table: as COPY writes it, followed by every bytes value both raw and in base64."""

    async def work(connection: Any) -> dict[str, bytes]:
        found = {}
        for (table,) in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"):
            copied = io.BytesIO()
            await connection.copy_from_query(f"SELECT * FROM {table}", output=copied)
            rows = await connection.fetch(f"SELECT * FROM {table}")
            values = [value for row in rows for value in row.values() if isinstance(value, bytes)]
            found[table] = b"\n".join([copied.getvalue(), *values, *map(base64.b64encode, values)])
        return found

    tables: dict[str, bytes] = server.in_database(work)
    return tables


async def test_canaries_are_nowhere(server: Served) -> None:
    canaries = Canaries()
    server.provision(PLAIN)
    server.provision(MIRROR, is_open=False)
    server.cli("account", "create", "owner")
    scopes = ("--scope", "manage", "--scope", "keys", "--scope", "scan")
    token = canaries.text("the owner's token", server.cli("api-key", "create", "owner", *scopes).strip())
    vault = canaries.text("the vault's token", server.cli("api-key", "create", MIRROR.account).strip())
    canaries.text("a guessed token", GUESSED)
    canaries.text("the password", str(urlsplit(server.dsn).password))
    old_kek = server.kek_file.read_bytes()
    async with ClientSession() as session:
        client = ManagementClient(server, session, token)
        await manage(client, canaries)
    client.answers += await mixed_run(server, vault)
    printed = server.cli("keys", "rotate") + server.cli("keys", "status") + server.cli("settings")
    server.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ixfast'")
    client.answers += await mixed_run(server, vault)
    await eventually(lambda: server.ready, 20.0)

    for fleet in (PLAIN, MIRROR):
        canaries.forms[f"meta key {fleet.seed}"] = spellings(fleet.meta_key)
        for index in range(20):
            canaries.forms[f"file key {fleet.seed}/{index}"] = spellings(fleet.file_key(index))
    for index in range(10):
        code = PLAIN.plain_tap(index, 1)[2]
        canaries.forms[f"code {index}"] = {code.encode(), code.lower().encode(), *spellings(bytes.fromhex(code))}
    for number, kek in enumerate(re.findall(rb"^[0-9a-f]{16} (\S{44})$", old_kek + server.kek_file.read_bytes(), re.MULTILINE)):
        canaries.forms[f"key-encryption key {number}"] = {kek, *spellings(base64.b64decode(kek))}

    tables = dumped(server)
    places = {
        "answers": b"\n".join(answer.body + repr(answer.headers).encode() for answer in client.answers),
        "private listener": b"\n".join(server.ask_private(p)[1] for p in ("/metrics", "/readyz", "/versions", "/openapi.json")),
        "pg_stat_activity": repr(server.fetch("SELECT * FROM pg_stat_activity")).encode(),
        "dump": b"\n".join(tables.values()),
        "commands": printed.encode(),
    }
    assert server.stop() == 0
    cluster = server.data_dir / "postgresql/cluster"
    places["log"] = (server.log + server.output).encode()
    places["PostgreSQL's log"] = b"".join(path.read_bytes() for path in (cluster / "log").glob("*.log"))
    places["PostgreSQL's files"] = b"\n".join(
        path.read_bytes() for folder in ("base", "global", "pg_wal") for path in (cluster / folder).rglob("*") if path.is_file()
    )
    assert canaries.found_in(places) == []

    # Controls: statements were logged, sealed keys are in the dump, and the search finds the key stored on purpose.
    assert b"INSERT INTO audit_log" in places["PostgreSQL's log"] and b"canary01" in places["PostgreSQL's files"]
    assert all(tables[name] for name in ("tag_key", "meta_key", "batch_key", "group_key", "api_key", "audit_log", "tag_counter"))
    canaries.forms = {"stored on purpose": spellings(STORED_ON_PURPOSE)}
    found = {place for _, place in canaries.found_in(places)}
    assert found == {"answers", "dump", "PostgreSQL's files"}
