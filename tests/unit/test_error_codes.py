"""The registry of error codes, compared with the codes that the package uses."""

import ast
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

import ixfast
from ixfast.domain import decision
from ixfast.error_codes import COUNTED, ERROR_CODES, MANAGEMENT, STATUS
from ixfast.http.management import ROUTES

PACKAGE = Path(ixfast.__file__).parent
COMMAND_LINE_ONLY = {"ambiguous"}  # raised for names of groups, which HTTP never takes


def codes_in(source: str) -> Iterator[str]:
    """Constants passed as the code of an `InputError`, an `UnavailableError` or a failed scan."""
    positions = {"InputError": 0, "UnavailableError": 0, "fail": 1, "failed": 1, "_fail": 1}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        at = positions.get(name)
        if at is not None and len(node.args) > at:
            given = node.args[at]
            for each in (given.body, given.orelse) if isinstance(given, ast.IfExp) else (given,):
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value


def test_every_code_that_is_used_is_in_the_registry() -> None:
    used = {code for file in PACKAGE.rglob("*.py") for code in codes_in(file.read_text())}
    used.update(code for code, _ in decision.ERRORS.values())
    assert {"overloaded", "draining", "already_exists", "not_found", "idempotency_conflict"} <= used
    assert used - COMMAND_LINE_ONLY <= STATUS.keys()


def test_a_code_that_is_not_in_the_registry_would_be_found() -> None:
    assert set(codes_in("raise InputError('surprise' if x else 'other', 'text')")) == {"surprise", "other"}
    assert set(codes_in("self.engine.fail(scan, 'surprise', 'reason')")) == {"surprise"}


def test_codes_of_routes_are_in_the_registry() -> None:
    assert {code for route in ROUTES for code in route.errors} <= STATUS.keys()
    assert {code for route in ROUTES for code in route.errors} >= MANAGEMENT


@pytest.mark.parametrize("code", ERROR_CODES)
def test_statuses_exist_and_messages_are_sentences(code: str) -> None:
    error = ERROR_CODES[code]
    assert HTTPStatus(error.status).phrase
    assert (error.status == HTTPStatus.OK) == (error.kind == "inactive")
    for message in (error.message, error.management_message):
        assert not message or (message[0].isupper() and message.endswith("."))


@pytest.mark.parametrize("code", COUNTED)
def test_a_scan_without_a_verdict_can_be_explained(code: str) -> None:
    """The engine fails a scan with a code alone, and `/v2` sends the message of that code."""
    assert ERROR_CODES[code].message
