"""Tag files over HTTP: what is imported, what is refused and how it is reported, and that exports can be imported again."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import orjson
import pytest
from support import eventually
from test_management import Stack, folder_with_groups, open_stack

from ixfast.http.management import tag_file_transfer
from ixfast.http.openapi.components import Problem
from ixfast.tag_files import PROBLEMS

KEY = bytes(range(16)).hex()


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


def lines_of(count: int, *, first: int = 1) -> str:
    return "".join(f"04{n:012X},c{n},{n:032x}\n" for n in range(first, first + count))


async def test_a_file_is_imported_and_told_in_the_audit_log(stack: Stack) -> None:
    _, group, batch = await folder_with_groups(stack)
    content = ("UID,CUID,KEY\n" + lines_of(3)).encode()
    path = f"/v2/imports?group={group}&batch={batch}"
    dry = await stack.ask("POST", f"{path}&dry_run=true", content)
    expected = {
        "dry_run": True, "lines": 3, "added": 3, "changed": 0, "unchanged": 0, "keys_added": 3, "keys_replaced": 0,
        "meta_keys_added": 0,
        "batch_meta_keys_added": 0,
        "tag_meta_keys_added": 0,
        "warnings": [],
    }  # fmt: skip
    assert (dry.status, dry.json) == (200, expected)
    assert await stack.all_of("/v2/tags") == []
    assert (await stack.ask("POST", path, content)).json == expected | {"dry_run": False}
    tags = await stack.all_of(f"/v2/tags?batch={batch}")
    assert [(tag["uid"], tag["cuid"]) for tag in tags] == [(f"04{n:012X}", f"c{n}") for n in (1, 2, 3)]
    again = await stack.ask("POST", path, gzip.compress(content))
    assert (again.json["unchanged"], again.json["added"]) == (3, 0)
    acts = [act for act in (await stack.ask("GET", "/v2/audit")).json["items"] if act["act"] == "import"]
    assert [(act["object"], act["object_id"], act["after"]["added"]) for act in acts] == [("group", str(group), 3)]
    assert acts[0]["api_key_id"] == stack.key_ids["both"]


async def test_json_lines(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    content = b'{"CUID": "a", "Colour": "red"}\n{"CUID": "b", "ASSIGNED": true}\n'
    assert (await stack.ask("POST", f"/v2/imports?group={group}", content)).json["added"] == 2
    tags = await stack.all_of("/v2/tags")
    assert [(tag["cuid"], tag["fields"], tag["assigned"]) for tag in tags] == [("a", {"Colour": "red"}, False), ("b", {}, True)]


async def test_every_bad_line_is_told_in_the_one_shape(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    content = f"UID,KEY\n04AABBCC,{KEY}\n04AABBCCDDEEFF,12\n".encode()
    answer = await stack.ask("POST", f"/v2/imports?group={group}", content)
    assert answer.problem == (422, "invalid_file")
    assert answer.json["error"]["message"] == "2 problems. Nothing was imported."
    assert answer.json["error"]["problems"] == [
        {"line": line, "column": column, "code": code, "message": PROBLEMS[code][0], "remedy": PROBLEMS[code][1]}
        for line, column, code in ((2, "UID", "uid_4_bytes"), (3, "KEY", "key_length"))
    ]
    msgspec.json.decode(answer.body, type=Problem)
    assert KEY not in answer.text
    many = await stack.ask("POST", f"/v2/imports?group={group}", b"UID\n" + b"04\n" * 1000)
    assert many.json["error"]["message"] == "100 problems; the rest of the file was not read. Nothing was imported."
    assert await stack.all_of("/v2/tags") == []


async def test_any_file_is_imported_or_refused_with_its_problems(stack: Stack) -> None:
    """Never 503, after which a client would send the same file again forever."""
    _, group, _ = await folder_with_groups(stack)
    dice = random.Random(15)
    names = ["UID", "CUID", "KEY", "Größe", "Colour", "", "1st", "Batch (nr.)", KEY, "04AABBCCDDEEFF", "é\0", '"', "{", "["]
    contents = [
        b"UID,KEY,,Colours\n,,,\n", "UID,KEY,Größe,Batch (nr.),\n".encode(), b"CUID,UID\n\xe9,04\n", b'{"": 1, "KCV": "A1"}\n',
        *(dice.randbytes(dice.randrange(1, 200)) for _ in range(10)),
        *(
            f"{dice.choice(',;').join(dice.choices(names, k=4))}\n{','.join(dice.choices(names, k=4))}\n".encode() + after
            for after in (dice.randbytes(2) for _ in range(30))
        ),
        *(orjson.dumps(dict(zip(dice.sample(names, 4), dice.choices(names, k=4), strict=True))) for _ in range(15)),
    ]  # fmt: skip
    refused = 0
    for content in contents:
        answer = await stack.ask("POST", f"/v2/imports?group={group}&dry_run=true", content)
        if answer.status != 200:
            assert answer.problem == (422, "invalid_file"), content
            assert msgspec.json.decode(answer.body, type=Problem).error.problems
            refused += 1
    assert refused > 40


async def test_keys_need_the_scope_keys(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    path = f"/v2/imports?group={group}"
    with_keys = f"UID,KEY\n04AABBCCDDEEFF,{KEY}\n".encode()
    refused = await stack.ask("POST", path, with_keys, token=stack.tokens["manage"])
    assert [(p["line"], p["code"]) for p in refused.json["error"]["problems"]] == [(1, "keys_not_allowed")]
    in_json = f'{{"UID": "04AABBCCDDEEFF"}}\n{{"UID": "04AABBCCDDEE00", "KEY": "{KEY}"}}\n'.encode()
    refused = await stack.ask("POST", path, in_json, token=stack.tokens["manage"])
    assert [(p["line"], p["code"]) for p in refused.json["error"]["problems"]] == [(2, "keys_not_allowed")]
    ignored = await stack.ask("POST", f"{path}&ignore=KEY,Notes", with_keys, token=stack.tokens["manage"])
    assert (ignored.json["added"], ignored.json["keys_added"]) == (1, 0)
    assert (await stack.ask("POST", path, with_keys)).json["keys_added"] == 1


async def test_options(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    path = f"/v2/imports?group={group}"
    boltcard = f"uid,k0,k1,k2,k3,k4\n04AABBCCDDEEFF,{KEY},{KEY},{'ab' * 16},,\n".encode()
    assert (await stack.ask("POST", f"{path}&preset=bolt-card&code_length=8", boltcard)).json["meta_keys_added"] == 1
    (tag,) = await stack.all_of("/v2/tags")
    assert len(tag["xuid"]) == 8
    keys_path = f"/v2/tags/{tag['xuid']}/keys"
    another = f"UID,KEY\n04AABBCCDDEEFF,{'cd' * 16}\n".encode()
    assert (await stack.ask("POST", f"{path}&retire_old_keys=true", another)).json["keys_replaced"] == 1
    assert [key["live"] for key in (await stack.ask("GET", keys_path)).json["items"]] == [False, True]
    zeros = f"UID,KEY\n04AABBCCDDEE00,{'00' * 16}\n".encode()
    assert (await stack.ask("POST", path, zeros)).json["error"]["problems"][0]["code"] == "zero_key"
    assert (await stack.ask("POST", f"{path}&allow_zero_keys=true", zeros)).json["keys_added"] == 1
    for query, problem in (
        ("", (400, "missing_parameter")),
        ("?group=x", (400, "invalid_parameter")),
        (f"?group={group}&dry_run=yes", (400, "invalid_parameter")),
        (f"?group={group}&preset=x", (400, "invalid_parameter")),
        (f"?group={group}&code_length=9", (400, "invalid_parameter")),
        (f"?group={group}&batch=987654", (404, "not_found")),
        ("?group=987654", (404, "not_found")),
    ):
        assert (await stack.ask("POST", f"/v2/imports{query}", b"CUID\na\n")).problem == problem, query


async def test_what_a_spreadsheet_would_execute_is_exported_as_text_and_comes_back(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    texts = ["=1+1", "+1", "-1", "@SUM(1)", "\uff1d1", "'=1", "''=1", "'s-Hertogenbosch", "shoe;=1"]
    tags = [{"CUID": text, "TAGNAME": text, "RESPONSE": f"{text}\n{text}", "Colour": text} for text in texts]
    content = b"".join(msgspec.json.encode(tag) + b"\n" for tag in tags)
    assert (await stack.ask("POST", f"/v2/imports?group={group}", content)).json["added"] == len(texts)
    exported = (await stack.ask("GET", "/v2/exports")).text
    rows = list(csv.DictReader(io.StringIO(exported, newline="")))
    for name in ("CUID", "TAGNAME", "Colour"):
        assert [row[name] for row in rows] == [f"'{text}" for text in texts[:7]] + ["'s-Hertogenbosch", "shoe;'=1"]
    assert rows[0]["RESPONSE"] == "'=1+1\n'=1+1"
    state = "SELECT array_agg(t::text ORDER BY tag_id) FROM tag AS t"
    before = await stack.pool.fetchval(state)
    again = (await stack.ask("POST", f"/v2/imports?group={group}", exported.encode())).json
    assert (again["lines"], again["unchanged"]) == (len(texts), len(texts))
    assert await stack.pool.fetchval(state) == before
    lines = (await stack.ask("GET", "/v2/exports?format=jsonl")).text.splitlines()
    assert [msgspec.json.decode(line)["CUID"] for line in lines] == texts


async def test_an_export_is_imported_as_unchanged(stack: Stack) -> None:
    _, group, batch = await folder_with_groups(stack)
    rows = "".join(
        f'04{n:012X},c{n},{n:032x},name {n},"Hi, {{cuid}}",{"in" * (n % 2)}active,{"yes" if n % 3 else "no"},red\n'
        for n in range(1, 4500)
    )
    head = "UID,CUID,KEY,TAGNAME,RESPONSE,STATUS,ASSIGNED,Colour\n"
    imported = await stack.ask("POST", f"/v2/imports?group={group}&batch={batch}", (head + rows).encode())
    assert imported.json["added"] == 4499
    for query, kind in ((f"?batch={batch}", "text/csv"), (f"?group={group}&format=jsonl", "application/x-ndjson")):
        answer = await stack.ask("GET", f"/v2/exports{query}", token=stack.tokens["manage"])
        assert answer.headers["Content-Type"] == f"{kind}; charset=utf-8"
        assert f"{7:032x}" not in answer.text.lower()
        state = "SELECT array_agg(t::text ORDER BY tag_id) FROM tag AS t"
        before = await stack.pool.fetchval(state)
        again = (await stack.ask("POST", f"/v2/imports?group={group}", answer.body, token=stack.tokens["manage"])).json
        assert (again["lines"], again["unchanged"]) == (4499, 4499)
        assert await stack.pool.fetchval(state) == before
    text = (await stack.ask("GET", "/v2/exports")).text
    (first, *_) = csv.DictReader(io.StringIO(text))
    assert first["CUID"] == "c1" and first["KEY_VERSION"] == "1" and len(first["KEY_CHECK_VALUE"]) == 6
    assert (await stack.ask("GET", "/v2/exports?format=xml")).problem == (400, "invalid_parameter")
    assert (await stack.ask("GET", "/v2/exports?batch=987654")).problem == (404, "not_found")


async def test_a_sender_that_goes_away_has_imported_nothing(stack: Stack) -> None:
    _, group, _ = await folder_with_groups(stack)
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ("UID,CUID,KEY\n" + lines_of(9000)).encode()
        sent.set()
        await asyncio.Event().wait()

    async def send() -> None:
        headers = {"X-API-Key": stack.tokens["both"]}
        await stack.session.post(f"{stack.url}/v2/imports?group={group}", data=body(), headers=headers)

    sending = asyncio.create_task(send())
    await sent.wait()

    async def busy() -> bool:
        return bool(await stack.pool.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))

    await eventually(busy)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending

    async def idle() -> bool:
        return not await busy()

    await eventually(idle)
    assert await stack.all_of("/v2/tags") == []
    assert (await stack.ask("POST", f"/v2/imports?group={group}", b"CUID\na\n")).json["added"] == 1


async def test_a_sender_that_falls_silent_is_told_so(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    _, group, _ = await folder_with_groups(stack)
    monkeypatch.setattr(tag_file_transfer, "_SILENCE_S", 0.05)

    async def body() -> AsyncIterator[bytes]:
        yield b"CUID\na\n"
        await asyncio.Event().wait()

    headers = {"X-API-Key": stack.tokens["both"]}
    async with stack.session.post(f"{stack.url}/v2/imports?group={group}", data=body(), headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_request")
    assert await stack.all_of("/v2/tags") == []


async def test_acts_go_on_beside_a_file_and_another_file_waits_its_turn(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    _, group, _ = await folder_with_groups(stack)
    monkeypatch.setattr("ixfast.http.management.call._WAIT_S", 0.05)
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ("UID,CUID,KEY\n" + lines_of(1)).encode()
        await go_on.wait()

    headers = {"X-API-Key": stack.tokens["both"]}
    request = stack.session.post(f"{stack.url}/v2/imports?group={group}", data=body(), headers=headers)
    importing = asyncio.ensure_future(request)

    async def busy() -> bool:
        return bool(await stack.pool.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))

    await eventually(busy)
    assert (await stack.ask("GET", "/v2/folders")).status == 200
    assert (await stack.ask("GET", "/v2/exports")).problem == (503, "overloaded")
    assert (await stack.ask("GET", "/v2/exports", token="")).problem == (401, "unauthorised")
    go_on.set()
    async with await importing as response:
        assert orjson.loads(await response.read())["added"] == 1
    assert (await stack.ask("GET", "/v2/exports")).status == 200


async def test_half_an_export_is_not_taken_for_a_whole_one(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    _, group, _ = await folder_with_groups(stack)
    await stack.ask("POST", f"/v2/imports?group={group}", b"CUID\na\n")

    async def broken(*_: Any, **__: Any) -> AsyncIterator[bytes]:
        yield b"XUID\n"
        raise ConnectionResetError

    monkeypatch.setattr(tag_file_transfer, "export_tags", broken)
    with pytest.raises(aiohttp.ClientError):
        await stack.ask("GET", "/v2/exports")
