"""HTTP responses of `/v1/t` as bytes, for the front door, with the same header fields as the aiohttp route sends.

What does not depend on the body is prepared at import, one prefix for each combination of status and header fields.
"""

from __future__ import annotations

from http import HTTPStatus

from ixfast import limits
from ixfast.domain.scan import Scan
from ixfast.responses import bodies
from ixfast.responses.bodies import v1_body

CONTENT_TYPE = "application/json; charset=utf-8"
_CORS = b"Access-Control-Allow-Origin: *\r\n"
_RETRY = (429, 503)  # statuses with Retry-After

CHALLENGE = 'Bearer realm="ixfast"'
"""`WWW-Authenticate` of 401, and of `not_found` without a token (RFC 9110 section 11.6.1)."""


def _prefix(status: int, *, cors: bool, closing: bool, challenged: bool) -> bytes:
    return b"".join((
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
        f"Content-Type: {CONTENT_TYPE}\r\nCache-Control: no-store\r\n".encode(),
        _CORS if cors else b"",
        f"Retry-After: {limits.RETRY_AFTER_S}\r\n".encode() if status in _RETRY else b"",
        f"WWW-Authenticate: {CHALLENGE}\r\n".encode() if challenged else b"",
        b"Connection: close\r\n" if closing else b"",
        b"Content-Length: ",
    ))  # fmt: skip


_PREFIXES = {
    (status, cors, closing, challenged): _prefix(status, cors=cors, closing=closing, challenged=challenged)
    for status in (200, 400, 401, 404, 429, 503)
    for cors in (True, False)
    for closing in (True, False)
    for challenged in (True, False)
}
_OK_HEADS = tuple(_PREFIXES[200, True, False, False] + b"%d\r\n\r\n" % length for length in range(512))
"""Everything before the body of a plain 200 response, by length of the body in bytes."""


def allows_cors(scan: Scan) -> bool:
    """Whether browsers of other origins may read the response. An account can forbid it; what belongs to no account is open."""
    record, extras = scan.record, scan.extras
    if record is not None:
        return record.group.account.cors
    return extras is None or extras.complaint is None or extras.cors


def challenged(scan: Scan) -> bool:
    """Whether a token might have led to another response. True for every tag not found without one, whether it exists or not."""
    return scan.error == "unauthorised" or (scan.error == "not_found" and scan.api_key is None)


def v1_response(scan: Scan, closing: bool = False) -> bytes:
    """The whole response to a hot request. `closing` announces that the connection will be closed."""
    body = v1_body(scan)
    if scan.error is None and not closing and len(body) < len(_OK_HEADS) and allows_cors(scan):
        return _OK_HEADS[len(body)] + body
    return response(bodies.status(scan), body, cors=allows_cors(scan), closing=closing, challenge=challenged(scan))


def response(status: int, body: bytes, *, cors: bool = True, closing: bool = False, challenge: bool = False) -> bytes:
    return b"%b%d\r\n\r\n%b" % (_PREFIXES[status, cors, closing, challenge], len(body), body)
