"""aiohttp's `Application` with uvloop and a constant response: the cost of HTTP alone, without cryptography and database."""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web

from benchmarks.peers.listening import listen


async def tap(_request: web.Request) -> web.Response:
    return web.Response(body=b'{"xuid":"abcdefgh","response":"Pass"}', content_type="application/json")


def main() -> None:
    application = web.Application()
    application.router.add_get("/v1/t", tap)
    loop = uvloop.new_event_loop()
    web.run_app(application, sock=listen(int(sys.argv[1])), access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
