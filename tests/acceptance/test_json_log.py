"""With `log_format` json, every line of a server is JSON, from the first one on; and what is lost and found again is logged."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import eventually, eventually_sync
from support.served import Connection, Served, children_of, own_database
from support.tcp_proxy import TcpProxy

BREAKING_SERVER = str(Path(__file__).parents[1] / "support" / "breaking_server.py")
NOWHERE = "postgresql://ixfast:pass@127.0.0.1:1/ixfast"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d")


def lines_of(served: Served) -> list[dict[str, Any]]:
    """The lines that a server has written to both streams; each must be a JSON object with the members of a log line."""
    lines = [json.loads(line) for line in (served.output + served.log).splitlines()]
    for line in lines:
        assert {"time", "level", "process", "logger", "message"} <= line.keys(), line
        assert TIME.fullmatch(line["time"]), line
    return lines


def messages_of(served: Served) -> list[str]:
    return [line["message"] for line in lines_of(served)]


def with_file(name: str, content: str, mode: int = 0o600) -> Callable[[Path], str]:
    def write(home: Path) -> str:
        (home / name).write_text(content)
        (home / name).chmod(mode)
        return str(home / name)

    return write


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--no-such-option"], "No such option --no-such-option"),
        (["surplus"], "unexpected extra argument"),
        (["--port", "many"], "flag --port: `port` must be"),
        (["--dsn", "mysql://db"], "`dsn` must be a URL"),
        (
            ["--dsn", "postgresql://ixfast:pass@127.0.0.1:1/ixfast", "--kek-file", "/nonexistent/kek"],
            "no key file at /nonexistent/kek",
        ),
        (["--dsn-file", with_file("dsn", "x", 0o644)], "is accessible to all users"),
        (["--config", with_file("broken.toml", "port =")], "not valid TOML"),
        (["--addresses-file", with_file("a.mmdb", "nonsense")], "addresses_file"),
    ],
)
@pytest.mark.parametrize("chosen", ["environment", "flag"])
def test_what_stops_the_start_is_json(flags: list[Any], words: str, chosen: str, server_dir: Path) -> None:
    server_dir.mkdir()
    given = [each(server_dir) if callable(each) else each for each in flags]
    environ = {"IXFAST_LOG_FORMAT": "json"} if chosen == "environment" else {}
    given += ["--log-format", "json"] if chosen == "flag" else []
    served = Served(server_dir, *given, environ=environ)
    served._given = {"data_dir": server_dir / "data"}
    served.start(ready=False)
    assert served.process is not None
    assert eventually_sync(lambda: served.process.poll() is not None, 20)  # type: ignore[union-attr]
    assert served.process.returncode != 0
    (line,) = lines_of(served)
    assert line["level"] == "error" and words in line["message"]


def test_the_settings_file_may_choose_the_format(server_dir: Path) -> None:
    server_dir.mkdir()
    config = with_file("ixfast.toml", 'log_format = "json"\nport = "many"\n')(server_dir)
    served = Served(server_dir, "--config", config)
    served._given = {"data_dir": server_dir / "data"}
    served.start(ready=False)
    assert eventually_sync(lambda: served.process.poll() is not None, 20)  # type: ignore[union-attr]
    (message,) = messages_of(served)
    assert "`port` must be a whole number" in message


def test_a_taken_port_is_json(database: str, server_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = Served(server_dir, dsn=database, log_format="json", port=port)
        served.start(ready=False)
        assert eventually_sync(lambda: served.process.poll() is not None, 20)  # type: ignore[union-attr]
    (message,) = messages_of(served)
    assert f"port: cannot bind 127.0.0.1:{port}" in message


async def test_the_whole_life_of_a_server_is_json(database: str, server_dir: Path) -> None:
    """Banner, warnings of libraries, threads and requests that fail, a worker that dies, the end."""
    served = Served(
        server_dir,
        "--demo",
        dsn=database,
        log_format="json",
        entry=(BREAKING_SERVER,),
        environ={"IXFAST_TEST_FAULT": "warn"},
    )
    await asyncio.to_thread(served.start)
    try:
        assert served.output == ""
        await eventually(lambda: any(text.startswith("curl ") for text in messages_of(served)), 10)
        async with await Connection.open(served.port) as connection:
            fine = {"X-Request-Id": "order-77", "Idempotency-Key": "fine"}
            assert (await connection.post("/v2/scans", {"xuid": "nosuchtag"}, fine)).status == 200
            answer = await connection.post("/v2/scans", {"xuid": "nosuchtag"}, {"Idempotency-Key": "break"})
            assert answer.status == 503
        assert served.process is not None
        os.kill(children_of(served.process.pid)[0], signal.SIGKILL)
        await eventually(lambda: re.search(r"worker \d is ready again \(pid \d+\)", "\n".join(messages_of(served))), 30)
        served.signal(signal.SIGHUP)
        await eventually(lambda: "reloading" in messages_of(served), 10)
        assert await asyncio.to_thread(served.stop) == 0
    finally:
        if served.process is not None:
            await asyncio.to_thread(served.stop)
    lines = lines_of(served)
    assert {"supervisor", "worker 0", "worker 1"} <= {line["process"] for line in lines}
    warned = [line["process"] for line in lines if line["logger"] == "py.warnings"]
    assert {"supervisor", "worker 0", "worker 1"} <= set(warned)
    threads = [line for line in lines if line["message"] == "unhandled exception"]
    assert len(threads) >= 3 and all("ZeroDivisionError" in line["exception"] for line in threads)
    (about_fine, *_) = [line for line in lines if line["message"] == "about a request"]
    assert about_fine["request_id"] == "order-77"
    (about_broken,) = [line for line in lines if line["message"] == "unhandled error in a request"]
    assert about_broken["request_id"] == answer.json["error"]["request_id"]
    assert not [line for line in lines if line["logger"] == "ixfast.worker" and "request_id" in line]
    assert all("Traceback" not in line["message"] for line in lines)


async def test_what_is_lost_and_found_is_logged_at_the_same_level(postgres: Any, template: str, tmp_path: Path) -> None:
    async with TcpProxy(postgres.port) as proxy:
        with own_database(postgres, template) as database:
            dsn = postgres.dsn_of(urlsplit(database).path.lstrip("/"), tcp=True, port=proxy.port)
            served = Served(tmp_path / "server", dsn=dsn, workers=1, log_format="json")
            await asyncio.to_thread(served.start)
            try:
                before = len(lines_of(served))
                assert not [text for text in messages_of(served) if "again" in text]
                proxy.refusing = True
                proxy.cut()
                await eventually(lambda: any("catalogue is stale" in text for text in messages_of(served)), 30)
                assert (await asyncio.to_thread(served.ask_private, "/readyz"))[0] == 503
                proxy.refusing = False
                await eventually(lambda: asyncio.to_thread(lambda: served.ready), 30)
                wanted = (
                    "connected to the ledger again after",
                    "catalogue changes can be read again after",
                    "listening for catalogue changes again after",
                    "the catalogue is fresh again",
                    "ready again: database",
                )
                await eventually(lambda: not [each for each in wanted if each not in "\n".join(messages_of(served))], 30)
            finally:
                await asyncio.to_thread(served.stop)
    lines = lines_of(served)[before:]

    def levels(*beginnings: str) -> set[str]:
        return {line["level"] for line in lines if line["message"].startswith(beginnings)}

    for lost, found in (
        (("cannot connect to the ledger", "ledger connection lost"), "connected to the ledger again"),
        (("cannot read catalogue changes",), "catalogue changes can be read again"),
        (("cannot listen", "the connection that listens"), "listening for catalogue changes again"),
        (("the catalogue is stale",), "the catalogue is fresh again"),
        (("not ready: database",), "ready again: database"),
    ):
        assert levels(*lost) == levels(found) != set(), lost


async def test_migrations_are_logged_once(postgres: Any, server_dir: Path) -> None:
    with Served(server_dir, workers=1, log_format="json") as served:
        applied = [text for text in messages_of(served) if text.startswith("applied migration ")]
        names = [
            row["name"] for row in await asyncio.to_thread(served.fetch, "SELECT name FROM schema_migration ORDER BY number")
        ]
    assert applied == [f"applied migration {name}" for name in names] != []
