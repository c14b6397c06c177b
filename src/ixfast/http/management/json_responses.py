"""Responses of the management API: JSON with an ETag where one object is shown, and the errors that several routes share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec
from aiohttp import web

from ixfast.errors import InputError

_ETAG_CHARS = 32


def etag(content: Any) -> str:
    """A strong ETag (RFC 9110 section 8.8.3) of an object as it is sent."""
    return f'"{hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:_ETAG_CHARS]}"'


def json_response(content: Any, status: int = 200, *, location: str | None = None, tagged: bool = False) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if tagged:
        headers["ETag"] = etag(content)
    if location is not None:
        headers["Location"] = location
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


def object_response(content: Any) -> web.Response:
    """One object, with its ETag."""
    return json_response(content, tagged=True)


def created_response(content: Any, location: str) -> web.Response:
    """A new object, with its ETag and its URL."""
    return json_response(content, 201, location=location, tagged=True)


def no_content() -> web.Response:
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def not_found(kind: str) -> InputError:
    """The same error whether the object does not exist or belongs to another account."""
    return InputError("not_found", f"The account has no such {kind}.")


def unauthorised(scopes: Iterable[str]) -> InputError:
    wanted = " or ".join(scopes)
    message = f"An API key with the scope {wanted} is required: send it as X-API-Key, or as Authorization: Bearer."
    return InputError("unauthorised", message)
