"""Names that nothing reads on the private listener (query parameters, members, paths), and values outside a fixed set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from test_management import KEY, Stack, open_stack
from test_management_roles import BODIES, NOTHING, furnish, target

from ixfast.http import unknown_names
from ixfast.http.management import ROUTES

PROBED = ("/livez", "/readyz", "/metrics")
DESCRIPTIONS = ("/versions", "/openapi.json")


@pytest.fixture
async def stack(database: str) -> AsyncIterator[Stack]:
    async with open_stack(database) as stack:
        yield stack


def message(answer: Any) -> str:
    return str(answer.json["error"]["message"])


async def test_every_route_refuses_a_parameter_that_it_does_not_read(stack: Stack) -> None:
    own = await furnish(stack, "mine", stack.tokens["both"])
    state = "SELECT max(audit_id) FROM audit_log"
    before = await stack.pool.fetchval(state)
    for route in ROUTES:
        path, headers = target(route, own)
        path += f"{'&' if '?' in path else '?'}nonsense=1"
        body = BODIES[route.method, route.path](own) if route.body is not None else None
        answer = await stack.ask(route.method, path, body, headers=headers)
        assert answer.status == 400, (route.method, route.path, answer.text)
        code = answer.json["error"]
        assert (code if route.compatible else code["code"]) == "invalid_parameter", (route.method, route.path)
    assert await stack.pool.fetchval(state) == before
    for path in DESCRIPTIONS:
        answer = await stack.ask("GET", f"{path}?nonsense=1", token="")
        assert answer.problem == (400, "invalid_parameter"), path
        assert message(answer) == "Unknown query parameter at position 1. The route has no query parameters."


async def test_parameters_of_probes_and_scrapers_change_nothing(stack: Stack) -> None:
    for path in PROBED:
        expected = (await stack.ask("GET", path, token="")).status
        for query in ("verbose", "x=1", "format=prometheus&name[]=up"):
            assert (await stack.ask("GET", f"{path}?{query}", token="")).status == expected == 200, path


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/v2/scans?verdicts=forged", "verdict"),
        ("/v2/scans?tag=x&form=2026-01-01", "from"),
        ("/v2/scans?Batch=1", "batch"),
        ("/v2/stats?grup=1", "group"),
        ("/v2/tags?guid=1", "uid"),
        ("/v2/tags?limt=5", "limit"),
        ("/v2/groups?folders=1", "folder"),
        ("/v2/audit?object-id=1", "object_id"),
        ("/v2/exports?fromat=csv", "format"),
    ],
)
async def test_the_nearest_name_is_suggested(stack: Stack, path: str, nearest: str) -> None:
    answer = await stack.ask("GET", path)
    assert answer.problem == (400, "invalid_parameter")
    assert f" Did you mean {nearest}? The route reads " in message(answer)


async def test_a_misspelt_import_option_imports_nothing(stack: Stack) -> None:
    own = await furnish(stack, "mine", stack.tokens["both"])
    answer = await stack.ask("POST", f"/v2/imports?group={own.group}&dryrun=true", b"CUID\nnew\n")
    assert answer.problem == (400, "invalid_parameter") and "Did you mean dry_run?" in message(answer)
    assert (await stack.ask("GET", "/v2/tags?cuid=new")).json["items"] == []


async def test_a_compatible_route_names_no_unknown_parameter(stack: Stack) -> None:
    own = await furnish(stack, "mine", stack.tokens["both"])
    answer = await stack.ask("PATCH", f"/v1/x/{own.xuid}?ix_statsu=Inactive")
    assert (answer.status, answer.json) == (400, {"xuid": own.xuid, "error": "invalid_parameter"})


async def test_an_unknown_caller_learns_nothing_of_parameters(stack: Stack) -> None:
    for token in ("", stack.tokens["scan"]):
        assert (await stack.ask("GET", "/v2/scans?nonsense=1", token=token)).problem == (401, "unauthorised")


SECRETS = (KEY, KEY.upper(), "ixf_" + "a" * 32, "04A1B2C3D4E5F6")


@pytest.mark.parametrize("secret", SECRETS)
async def test_an_unknown_name_is_never_repeated(stack: Stack, secret: str) -> None:
    for method, path, body in (
        ("GET", f"/v2/scans?{secret}=1", None),
        ("GET", f"/versions?{secret}", None),
        ("POST", "/v2/folders", {"name": "F", secret: 1}),
        ("POST", "/v2/folders", {"name": "F", "fields": [{"name": "Colour", secret: 1}]}),
        ("POST", "/v2/folders", {"name": "F", f"x` - at `$.{secret}": 1}),
        ("POST", "/v2/folders", {"name": "F", "fields": [{"name": "Colour", f"x` - at `$.{secret}": 1}]}),
        ("POST", "/v2/groups", {"folder_id": 1, "name": "G", "profile": secret}),
        ("POST", "/v2/groups", {"folder_id": 1, "name": "G", "profile": {"name": "p", secret: 1}}),
        ("POST", "/v2/groups", {"folder_id": 1, "name": "G", "derivation": {"scheme": secret}}),
        ("POST", "/v2/groups", {"folder_id": 1, "name": "G", "derivation": {"scheme": "an10922", secret: 1}}),
        ("POST", "/v2/api-keys", {"scopes": [secret]}),
        ("GET", f"/v2/audit?object={secret}", None),
        ("GET", f"/v2/scans?verdict={secret}", None),
        ("GET", f"/v2/{secret}", None),
    ):
        answer = await stack.ask(method, path, body)
        assert 400 <= answer.status < 500 and secret not in answer.text, (path, body, answer.text)


async def test_a_name_that_is_quoted_would_be_noticed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control for the test above."""
    monkeypatch.setattr("ixfast.http.json_body.suggestion", lambda name, known: f" Unknown: {name}.")
    assert KEY in (await stack.ask("POST", "/v2/folders", {"name": "F", KEY: 1})).text


async def test_unknown_members_get_the_nearest_name_and_all_names(stack: Stack) -> None:
    for path, body, field, expected in (
        ("/v2/api-keys", {"scopes": ["scan"], "lable": "x"}, None, "Did you mean label? Its members are scopes, label, "),
        ("/v2/folders", {"name": "F", "actve": True}, None, "Did you mean active? Its members are name, active, fields."),
        (
            "/v2/folders", {"name": "F", "fields": [{"name": "C", "in_replay": True}]}, "fields[0]",
            "Did you mean in_reply? Its members are name, in_reply.",
        ),
        ("/v2/groups", {"folder_id": 1, "name": "G", "retry_window": 5}, None, "Did you mean retry_window_s? "),
        ("/v2/groups", {"folder_id": 1, "name": "G", "derivation": {"schema": "boltcard"}}, "derivation", "`scheme`"),
        ("/v2/tags", {"batch": 1}, None, "Did you mean batch_id? "),
        ("/v2/rules/test", {"rules": {}, "fact": {}}, None, "Did you mean facts? Its members are rules, facts."),
    ):  # fmt: skip
        answer = await stack.ask("POST", path, body)
        assert answer.problem == (400, "invalid_request"), answer.text
        assert expected in message(answer) and answer.json["error"].get("field") == field, answer.text
    profile = {"name": "p", "scheme": "ntag424-aes", "template": "x={xuid}&n={counter}&e={mac}", "windo": ""}
    answer = await stack.ask("POST", "/v2/groups", {"folder_id": 1, "name": "G", "profile": profile})
    assert answer.problem == (422, "invalid_profile") and "Did you mean window? Its members are name, scheme," in message(answer)


async def test_a_value_outside_its_set_is_refused_with_the_set(stack: Stack) -> None:
    for method, path, body, field, values in (
        ("POST", "/v2/api-keys", {"scopes": ["scan", "write"]}, "scopes[1]", "keys, manage, read, scan"),
        ("POST", "/v2/tags", {"xuid_length": 12}, "xuid_length", "8, 16"),
        ("POST", "/v2/groups", {"folder_id": 1, "name": "G", "derivation": {"scheme": "x"}}, "derivation.scheme",
         "an10922, boltcard, sdm-backend, sdm-backend-legacy"),
        ("GET", "/v2/stats?by=month", None, "by", "hour, day, group, batch, tag, country"),
        ("GET", "/v2/exports?format=xlsx", None, "format", "csv, jsonl"),
        ("GET", "/v2/audit?object=user", None, "object", "account, api_key, folder, group, batch, tag"),
        ("POST", "/v2/imports?group=1&dry_run=yes", None, "dry_run", "true, false"),
        ("POST", "/v2/imports?group=1&code_length=9", None, "code_length", "8, 16"),
    ):  # fmt: skip
        answer = await stack.ask(method, path, body)
        assert answer.status == 400 and answer.json["error"]["field"] == field, answer.text
        assert f"must be one of {values}." in message(answer), answer.text
    answer = await stack.ask("POST", "/v2/groups", {"folder_id": 1, "name": "G", "profile": "ixkio-plane"})
    assert answer.problem == (422, "invalid_profile")
    assert message(answer).startswith("Unknown preset. Did you mean ixkio-plain? Presets: ixkio-plain, ")


async def test_unknown_paths_and_methods_name_the_private_listener(stack: Stack) -> None:
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/v1/t?x=q8w3sbcz", 404),
        ("POST", "/v2/nothing", 404),
        ("GET", "/v2/scans/batch", 404),
        ("GET", f"/v2/tags/{NOTHING.xuid}/nothing", 404),
        ("GET", "/v2/scans/", 404),
        ("POST", "/v2/scans", 405),
        ("DELETE", "/metrics", 405),
        ("GET", f"/v1/x/{NOTHING.xuid}", 405),
    ):
        for token in ("", stack.tokens["both"]):
            answer = await stack.ask(method, path, token=token)
            assert answer.problem == (status, {404: "no_such_route", 405: "method_not_allowed"}[status]), path
            assert "This is the private listener, for management (/v2/…)" in message(answer), path
            assert "public listener verifies scans" in message(answer), path


def test_the_suggestion_is_the_most_similar_name() -> None:
    known = ("tag", "group", "batch", "from", "to", "verdict", "limit", "cursor")
    assert unknown_names.suggestion("verdict[]", known) == " Did you mean verdict?"
    assert unknown_names.suggestion("LIMIT", known) == " Did you mean limit?"
    assert unknown_names.suggestion("zzz", known) == unknown_names.suggestion("", known) == ""
    assert unknown_names.suggestion("verdict" * 100_000, known) == ""
