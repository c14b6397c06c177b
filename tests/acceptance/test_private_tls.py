"""TLS on the private listener, and certificates that are replaced while the server runs."""

import asyncio
import json
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually_sync
from support.certificates import serial_of, write_certificate
from support.requirements import requires
from support.served import Connection, Served, own_database, plain_target

from ixfast.testing.virtual_tags import VirtualFleet

FLEET = VirtualFleet(41, 20, account="shop")
PUBLIC, PRIVATE = "public-", "private-"


def make(home: Path, dsn: str | None, *flags: str, **settings: object) -> Served:
    """A server with a certificate of its own for each listener."""
    home.mkdir(exist_ok=True)
    tls_cert, tls_key = write_certificate(home, PUBLIC)
    private_tls_cert, private_tls_key = write_certificate(home, PRIVATE)
    given = {"tls_cert": tls_cert, "tls_key": tls_key, "private_tls_cert": private_tls_cert, "private_tls_key": private_tls_key}
    return Served(home, *flags, dsn=dsn, workers=2, **{**given, **settings})


@pytest.fixture(scope="module")
def secured(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with own_database(postgres, template) as dsn, make(tmp_path_factory.mktemp("tls"), dsn) as served:
        served.provision(FLEET)
        yield served


def trusting(served: Served, name: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(served.home / f"{name}cert.pem"))


def served_serials(port: int) -> set[int]:
    """The serial numbers that twelve new connections get, enough for each worker to have some."""
    return {serial_of(ssl.get_server_certificate(("127.0.0.1", port))) for _ in range(12)}


def serial_in(home: Path, name: str) -> int:
    return serial_of((home / f"{name}cert.pem").read_bytes())


def test_the_banner_and_curl_speak_https(secured: Served) -> None:
    assert f"health, metrics and versions at https://127.0.0.1:{secured.private_port}\n" in secured.output
    command = [requires("curl", package="curl"), "-sS", "--cacert", str(secured.home / f"{PRIVATE}cert.pem")]
    done = subprocess.run([*command, f"{secured.private_url}/readyz"], capture_output=True, text=True, timeout=20, check=True)
    assert json.loads(done.stdout) == {"ready": True, "problems": {}}


def test_plain_http_is_not_answered(secured: Served) -> None:
    command = [requires("curl", package="curl"), "-sS", f"http://127.0.0.1:{secured.private_port}/readyz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and done.stdout == ""
    assert "Traceback" not in secured.log


async def test_keys_are_uploaded_through_tls(secured: Served) -> None:
    words = ("api-key", "create", "shop", "--scope", "manage", "--scope", "keys")
    token = (await asyncio.to_thread(secured.cli, *words)).strip()
    async with await Connection.open(secured.private_port, ssl=trusting(secured, PRIVATE)) as connection:
        made = await connection.post("/v2/meta-keys", {"key": f"{7:032x}"}, {"X-API-Key": token})
        assert made.status == 201, made
        assert (await connection.get("/metrics")).status == 200


def test_doctor_finds_the_server(secured: Served) -> None:
    command = [*secured.command("doctor", "--json"), "--private-port", str(secured.private_port)]
    done = subprocess.run(command, env=secured.environ, capture_output=True, text=True, timeout=60)
    checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    assert checks["server"]["text"] == f"runs at https://127.0.0.1:{secured.private_port} and is ready"
    assert checks["TLS"]["status"] == "OK"
    assert f"{PUBLIC}cert.pem" in checks["TLS"]["text"] and f"{PRIVATE}cert.pem" in checks["TLS"]["text"]


async def test_a_renewed_certificate_is_served_after_sighup(secured: Served) -> None:
    """To new connections of every worker; those that are open stay open."""
    async with await Connection.open(secured.port, ssl=trusting(secured, PUBLIC)) as connection:
        assert (await connection.get(plain_target(FLEET, 0, 1))).passed
        before = serial_in(secured.home, PUBLIC)
        assert await asyncio.to_thread(served_serials, secured.port) == {before}
        for name in (PUBLIC, PRIVATE):
            write_certificate(secured.home, name)
        assert await asyncio.to_thread(served_serials, secured.port) == {before}, "only SIGHUP loads it"
        secured.signal(signal.SIGHUP)
        for name, port in ((PUBLIC, secured.port), (PRIVATE, secured.private_port)):
            wanted = {serial_in(secured.home, name)}
            await asyncio.to_thread(eventually_sync, lambda port=port, wanted=wanted: served_serials(port) == wanted, 20)
        assert (await connection.get(plain_target(FLEET, 0, 2))).passed
    assert secured.log.count("loaded the certificate of private_tls_cert") >= 1


@pytest.mark.parametrize("broken", ["mismatch", "garbage", "absent", "readable"])
def test_an_unusable_renewal_keeps_the_certificate(broken: str, secured: Served) -> None:
    cert, key = (secured.home / f"{PRIVATE}{name}.pem" for name in ("cert", "key"))
    good = cert.read_bytes(), key.read_bytes()
    wanted = {serial_in(secured.home, PRIVATE)}
    seen = secured.log.count("keeping the previous certificate of private_tls_cert")
    if broken == "mismatch":
        write_certificate(secured.home, PRIVATE)
        key.write_bytes(good[1])
    elif broken == "garbage":
        cert.write_text("nonsense")
    elif broken == "absent":
        key.unlink()
    else:
        key.chmod(0o644)
    try:
        secured.signal(signal.SIGHUP)
        eventually_sync(lambda: secured.log.count("keeping the previous certificate of private_tls_cert") > seen, 20)
        assert served_serials(secured.private_port) == wanted
        assert secured.ready
    finally:
        cert.write_bytes(good[0])
        key.write_bytes(good[1])
        key.chmod(0o600)
    assert "Traceback" not in secured.log


@pytest.mark.parametrize(
    ("setting", "mode", "words"),
    [
        ("tls_key", 0o644, r"tls_key: \S+/public-key.pem is accessible to all users \(mode 0644\)"),
        ("private_tls_key", 0o604, r"private_tls_key: \S+/private-key.pem is accessible to all users \(mode 0604\)"),
        ("private_tls_cert", None, r"private_tls_cert: cannot read \S+: No such file"),
    ],
)
def test_a_server_does_not_start_with_such_files(
    setting: str, mode: int | None, words: str, server_dir: Path, database: str
) -> None:
    served = make(server_dir, database)
    file = Path(str(served._given[setting]))
    file.chmod(mode) if mode is not None else file.unlink()
    served.start(ready=False)
    assert served.process is not None
    assert eventually_sync(lambda: served.process.poll() is not None, 30)  # type: ignore[union-attr]
    assert re.search(words, served.log) and served.log.count("\n") == 1
