"""The scan API's aiohttp routes, with a ledger in memory: malformed requests, and batches that leave time for other requests."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.two_ways import OPEN, World, get, tap

from ixfast import limits
from ixfast.http import scan_app
from ixfast.responses import bodies

_MASKED = re.compile(rb"-{20,}")  # ids, which `World.say` blanks


@pytest.fixture
async def world() -> AsyncIterator[World]:
    one = World()
    await one.start()
    yield one
    await one.stop()


def post(path: bytes, content: Any, fields: bytes = b"") -> bytes:
    body = json.dumps(content).encode()
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)


async def answer(world: World, request: bytes) -> tuple[int, Any]:
    stream, _ = await world.say(request, door=False)
    head, _, body = stream.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(_MASKED.sub(b'"masked":true', body))


def scan_of(index: int, counter: int = 1) -> dict[str, str]:
    return {"url": "https://tag.example" + tap(index, counter).decode()}


@pytest.mark.parametrize("path", [b"/v2/scans", b"/v2/scans/batch"])
@pytest.mark.parametrize("keys", [(b"first", b"second"), (b"same", b"same")])
async def test_two_idempotency_keys_are_refused_and_consume_nothing(world: World, path: bytes, keys: tuple[bytes, bytes]) -> None:
    content = scan_of(0) if path == b"/v2/scans" else {"scans": [scan_of(0)]}
    fields = b"".join(b"Idempotency-Key: %b\r\n" % key for key in keys)
    status, body = await answer(world, post(path, content, fields))
    assert (status, body["error"]["code"], body["error"]["field"]) == (400, "invalid_parameter", "Idempotency-Key")
    status, body = await answer(world, post(b"/v2/scans", scan_of(0), b"Idempotency-Key: first\r\n"))
    assert (status, body["verdict"]) == (200, "genuine")


async def test_what_says_nothing_about_the_tap_does_not_distinguish_it(world: World) -> None:
    """A forged tap proves nothing, so that only what was sent shows whether it is the same."""
    key = b"Idempotency-Key: k\r\n"
    sent = scan_of(0)["url"].rpartition("=")[0] + "=" + "0" * 16
    same = ({"url": sent}, {"url": sent, "visitor": {"ip": "192.0.2.7"}}, {"url": sent, "account": OPEN.account})
    others = (scan_of(0), {"url": sent[:-1] + "1"}, {"query": sent.partition("?")[2]})
    for content in same:
        status, body = await answer(world, post(b"/v2/scans", content, key))
        assert (status, body["verdict"]) == (200, "forged")
    for content in others:
        status, body = await answer(world, post(b"/v2/scans", content, key))
        assert (status, body["error"]["code"]) == (409, "idempotency_conflict")
        (element,) = (await answer(world, post(b"/v2/scans/batch", {"scans": [content]})))[1]["scans"]
        assert element["verdict"] in ("genuine", "forged")  # without the key


async def test_a_batch_that_is_sent_in_another_order_gets_conflicts(world: World) -> None:
    key = b"Idempotency-Key: k\r\n"
    scans = [scan_of(0), scan_of(1), scan_of(2)]
    first = (await answer(world, post(b"/v2/scans/batch", {"scans": scans}, key)))[1]["scans"]
    assert [each["verdict"] for each in first] == ["genuine"] * 3
    moved = (await answer(world, post(b"/v2/scans/batch", {"scans": [scans[1], scans[0], scans[2], scan_of(3)]}, key)))[1][
        "scans"
    ]
    assert [each["error"]["code"] if "error" in each else each["verdict"] for each in moved] == [
        "idempotency_conflict", "idempotency_conflict", "genuine", "genuine",
    ]  # fmt: skip


@pytest.mark.parametrize("key", [b"", b"a" * 256, "é".encode(), b"a\tb"])
async def test_an_idempotency_key_is_printable_ascii(world: World, key: bytes) -> None:
    status, body = await answer(world, post(b"/v2/scans", scan_of(0), b"Idempotency-Key: %b\r\n" % key))
    assert (status, body["error"]["code"]) == (400, "invalid_parameter")
    assert "1 to 255 printable ASCII characters" in body["error"]["message"]


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3.0"])
async def test_a_refused_version_is_not_repeated(world: World, version: bytes) -> None:
    stream, closed = await world.say(get(tap(0), line_end=b" %b\r\n" % version), door=False)
    # What aiohttp's parser refuses itself, it answers in HTTP/1.0.
    expected = b"HTTP/1.1" if version in (b"HTTP/2.0", b"HTTP/0.9") else b"HTTP/1.0"
    assert stream.startswith(expected + b" 400 Bad Request\r\n")
    assert (b"Connection: close\r\n" in stream) == (expected == b"HTTP/1.1")
    assert closed


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"xuid": 5}, "xuid"),
        ({"xuid": "abcd1234", "visitor": {"ip": 1}}, "visitor.ip"),
        ({"xuid": "abcd1234", "surprise": 1}, None),
        (5, None),
        (None, None),
        ([], None),
    ],
)
async def test_a_scan_of_the_wrong_form_is_the_problem_of_that_scan_alone(world: World, wrong: Any, field: str | None) -> None:
    status, body = await answer(world, post(b"/v2/scans/batch", {"scans": [scan_of(0), wrong, scan_of(1)]}))
    assert status == 200
    first, second, third = body["scans"]
    assert first["verdict"] == third["verdict"] == "genuine"
    assert second["error"]["code"] == "invalid_request"
    assert second["error"].get("field") == field


@pytest.mark.parametrize(
    "body",
    [b'{"scans":[{"xuid":"abcd1234"},{"xuid":]}', b'{"scans":[{"xuid":"abcd1234"}', b'{"scans":{}}', b"[]", b"\xff"],
)
async def test_a_body_that_cannot_be_decoded_is_the_problem_of_the_whole_batch(world: World, body: bytes) -> None:
    head = b"POST /v2/scans/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    stream, _ = await world.say(head + body, door=False)
    assert stream.startswith(b"HTTP/1.1 400 ")
    assert b'"invalid_request"' in stream


async def test_a_text_that_is_not_utf_8_is_the_problem_of_its_scan_alone(world: World) -> None:
    body = b'{"scans":[{"xuid":"\xff"},{"xuid":"nosuchtag"}]}'
    head = b"POST /v2/scans/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    status, content = await answer(world, head + body)
    assert (status, content["scans"][0]["error"]["code"], content["scans"][1]["verdict"]) == (200, "invalid_request", "unknown")


async def test_a_batch_has_a_limit(world: World) -> None:
    status, body = await answer(world, post(b"/v2/scans/batch", {"scans": [5] * (limits.BATCH_SCANS_MAX + 1)}))
    assert (status, body["error"]["code"], body["error"]["field"]) == (413, "too_large", "scans")


async def longest_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """The number of scans submitted, and of results encoded, in the fullest iteration of the loop; and the size of the batch."""
    size = len(OPEN)
    counts = {"submitted": 0, "encoded": 0}
    most = {"submitted": 0, "encoded": 0}
    encode, next_scan_id = bodies.v2_scan, world.dispatcher.next_scan_id

    def counted(name: str, call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            counts[name] += 1
            most[name] = max(most[name], counts[name])
            return call(*arguments)

        return wrapped

    monkeypatch.setattr(bodies, "v2_scan", counted("encoded", encode))
    world.dispatcher.next_scan_id = counted("submitted", next_scan_id)

    async def tick() -> None:
        while True:
            counts.update(submitted=0, encoded=0)
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    status, body = await answer(world, post(b"/v2/scans/batch", {"scans": [scan_of(index) for index in range(size)]}))
    ticker.cancel()
    assert status == 200
    assert [each["verdict"] for each in body["scans"]] == ["genuine"] * size
    return most["submitted"], most["encoded"], size


async def test_a_batch_leaves_time_for_other_requests(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted, encoded, size = await longest_turn(world, monkeypatch)
    assert 0 < submitted <= scan_app._BATCH_STEP < size
    assert 0 < encoded <= scan_app._BATCH_STEP


async def test_a_batch_that_leaves_no_time_would_be_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_app, "_BATCH_STEP", 10**6)
    submitted, encoded, size = await longest_turn(world, monkeypatch)
    assert submitted == encoded == size


@pytest.mark.parametrize("path", [b"/v2/scans", b"/v2/scans/batch"])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        (b"peak=true", "at position 1. Did you mean peek? The route reads peek, r."),
        (b"r=x&Peek=true", "at position 2. Did you mean peek? "),
        (b"00112233445566778899aabbccddeeff", "at position 1. The route reads peek, r."),
    ],
)
async def test_a_misspelt_parameter_consumes_nothing(world: World, path: bytes, query: bytes, message: str) -> None:
    content = scan_of(0) if path == b"/v2/scans" else {"scans": [scan_of(0)]}
    status, body = await answer(world, post(path + b"?" + query, content))
    assert (status, body["error"]["code"]) == (400, "invalid_parameter")
    assert message in body["error"]["message"] and "00112233" not in body["error"]["message"]
    status, body = await answer(world, post(b"/v2/scans?peek=false", scan_of(0)))
    assert (status, body["verdict"]) == (200, "genuine")


@pytest.mark.parametrize("path", [b"/v2/scans", b"/v2/scans/batch"])
@pytest.mark.parametrize(
    "query", [b"peek=false&peek=true", b"peek=true&peek=false", b"peek=true&peek=true", b"peek=&peek=true", b"peek=true&pee%6b="]
)
async def test_a_repeated_peek_consumes_nothing(world: World, path: bytes, query: bytes) -> None:
    content = scan_of(0) if path == b"/v2/scans" else {"scans": [scan_of(0)]}
    status, body = await answer(world, post(path + b"?" + query, content))
    assert (status, body["error"]["code"], body["error"]["field"]) == (400, "invalid_parameter", "peek")
    assert body["error"]["message"] == "Send peek only once."
    status, body = await answer(world, post(b"/v2/scans", scan_of(0)))
    assert (status, body["verdict"]) == (200, "genuine")


async def test_v1_ignores_parameters_that_it_does_not_read(world: World) -> None:
    status, body = await answer(world, get(tap(0) + b"&utm_source=tag"))
    assert (status, body["response"]) == (200, "Pass")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /", 404), (b"GET /v2/tags", 404), (b"PATCH /v1/x/abcd", 404), (b"GET /metrics", 404), (b"POST /v2/scan/", 404),
        (b"GET /v2/scans", 405), (b"PUT /v1/t", 405),
    ],
)  # fmt: skip
async def test_unknown_paths_and_methods_name_the_public_listener(world: World, request_line: bytes, status: int) -> None:
    found, body = await answer(world, request_line + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert found == status
    assert "This is the public listener, which verifies scans at /v1/t, /v2/scans and /v2/scans/batch" in body["error"]["message"]
    assert "management, health and metrics are on the private listener" in body["error"]["message"]
