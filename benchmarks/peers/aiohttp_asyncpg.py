"""aiohttp, uvloop and an asyncpg pool with one guarded UPDATE for each scan: what a good engineer would write in an afternoon.

Keys are read from a table once and cached; the MAC is checked with `cryptography`. As in ixfast, the counter is durable before
the response "Pass" is sent. There is no scan log, and there are no rules and no encrypted keys.
"""

from __future__ import annotations

import hmac
import os
import sys
from typing import Any

import asyncpg
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from benchmarks.peers.listening import listen
from benchmarks.peers.sdm import sdm_mac

POOL = web.AppKey("pool", Any)
TAGS = web.AppKey("tags", dict[str, tuple[bytes, bytes]])
ADVANCE = "UPDATE peer_tag SET last_counter = $2, scan_count = scan_count + 1 WHERE code = $1 AND last_counter < $2"


def aes_cmac(key: bytes, message: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(message)
    return mac.finalize()


async def tap(request: web.Request) -> web.Response:
    try:
        query = request.query
        code, counter, mac = query["x"], int(query["n"], 16), bytes.fromhex(query["e"])
    except (KeyError, ValueError):
        return web.json_response({"error": "invalid_parameter"}, status=400)
    pool: Any = request.app[POOL]
    tags = request.app[TAGS]
    tag = tags.get(code)
    if tag is None:
        row = await pool.fetchrow("SELECT uid, key FROM peer_tag WHERE code = $1", code)
        if row is None:
            return web.json_response({"error": "not_found"}, status=404)
        tag = tags[code] = row["uid"], row["key"]
    uid, key = tag
    passed = False
    if 0 < counter < 1 << 24 and hmac.compare_digest(sdm_mac(aes_cmac, key, uid, counter), mac):
        passed = await pool.execute(ADVANCE, code, counter) == "UPDATE 1"
    text = f'{{"xuid":"{code}","response":"{"Pass" if passed else "Fail"}"}}'
    return web.Response(text=text, content_type="application/json")


async def with_pool(application: web.Application) -> Any:
    async with asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=10, max_size=10) as pool:
        application[POOL] = pool
        yield


def main() -> None:
    application = web.Application()
    application[TAGS] = {}
    application.cleanup_ctx.append(with_pool)
    application.router.add_get("/v1/t", tap)
    loop = uvloop.new_event_loop()
    web.run_app(application, sock=listen(int(sys.argv[1])), access_log=None, print=None, loop=loop)


if __name__ == "__main__":
    main()
