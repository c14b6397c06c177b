"""The error codes of every HTTP response: one table, from which statuses, messages, metrics and the OpenAPI description follow.

A code is part of the public API and never changes its meaning. Every code must be documented in docs/reference/scan-api.md, or in
docs/reference/management-api.md if only the management API uses it. Problems of the lines of a tag file are not error codes;
they are in `tag_files.problems`. `uid_reversed` is both, since a UID is given in a file, in a request and to a command.

`message` is what a response says when the code alone is known. Where the mistake itself is known (`InputError`), its own
message is sent instead, and none is repeated here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["inactive", "absent", "scan", "request", "management"]
"""What a code is about.

- `inactive`, `absent`: the scan has a verdict, and the code is its reason. Never counted as an error.
- `scan`: the scan ended without a verdict. Counted by `ixfast_scan_errors_total`.
- `request`: the request was refused before it became a scan or an act of management.
- `management`: used by the management API alone.
"""


class ErrorCode(NamedTuple):
    """`management_message` replaces `message` in the management API, where nothing is ever consumed."""

    status: int
    kind: Kind
    message: str = ""
    management_message: str = ""


ERROR_CODES: dict[str, ErrorCode] = {
    "tg_inactive": ErrorCode(200, "inactive"),
    "batch_inactive": ErrorCode(200, "inactive"),
    "folder_inactive": ErrorCode(200, "inactive"),
    "tag_inactive": ErrorCode(200, "inactive"),
    "not_found": ErrorCode(404, "absent"),
    "missing_parameter": ErrorCode(400, "scan", "The tap lacks a required parameter."),
    "invalid_parameter": ErrorCode(400, "scan", "The tap has a malformed parameter."),
    "unauthorised": ErrorCode(
        401, "scan", "An API key with the scope scan is required: send it as X-API-Key, or as Authorization: Bearer."
    ),
    "idempotency_conflict": ErrorCode(
        409, "scan", "This Idempotency-Key was already used with another tap. Use a new random key for each visit."
    ),
    "rate_limited": ErrorCode(
        429, "scan", "Too many scans from this API key or address. Nothing was consumed; retry more slowly."
    ),
    "overloaded": ErrorCode(
        503, "scan", "The server is overloaded. Nothing was consumed; retry.",
        "The server is overloaded. Nothing was changed; retry.",
    ),
    "outcome_unknown": ErrorCode(
        503, "scan", "The database did not confirm in time whether the tap was accepted. Retry with the same Idempotency-Key.",
        "The database did not confirm in time whether the change was made. Read the object again.",
    ),
    "unavailable": ErrorCode(
        503, "scan", "The scan cannot be verified at the moment (see reason). Nothing was consumed.",
        "The request cannot be served at the moment (see reason). Nothing was changed.",
    ),
    "draining": ErrorCode(503, "scan", "The server is shutting down. Nothing was consumed; retry."),
    "invalid_request": ErrorCode(400, "request", "Malformed HTTP/1.1 request."),
    "no_such_route": ErrorCode(404, "request", "Unknown path."),
    "method_not_allowed": ErrorCode(405, "request"),
    "too_large": ErrorCode(413, "request"),
    "unsupported_encoding": ErrorCode(415, "request"),
    "expectation_failed": ErrorCode(417, "request"),
    "already_exists": ErrorCode(409, "management"),
    "in_use": ErrorCode(409, "management"),
    "limit_reached": ErrorCode(409, "management"),
    "key_retired": ErrorCode(409, "management"),
    "import_running": ErrorCode(409, "management"),
    "precondition_failed": ErrorCode(412, "management"),
    "invalid_profile": ErrorCode(422, "management"),
    "invalid_rule": ErrorCode(422, "management"),
    "invalid_response": ErrorCode(422, "management"),
    "invalid_file": ErrorCode(422, "management"),
    "uid_reversed": ErrorCode(422, "management"),
    "range_too_wide": ErrorCode(422, "management"),
}  # fmt: skip


def _of_kind(*kinds: Kind) -> tuple[str, ...]:
    return tuple(code for code, error in ERROR_CODES.items() if error.kind in kinds)


STATUS = {code: error.status for code, error in ERROR_CODES.items()}
"""HTTP status by code. A decided scan without an error is 200."""

INACTIVE = frozenset(_of_kind("inactive"))
"""What is switched off, as the reason of the verdict `inactive`."""

DECIDED = frozenset(_of_kind("inactive", "absent"))
"""Codes of scans that have a verdict: on `/v2` they are its reason, and the status is 200."""

COUNTED = _of_kind("scan")
"""Codes of scans that ended without a verdict, each with a series of `ixfast_scan_errors_total`."""

REQUEST = _of_kind("request")
"""Codes of requests that were refused before they became a scan or an act of management."""

MANAGEMENT = frozenset(_of_kind("management"))
"""Codes that only the management API uses, documented in docs/reference/management-api.md."""
