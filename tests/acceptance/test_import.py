"""Imports of tag files as a user runs them: beside a running server, whose workers serve the tags within a second."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import eventually
from support.served import Connection, Served, plain_target, request

from ixfast.testing.virtual_tags import VirtualFleet, VirtualTag

AID = "shop"
FLEET = VirtualFleet(1907, 4000, account=AID)
OTHERS = VirtualFleet(1908, 8000, account=AID)
PLACE = ("--account", AID, "--group", "Left")
TAKEN_OVER_S = 1.0


class Shop:
    """A server on a private PostgreSQL, with an account, an empty group, and a token to manage it."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.group = 0
        self.token = ""

    async def build(self) -> None:
        self.server.cli("account", "create", AID, "--open")
        self.token = self.server.cli("api-key", "create", AID, "--scope", "manage", "--scope", "keys").strip()
        folder = await self.ask("POST", "/v2/folders", json.dumps({"name": "Shoes"}).encode())
        group = {"folder_id": folder["id"], "name": "Left", "profile": "ixkio-plain"}
        self.group = (await self.ask("POST", "/v2/groups", json.dumps(group).encode()))["id"]

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        async with await Connection.open(self.server.private_port) as connection:
            connection.writer.write(request(method, path, {"X-API-Key": self.token}, body))
            answer = await connection.answer()
        assert answer.status < 300, answer
        return answer.json

    async def tap(self, index: int, counter: int) -> Any:
        async with await Connection.open(self.server.port) as connection:
            return await connection.get(plain_target(FLEET, index, counter))

    def run(self, *words: str, stdin: bytes = b"") -> str:
        command = self.server.command(*words)
        done = subprocess.run(command, env=self.server.environ, input=stdin, capture_output=True, timeout=60, check=False)
        errors = [line for line in done.stderr.splitlines() if not line.startswith(b"Warning: ")]
        assert (done.returncode == 0) == (not errors), done.stderr
        return (done.stdout + done.stderr).decode()

    async def imported(self, *words: str, stdin: bytes = b"") -> str:
        return await asyncio.to_thread(self.run, "import", *words, *PLACE, stdin=stdin)


@pytest.fixture(scope="module")
def shop(open_scratch: Path) -> Iterator[Shop]:
    with Served(open_scratch / "shop") as server:
        shop = Shop(server)
        asyncio.run(shop.build())
        yield shop


def rows(fleet: VirtualFleet, indices: range) -> bytes:
    lines = (f"{fleet.xuid(i)},{fleet.uid(i).hex()},{fleet.file_key(i).hex()}\n" for i in indices)
    return ("XUID,UID,KEY\n" + "".join(lines)).encode()


async def is_answered(shop: Shop, index: int, words: str) -> bool:
    """Whether every worker gives this answer; the taps are used ones, so nothing is consumed."""
    answers = [(await shop.tap(index, 1)).json for _ in range(8)]
    return {answer.get("response") or answer["error"] for answer in answers} == {words}


async def test_what_is_imported_is_served_within_a_second(shop: Shop, tmp_path: Path) -> None:
    for _ in range(8):
        assert (await shop.tap(0, 1)).json["error"] == "not_found"  # the workers cache its absence
    path = tmp_path / "tags.csv.gz"
    path.write_bytes(gzip.compress(rows(FLEET, range(10))))
    assert (await shop.imported(str(path))).startswith("10 tags: 10 added")

    async def passes() -> bool:
        return bool((await shop.tap(0, 1)).passed)

    await eventually(passes, TAKEN_OVER_S)
    await eventually(lambda: is_answered(shop, 0, "Fail"), TAKEN_OVER_S)  # that tap is used, and every worker knows it
    changes = json.dumps({"XUID": FLEET.xuid(0), "STATUS": "inactive"}).encode()
    assert (await shop.imported("-", stdin=changes)).startswith("1 tags: 0 added, 1 changed")
    await eventually(lambda: is_answered(shop, 0, "tag_inactive"), TAKEN_OVER_S)
    assert "the tags are already up to date" in await shop.imported("-", stdin=changes)


async def test_a_chip_with_a_new_key_begins_anew_and_its_old_taps_stay_used(shop: Shop) -> None:
    await shop.imported("-", stdin=rows(FLEET, range(20, 21)))
    assert (await shop.tap(20, 7)).passed
    programmed = VirtualTag("ixkio-plain", xuid=FLEET.xuid(20), uid=FLEET.uid(20), file_key=bytes(range(16)), base_url="/v1/t")
    output = await shop.imported("-", stdin=f"XUID,KEY\n{FLEET.xuid(20)},{bytes(range(16)).hex()}\n".encode())
    assert "0 keys added, 1 replaced" in output
    assert (await shop.tap(20, 7)).failed
    async with await Connection.open(shop.server.port) as connection:

        async def passes() -> bool:
            return bool((await connection.get(programmed.tap())).passed)

        await eventually(passes, TAKEN_OVER_S)
        assert (await connection.get(programmed.tap_at(1))).failed
    assert (await shop.tap(20, 8)).failed
    assert "key_used_before" in await shop.imported("-", stdin=rows(FLEET, range(20, 21)))


@pytest.mark.parametrize(
    ("profile", "seed"),
    [("encrypted", 31), ("plain-uid-counter", 32), ("encrypted-tamper", 33), ("ixkio-plain", 34)],
)
async def test_the_key_file_of_simulated_tags_is_imported_and_their_taps_pass(
    shop: Shop, tmp_path: Path, profile: str, seed: int
) -> None:
    keys = tmp_path / "keys.csv"
    words = ("simulate", "--profile", profile, "--seed", str(seed), "--tags", "3", "--taps", "30", "--replayed", "0.2")
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "ixfast", *words, "--labels", "--format", "jsonl", "--keys-out", str(keys)],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    group = ("--account", AID, "--group", f"simulated {seed}")
    await asyncio.to_thread(shop.run, "group", "create", AID, group[-1], "--folder", "Shoes", "--profile", profile)
    other = ("--account", AID, "--group", f"other {seed}")
    await asyncio.to_thread(shop.run, "group", "create", AID, other[-1], "--folder", "Shoes", "--profile", "plain-tamper")
    assert "other_profile" in await asyncio.to_thread(shop.run, "import", str(keys), *other)
    assert (await asyncio.to_thread(shop.run, "import", str(keys), *group)).startswith("3 tags: 3 added")
    taps = [json.loads(line) for line in done.stdout.decode().splitlines()]
    async with await Connection.open(shop.server.port) as connection:

        async def is_known(url: str) -> bool:
            answer = await connection.post("/v2/scans?peek=true", {"url": url.replace("?", f"?a={AID}&")})
            return answer.status == 200 and answer.json["verdict"] != "unknown"

        for tap in taps:
            await eventually(lambda url=tap["url"]: is_known(url), 5 * TAKEN_OVER_S)
        verdicts = [
            (await connection.post("/v2/scans", {"url": tap["url"].replace("?", f"?a={AID}&")})).json["verdict"] for tap in taps
        ]
    assert verdicts == [tap["expected"] for tap in taps]
    assert {"genuine", "replayed"} <= set(verdicts)


async def test_tags_that_move_in_from_another_service_go_on_where_they_were(shop: Shop) -> None:
    """Taps that passed there do not pass here, before and after the tags were in use here."""
    tags = ((FLEET.xuid(i), FLEET.uid(i).hex(), FLEET.file_key(i).hex(), last) for i, last in ((50, 7), (51, "")))
    lines = "".join(f"{xuid},{uid},{key},{last},9\n" for xuid, uid, key, last in tags)
    moving = f"XUID,UID,KEY,LAST_COUNTER,SCAN_COUNT\n{lines}".encode()
    assert (await shop.imported("-", stdin=moving)).startswith("2 tags: 2 added")
    await eventually(lambda: is_answered(shop, 50, "Fail"), TAKEN_OVER_S)
    assert (await shop.tap(50, 7)).failed
    assert (await shop.tap(50, 8)).passed
    assert (await shop.tap(51, 1)).passed
    later = f"XUID,LAST_COUNTER,SCAN_COUNT\n{FLEET.xuid(50)},0x000014,4\n{FLEET.xuid(51)},1,\n".encode()
    assert "1 changed, 1 unchanged" in await shop.imported("-", stdin=later)
    assert "2 unchanged" in await shop.imported("-", stdin=moving)
    assert [(await shop.tap(50, counter)).passed for counter in (9, 20, 21)] == [False, False, True]
    counter = await shop.ask("GET", f"/v2/tags/{FLEET.xuid(50)}/counter")
    assert (counter["counter"], counter["scan_count"], counter["key_version"]) == (21, 11, 1)


async def test_scans_go_on_while_a_worker_imports(shop: Shop) -> None:
    """Over HTTP, the import runs in a worker that also serves scans."""
    await shop.imported("-", stdin=rows(FLEET, range(30, 34)))
    counters = dict.fromkeys(range(30, 34), 0)
    done = asyncio.Event()

    async def scan(index: int) -> None:
        async with await Connection.open(shop.server.port) as connection:
            while not done.is_set():
                counters[index] += 1
                assert (await connection.get(plain_target(FLEET, index, counters[index]))).passed

    scanning = [asyncio.create_task(scan(index)) for index in counters]
    result = await shop.ask("POST", f"/v2/imports?group={shop.group}", rows(OTHERS, range(len(OTHERS))))
    during = dict(counters)
    done.set()
    await asyncio.gather(*scanning)
    assert (result["added"], result["keys_added"]) == (8000, 8000)
    assert min(during.values()) > 5


async def test_an_export_piped_into_an_import_changes_nothing(shop: Shop) -> None:
    exported = await asyncio.to_thread(shop.run, "export", *PLACE, "--format", "jsonl")
    assert FLEET.file_key(1).hex() not in exported.lower()
    output = await shop.imported("-", stdin=exported.encode())
    assert "no changes: the tags are already up to date" in output and "Warning" not in output
    of_all_groups = await asyncio.to_thread(shop.run, "export", "--account", AID, "--format", "jsonl")
    elsewhere = len(of_all_groups.splitlines()) - len(exported.splitlines())
    output = await shop.imported("-", stdin=of_all_groups.encode())
    assert "no changes" in output
    assert (f"Warning: {elsewhere:,} tags are in another group than the one named" in output) == (elsewhere > 1)


async def test_a_bar_is_shown_on_a_terminal(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "tags.csv"
    path.write_bytes(rows(FLEET, range(100, 4000)))
    terminal, inside = pty.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220
        shop.server.command("import", str(path), *PLACE, "--dry-run"), env={**shop.server.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE, stderr=inside,
    )  # fmt: skip
    os.close(inside)
    stdout, _ = await asyncio.to_thread(process.communicate)
    shown = b""
    while b"100%" not in shown:
        shown += os.read(terminal, 10_000)
    os.close(terminal)
    assert b"importing" in shown
    assert stdout.decode().startswith("3900 tags: 3900 added")
