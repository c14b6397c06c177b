"""Request ids: the one in an error response is the one in every log line about that request.

The request that a task handles is in a context variable, so that whatever logs in it, libraries included, need not know of
requests. The front door's plain scans have none: they carry no id, and nothing is logged about one of them.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from typing import Any

_CHARS_MAX = 64
_handled: ContextVar[Any] = ContextVar("handled_request", default=None)


def request_id(request: Any) -> str:
    """The caller's X-Request-Id if it is printable ASCII of up to 64 characters, else a random one that stays the same."""
    key = _key()
    known: str | None = request.get(key)
    if known is None:
        sent = request.headers.get("X-Request-Id", "")
        usable = 0 < len(sent) <= _CHARS_MAX and sent.isascii() and sent.isprintable()
        known = request[key] = sent if usable else uuid.uuid4().hex
    return known


@cache
def _key() -> Any:
    from aiohttp.web import RequestKey  # only a server needs it, and commands that log import this module

    return RequestKey("request_id", str)


@contextlib.contextmanager
def handling(request: Any) -> Iterator[None]:
    """Whatever is logged in this block concerns `request`."""
    token = _handled.set(request)
    try:
        yield
    finally:
        _handled.reset(token)


def current() -> str | None:
    """The id of the request that is being handled here; None outside of one. It is made only when somebody asks."""
    request = _handled.get()
    return request_id(request) if request is not None else None
