"""The OpenAPI description (3.1) of both listeners, generated from what the server itself uses: routes and types of bodies.

It is served at `/openapi.json`. What a JSON Schema cannot express, such as the operators of a fact, is reported by errors.
"""

from __future__ import annotations

import functools
import inspect
from typing import Annotated, Any

import msgspec

from ixfast import __version__, limits, rules
from ixfast.domain import references
from ixfast.http.management.call import Route
from ixfast.http.management.routes import ROUTES
from ixfast.http.management.schemas import FieldName, FieldValue
from ixfast.http.openapi.components import (
    REFS,
    TYPES,
    FlatError,
    Problem,
    health_operations,
    problems,
    public_operations,
    query_parameter,
    schema_of,
    security,
)
from ixfast.http.openapi.descriptions import describe_operation, describe_schemas

_ABOUT = (
    "Verification of authentication NFC tags. The public listener verifies taps (`scans`); the private listener has management, "
    "health and metrics, and must not be reachable from outside."
)
_COMMON_ERRORS = ("invalid_request", "invalid_parameter", "unauthorised", "overloaded", "unavailable", "outcome_unknown")
_PRIVATE = [{"url": "http://127.0.0.1:8481", "description": "The private listener: management, health and metrics."}]
_SUCCESS = {200: "The request succeeded.", 201: "The object was created.", 204: "The request succeeded; there is no body."}
_TEXT_HEADERS = {"type": "string"}
_PATH_PARAMETERS = {"id": "Id of the object.", "version": "Version of the key.", "xuid": "Tag code.", "aid": "Account id."}


@functools.cache
def description() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    types = [kind for route in ROUTES for kind in (route.response, route.body) if kind is not None]
    types += [*TYPES, Annotated[str, FieldName], Annotated[str, FieldValue]]
    _, schemas = msgspec.json.schema_components(types, ref_template=REFS)
    schemas |= _rule_schemas()
    for schema in schemas.values():
        if "description" in schema:  # a docstring, whose indentation only Python 3.13 and newer remove
            schema["description"] = inspect.cleandoc(schema["description"])
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    for path, method, operation in (*public_operations(), *health_operations()):
        paths.setdefault(path, {})[method] = operation
    for operations in paths.values():
        for operation in operations.values():
            describe_operation(operation)
    describe_schemas(schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ixfast", "version": __version__, "description": _ABOUT},
        "servers": _PRIVATE,
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _security()},
    }


def _rule_schemas() -> dict[str, Any]:
    """The schemas of rule sets, with their references pointing to the components."""
    encoded = msgspec.json.encode(rules.schema()["$defs"]).replace(b"#/$defs/", REFS.format(name="").encode())
    found: dict[str, Any] = msgspec.json.decode(encoded)
    return found


def _security() -> dict[str, Any]:
    by_header = {name: {"type": "apiKey", "in": "header", "name": name} for name in ("X-API-Key", "Ixkio-R")}
    return {**by_header, "bearer": {"type": "http", "scheme": "bearer"}}


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _name(route.method, route.path),
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "security": security(route.scopes),
        "parameters": [*_path_parameters(route.path), *map(query_parameter, route.query), *_headers(route)],
        "responses": _responses(route),
    }
    scopes = " or ".join(route.scopes)
    operation["description"] = f"Requires an API key with the scope {scopes}."
    if route.body is not None:
        schema = schema_of(route.body)
        content = {kind: {"schema": schema} for kind in route.body_types}
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
        "xuid": {"type": "string", "pattern": f"^{references.CODE.pattern}$"},
        "aid": {"type": "string", "pattern": f"^{references.AID.pattern}$"},
    }
    names = [word[1:-1] for word in path.split("/") if word.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas[name], "description": _PATH_PARAMETERS[name]}
        for name in names
    ]


def _header(name: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": _TEXT_HEADERS, "description": meaning}


def _headers(route: Route) -> list[dict[str, Any]]:
    if route.path == "/v1/a/{aid}":
        return [_header("ix_c", "CUID of the tag."), _header("ix_u", "UID of the tag; ignored if ix_c is sent.")]
    if "precondition_failed" in route.errors:
        return [
            _header("If-Match", "ETag of the object as you read it, or *. If the object has changed since, the response is 412.")
        ]
    return []


def _responses(route: Route) -> dict[str, Any]:
    """The response, and the errors by status with their codes."""
    headers = {}
    if route.status == 201:
        headers["Location"] = {"schema": {"type": "string"}, "description": "Path of the new object."}
    if isinstance(route.response, type) and (route.status == 201 or "{" in route.path) and not route.compatible:
        headers["ETag"] = {"schema": {"type": "string"}, "description": "Version of the object, for If-Match."}
    success: dict[str, Any] = {"description": "One page of the list." if route.paged else _SUCCESS[route.status]}
    if route.response is not None:
        schema = schema_of(route.response)
        if route.paged:
            schema = {
                "type": "object",
                "properties": {
                    "items": {"type": "array", "items": schema, "description": "Objects on this page."},
                    "next_cursor": {
                        "type": ["string", "null"],
                        "description": "Pass it as cursor to get the next page; null on the last.",
                    },
                },
                "required": ["items", "next_cursor"],
            }
        success["content"] = {kind: {"schema": schema} for kind in route.response_types}
    if headers:
        success["headers"] = headers
    codes = [*_COMMON_ERRORS, *route.errors]
    if route.body is not None:
        codes += ["too_large", "unsupported_encoding"]
    return {str(route.status): success, **problems(codes, FlatError if route.compatible else Problem)}
