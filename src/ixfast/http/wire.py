"""HTTP responses of `/v1/t` as bytes, with the same header fields as its aiohttp route."""

from __future__ import annotations

from http import HTTPStatus

from ixfast import limits, reply
from ixfast.scan import Scan

CONTENT_TYPE = "application/json; charset=utf-8"
_CORS = b"Access-Control-Allow-Origin: *\r\n"
_RETRY = (429, 503)


def _prefix(status: int, *, cors: bool, closing: bool) -> bytes:
    return b"".join((
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
        f"Content-Type: {CONTENT_TYPE}\r\nCache-Control: no-store\r\n".encode(),
        _CORS if cors else b"",
        f"Retry-After: {limits.RETRY_AFTER_S}\r\n".encode() if status in _RETRY else b"",
        b'WWW-Authenticate: Bearer realm="ixfast"\r\n' if status == 401 else b"",
        b"Connection: close\r\n" if closing else b"",
        b"Content-Length: ",
    ))  # fmt: skip


_PREFIXES = {
    (status, cors, closing): _prefix(status, cors=cors, closing=closing)
    for status in (200, 400, 401, 404, 429, 503)
    for cors in (True, False)
    for closing in (True, False)
}
_OK = _PREFIXES[200, True, False]


def allows_cors(scan: Scan) -> bool:
    """Browsers may read answers unless the account forbids it; what belongs to no account is open."""
    return scan.record is None or scan.record.group.account.cors


def v1_response(scan: Scan, *, closing: bool = False) -> bytes:
    """The whole response to a hot request."""
    body = reply.v1_body(scan)
    if scan.error is None and not closing and allows_cors(scan):
        return b"%b%d\r\n\r\n%b" % (_OK, len(body), body)
    return response(reply.status(scan), body, cors=allows_cors(scan), closing=closing)


def response(status: int, body: bytes, *, cors: bool = True, closing: bool = False) -> bytes:
    return b"%b%d\r\n\r\n%b" % (_PREFIXES[status, cors, closing], len(body), body)
