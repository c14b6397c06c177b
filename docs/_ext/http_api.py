"""Every operation and schema of docs/openapi.yaml as Markdown."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Json = Mapping[str, Any]

_DESCRIPTION = Path(__file__).parents[1] / "openapi.yaml"
_METHODS = ("get", "head", "options", "post", "put", "patch", "delete")
_TITLES = {
    "a": "ixkio's updates of tags",
    "api-keys": "API keys",
    "audit": "Logs and statistics",
    "scans": "Logs and statistics",
    "stats": "Logs and statistics",
    "x": "ixkio's updates of tags",
}
"""Headings of groups whose tag is not a heading by itself. Operations of the public listener are a group of their own."""
_PUBLIC = "Scans"


@functools.cache
def _document() -> Json:
    document: Json = yaml.safe_load(_DESCRIPTION.read_text())
    return document


def each_operation() -> Iterator[tuple[str, str, Json]]:
    """Path, method in lower case, and operation."""
    for path, item in _document()["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item[method]


def operations() -> str:
    """The operations, those of the public listener first."""
    groups: dict[str, list[str]] = {_PUBLIC: []}
    for path, method, operation in each_operation():
        tag = operation["tags"][0]
        title = _PUBLIC if "servers" in operation else _TITLES.get(tag, tag.replace("-", " ").capitalize())
        groups.setdefault(title, []).append(_operation(path, method, operation))
    return "\n\n".join(part for title, members in groups.items() for part in (f"## {title}", *members))


def schemas() -> str:
    """The schemas that the operations refer to."""
    return "\n\n".join(_schema(name, schema) for name, schema in _document()["components"]["schemas"].items())


def _operation(path: str, method: str, operation: Json) -> str:
    parts = [f"### `{method.upper()} {path}`", operation["summary"]]
    if operation.get("description", "") not in ("", operation["summary"]):
        parts.append(operation["description"])
    parameters = operation.get("parameters", [])
    if parameters:
        rows = ["| Parameter | In | Type | |", "|---|---|---|---|"]
        rows += [
            f"| `{each['name']}` | {each['in']} | {_type(each['schema'])} | "
            f"{_cell(_text(each.get('description'), each['schema'], required=each.get('required', False)))} |"
            for each in parameters
        ]
        parts.append("\n".join(rows))
    if "requestBody" in operation:
        kinds = [f"`{kind}`: {_type(body['schema'])}" for kind, body in operation["requestBody"]["content"].items()]
        parts.append(f"**Request body:** {'; '.join(kinds)}.")
    rows = ["| Status | Response | Body |", "|---|---|---|"]
    for status, response in operation["responses"].items():
        bodies = [_type(body.get("schema", {})) for body in response.get("content", {}).values()]
        rows.append(f"| {status} | {_cell(_with_error_codes(response['description']))} | {' or '.join(bodies)} |")
    parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _with_error_codes(text: str) -> str:
    """Link each error code that begins an entry of a description, as in "`not_found`: ..."."""
    return re.sub(r"`(\w+)`(?=: )", r"[`\1`](error-codes.md#\1)", text)


def _schema(name: str, schema: Json) -> str:
    parts = [f"### {name}"]
    if "description" in schema:
        parts.append(schema["description"])
    properties = schema.get("properties", {})
    if properties:
        required = set(schema.get("required", ()))
        rows = ["| Member | Type | |", "|---|---|---|"]
        rows += [
            f"| `{member}` | {_type(each)} | {_cell(_text(each.get('description'), each, required=member in required))} |"
            for member, each in properties.items()
        ]
        parts.append("\n".join(rows))
    else:
        parts.append(f"Type: {_type(schema)}.")
    return "\n\n".join(parts)


def _type(schema: Json) -> str:
    """A type in words; a schema of its own is a link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in schema:
            return " or ".join(_type(each) for each in schema[alternatives])
    kind = schema.get("type", "string" if isinstance(schema.get("enum", [0])[0], str) else "any value")
    if isinstance(kind, list):
        return " or ".join(_type({**schema, "type": each}) for each in kind)
    if kind == "array":
        items = schema.get("items", {})
        return f"array of {', '.join(map(_code, items['enum'])) if 'enum' in items else _type(items)}"
    if kind == "object" and "properties" in schema:
        return f"object with {', '.join(f'`{name}`' for name in schema['properties'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(kind)


def _text(description: str | None, schema: Json, *, required: bool) -> str:
    """What a parameter or member is, and which values it takes."""
    facts = [] if description is None else [description]
    if required:
        facts.append("Required.")
    if "enum" in schema:
        facts.append(f"One of {', '.join(_code(each) for each in schema['enum'])}.")
    if "const" in schema:
        facts.append(f"Always {_code(schema['const'])}.")
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        facts.append(f"{low} to {high}.")
    elif low is not None or high is not None:
        facts.append(f"At least {low}." if low is not None else f"At most {high}.")
    if schema.get("default", "") not in ("", None, []):
        facts.append(f"Default: {_code(schema['default'])}.")
    if "pattern" in schema:
        facts.append(f"Pattern: {_code(schema['pattern'], quoted=False)}")
    return " ".join(facts)


def _code(value: object, *, quoted: bool = True) -> str:
    text = json.dumps(value) if quoted and not isinstance(value, str) else str(value)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
