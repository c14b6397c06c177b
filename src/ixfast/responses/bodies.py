"""Response bodies: decided scans as JSON. The only module of the path that depends on the format of responses.

`/v1` bodies are flat, with a string for every value, and are joined from prepared fragments; `/v2` bodies are built as plain
values and encoded by orjson. docs/reference/scan-api.md describes both. `bodies.pxd` declares types for the compiled form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from ixfast.domain.model import TAMPER_WORDS, Verdict
from ixfast.domain.references import CUID, XUID, kind
from ixfast.domain.scan import COUNTED_ONLY, POSITION_COUNTER_BITS, POSITION_COUNTER_MASK, Scan, gap_before
from ixfast.error_codes import INACTIVE, STATUS
from ixfast.responses.response_text import expanded, inner_text


def v1_body(scan: Scan) -> bytes:
    """The flat body of `GET /v1/t`: `xuid`, then `cuid` if the tag was found by it, then `response` or `error`."""
    record = scan.record
    if scan.error is None and record is not None:
        group = record.group
        if record.overrides is None and group.reply_json is not None and scan.ref[:1] != b"\0":
            response_set = group.response_set
            fragment = response_set.fragments[scan.rule] or response_set.json(scan)
            return b"".join((b'{"xuid":"', record.xuid, b'","response":', fragment, group.reply_json, b"}"))
        return _v1_body_with_members(scan)
    return v1_error(scan.error or "unavailable", _shown_xuid(scan), parameter=scan.error_field, reason=scan.error_detail)


def _v1_body_with_members(scan: Scan) -> bytes:
    record = scan.record
    assert record is not None
    cuid = b""
    if record.cuid is not None and kind(scan.ref) == CUID:
        cuid = b',"cuid":' + orjson.dumps(record.cuid)
    fields = [b"," + orjson.dumps(name) + b":" + inner_text(value).json(scan) for name, value in record.reply_fields.items()]
    return b"".join((b'{"xuid":"', record.xuid, b'"', cuid, b',"response":', record.response_set.json(scan), *fields, b"}"))


def v1_error(code: str, xuid: bytes | None = None, *, parameter: str | None = None, reason: str | None = None) -> bytes:
    """The body of an error on `/v1`. `parameter` is the name of a parameter; its value is never part of a body."""
    head = b'{"xuid":"' + xuid + b'","error":"' if xuid else b'{"error":"'
    tail = b""
    if parameter is not None:
        tail += b',"parameter":' + orjson.dumps(parameter)
    if reason is not None:
        tail += b',"reason":' + orjson.dumps(reason)
    return head + code.encode() + b'"' + tail + b"}"


def _shown_xuid(scan: Scan) -> bytes | None:
    """The tag code of an error body: the caller's own, or that of an inactive tag. Any other error must not reveal a code."""
    if kind(scan.ref) == XUID:
        return scan.ref
    return scan.record.xuid if scan.record is not None and scan.error in INACTIVE else None


def status(scan: Scan) -> int:
    return 200 if scan.error is None else STATUS[scan.error]


def v2_scan(scan: Scan) -> dict[str, Any]:
    """The body of `POST /v2/scans` for a scan that was decided or ended with an error, as plain values for orjson."""
    record, extras = scan.record, scan.extras
    evidence = extras.evidence if extras is not None else None
    decided = record is not None and scan.verdict not in (None, Verdict.INACTIVE, Verdict.UNKNOWN)
    counted = decided and scan.verdict in (Verdict.GENUINE, Verdict.REPEAT, Verdict.REPLAYED)
    counter = scan.position & POSITION_COUNTER_MASK if counted and scan.position != COUNTED_ONLY else None
    previous = _previous_counter(scan) if counter is not None else None
    return {
        "scan_id": f"{scan.scan_id:016x}",
        "verdict": scan.verdict,
        "authentic": scan.authentic,
        "reason": scan.reason or scan.error,
        "tag": _tag(scan),
        "counter": counter,
        "previous_counter": previous,
        "gap": gap_before(scan.position, scan.previous_position) if counter is not None else None,
        "scan_count": scan.scan_count if decided and scan.scan_count > 0 else None,
        "tamper": _tamper(evidence) if scan.authentic or scan.verdict is Verdict.REPLAYED else None,
        "originality": record.originality
        if record is not None and (scan.authentic or scan.verdict is Verdict.REPLAYED)
        else None,
        "file_data": evidence.file_data.hex() if evidence is not None and evidence.file_data is not None else None,
        "response": record.response_set.text(scan) if record is not None and decided else None,
        "rule": record.response_set.rules.name_of(scan.rule) if record is not None and decided else None,
        "fields": _fields(scan) if record is not None and decided else {},
        "first_answer": _first_answer(scan) if counted or scan.verdict is Verdict.PLAIN else None,
    }


_OF_NOW = ["tag", "originality", "response", "rule", "fields"]
"""The members that a repeated answer takes from the current catalogue; all others are as they were in the first answer."""


def _first_answer(scan: Scan) -> dict[str, Any] | None:
    """If this answer repeats an earlier one: when the scan was first answered, and which members may differ from that answer."""
    first_at = scan.extras.first_at if scan.extras is not None else None
    if first_at is None:
        return None
    at = datetime.fromtimestamp(first_at, UTC).isoformat(timespec="milliseconds")
    return {"at": at.replace("+00:00", "Z"), "of_now": _OF_NOW}


def _fields(scan: Scan) -> dict[str, str]:
    assert scan.record is not None
    return {name: expanded(value, scan) for name, value in scan.record.reply_fields.items()}


def _previous_counter(scan: Scan) -> int | None:
    """The counter accepted before this tap under the same key version; None for the first tap of a key version."""
    previous = scan.previous_position
    if not previous or previous >> POSITION_COUNTER_BITS != scan.position >> POSITION_COUNTER_BITS:
        return None
    return previous & POSITION_COUNTER_MASK


def _tag(scan: Scan) -> dict[str, Any] | None:
    record = scan.record
    if record is None or scan.verdict is Verdict.UNKNOWN:
        return None
    return {
        "xuid": record.xuid.decode(),
        "cuid": record.cuid,
        "uid": record.uid.hex().upper() if record.uid is not None else None,
        "name": expanded(record.name, scan) if record.name is not None else None,
        "folder": record.group.folder_name,
        "group": record.group.name,
        "batch": record.batch.name if record.batch is not None else None,
    }


def _tamper(evidence: Any) -> dict[str, str] | None:
    if evidence is None or evidence.tamper is None:
        return None
    return {
        "stored": TAMPER_WORDS.get(evidence.tamper.stored, "invalid"),
        "current": TAMPER_WORDS.get(evidence.tamper.current, "invalid"),
    }


def v2_error(
    code: str,
    message: str,
    request_id: str,
    *,
    field: str | None = None,
    reason: str | None = None,
    problems: Sequence[Mapping[str, Any]] | None = None,
) -> bytes:
    """The body of every error outside `/v1`. `problems` are the problems found in the lines of a file."""
    error: dict[str, Any] = {"code": code, "message": message, "request_id": request_id}
    if field is not None:
        error["field"] = field
    if reason is not None:
        error["reason"] = reason
    if problems is not None:
        error["problems"] = problems
    return orjson.dumps({"error": error})
