"""Runs a server as a user would, with `python -m ixfast serve` in its own process, and small clients for it.

`Served` starts, signals and stops the server. `Connection` is a keep-alive HTTP/1.1 client that sends exactly the bytes it is
given, so tests can send what no well-behaved client library would.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import asyncpg

from ixfast.keys import KeyEncryptionKeys
from ixfast.testing.provision import provision
from ixfast.testing.virtual_tags import VirtualFleet
from support import administer, drop_database, eventually_sync

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0
ANSWER_DEADLINE_S = 10.0
_PLACES = re.compile(r"verifies scans at (https?)://(?:\[\S+\]|[^\s:]+):(\d+)\n.* at (https?)://(?:\[\S+\]|[^\s:]+):(\d+)\n")


def _toml(value: object) -> str:
    return json.dumps(value if isinstance(value, bool | int) else str(value))


class Served:
    """A server with the data directory `home` and ports chosen by the kernel.

    `settings` become flags. Without `dsn` it runs on an embedded PostgreSQL. `entry` holds the interpreter's arguments before the
    command, for variants of the server.
    """

    def __init__(
        self,
        home: Path,
        *flags: str,
        dsn: str | None = None,
        entry: Sequence[str] = ("-m", "ixfast"),
        environ: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.home = home
        self.data_dir = home / "data"
        self._dsn = dsn
        given = {"data_dir": self.data_dir, "port": 0, "private_port": 0, "workers": 2, **settings}
        if dsn is not None:
            self.kek_file = home / "kek"
            given["kek_file"] = self.kek_file
        else:
            self.kek_file = self.data_dir / "kek"
        self._given = given
        self._command = [sys.executable, *entry, "serve", *flags]
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("IXFAST_")}
        self.environ |= {"PYTHONUNBUFFERED": "1", **({"IXFAST_DSN": dsn} if dsn is not None else {}), **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.private_port = 0
        self.scheme = self.private_scheme = "http"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process is not None:
            self.stop()

    def start(self, *, ready: bool = True) -> None:
        self.home.mkdir(mode=0o711, exist_ok=True)
        if self._dsn is not None and not self.kek_file.exists():
            KeyEncryptionKeys.create_file(self.kek_file)
        flags = ((f"--{name.replace('_', '-')}", str(value)) for name, value in self._given.items())
        command = [*self._command, *(word for pair in flags for word in pair)]
        with (self.home / "out").open("wb") as out, (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(command, env=self.environ, stdout=out, stderr=log, stdin=subprocess.DEVNULL)
        if ready:
            try:
                self._await_banner()
            except BaseException:
                self.stop()
                raise

    def _await_banner(self) -> None:
        def banner() -> re.Match[str] | None:
            assert self.process is not None
            assert self.process.poll() is None, f"the server ended: {self.log}"
            return _PLACES.search(self.output + self._json_messages)

        places = eventually_sync(banner, START_DEADLINE_S)
        self.scheme, self.port = places[1], int(places[2])
        self.private_scheme, self.private_port = places[3], int(places[4])

    @property
    def output(self) -> str:
        return (self.home / "out").read_text()

    @property
    def _json_messages(self) -> str:
        """The messages of a log in JSON, where the banner is if that is the format."""
        lines = [line for line in self.log.splitlines() if line.startswith("{") and line.endswith("}")]
        return "".join(f"{json.loads(line)['message']}\n" for line in lines)

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()

    @property
    def base_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def private_url(self) -> str:
        return f"{self.private_scheme}://127.0.0.1:{self.private_port}"

    @property
    def dsn(self) -> str:
        """The database connection string: the given one, or that of the running embedded PostgreSQL."""
        return self._dsn if self._dsn is not None else (self.data_dir / "dsn").read_text()

    def command(self, *words: str) -> list[str]:
        """An `ixfast` command line for this server, to be run with `environ`. It gets the server's settings from a file."""
        config = self.home / "commands.toml"
        given = {**self._given, "port": self.port}
        config.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in given.items()))
        return [sys.executable, "-m", "ixfast", *words, "--config", str(config)]

    def cli(self, *words: str) -> str:
        """Run a command and return its output. Raises AssertionError if it fails."""
        done = subprocess.run(self.command(*words), env=self.environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask_private(self, path: str) -> tuple[int, bytes]:
        try:
            context = ssl._create_unverified_context() if self.private_scheme == "https" else None
            with urllib.request.urlopen(self.private_url + path, timeout=ANSWER_DEADLINE_S, context=context) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    @property
    def ready(self) -> bool:
        """Whether `/readyz` reports ready; False if there is no response."""
        try:
            return self.ask_private("/readyz")[0] == 200
        except OSError:
            return False

    @property
    def all_ready(self) -> bool:
        """Whether the metrics of every worker report ready; `/readyz` is answered by only one of them."""
        try:
            text = self.ask_private("/metrics")[1].decode()
        except OSError:
            return False
        readiness = re.findall(r"^ixfast_worker_ready\{.*\} (\S+)$", text, re.MULTILINE)
        return bool(readiness) and set(readiness) == {"1.0"}

    def workers(self) -> list[int]:
        """Process ids of the live workers."""
        assert self.process is not None
        return sorted(
            pid for pid in children_of(self.process.pid) if b"ixfast.process.worker" in cmdline(pid) or b"WORKER" in cmdline(pid)
        )

    def postmaster(self) -> int:
        """Process id of the embedded PostgreSQL's postmaster; 0 if there is none."""
        assert self.process is not None
        return next((pid for pid in children_of(self.process.pid) if b"-D" in cmdline(pid).split(b"\0")), 0)

    def signal(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Send SIGTERM and return the exit status. A process that does not exit in time is killed, and the test fails."""
        assert self.process is not None
        process, self.process = self.process, None
        family = descendants_of(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            status = process.wait(STOP_DEADLINE_S)
        finally:
            for pid in (process.pid, *family):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        return status

    def provision(self, *fleets: VirtualFleet, is_open: bool = True) -> None:
        """Add the account of the fleets and its tags."""

        async def work(connection: Any) -> None:
            await provision(connection, KeyEncryptionKeys.load_file(self.kek_file), fleets, is_open=is_open)

        self.in_database(work)

    def in_database(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run a coroutine function with a database connection, in a thread with its own event loop."""

        async def main() -> Any:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await work(connection)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, main()).result()

    def fetch(self, query: str, *arguments: Any) -> list[Any]:
        return self.in_database(lambda connection: connection.fetch(query, *arguments))


@contextlib.contextmanager
def own_database(postgres: Any, template: str) -> Iterator[str]:
    """Create a migrated database and yield its connection string, for fixtures with a scope wider than one test."""
    name = f"ixfast_served_{secrets.token_hex(6)}"
    administer(postgres.dsn, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield postgres.dsn_of(name)
    finally:
        drop_database(postgres.dsn, name)


def children_of(pid: int) -> list[int]:
    """Process ids of the live children, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(entry.name))
    return found


def descendants_of(pid: int) -> list[int]:
    return [each for child in children_of(pid) for each in (child, *descendants_of(child))]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def target(parameters: Mapping[str, str]) -> str:
    """The request target of `/v1/t` with these parameters."""
    return f"/v1/t?{urlencode(parameters)}"


def plain_target(fleet: VirtualFleet, index: int, counter: int) -> str:
    """The request target of a plain tap, in the form that web servers send most often."""
    x, n, e = fleet.plain_tap(index, counter)
    return f"/v1/t?x={x}&n={n}&e={e}"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case; values of a repeated field are joined
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def passed(self) -> bool:
        return self.status == 200 and self.json.get("response") == "Pass"

    @property
    def failed(self) -> bool:
        """Whether the tap was refused, which is not an error."""
        return self.status == 200 and self.json.get("response") == "Fail"


class ClosedError(ConnectionError):
    """The server closed the connection; `partial` is what it had sent of a response."""

    def __init__(self, partial: bytes) -> None:
        super().__init__(f"closed after {partial!r}")
        self.partial = partial


class Connection:
    """A connection with a deadline for each response. It closes when the server asks for that."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.answers = 0
        self.closing = False  # the last response had Connection: close

    @classmethod
    async def open(cls, place: int | Path, **options: Any) -> Self:
        """`place` is a port or the path of a Unix socket."""
        if isinstance(place, Path):
            return cls(*await asyncio.open_unix_connection(place, **options))
        return cls(*await asyncio.open_connection("127.0.0.1", place, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def get(self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Answer:
        self.writer.write(request(method, path, headers))
        return await self.answer(bodyless=method == "HEAD")

    async def post(self, path: str, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
        self.writer.write(
            request("POST", path, {"Content-Type": "application/json", **(headers or {})}, json.dumps(content).encode())
        )
        return await self.answer()

    async def answer(self, *, bodyless: bool = False) -> Answer:
        """The next response. Raises ClosedError if the connection ends first, TimeoutError at the deadline."""
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                raise ClosedError(error.partial) from None
            line, *lines = head[:-4].decode("latin-1").split("\r\n")
            status = int(line.split(" ")[1])
            headers: dict[str, str] = {}
            for name, _, value in (each.partition(":") for each in lines):
                known = headers.get(name.lower())
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
            body = b""
            if not bodyless and status >= 200 and status != 204:
                body = await self.reader.readexactly(int(headers["content-length"]))
        self.answers += 1
        self.closing = headers.get("connection", "").lower() == "close"
        return Answer(status, headers, body)


def request(method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> bytes:
    """Encode a request; header values are Latin-1."""
    fields = {"Host": "localhost", **(headers or {})}
    if body is not None:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


async def once(place: int | Path, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> Answer:
    """Send one request on a new connection to a port or a Unix socket."""
    async with await Connection.open(place) as connection:
        return await connection.get(path, headers, method=method)


async def manage(server: Served, token: str, method: str, path: str, body: Any = None) -> Any:
    """The JSON response to a management request that must succeed; None if it has no body."""
    content = json.dumps(body).encode() if body is not None else None
    async with await Connection.open(server.private_port) as connection:
        connection.writer.write(request(method, path, {"X-API-Key": token}, content))
        answer = await connection.answer()
    assert answer.status < 300, answer
    return answer.json if answer.body else None


async def all_of(place: int | Path, paths: Sequence[str], connections: int) -> list[Answer]:
    """Request all `paths` concurrently over this many connections; responses in the order of `paths`."""
    answers: list[Answer | None] = [None] * len(paths)
    waiting = iter(enumerate(paths))

    async def ask() -> None:
        async with await Connection.open(place) as connection:
            for index, path in waiting:
                answers[index] = await connection.get(path)

    await asyncio.gather(*(ask() for _ in range(connections)))
    return [answer for answer in answers if answer is not None]
