"""The parts of the OpenAPI description that no management route declares: scans on the public listener, health, errors.

Request bodies are the types that the server reads. Responses are written by `responses.bodies`; their types here are for the
description alone, and tests validate every kind of response against them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ixfast import limits
from ixfast.domain import references
from ixfast.domain.model import OriginalityWord, TamperWord, Verdict
from ixfast.error_codes import COUNTED, REQUEST, STATUS
from ixfast.http.management.call import Parameter
from ixfast.http.management.schemas import Xuid
from ixfast.http.openapi.descriptions import ERRORS
from ixfast.http.v2_scans import BatchBody, ScanBody

REFS = "#/components/schemas/{name}"
ROUTED_ERRORS = tuple(code for code in REQUEST if code not in ("no_such_route", "method_not_allowed"))
"""Errors of requests that reach a route, whichever it is."""

_KEY_HEADERS = ("X-API-Key", "Ixkio-R", "bearer")

_PUBLIC = [{"url": "http://127.0.0.1:8480", "description": "The public listener: scans."}]
_CODE = f"^{references.CODE.pattern}$"
_AID = f"^{references.AID.pattern}$"
_HEX_16 = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class LineProblem(msgspec.Struct):
    line: int
    column: str | None
    code: str
    message: str
    remedy: str


class ProblemBody(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    request_id: str
    field: str | None = None
    reason: str | None = None
    problems: list[LineProblem] | None = None


class Problem(msgspec.Struct):
    """An error of every path except `/v1`."""

    error: ProblemBody


class FlatError(msgspec.Struct, omit_defaults=True):
    """An error of `/v1`."""

    error: str
    xuid: Xuid | None = None
    parameter: str | None = None
    reason: str | None = None


class ScannedTag(msgspec.Struct, forbid_unknown_fields=True):
    xuid: str
    cuid: str | None
    uid: str | None
    name: str | None
    folder: str
    group: str
    batch: str | None


class TamperStates(msgspec.Struct, forbid_unknown_fields=True):
    stored: TamperWord
    current: TamperWord


class FirstAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """Marks a response that repeats an earlier one."""

    at: str
    of_now: list[str]


class ScanAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """A scan with its verdict."""

    scan_id: _HEX_16
    verdict: Verdict
    authentic: bool
    reason: str | None
    tag: ScannedTag | None
    counter: int | None
    previous_counter: int | None
    gap: int | None
    scan_count: int | None
    tamper: TamperStates | None
    originality: OriginalityWord | None
    file_data: str | None
    response: str | None
    rule: str | None
    fields: dict[str, str]
    first_answer: FirstAnswer | None


class Liveness(msgspec.Struct, forbid_unknown_fields=True):
    alive: bool


class Readiness(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the worker can verify scans, and why not."""

    ready: bool
    problems: dict[str, str]


TYPES = (Problem, FlatError, ScanBody, BatchBody, ScanAnswer, Liveness, Readiness)
"""Types whose schemas are among the components of the description."""


def security(scopes: Iterable[str]) -> list[dict[str, list[str]]]:
    """The ways to send an API key with one of these scopes."""
    return [{header: [scope]} for scope in scopes for header in _KEY_HEADERS]


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON Schema of a type, with references to the components."""
    (found,), _ = msgspec.json.schema_components([kind], ref_template=REFS)
    return found


def json_content(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def query_parameter(parameter: Parameter) -> dict[str, Any]:
    found = {"name": parameter.name, "in": "query", "schema": parameter.schema, "description": parameter.meaning}
    return found | {"explode": False} if parameter.schema.get("type") == "array" else found


def problems(codes: Iterable[str], shape: Any) -> dict[str, Any]:
    """Error responses by status, each with its error codes."""
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(str(STATUS[code]), []).append(code)
    content = json_content(schema_of(shape))
    return {
        status: {"description": " ".join(f"`{code}`: {ERRORS[code]}." for code in found), "content": content}
        for status, found in sorted(by_status.items())
    }


def _tap_parameters() -> list[dict[str, Any]]:
    tap = {
        "x": (_CODE, "Tag code (XUID). Takes precedence over `c` and `u`."),
        "c": (f"^.{{1,{limits.CUSTOMER_ID_CHARS_MAX}}}$", "Customer's own id (CUID). Requires `a`."),
        "u": ("^[0-9A-F]{14}$", "Chip UID. Requires `a`."),
        "a": (_AID, "Account id (AID). Enough if the tap identifies the tag, as an encrypted mirror does."),
        "n": ("^[0-9A-Fa-f]{6}$", "Tap counter, as the chip mirrors it."),
        "e": ("^[0-9A-Fa-f]{16}$", "MAC of the tap (SDMMAC), as the chip mirrors it."),
        "t": (None, "Tamper status, as the chip mirrors it."),
        "r": ("^[!-~]{1,256}$", "API token. Prefer a header, because query strings end up in logs."),
        "ip": (None, "IP address of the visitor, for rules and subtags."),
        "ua": (None, "User agent of the visitor, for rules and subtags."),
    }
    return [
        query_parameter(Parameter(name, {"type": "string"} | ({"pattern": pattern} if pattern else {}), meaning))
        for name, (pattern, meaning) in tap.items()
    ]


def public_operations() -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of each route of the scan API."""
    flat_scan = {
        "type": "object",
        "properties": {"xuid": {**schema_of(Xuid), "description": "Tag code."}},
        "required": ["xuid"],
        "additionalProperties": {"type": "string"},
    }
    errors = problems(("not_found", *ROUTED_ERRORS, *(code for code in COUNTED if code != "idempotency_conflict")), FlatError)
    common: dict[str, Any] = {"servers": _PUBLIC, "tags": ["scans"], "security": [{}, *security(("scan",))]}
    scan = common | {"parameters": _tap_parameters()}
    success = {
        "200": {
            "description": "The owner's response text as `response`, or what is inactive as `error`.",
            "content": json_content(flat_scan),
        }
    }
    yield (
        "/v1/t",
        "get",
        scan
        | {"operationId": "scan", "summary": "Verify a tap and return the owner's response text.", "responses": success | errors},
    )
    form = {"200": {"description": "The query is well-formed."}, "400": {"description": "The query is malformed."}}
    yield (
        "/v1/t",
        "head",
        scan | {"operationId": "scan_form", "summary": "Check the format of a query.", "responses": form},
    )
    allowed = {"204": {"description": "Methods and headers that browsers may send."}}
    for path, name in (("/v1/t", "scan_cors"), ("/v2/scans", "scan_v2_cors"), ("/v2/scans/batch", "scan_batch_cors")):
        preflight = {"operationId": name, "summary": "Respond to a CORS preflight request.", "responses": allowed}
        yield path, "options", common | preflight
    idempotency = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"},
        "description": (
            "A new random text for each visit, such as a UUID; never one derived from the URL. For two days, a retry with the "
            "same key and tap gets the first response again, and any other tap with that key gets 409 `idempotency_conflict`."
        ),
    }
    peek = query_parameter(
        Parameter("peek", {"type": "string", "enum": ["true", "false"]}, "`true`: verify without consuming the tap.")
    )
    each = {"anyOf": [schema_of(ScanAnswer), schema_of(Problem)]}
    batch = {
        "type": "object",
        "properties": {"scans": {"type": "array", "items": each, "description": "Results in the order of the request."}},
        "required": ["scans"],
        "additionalProperties": False,
    }
    for path, kind, name, schema, summary in (
        ("/v2/scans", ScanBody, "scan_v2", schema_of(ScanAnswer), "Verify a tap and return the verdict."),
        ("/v2/scans/batch", BatchBody, "scan_batch", batch, "Verify up to 1,000 taps, each independently of the others."),
    ):
        content = {
            "200": {
                "description": "The tap has a verdict, whichever it is; in a batch, each scan has a verdict or an error.",
                "content": json_content(schema),
            }
        }
        body = {"required": True, "content": json_content(schema_of(kind))}
        operation = {"operationId": name, "summary": summary, "requestBody": body, "parameters": [idempotency, peek]}
        yield path, "post", common | operation | {"responses": content | problems((*ROUTED_ERRORS, *COUNTED), Problem)}


def health_operations() -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of the health routes of the private listener."""

    def operation(path: str, summary: str, content: dict[str, Any], **more: Any) -> tuple[str, str, dict[str, Any]]:
        refused = problems(("invalid_parameter",), Problem)
        responses = {"200": {"description": summary, "content": content}, **refused, **more}
        name = path[1:].replace(".", "_")
        return path, "get", {
            "operationId": name, "summary": summary, "tags": ["health"], "security": [], "responses": responses,
        }  # fmt: skip

    readiness = json_content(schema_of(Readiness))
    not_ready = {"description": "Not ready, with the reasons.", "content": readiness}
    yield operation("/livez", "Check that the worker is alive.", json_content(schema_of(Liveness)))
    yield operation("/readyz", "Check whether the worker can verify scans.", readiness, **{"503": not_ready})
    yield operation("/metrics", "Read the metrics of all workers of the host.", {"text/plain": {"schema": {"type": "string"}}})
    yield operation(
        "/versions", "Read the versions of the components that are running.", json_content(schema_of(dict[str, str | None]))
    )
    yield operation("/openapi.json", "Read this description.", json_content({"type": "object"}))
