"""Everything in the OpenAPI description has a description, no text is unused, and the examples match their schemas."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import msgspec
import pytest

import ixfast
from ixfast import RuleStep, Step
from ixfast.http.openapi import descriptions
from ixfast.http.openapi.document import description

DESCRIBED: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(description()))
SCHEMAS: dict[str, dict[str, Any]] = DESCRIBED["components"]["schemas"]
OPERATIONS = {operation["operationId"]: operation for methods in DESCRIBED["paths"].values() for operation in methods.values()}


def undescribed() -> Iterator[str]:
    """The places without a description."""
    for name, schema in SCHEMAS.items():
        members = schema.get("properties", {})
        for place, part in ((name, schema), *((f"{name}.{member}", members[member]) for member in members)):
            if not part.get("description"):
                yield place
    for name, operation in OPERATIONS.items():
        parts = [*operation.get("parameters", []), *operation["responses"].values()]
        for response in operation["responses"].values():
            parts += response.get("headers", {}).values()
        yield from (f"{name}: {part.get('name', part)}" for part in parts if not part.get("description"))
        if not operation.get("summary", "").endswith("."):
            yield name


def test_everything_has_a_description() -> None:
    assert list(undescribed()) == []


def test_no_text_is_unused() -> None:
    members = {f"{name}.{member}" for name, schema in SCHEMAS.items() for member in schema.get("properties", {})}
    plain = {member.partition(".")[2] for member in members if member not in descriptions.MEMBERS}
    assert set(descriptions.MEMBERS) - members - plain == set()
    assert set(descriptions.SCHEMAS) - set(SCHEMAS) == set()
    assert (set(descriptions.OPERATIONS) | set(descriptions.EXAMPLES)) - set(OPERATIONS) == set()
    text = msgspec.json.encode(DESCRIBED["paths"]).decode()
    assert [code for code, meaning in descriptions.ERRORS.items() if f"`{code}`: {meaning}" not in text] == []


def validate(schema: dict[str, Any], example: object) -> None:
    whole = {**copy.deepcopy(schema), "components": {"schemas": SCHEMAS}}
    jsonschema_rs.validator_for(whole).validate(example)


@pytest.mark.parametrize("name", descriptions.EXAMPLES)
def test_examples_match_their_schemas(name: str) -> None:
    operation = OPERATIONS[name]
    request, response = descriptions.EXAMPLES[name]
    if request is not None:
        validate(operation["requestBody"]["content"]["application/json"]["schema"], request)
    status = next(status for status in operation["responses"] if status.startswith("2"))
    schema = operation["responses"][status]["content"]["application/json"]["schema"]
    validate(schema, response)
    with pytest.raises(jsonschema_rs.ValidationError):  # the control: an object of the wrong type
        validate(schema, [])


def test_outcome_has_one_meaning() -> None:
    """It is what became of a line of an import (`ixfast import --report`), and no member of the API has that name."""
    members = {member for schema in SCHEMAS.values() for member in schema.get("properties", {})}
    assert "holds" in members and not members & {"outcome", "outcomes"}
    assert RuleStep._fields == ("name", "depth", "holds", "found") and Step._fields == ("name", "finding")
    commands = (Path(ixfast.__file__).parent / "cli").glob("*.py")
    assert [file.name for file in commands if '"outcome' in file.read_text()] == ["import_export.py"]
