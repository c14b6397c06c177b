"""What is known about the sender of a request: the API token in its header fields, and the client's or balancer's address.

The front door and the aiohttp routes both read them here. Whether a token is valid is decided elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the front door serves before aiohttp is loaded
    from aiohttp import web

UNIX_PEER = "unix"
"""What all peers of the Unix socket have in place of an address, so that they are counted together as those of loopback are."""

_TOKEN_FIELDS = (b"x-api-key", b"ixkio-r", b"authorization")


def header_token(fields: dict[bytes, bytes]) -> str | None:
    """The API token among lower-cased header fields: X-API-Key before Ixkio-R before a bearer token (RFC 6750)."""
    for name in _TOKEN_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if name != b"authorization":
            return value.decode("latin-1")
        scheme, _, token = value.partition(b" ")
        if scheme.lower() == b"bearer":
            return token.strip().decode("latin-1")
    return None


def request_token(request: web.Request) -> str | None:
    """The same for an aiohttp request. Never an empty string."""
    fields = {name.lower().encode(): value.encode("utf-8", "surrogateescape") for name, value in request.headers.items()}
    return header_token(fields) or None


def last_forwarded(value: str | None) -> str | None:
    """The last address of an X-Forwarded-For field, added by the nearest balancer. Those before it are the client's claim."""
    return value.rpartition(",")[2].strip() or None if value is not None else None


def peer_address(peername: Any) -> str | None:
    """The address in what a transport reports as `peername`; None if the connection is gone.

    The name of a Unix peer says nothing: it is empty, or one that the peer has chosen.
    """
    if isinstance(peername, tuple):
        address: str = peername[0]
        return address
    return UNIX_PEER if peername is not None else None
