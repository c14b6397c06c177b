"""A server with an injected fault, named by `IXFAST_TEST_FAULT`: the control of tests that must detect it.

The command line is that of `ixfast`, as in `python breaking_server.py serve …`; its workers are started from this file, too.
"""

import logging
import os
import sys
import threading
import warnings

from aiohttp import web

from ixfast import cli
from ixfast.config.settings import Settings
from ixfast.http import framing, request_handler, scan_app
from ixfast.http.management.call import Call
from ixfast.process import logs, supervisor, worker


def decompress() -> None:
    """Decompress bodies without handling damaged ones."""
    options = request_handler.options
    framing._check_encoding = lambda _request: None
    framing._BROKEN_BODY = ()
    request_handler.options = lambda idle_timeout_s: {**options(idle_timeout_s), "auto_decompress": True}


def header() -> None:
    """Decode a header field as ASCII."""
    find = scan_app._idempotency_key

    def ascii_only(request: web.Request) -> str | None:
        request.headers.get("Idempotency-Key", "").encode("ascii")
        return find(request)

    scan_app._idempotency_key = ascii_only


def number() -> None:
    """Pass numbers from a query to the database unchecked."""

    def any_number(call: Call, name: str, default: int, _most: int) -> int:
        return int(call.parameter(name) or default)

    Call.number = any_number  # type: ignore[method-assign]


def abort() -> None:
    """Treat a client that disconnects while sending as an internal error."""
    framing._BROKEN_BODY = ()


def repeat() -> None:
    """Log every message, without counting repeats."""

    logs.CountingHandler.emit = logging.StreamHandler.emit  # type: ignore[method-assign]


def warn() -> None:
    """Warn as a library does, and fail in a thread, in every process, and log in a request."""
    warnings.simplefilter("always")
    configure = logs.configure

    def configured(settings: Settings, process: str) -> None:
        configure(settings, process)
        warnings.warn("a library's way is deprecated", DeprecationWarning, stacklevel=1)
        threading.Thread(target=lambda: 1 / 0).start()

    logs.configure = configured
    find = scan_app._idempotency_key

    def logged(request: web.Request) -> str | None:
        logging.getLogger("library").warning("about a request")
        if request.headers.get("Idempotency-Key") == "break":
            raise RuntimeError("broken")
        return find(request)

    scan_app._idempotency_key = logged


if __name__ == "__main__":
    {each.__name__: each for each in (decompress, header, number, abort, repeat, warn)}[os.environ["IXFAST_TEST_FAULT"]]()
    if sys.argv[1] == "serve":
        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        worker.main()
