"""The OpenAPI description (3.1) of both listeners, made from what the server itself reads: the routes and the types of bodies.

It is served at `/openapi.json`. What a type cannot say, such as which operator a fact has, the answers say.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from ixfast import __version__, limits, rules
from ixfast.http.management.office import STATUS, Parameter, Route
from ixfast.http.management.routes import ROUTES
from ixfast.http.management.shapes import FieldName, FieldValue, Xuid
from ixfast.http.v2_scans import BatchBody, ScanBody

_REFS = "#/components/schemas/{name}"
_ALWAYS = ("invalid_request", "unauthorised", "overloaded", "unavailable", "outcome_unknown")
_SCAN_ERRORS = (
    "invalid_request", "missing_parameter", "invalid_parameter", "unauthorised", "too_large", "rate_limited", "overloaded",
    "outcome_unknown", "unavailable", "draining",
)  # fmt: skip
_PUBLIC = [{"url": "http://127.0.0.1:8480", "description": "The public listener: scans."}]
_PRIVATE = [{"url": "http://127.0.0.1:8481", "description": "The private listener: management, health, metrics."}]
_TEXT_HEADERS = {"type": "string"}


class ProblemBody(msgspec.Struct, omit_defaults=True):
    code: str
    message: str
    request_id: str
    field: str | None = None
    reason: str | None = None


class Problem(msgspec.Struct):
    """`field` names the place of a mistake, `reason` says why there is no answer."""

    error: ProblemBody


class FlatError(msgspec.Struct, omit_defaults=True):
    """An error of `/v1`."""

    error: str
    xuid: Xuid | None = None
    parameter: str | None = None
    reason: str | None = None


@functools.cache
def description() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    types = [kind for route in ROUTES for kind in (route.answer, route.body) if kind is not None]
    types += [Problem, FlatError, ScanBody, BatchBody, Annotated[str, FieldName], Annotated[str, FieldValue]]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFS)
    schemas |= _rule_schemas()
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for path, method, operation in (*_public(), *_health()):
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "ixfast", "version": __version__, "description": "Verification of authentication NFC tags."},
        "servers": _PRIVATE,
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _security()},
    }


def _rule_schemas() -> dict[str, Any]:
    """The schema of rule sets, with its references at home here."""
    encoded = msgspec.json.encode(rules.schema()["$defs"]).replace(b"#/$defs/", _REFS.format(name="").encode())
    found: dict[str, Any] = msgspec.json.decode(encoded)
    return found


def _security() -> dict[str, Any]:
    by_header = {name: {"type": "apiKey", "in": "header", "name": name} for name in ("X-API-Key", "Ixkio-R")}
    return {**by_header, "bearer": {"type": "http", "scheme": "bearer"}}


_ANY_KEY: list[dict[str, list[str]]] = [{"X-API-Key": []}, {"Ixkio-R": []}, {"bearer": []}]


def _schema_of(kind: Any) -> dict[str, Any]:
    (found,), _ = msgspec.json.schema_components([kind], ref_template=_REFS)
    return found


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _name(route.method, route.path),
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "security": _ANY_KEY,
        "parameters": [*_path_parameters(route.path), *map(_query, route.query), *_headers(route)],
        "responses": _responses(route),
    }
    scopes = " or ".join(route.scopes)
    operation["description"] = f"Scope: {scopes}."
    if route.body is not None:
        schema = _schema_of(route.body)
        content = _json(schema)
        if route.compatible:
            content["application/x-www-form-urlencoded"] = {"schema": schema}
        optional = route.path.endswith("/rotate")
        operation["requestBody"] = {"required": not optional, "content": content}
    return operation


def _name(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.split("/")[1:]]
    return "_".join([method.lower(), *words]).replace("-", "_")


def _path_parameters(path: str) -> list[dict[str, Any]]:
    schemas: dict[str, dict[str, Any]] = {
        "id": {"type": "integer", "minimum": 1},
        "version": {"type": "integer", "minimum": 1, "maximum": limits.KEY_VERSIONS_MAX},
        "xuid": {"type": "string", "pattern": f"^[A-Za-z0-9]{{1,{limits.TAG_CODE_CHARS_MAX}}}$"},
        "aid": {"type": "string", "pattern": f"^[A-Za-z0-9_-]{{1,{limits.ACCOUNT_ID_CHARS_MAX}}}$"},
    }
    names = [word[1:-1] for word in path.split("/") if word.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": schemas[name]} for name in names]


def _query(parameter: Parameter) -> dict[str, Any]:
    return {"name": parameter.name, "in": "query", "schema": parameter.schema, "description": parameter.meaning}


def _header(name: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": _TEXT_HEADERS, "description": meaning}


def _headers(route: Route) -> list[dict[str, Any]]:
    if route.path == "/v1/a/{aid}":
        return [_header("ix_c", "The tag's CUID."), _header("ix_u", "The tag's UID, unless ix_c is given.")]
    if "precondition_failed" in route.errors:
        return [_header("If-Match", "The ETag of the object as the caller has seen it, or *; else 412.")]
    return []


def _responses(route: Route) -> dict[str, Any]:
    """The answer, and problems by status with their codes."""
    headers = {}
    if route.status == 201:
        headers["Location"] = {"schema": {"type": "string"}}
    if isinstance(route.answer, type) and (route.status == 201 or "{" in route.path) and not route.compatible:
        headers["ETag"] = {"schema": {"type": "string"}}
    good: dict[str, Any] = {"description": route.summary}
    if route.answer is not None:
        schema = _schema_of(route.answer)
        if route.paged:
            schema = {
                "type": "object",
                "properties": {"items": {"type": "array", "items": schema}, "next_cursor": {"type": ["string", "null"]}},
                "required": ["items", "next_cursor"],
            }
        good["content"] = _json(schema)
    if headers:
        good["headers"] = headers
    codes = [*_ALWAYS, *route.errors]
    if route.body is not None:
        codes.append("too_large")
    if route.query:
        codes.append("invalid_parameter")
    return {str(route.status): good, **_problems(codes, FlatError if route.compatible else Problem)}


def _problems(codes: Iterable[str], shape: Any) -> dict[str, Any]:
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(str(STATUS[code]), []).append(code)
    content = _json(_schema_of(shape))
    return {
        status: {"description": ", ".join(f"`{code}`" for code in found), "content": content}
        for status, found in sorted(by_status.items())
    }


def _tap_parameters() -> list[dict[str, Any]]:
    tap = {
        "x": ("^[A-Za-z0-9]{1,64}$", "Tag code (XUID)."),
        "c": ("^.{1,128}$", "Customer's own id; needs `a`."),
        "u": ("^[0-9A-F]{14}$", "Chip UID; needs `a`."),
        "a": ("^[A-Za-z0-9_-]{1,64}$", "Account id."),
        "n": ("^[0-9A-Fa-f]{6}$", "Tap counter."),
        "e": ("^[0-9A-Fa-f]{16}$", "Code of the tap."),
        "t": (None, "Tamper status."),
        "r": (None, "API token; a header is better."),
        "ip": (None, "The visitor's address."),
        "ua": (None, "The visitor's user agent."),
    }
    return [
        _query(Parameter(name, {"type": "string"} | ({"pattern": pattern} if pattern else {}), meaning))
        for name, (pattern, meaning) in tap.items()
    ]


def _public() -> Iterable[tuple[str, str, dict[str, Any]]]:
    """The scan API; docs/api.md says it in full."""
    reply = {"type": "object", "additionalProperties": {"type": "string"}}
    flat = _problems(("invalid_parameter", "not_found", *_SCAN_ERRORS), FlatError)
    open_or_key: list[dict[str, list[str]]] = [{}, *_ANY_KEY]
    common: dict[str, Any] = {"servers": _PUBLIC, "tags": ["scans"], "security": open_or_key}
    asked = common | {"parameters": _tap_parameters()}
    answer = {"200": {"description": "The owner's answer, or what is inactive.", "content": _json(reply)}}
    yield "/v1/t", "get", asked | {"operationId": "scan", "summary": "Verify a tap.", "responses": answer | flat}
    form = {"200": {"description": "It can be asked."}, "400": {"description": "It has not its form."}}
    yield "/v1/t", "head", asked | {"operationId": "scan_form", "summary": "Whether a tap can be asked for.", "responses": form}
    allowed = {"204": {"description": "What browsers may send."}}
    yield "/v1/t", "options", common | {"operationId": "scan_cors", "summary": "For browsers.", "responses": allowed}
    idempotency = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "pattern": "^[ -~]{1,255}$"}}
    peek = Parameter("peek", {"type": "string", "enum": ["true", "false"]}, "Look without consuming.")
    problems = _problems(_SCAN_ERRORS, Problem)
    for path, kind, name, more in (
        ("/v2/scans", ScanBody, "scan_v2", [_query(peek)]),
        ("/v2/scans/batch", BatchBody, "scan_batch", []),
    ):
        content = {"200": {"description": "Decided.", "content": _json({"type": "object"})}}
        body = {"required": True, "content": _json(_schema_of(kind))}
        operation = {"operationId": name, "summary": "Verify taps.", "requestBody": body, "responses": content | problems}
        yield path, "post", common | operation | {"parameters": [idempotency, *more]}


def _health() -> Iterable[tuple[str, str, dict[str, Any]]]:
    def told(name: str, summary: str, content: dict[str, Any], **more: Any) -> tuple[str, str, dict[str, Any]]:
        responses = {"200": {"description": summary, "content": content}, **more}
        operation = {"operationId": name, "summary": summary, "tags": ["health"], "security": [], "responses": responses}
        return f"/{name.removesuffix('_json')}{'.json' * name.endswith('_json')}", "get", operation

    anything = _json({"type": "object"})
    not_ready = {"description": "Not ready, and why.", "content": anything}
    yield told("livez", "The loop turns.", anything)
    yield told("readyz", "Whether scans can be answered.", anything, **{"503": not_ready})
    yield told("metrics", "Metrics of all workers of the host.", {"text/plain": {"schema": {"type": "string"}}})
    yield told("versions", "What is running.", anything)
    yield told("openapi_json", "This description.", anything)
