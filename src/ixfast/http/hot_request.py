"""Recognising the hot request: a complete, plain GET of `/v1/t` that every HTTP parser reads in the same way.

Nothing is refused here: whatever is not recognised is left to aiohttp. A hot request has a request line with a target of
unreserved characters and HTTP/1.1, header fields `name: value` with one space and visible ASCII, exactly one Host, and none of
the fields that change framing, connection or meaning (RFC 9112 sections 2 to 4).

Nearly every request has the plain query: a tag code, counter and MAC and nothing else. `read_plain_query` reads its request
line in one step (in native code where that is built), so that the query need not be parsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module

from ixfast import compiled, limits
from ixfast.domain import references
from ixfast.http.credentials import header_token, last_forwarded

TARGET = b"GET /v1/t?"
_LINE = re.compile(rb"GET /v1/t\?([A-Za-z0-9=&._~-]{0,%d}) HTTP/1\.1\r\n" % limits.REQUEST_TARGET_BYTES_MAX)
_FIELD = re.compile(rb"([A-Za-z0-9-]+): ([!-~](?:[ -~]*[!-~])?)")
_END = b"\r\n\r\n"
# What an incomplete head may look like. After a bare CR or LF nothing can make it a hot request any more.
_LINE_SO_FAR = re.compile(rb"GET /v1/t\?[A-Za-z0-9=&._~-]{0,%d}(?: [HTP/1.]{0,8}\r?)?" % limits.REQUEST_TARGET_BYTES_MAX)
_FIELDS_SO_FAR = re.compile(rb"(?:[!-~][ -~]*\r\n)*(?:[!-~][ -~]*)?\r?")
# Fields that change how a message is framed, whom it is for, or what happens to the connection.
_SURPRISING = frozenset((
    b"connection", b"content-length", b"expect", b"http2-settings", b"keep-alive", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
))  # fmt: skip
_SURPRISING_BEGINNINGS = (b"content-", b"sec-websocket-")
_PLAIN_LINE = re.compile(
    rb"GET /v1/t\?x=(%b)&n=([0-9A-Fa-f]{6})&e=([0-9A-Fa-f]{16}) HTTP/1\.1\r\n" % references.CODE.pattern.encode()
)

PlainQuery = tuple[bytes, int, bytes]
"""Tag code, counter and MAC (8 bytes) of a plain query."""


def plain_query_twin(received: bytes) -> tuple[bytes, int, bytes, int] | None:
    """Tag code, counter and MAC (8 bytes) of a plain query, and the length of its request line; None for any other request."""
    line = _PLAIN_LINE.match(received)
    if line is None:
        return None
    code, counter, mac = line.groups()
    return code, int(counter, 16), bytes.fromhex(mac.decode()), line.end()


PlainQueryReader = Callable[[bytes], "tuple[bytes, int, bytes, int] | None"]
read_plain_query: PlainQueryReader = plain_query_twin
if compiled.PLAIN is None:
    read_plain_query = import_module("ixfast.http._plain_query").read_plain_query


class Head:
    """What matters in the header fields of a hot request."""

    __slots__ = ("forwarded_for", "token_sha256")

    def __init__(self, token: str | None, forwarded_for: str | None) -> None:
        self.token_sha256 = references.token_sha256(token) if token else None
        self.forwarded_for = forwarded_for  # the last entry, which the nearest balancer added


def read_head(block: bytes) -> Head | None:
    """Read a header block (the lines after the request line, without the empty one); None if it is not a hot request's."""
    fields: dict[bytes, bytes] = {}
    lines = block.split(b"\r\n")
    if len(lines) > limits.HEADERS_MAX:
        return None
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        if name == b"connection" and match[2].lower() == b"keep-alive":
            continue
        if name in fields or name in _SURPRISING or name.startswith(_SURPRISING_BEGINNINGS):
            return None
        fields[name] = match[2]
    if b"host" not in fields:
        return None
    return Head(header_token(fields), last_forwarded(fields.get(b"x-forwarded-for", b"").decode("ascii")))


class Recogniser:
    """Finds hot requests at the beginning of received bytes. One per worker.

    Header blocks repeat on a connection and between clients, so the parsed ones are kept in a bounded memo.
    """

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, Head | None] = {}

    def recognise(self, received: bytes) -> tuple[PlainQuery | str, Head, int] | None:
        """The hot request at the beginning of `received`: its plain query (or the raw query string), its head, and its length in
        bytes. None if there is none."""
        plain = read_plain_query(received)
        if plain is not None:
            code, counter, mac, start = plain
            query: PlainQuery | str = (code, counter, mac)
        else:
            line = _LINE.match(received)
            if line is None:
                return None
            query, start = line[1].decode("ascii"), line.end()
        end = received.find(_END, start - 2)
        if not start <= end <= limits.REQUEST_HEAD_BYTES_MAX:
            return None
        block = received[start:end]
        try:
            head = self._heads[block]
        except KeyError:
            head = self._remember(block)
        return None if head is None else (query, head, end + 4)

    def _remember(self, block: bytes) -> Head | None:
        if len(self._heads) >= limits.HEADER_MEMO_ENTRIES_MAX:
            self._heads.clear()
        head = self._heads[block] = read_head(block)
        return head


def may_become_hot(received: bytes) -> bool:
    """Whether further bytes can make this a hot request. True only for an incomplete head."""
    if len(received) >= limits.REQUEST_HEAD_BYTES_MAX or _END in received:
        return False
    if len(received) < len(TARGET):
        return TARGET.startswith(received)
    line, ended, fields = received.partition(b"\r\n")
    if not ended:
        return _LINE_SO_FAR.fullmatch(line) is not None
    return _LINE.match(received) is not None and _FIELDS_SO_FAR.fullmatch(fields) is not None
