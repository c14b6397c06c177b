"""After a mixed run, no key, token, MAC or password appears in anything that leaves the process."""

import asyncio
import base64
import re
from pathlib import Path
from urllib.parse import urlsplit

from support import eventually
from support.malformed import STREAMS
from support.served import Answer, ClosedError, Connection, Served, cmdline, once, plain_target, request, target

from ixfast.testing.virtual_tags import VirtualFleet

PLAIN = VirtualFleet(21, 20, account="shop")
MIRROR = VirtualFleet(22, 20, profile="encrypted-file", account="vault")
GUESSED = "ixf_guessed-by-somebody-at-the-door"


def spellings(secret: bytes) -> set[bytes]:
    """A key raw, in hexadecimal, in base64 and as Python prints it."""
    texts = (secret.hex(), secret.hex().upper(), base64.b64encode(secret).decode(), repr(secret)[2:-1])
    return {secret, *(text.encode() for text in texts)}


async def mixed_run(server: Served, token: str) -> list[Answer]:
    """Scans of every verdict, with good and bad tokens, and malformed requests."""
    answers: list[Answer] = []
    async with await Connection.open(server.port) as connection:
        for index in range(10):
            tap = plain_target(PLAIN, index, 1)
            answers.extend([await connection.get(path) for path in (tap, tap, tap[:-4] + "0000")])
            parameters = MIRROR[index].parameters_at(1)
            for shown in (token, GUESSED):
                bearer = {"Authorization": f"Bearer {shown}"}
                answers.append(await connection.get(target({**parameters, "r": shown})))
                answers.append(await connection.post("/v2/scans", {"url": MIRROR[index].tap_at(2)}, {"X-API-Key": shown}))
                answers.append(await connection.post("/v2/scans", {"xuid": shown, "code": shown}, bearer))
            answers.append(await connection.post("/v2/scans/batch", {"scans": [{"xuid": PLAIN.xuid(0), "code": token}]}))
    for stream in STREAMS.values():
        secret = stream.replace(b"Host: ", b"X-API-Key: %b\r\nHost: " % token.encode())
        async with await Connection.open(server.port) as connection:
            connection.writer.write(secret + request("GET", f"/{token}?r={token}", {"Connection": "close", "X-API-Key": token}))
            try:
                answers.append(await connection.answer(bodyless=stream.startswith(b"HEAD")))
            except (ClosedError, ConnectionResetError):
                continue
    answers.append(await once(server.port, f"/v1/t?x={PLAIN.xuid(0)}&e={token}&r={token}&r={token}"))
    return answers


async def test_no_secret_leaves_the_process(server_dir: Path) -> None:
    with Served(server_dir, log_level="debug", log_format="json") as server:
        server.provision(PLAIN)
        server.provision(MIRROR, is_open=False)
        token = server.cli("api-key", "create", MIRROR.account).strip()
        answers = await mixed_run(server, token)
        # Database errors, with statements in flight.
        server.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ixfast'")
        answers += await mixed_run(server, token)
        await eventually(lambda: asyncio.to_thread(lambda: server.ready), 20.0)
        activity = server.fetch("SELECT * FROM pg_stat_activity")
        password = urlsplit(server.dsn).password
        private = [server.ask_private(path)[1] for path in ("/metrics", "/readyz", "/livez", "/versions", f"/{token}?r={token}")]
        settings = server.cli("settings")
        family = b"".join(map(cmdline, [server.process.pid, *server.workers()])) if server.process is not None else b""
        kek_file = server.kek_file.read_bytes()
        assert server.stop() == 0
        postgres = b"".join(path.read_bytes() for path in (server.data_dir / "postgresql/cluster/log").glob("*.log"))
    assert password is not None
    sent = b"\n".join((answer.body + repr(answer.headers).encode()) for answer in answers)
    places = {
        "answers": sent,
        "log": server.log.encode(),
        "output": server.output.encode(),
        "private listener": b"\n".join(private),
        "pg_stat_activity": repr(activity).encode(),
        "PostgreSQL's log": postgres,
        "settings": settings.encode(),
        "command lines": family,
    }
    secrets = {"token": {token.encode()}, "guessed token": {GUESSED.encode()}, "password": {password.encode()}}
    for fleet in (PLAIN, MIRROR):
        secrets["meta key"] = secrets.get("meta key", set()) | spellings(fleet.meta_key)
        for index in range(20):
            secrets[f"file key {fleet.seed}/{index}"] = spellings(fleet.file_key(index))
    for index in range(10):
        code = PLAIN.plain_tap(index, 1)[2].encode()
        secrets[f"MAC {index}"] = {code, code.lower(), *spellings(bytes.fromhex(code.decode()))}
    kek = re.search(rb"^[0-9a-f]{16} (\S{44})$", kek_file, re.MULTILINE)
    assert kek is not None
    secrets["key-encryption key"] = {kek[1], *spellings(base64.b64decode(kek[1]))}
    found = [(name, place) for name, forms in secrets.items() for place, text in places.items() if any(f in text for f in forms)]
    assert found == []
    # Controls: the places searched hold what they should.
    assert PLAIN.xuid(3).encode() in sent and b"terminating connection" in postgres and b"ixfast_scans_total" in b"".join(private)
    assert {200, 400, 401, 404} <= {answer.status for answer in answers}
    assert b"connection_lost" in places["log"] or b"unread" in places["log"]
