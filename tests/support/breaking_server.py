"""A server with one of the faults that the acceptance tests must catch: their control. `IXFAST_TEST_FAULT` names it.

Started like the right one, `python breaking_server.py serve …`; it then starts its workers from this file too.
"""

import logging
import os
import sys

from aiohttp import web

from ixfast import cli
from ixfast.http import framing, request_handler, scan_app
from ixfast.http.management.call import Call
from ixfast.process import logs, supervisor, worker


def decompress() -> None:
    """Bodies are decompressed, and nobody expects that one cannot be."""
    options = request_handler.options
    framing._check_encoding = lambda _request: None
    framing._BROKEN_BODY = ()
    request_handler.options = lambda idle_timeout_s: {**options(idle_timeout_s), "auto_decompress": True}


def header() -> None:
    """A header field is taken for ASCII."""
    find = scan_app._idempotency_key

    def ascii_only(request: web.Request) -> str | None:
        request.headers.get("Idempotency-Key", "").encode("ascii")
        return find(request)

    scan_app._idempotency_key = ascii_only


def number() -> None:
    """A number in a query is taken for one that the database knows."""

    def any_number(call: Call, name: str, default: int, _most: int) -> int:
        return int(call.parameter(name) or default)

    Call.number = any_number  # type: ignore[method-assign]


def abort() -> None:
    """A client that goes away while it sends is taken for a defect."""
    framing._BROKEN_BODY = ()


def repeat() -> None:
    """Every message is written."""

    logs.CountingHandler.emit = logging.StreamHandler.emit  # type: ignore[method-assign]


if __name__ == "__main__":
    {each.__name__: each for each in (decompress, header, number, abort, repeat)}[os.environ["IXFAST_TEST_FAULT"]]()
    if sys.argv[1] == "serve":
        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        worker.main()
