"""A web server for tapped URLs: it forwards each tap to ixfast and shows whether the product is genuine.

    IXFAST_URL=http://127.0.0.1:8480 python examples/web_server.py

Tags are encoded with URLs of this server, such as https://shop.example/t?picc_data=…&cmac=…. Environment:

- IXFAST_URL: where ixfast serves scans.
- IXFAST_API_KEY: a key with the scope `scan` (`ixfast api-key create AID`); not needed for an open account.
- IXFAST_ACCOUNT: the account of the tags, needed without an API key if the URL has no tag code.
- PORT: 8000 by default; 0 chooses a free one.
"""

import asyncio
import contextlib
import html
import os
import uuid
from typing import Any

import aiohttp
from aiohttp import web

IXFAST_URL = os.environ.get("IXFAST_URL", "http://127.0.0.1:8480")
ATTEMPTS = 3
ATTEMPT_S = 2.0
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def scan(client: aiohttp.ClientSession, request: web.Request) -> dict[str, Any] | None:
    """What ixfast decided about the tap; None if it cannot decide now, so that nothing may be concluded.

    A scan that gets no response may have been accepted. Sending it again with the same Idempotency-Key gives the first answer
    again; with another key, or with none, it would be refused as replayed.
    """
    body: dict[str, Any] = {"url": f"https://{request.host}{request.raw_path}"}  # verbatim: the MAC may cover any part of it
    if "IXFAST_ACCOUNT" in os.environ:
        body["account"] = os.environ["IXFAST_ACCOUNT"]
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    if "IXFAST_API_KEY" in os.environ:
        headers["X-API-Key"] = os.environ["IXFAST_API_KEY"]
    for attempt in range(ATTEMPTS):
        try:
            async with client.post(f"{IXFAST_URL}/v2/scans", json=body, headers=headers) as response:
                if response.status == 200:
                    decided: dict[str, Any] = await response.json()
                    return decided
                if response.status == 400:
                    return {"authentic": False, "verdict": "incomplete"}  # The URL is not one that a tag produces.
                if response.status < 500 and response.status != 429:
                    response.raise_for_status()  # 401: the API key is wrong. A page must not call the product forged for that.
        except (aiohttp.ClientConnectionError, TimeoutError):
            pass  # It may be restarting: the loop asks again, and the same tap gets its first answer.
        await asyncio.sleep(0.1 * 2**attempt)
    return None


async def page(request: web.Request) -> web.Response:
    decided = await scan(request.app[CLIENT], request)
    if decided is None:
        return _page(503, "Please try again", "The product cannot be verified at the moment.")
    if decided["authentic"]:
        return _page(200, "Genuine", decided["response"])
    if decided["verdict"] == "replayed":
        return _page(200, "Tap the product again", "This link has been used before. Each tap opens a new one.")
    if decided["verdict"] == "incomplete" or (decided["verdict"] == "unknown" and not request.query_string):
        return _page(200, "Open this page by tapping the product", "Its address alone shows nothing about a product.")
    return _page(200, "Not genuine", "This product could not be verified.")


async def no_icon(_: web.Request) -> web.Response:
    """Browsers request an icon with every page, which is not a tap."""
    return web.Response(status=404)


def _page(status: int, title: str, text: str) -> web.Response:
    title, text = html.escape(title), html.escape(text)
    body = f"<!DOCTYPE html><title>{title}</title><h1>{title}</h1><p>{text}</p>\n"
    # A browser that shows the page from its cache would show a verdict that is not this tap's.
    return web.Response(status=status, text=body, content_type="text/html", headers={"Cache-Control": "no-store"})


async def serve() -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ATTEMPT_S)) as client:
        app = web.Application()
        app[CLIENT] = client
        app.router.add_get("/favicon.ico", no_icon)
        app.router.add_get("/{path:.*}", page)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8000")))
        await site.start()
        host, port = runner.addresses[0][:2]
        print(f"Listening on http://{host}:{port}", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())
