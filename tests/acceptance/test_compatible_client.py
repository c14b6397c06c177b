"""A session of a client written for ixkio's Response API and Management API, which knows nothing of ixfast but the host.

It uses a plain HTTP library, and its responses are compared byte for byte. The owner's side (groups, rules, extended fields) is
set up through `/v2` first.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from support import eventually_sync
from support.served import Served

from ixfast.testing.virtual_tags import VirtualFleet

AID = "shop-1"
FLEET = VirtualFleet(4711, 8, account=AID)
TAKEN_OVER_S = 1.0
RULES = {
    "groups": [
        {"name": "first", "when": "authentication == pass and scan_count == 1", "response": "First"},
        {"name": "few", "when": "authentication == pass and scan_count < 4", "response": "Pass {scount}"},
        {"name": "many", "when": "authentication == pass", "response": "Often"},
    ],
    "default": "Fail",
}


class Client:
    """One connection per request, like a script on a web server."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self.token = token

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            given = {"X-API-Key": self.token, **headers} if self.token is not None else headers
            connection.request(method, path, body, given)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def scan(self, **parameters: str) -> bytes:
        """The body of a look-up that the API answered with 200."""
        status, body = self.ask("GET", f"/v1/t?{urlencode(parameters)}")
        assert status == 200, body
        return body

    def patch(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> bytes:
        """The body of a successful change."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, body = self.ask("PATCH", path, urlencode(fields), **form, **(headers or {}))
        assert status == 200, body
        return body

    def v2(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.ask(method, path, json.dumps(body) if body is not None else None)
        assert status < 300, answer
        return json.loads(answer) if answer else None


class Shop:
    """The public and the management side of one account."""

    def __init__(self, server: Served) -> None:
        token = server.cli("api-key", "create", AID, "--scope", "manage").strip()
        self.public = Client(server.port)
        self.management = Client(server.private_port, token)
        (self.group,) = self.management.v2("GET", "/v2/groups")["items"]
        (self.batch,) = self.management.v2("GET", "/v2/batches")["items"]

    def tap(self, index: int, counter: int) -> dict[str, str]:
        x, n, e = FLEET.plain_tap(index, counter)
        return {"x": x, "n": n, "e": e}

    def set(self, path: str, **patch: Any) -> None:
        self.management.v2("PATCH", path, patch)

    def until(self, expected: bytes, **parameters: str) -> None:
        """Wait until both workers serve a change, by scans that consume nothing."""
        eventually_sync(lambda: all(self.public.scan(**parameters) == expected for _ in range(8)), TAKEN_OVER_S)


@pytest.fixture(scope="module")
def shop(server: Served) -> Iterator[Shop]:
    server.provision(FLEET)
    yield Shop(server)


def body(index: int, **members: str) -> bytes:
    """A flat response with its members in the given order."""
    return json.dumps({"xuid": FLEET.xuid(index), **members}, separators=(",", ":"), ensure_ascii=False).encode()


def test_a_tag_is_found_by_its_three_names(shop: Shop) -> None:
    tap = shop.tap(0, 1)
    cuid, uid = "ixkio-plain-0", FLEET.uid(0).hex().upper()
    assert shop.public.scan(**tap) == body(0, response="Pass")
    assert shop.public.scan(**tap) == body(0, response="Fail")  # a genuine {x,n,e} passes once
    named = shop.tap(0, 2)
    del named["x"]
    assert shop.public.scan(a=AID, c=cuid, **named) == body(0, cuid=cuid, response="Pass")
    named = shop.tap(0, 3)
    del named["x"]
    assert shop.public.scan(a=AID, u=uid, **named) == body(0, response="Pass")
    assert shop.public.ask("GET", f"/v1/t?a={AID}&c=IXKIO-plain-0")[0] == 404  # compared exactly
    assert shop.public.ask("GET", f"/v1/t?a={AID}&u={uid.lower()}") == shop.public.ask("GET", f"/v1/t?a={AID}&u={uid}")
    assert shop.public.scan(a=AID, u=uid.lower()) == body(0, response="Fail")  # by the profile; no tap, so it does not pass
    assert shop.public.ask("GET", f"/v1/t?c={cuid}") == (400, b'{"error":"missing_parameter","parameter":"a"}')
    assert shop.public.ask("GET", "/v1/t?x=nosuchtg") == (404, b'{"xuid":"nosuchtg","error":"not_found"}')


def test_the_first_rule_group_that_matches_answers(shop: Shop) -> None:
    group = f"/v2/groups/{shop.group['id']}"
    shop.set(group, rules={**RULES, "default": "No"})
    shop.until(body(1, response="No"), x=FLEET.xuid(1))
    for counter, response in enumerate(("First", "Pass 2", "Pass 3", "Often", "Often"), start=1):
        assert shop.public.scan(**shop.tap(1, counter)) == body(1, response=response)
    assert shop.public.scan(**shop.tap(1, 5)) == body(1, response="No")
    forged = shop.tap(1, 9) | {"e": "0" * 16}
    assert shop.public.scan(**forged) == body(1, response="No")
    shop.set(group, rules=None)
    shop.until(body(1, response="Fail"), x=FLEET.xuid(1))
    assert shop.public.scan(**shop.tap(1, 9)) == body(1, response="Pass")


def test_the_first_inactive_level_from_the_top_is_told_and_consumes_nothing(shop: Shop) -> None:
    tap, folder = shop.tap(2, 1), f"/v2/folders/{shop.group['folder_id']}"
    levels = {
        "tag_inactive": f"/v2/tags/{FLEET.xuid(2)}", "batch_inactive": f"/v2/batches/{shop.batch['id']}",
        "tg_inactive": f"/v2/groups/{shop.group['id']}", "folder_inactive": folder,
    }  # fmt: skip
    for error, path in levels.items():  # from the bottom up, so that each hides the previous one
        shop.set(path, active=False)
        shop.until(body(2, error=error), x=FLEET.xuid(2))
        assert shop.public.scan(**tap) == body(2, error=error)
    for path, error in zip(reversed(levels.values()), ["tg_inactive", "batch_inactive", "tag_inactive", None], strict=True):
        shop.set(path, active=True)
        shop.until(body(2, error=error) if error is not None else body(2, response="Fail"), x=FLEET.xuid(2))
    assert shop.public.scan(**tap) == body(2, response="Pass")


def test_extended_data_is_added_to_the_response(shop: Shop) -> None:
    folder = f"/v2/folders/{shop.group['folder_id']}"
    fields = [{"name": "scancount", "in_reply": True}, {"name": "Product Name", "in_reply": True}, {"name": "hidden"}]
    shop.set(folder, fields=fields)
    shop.set(f"/v2/groups/{shop.group['id']}", fields={"scancount": "{scount}", "Product Name": "Vase", "hidden": "x"})
    shop.until(body(3, response="Fail", scancount="", **{"Product Name": "Vase"}), x=FLEET.xuid(3))
    expected = body(3, response="Pass", scancount="1", **{"Product Name": "Vase"})
    assert shop.public.scan(**shop.tap(3, 1)) == expected
    shop.set(f"/v2/tags/{FLEET.xuid(3)}", fields={"Product Name": 'Läßt "9"'})
    shop.until(body(3, response="Fail", scancount="", **{"Product Name": 'Läßt "9"'}), x=FLEET.xuid(3))
    shop.set(folder, fields=[])
    shop.until(body(3, response="Fail"), x=FLEET.xuid(3))


def test_a_default_response_is_set_and_reverted(shop: Shop) -> None:
    x = FLEET.xuid(4)
    changed = shop.management.patch(f"/v1/x/{x}", ix_dr="Sold out, ask for {cuid}")
    assert changed == body(4, ix_dr="Sold out, ask for {cuid}", ix_status="Active", ix_assigned="Unassigned")
    shop.until(body(4, response="Sold out, ask for ixkio-plain-4"), x=x)
    # Its own rule set has no groups, so a genuine tap gets the default too; it is consumed all the same.
    assert shop.public.scan(**shop.tap(4, 1)) == body(4, response="Sold out, ask for ixkio-plain-4")
    assert shop.public.scan(x=FLEET.xuid(5)) == body(5, response="Fail")
    assert shop.management.patch(f"/v1/x/{x}", ix_dr='Läßt "9" übrig') == body(
        4, ix_dr='Läßt "9" übrig', ix_status="Active", ix_assigned="Unassigned"
    )
    assert shop.management.patch(f"/v1/x/{x}", ix_dr="") == body(4, ix_dr="", ix_status="Active", ix_assigned="Unassigned")
    shop.until(body(4, response="Fail"), x=x)
    assert shop.public.scan(**shop.tap(4, 1)) == body(4, response="Fail")
    assert shop.public.scan(**shop.tap(4, 2)) == body(4, response="Pass")


def test_a_tag_is_changed_by_its_cuid_and_uid(shop: Shop) -> None:
    x, cuid, uid = FLEET.xuid(6), "ixkio-plain-6", FLEET.uid(6).hex().upper()
    changed = shop.management.patch(f"/v1/a/{AID}", {"ix_c": cuid}, ix_status="Inactive", ix_assigned="Assigned")
    assert changed == body(6, cuid=cuid, ix_dr="", ix_status="Inactive", ix_assigned="Assigned")
    shop.until(body(6, error="tag_inactive"), x=x)
    changed = shop.management.patch(f"/v1/a/{AID}", {"ix_u": uid}, ix_status="active")
    assert changed == body(6, ix_dr="", ix_status="Active", ix_assigned="Assigned")
    shop.until(body(6, response="Fail"), x=x)
    # As JSON, and in the query.
    changed = shop.management.ask("PATCH", f"/v1/x/{x}", '{"ix_dr": "Mine"}')[1]
    assert changed == body(6, ix_dr="Mine", ix_status="Active", ix_assigned="Assigned")
    changed = shop.management.ask("PATCH", f"/v1/x/{x}?ix_dr=&ix_assigned=Unassigned")[1]
    assert changed == body(6, ix_dr="", ix_status="Active", ix_assigned="Unassigned")


def test_what_a_client_may_do_wrong(shop: Shop) -> None:
    x = FLEET.xuid(7)
    for path, fields, status, answer in (
        (f"/v1/x/{x}", "", 400, f'{{"xuid":"{x}","error":"missing_parameter","parameter":"ix_dr"}}'),
        (f"/v1/x/{x}", "ix_status=off", 400, f'{{"xuid":"{x}","error":"invalid_parameter","parameter":"ix_status"}}'),
        (f"/v1/x/{x}", "ix_dr=a&ix_dr=b", 400, f'{{"xuid":"{x}","error":"invalid_parameter","parameter":"ix_dr"}}'),
        (f"/v1/x/{x}", f"ix_dr={'a' * 4097}", 422, f'{{"xuid":"{x}","error":"invalid_response","parameter":"ix_dr"}}'),
        ("/v1/x/nosuchtg", "ix_dr=a", 404, '{"xuid":"nosuchtg","error":"not_found"}'),
        ("/v1/a/nobody", "ix_dr=a", 400, '{"error":"missing_parameter","parameter":"ix_c"}'),
    ):
        assert shop.management.ask("PATCH", path, fields) == (status, answer.encode())
    missing = shop.management.ask("PATCH", "/v1/a/nobody", "ix_dr=a", ix_c="ixkio-plain-7")
    assert missing == (404, b'{"error":"not_found"}')
    assert shop.management.ask("PATCH", f"/v1/a/{AID}", "ix_dr=a", ix_c="nobodys") == missing
    refused = Client(shop.management.port).ask("PATCH", f"/v1/x/{x}", "ix_dr=a")
    assert refused == (401, f'{{"xuid":"{x}","error":"unauthorised"}}'.encode())
    assert shop.public.ask("PATCH", f"/v1/x/{x}", "ix_dr=a")[0] == 404  # not on the public listener
