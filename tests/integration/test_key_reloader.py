"""The keys of a worker while files change and a key service comes and goes."""

import asyncio
import contextlib
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support import eventually
from support.key_services import Vault

from ixfast import meters
from ixfast.keys import KeyEncryptionKey, KeyReloader, KeyUnavailableError, key_file, key_reloader, sealing
from ixfast.keys.key_file import KeyFile, KeyLine, plain_line

REFERENCE = "transit/ixfast"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_POLL_S": 0.05, "_RETRY_S": 0.05, "_RETRY_S_MAX": 0.2, "_START_PATIENCE_S": 0.3}.items():
        monkeypatch.setattr(key_reloader, name, value)


@pytest.fixture
def gauges() -> meters.Meters:
    return meters.Meters()


@contextlib.asynccontextmanager
async def kept(path: Path, gauges: meters.Meters) -> AsyncIterator[KeyReloader]:
    holder = KeyReloader(path, gauges)
    await holder.start()
    try:
        yield holder
    finally:
        await holder.stop()


def plain() -> KeyLine:
    return plain_line(secrets.token_bytes(32))


async def test_an_open_file_is_ready_at_once(tmp_path: Path, gauges: meters.Meters) -> None:
    line = plain()
    key_file.create(tmp_path / "kek", line)
    async with kept(tmp_path / "kek", gauges) as holder:
        assert holder.ready
        assert holder.keys.current.id == line.id
    assert gauges.slots[meters.KEY_UNWRAP_FAILURES] == 0


async def test_an_unreachable_service_is_asked_again_until_it_answers(
    tmp_path: Path, gauges: meters.Meters, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    path, line, other = tmp_path / "kek", sealing.make_line("vault-transit", REFERENCE), plain()
    key_file.create(path, line)
    key_file.edit(path, lambda file: file.with_line(other, current=False))
    vault.stop()
    async with kept(path, gauges) as holder:
        opened = []
        holder.changed = lambda: opened.append(holder.keys.ids)
        assert not holder.ready
        assert holder.keys.by_id(other.id).id == other.id  # a key that needs no service is open
        with pytest.raises(KeyUnavailableError, match="Vault"):
            _ = holder.keys.current
        await eventually(lambda: gauges.slots[meters.KEY_UNWRAP_FAILURES] >= 3)
        assert f"key-encryption key {line.id} is not open: Vault" in caplog.text
        vault.start()
        await eventually(lambda: holder.ready)
        assert holder.keys.current.id == line.id
        assert opened == [(line.id, other.id)]
        asked = len(vault.requests)
        holder.reload()
        await eventually(lambda: holder._signature is not None)
        assert len(vault.requests) == asked  # an open key is not requested again


async def test_open_keys_survive_a_service_and_a_file_that_vanish(tmp_path: Path, gauges: meters.Meters, vault: Vault) -> None:
    path, line = tmp_path / "kek", sealing.make_line("vault-transit", REFERENCE)
    key_file.create(path, line)
    async with kept(path, gauges) as holder:
        vault.failure = 503
        added = gauges.slots[meters.KEY_UNWRAP_FAILURES]
        content = path.read_bytes()
        path.unlink()
        holder.reload()
        await eventually(lambda: gauges.slots[meters.KEY_UNWRAP_FAILURES] > added)
        assert holder.keys.current.id == line.id
        path.write_bytes(b"nonsense")
        path.chmod(0o600)
        await eventually(lambda: holder._signature is not None)
        assert holder.keys.current.id == line.id
        path.write_bytes(content)
        second = plain()
        key_file.edit(path, lambda file: file.with_line(second, current=True))
        await eventually(lambda: holder.keys.ids == (second.id, line.id))
        assert holder.ready


async def test_a_changed_file_is_noticed_without_a_signal(tmp_path: Path, gauges: meters.Meters) -> None:
    path, first, second = tmp_path / "kek", plain(), plain()
    key_file.create(path, first)
    async with kept(path, gauges) as holder:
        key_file.edit(path, lambda file: file.with_line(second, current=True))
        await eventually(lambda: holder.keys.current.id == second.id)
        assert holder.keys.by_id(first.id)
        key_file.edit(path, lambda file: file.without(first.id))
        await eventually(lambda: holder.keys.ids == (second.id,))


async def test_a_look_up_finds_a_key_that_came_a_moment_ago(
    tmp_path: Path, gauges: meters.Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_reloader, "_POLL_S", 3600.0)
    path, first, second = tmp_path / "kek", plain(), plain()
    key_file.create(path, first)
    async with kept(path, gauges) as holder:
        reads = []
        read = KeyFile.read
        monkeypatch.setattr(KeyFile, "read", lambda path: reads.append(1) or read(path))
        await holder.keys.look_for([second.id])
        assert not reads  # the file is unchanged, so guessing ids costs nothing
        key_file.edit(path, lambda file: file.with_line(second, current=True))
        reads.clear()
        await asyncio.gather(*(holder.keys.look_for([second.id]) for _ in range(20)))
        assert holder.keys.by_id(second.id)
        assert len(reads) == 1


async def test_a_look_up_waits_for_a_reading_that_has_the_file_but_not_yet_its_keys(
    tmp_path: Path, gauges: meters.Meters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_reloader, "_POLL_S", 3600.0)
    path, first, second = tmp_path / "kek", plain(), plain()
    key_file.create(path, first)
    async with kept(path, gauges) as holder:
        opening, may_open = threading.Event(), threading.Event()

        def open_line(line: KeyLine) -> KeyEncryptionKey:
            opening.set()
            assert may_open.wait(5)
            return sealing.open_line(line)

        monkeypatch.setattr(key_reloader, "open_line", open_line)
        key_file.edit(path, lambda file: file.with_line(second, current=True))
        early = asyncio.create_task(holder.keys.look_for([second.id]))
        await eventually(opening.is_set)
        late = asyncio.create_task(holder.keys.look_for([second.id]))
        done, _ = await asyncio.wait([early, late], timeout=0.1)
        assert not done
        may_open.set()
        await asyncio.gather(early, late)
        assert holder.keys.current.id == second.id


async def test_a_service_that_hangs_holds_up_neither_start_nor_stop(
    tmp_path: Path, gauges: meters.Meters, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, line = tmp_path / "kek", sealing.make_line("vault-transit", REFERENCE)
    key_file.create(path, line)
    vault.stop()
    with socket.create_server(("127.0.0.1", 0)) as hole:  # accepts connections and never answers
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{hole.getsockname()[1]}")
        async with asyncio.timeout(4.0), kept(path, gauges) as holder:
            assert not holder.ready
