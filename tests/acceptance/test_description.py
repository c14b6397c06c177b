"""The OpenAPI description against a real server: the answers of every operation match their description.

Valid and invalid requests are generated from the description, the same in every run. Every second one names objects that exist,
so that operations succeed instead of all ending in `not_found`.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from openapi_document import DOCUMENT, text
from requests import Session
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.generation.feedback import NO_FEEDBACK
from schemathesis.specs.openapi import checks
from support.served import Served, own_database

from ixfast.http.openapi.document import description
from ixfast.store.admin import edits
from ixfast.testing.virtual_tags import VirtualFleet

AID = "shop"
FLEET = VirtualFleet(1844, 8, account=AID)
EXAMPLES = 4  # Of each kind, per operation.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
DESCRIBED = msgspec.json.decode(msgspec.json.encode(description()))
_serial = itertools.count(1)


async def furnish(connection: Any) -> str:
    """The token of a key whose id is not a small number, since generated requests may revoke small ones."""
    other = await edits.create_account(connection, "other")
    for _ in range(50):
        await edits.create_api_key(connection, other, ["scan"])
    account_id = await connection.fetchval("SELECT account_id FROM account WHERE aid = $1", AID)
    return await edits.create_api_key(connection, account_id, list(edits.SCOPES))


class Manager:
    """A server with a token of its account, and requests to both of its listeners."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.session = Session()
        self.token = str(server.in_database(furnish))
        self.schema = schemathesis.openapi.from_dict(DESCRIBED)
        self.statuses: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        self.shared = self.objects()

    def make(self, path: str, body: Any) -> Any:
        response = self.session.post(self.server.private_url + path, json=body, headers={"X-API-Key": self.token})
        assert response.status_code == 201, response.text
        return response.json()

    def objects(self, *, empty: bool = False) -> dict[str, Any]:
        """Fresh objects by kind, with a tag in a batch in a group in a folder; or `empty` ones, which can be deleted."""
        n = next(_serial)
        opened = {"active": True, "open": True}
        self.session.patch(f"{self.server.private_url}/v2/accounts/{AID}", json=opened, headers={"X-API-Key": self.token})
        folder = self.make("/v2/folders", {"name": f"F{n}", "fields": [{"name": "Colour"}]})["id"]
        group = self.make("/v2/groups", {"folder_id": folder, "name": "G", "profile": "ixkio-plain"})["id"]
        batch = self.make("/v2/batches", {"group_id": group, "name": "B"})["id"]
        draft = {"batch_id": batch, "uid": f"04{n:012X}", "cuid": f"c{n}", "key": "ab" * 16}
        tag = self.make("/v2/tags", draft)["xuid"]
        self.make(f"/v2/tags/{tag}/keys", {"key": "cd" * 16})
        api_key = self.make("/v2/api-keys", {"scopes": ["scan"]})["id"]
        derived = {"folder_id": folder, "name": "D", "profile": "boltcard", "derivation": {"scheme": "boltcard", "version": 1}}
        master = self.make("/v2/groups", derived)["id"]
        for key in ("12" * 16, "34" * 16):
            self.make(f"/v2/groups/{master}/keys", {"key": key})
        if empty:
            batch = self.make("/v2/batches", {"group_id": group, "name": "E"})["id"]
            group = self.make("/v2/groups", {"folder_id": folder, "name": "E"})["id"]
            folder = self.make("/v2/folders", {"name": f"E{n}"})["id"]
        for owner in (f"tags/{tag}", f"batches/{batch}"):
            self.make(f"/v2/{owner}/meta-keys", {"key": "56" * 16})
        return {
            "folders": folder,
            "groups": group,
            "batches": batch,
            "tags": tag,
            "cuid": f"c{n}",
            "api-keys": api_key,
            "master": master,
        }


@pytest.fixture(scope="module")
def manager(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    home: Path = tmp_path_factory.mktemp("server")
    with own_database(postgres, template) as dsn, Served(home, dsn=dsn, workers=1, deadline_ms=20_000) as server:
        server.provision(FLEET)
        manager = Manager(server)
        with manager.session:
            yield manager


def path_of(path: str, objects: dict[str, Any]) -> dict[str, Any]:
    """Values for the parameters of a path, naming objects that exist."""
    kind = "master" if path.startswith("/v2/groups/{id}/keys") else (*path.split("/"), "")[2]
    own = {"id": objects.get(kind), "xuid": objects["tags"], "aid": AID, "version": 1}
    return {name: own[name] for name in own if f"{{{name}}}" in path}


UNSAID = (
    "fields",
    "derivation",
    "enrols",
    "retry_window_s",
    "originality_signature",
    "rules",
    "profile",
    "uid",
    "cuid",
    "expires_at",
    "url",
    "query",
    "account",
    "parameters",
    "counter",
    "key",
)
"""Body members with rules that no schema can express."""


def ease(case: schemathesis.Case, path: str, objects: dict[str, Any]) -> None:
    """Make a valid request succeed: name objects that exist, and leave out what types cannot express."""
    case.headers.pop("If-Match", None)
    if path == "/v1/t":
        case.query = {"x": FLEET.xuid(0), **{name: case.query[name] for name in ("n", "e") if name in case.query}}
    elif path == "/v1/a/{aid}":
        case.headers["ix_c"] = objects["cuid"]
        case.query = {}
    elif path == "/v2/imports":
        case.query = {"group": objects["groups"]}
        case.body = "CUID\nimported\n"
    elif case.query:
        case.query = {}
    if path.startswith(("/v1/x/", "/v1/a/")):
        case.body = {"ix_status": "Active"}
    if path == "/v2/rules/test":
        case.body = {"rules": {"groups": [], "default": ""}}
    if not isinstance(case.body, dict) or path.endswith("keys") or path == "/v2/rules/test":
        return
    for member in UNSAID:
        case.body.pop(member, None)
    if path == "/v2/tags":
        case.body |= {"group_id": None, "batch_id": None, "xuid": None}
    if path == "/v2/scans":
        case.body["xuid"] = FLEET.xuid(0)
    own = {"folder_id": objects["folders"], "group_id": objects["groups"], "batch_id": objects["batches"]}
    case.body |= {name: value for name, value in own.items() if name in case.body}
    whole = {name: int(value) for name, value in case.body.items() if isinstance(value, float)}  # 1.0 is an integer to a schema
    case.body |= whole


def is_asked(path: str, method: str, mode: GenerationMode) -> bool:
    """A request without parameters and without a body cannot be invalid."""
    operation = DESCRIBED["paths"][path][method]
    return mode is GenerationMode.POSITIVE or bool(operation.get("parameters") or "requestBody" in operation)


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        pytest.param(path, method, mode, id=f"{method.upper()} {path} {mode.value}")
        for path, methods in DESCRIBED["paths"].items()
        for method in methods
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if is_asked(path, method, mode)
    ],
)
def test_what_is_described_is_answered(manager: Manager, path: str, method: str, mode: GenerationMode) -> None:
    operation = manager.schema[path][method]
    public = "8480" in str(DESCRIBED["paths"][path][method].get("servers"))
    base_url = manager.server.base_url if public else manager.server.private_url
    objects = manager.shared if method in ("get", "head", "options") else manager.objects(empty=method == "delete")
    anything = operation.as_strategy(mode, feedback=NO_FEEDBACK)
    existing = path_of(path, objects)
    own = operation.as_strategy(mode, path_parameters=existing, feedback=NO_FEEDBACK) if existing else anything
    statuses = manager.statuses[path, method, mode.value]

    @given(drawn=st.tuples(anything, own))
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(drawn: tuple[schemathesis.Case, schemathesis.Case]) -> None:
        eased = len(statuses) % 2
        case = drawn[eased]
        if eased and mode is GenerationMode.POSITIVE:
            ease(case, path, objects)
        response = case.call(base_url, manager.session, {"X-API-Key": manager.token})
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    if mode is GenerationMode.POSITIVE:
        assert min(statuses) < 300, "no valid request succeeded"


@pytest.mark.parametrize(
    "alter",
    [
        lambda operation: operation["responses"].pop("404"),
        lambda operation: operation["responses"]["404"].update(content={"text/html": {}}),
        lambda operation: operation["responses"]["404"]["content"]["application/json"].update(schema={"required": ["missing"]}),
    ],
    ids=["status", "content", "schema"],
)
def test_a_wrong_description_is_found_out(manager: Manager, alter: Callable[[Any], None]) -> None:
    """The control: an answer that differs from its description fails."""
    wrong = copy.deepcopy(DESCRIBED)
    alter(wrong["paths"]["/v2/folders/{id}"]["get"])
    for document, expected in ((DESCRIBED, contextlib.nullcontext()), (wrong, pytest.raises(FailureGroup))):
        operation = schemathesis.openapi.from_dict(document)["/v2/folders/{id}"]["get"]
        case = operation.Case(path_parameters={"id": 1 << 40})
        response = case.call(manager.server.private_url, manager.session, {"X-API-Key": manager.token})
        assert response.status_code == 404
        with expected:
            case.validate_response(response, checks=CHECKS)


def test_answers_of_every_verdict_are_as_described(manager: Manager) -> None:
    manager.objects()
    answer = schemathesis.openapi.from_dict(DESCRIBED)["/v2/scans"]["post"]
    first = {"url": FLEET[0].tap_at(1)}
    bodies: list[tuple[str, Any]] = [("genuine", first), ("replayed", first), ("unknown", {"xuid": "nosuchtag"})]
    bodies += [("incomplete", {"xuid": FLEET.xuid(1)}), ("forged", {"xuid": FLEET.xuid(1), "counter": 1, "code": "0" * 16})]
    inactive = manager.objects()["tags"]
    headers = {"X-API-Key": manager.token}
    manager.session.patch(f"{manager.server.private_url}/v2/tags/{inactive}", json={"active": False}, headers=headers)
    bodies.append(("inactive", {"xuid": inactive}))
    group = manager.make("/v2/groups", {"folder_id": manager.shared["folders"], "name": "Plain"})["id"]
    bodies.append(("plain", {"xuid": manager.make("/v2/tags", {"group_id": group})["xuid"]}))
    for verdict, body in bodies:
        case = answer.Case(body=body, media_type="application/json")
        response = case.call(manager.server.base_url, manager.session, headers)
        case.validate_response(response, checks=CHECKS)
        assert response.json()["verdict"] == verdict


def test_the_document_is_the_description() -> None:
    assert DOCUMENT.read_text() == text(), "run make openapi"
