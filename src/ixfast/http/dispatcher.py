"""The scan dispatcher: every scan of both endpoints starts here, whether it arrives through the front door or aiohttp.

It assigns scan ids, applies the rate limits, looks up API keys, and identifies the tag of taps that do not name one. Verifying
the tap is the engine's work. It has no knowledge of connections or of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from ixfast import meters
from ixfast.domain import references
from ixfast.domain.records import ApiKey
from ixfast.domain.references import by_token, token_sha256
from ixfast.domain.scan import Extras, Scan
from ixfast.errors import InputError, UnavailableError
from ixfast.http.rate_limits import Limiter
from ixfast.http.v1_query import V1Query
from ixfast.keys import KeyUnavailableError
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.identify import account_in_path, identify
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.trace import PARSE, Trace

_SCAN_ID_BITS = 62  # below KEYED_FROM
_CODE = re.compile(r"[0-9A-Fa-f]{16}", re.ASCII)


class ScanDispatcher:
    """One per worker."""

    def __init__(
        self,
        engine: Engine,
        catalogue: Catalogue,
        gauges: meters.Meters,
        loop: asyncio.AbstractEventLoop,
        limiter: Limiter | None = None,
        *,
        trust_forwarded_for: bool = False,
    ) -> None:
        self.engine = engine
        self.catalogue = catalogue
        self.meters = gauges
        self.loop = loop
        self._now = loop.time
        self.limiter = limiter
        self._trust_forwarded_for = trust_forwarded_for
        self.waited_s = 0.0  # how long the request submitted next has waited before the loop's current time
        # A scan id must be unique across workers and hosts. 62 random bits are, and cost 50 ns.
        self.next_scan_id = _scan_ids()
        self._tasks: set[asyncio.Task[None]] = set()

    def client_address(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """The address whose requests are counted together: the peer's, or the one that a trusted balancer reports."""
        return forwarded_for or peer if self._trust_forwarded_for else peer

    def submit_v1(self, query: V1Query, digest: bytes | None, reply: Callable[[Scan], None], address: str | None = None) -> None:
        """Start a scan of `/v1/t`. `digest` is the SHA-256 of a token in the header fields, which takes precedence over `r`."""
        extras = query.extras
        if query.ref is None and extras is None:
            extras = Extras({})
        scan = Scan(
            reply, query.ref or b"", query.counter, query.mac, None, self.next_scan_id(), self._now() - self.waited_s, extras
        )
        if digest is None and query.token is not None:
            digest = token_sha256(query.token)
        if self.limiter is not None and not self._admits(address, digest):
            self.engine.fail(scan, "rate_limited")
        elif query.ref is None or _may_be_a_mirror(query):
            self.spawn(self._identify(scan, query.aid, digest))
        else:
            self._submit(scan, digest)

    def submit_plain(
        self,
        code: bytes,
        counter: int,
        mac: bytes,
        digest: bytes | None,
        reply: Callable[[Scan], None],
        address: str | None,
        trace: Trace | None,
    ) -> None:
        """Start a scan of `/v1/t` with tag code, counter and MAC (8 bytes) and nothing else, as nearly all are."""
        scan = Scan(reply, code, counter, mac, None, self.next_scan_id(), self._now() - self.waited_s, None)
        if trace is not None:
            scan.trace = trace
            trace.ends(PARSE)
        if self.limiter is not None and not self._admits(address, digest):
            self.engine.fail(scan, "rate_limited")
        else:
            self._submit(scan, digest)

    def _submit(self, scan: Scan, digest: bytes | None) -> None:
        if digest is None:
            self.engine.submit(scan)
        else:
            self.engine.submit_with_token(scan, digest)

    def _admits(self, address: str | None, digest: bytes | None) -> bool:
        assert self.limiter is not None
        return self.limiter.admits(address, digest, self._now(), 1)

    def admits(self, address: str | None, token: str | None, count: int = 1) -> bool:
        """Whether the rate limits admit `count` more scans of this caller."""
        digest = token_sha256(token) if token is not None else None
        return self.limiter is None or self.limiter.admits(address, digest, self._now(), count)

    async def _identify(self, scan: Scan, aid: str | None, digest: bytes | None) -> None:
        api_key = None
        if digest is not None:
            try:
                api_key = await self._api_key(digest)
            except UnavailableError as error:
                self.engine.fail(scan, error.code, error.reason)
                return
            obstacle = self.engine.obstacle(api_key)
            if obstacle is not None:
                code, reason = obstacle
                self.engine.fail(scan, code, reason)
                return
            scan.api_key = api_key
        if aid is None or (api_key is not None and api_key.aid != aid):
            if scan.ref and references.kind(scan.ref) == references.XUID:
                self.engine.submit(scan)  # a tag code needs no account, so a wrong account does not matter
            else:
                self.engine.unknown(scan)
            return
        await self.identify(scan, aid)

    async def identify(self, scan: Scan, aid: str) -> None:
        """Submit a scan that names no tag, or perhaps one, under the first reference that exists."""
        try:
            candidates = await self._candidates(scan, aid)
            for ref in candidates:
                if ref is candidates[-1] or await self._exists(ref, scan.api_key):
                    scan.ref = ref
                    self.engine.submit(scan)
                    return
        except InputError as error:
            scan.error_field = error.field
            self.engine.fail(scan, error.code)
        except KeyUnavailableError:
            self.engine.fail(scan, "unavailable", "key_unavailable")
        except Exception:  # whatever the database raises: without a look-up there is no verdict
            self.engine.fail(scan, "unavailable", "lookup_failed")
        else:
            self.engine.unknown(scan)

    async def account_in_path(self, url: str) -> str | None:
        """The account id (AID) in the path of a tap URL, or None. Raises UnavailableError if the look-up fails."""
        try:
            return await account_in_path(self.catalogue, url)
        except Exception:  # whatever the database raises
            raise UnavailableError("unavailable", "lookup_failed") from None

    async def _candidates(self, scan: Scan, aid: str) -> list[bytes]:
        """The references under which the tag may be found: the one sent by the caller, if any, then those of the tap itself."""
        assert scan.extras is not None
        sent = [scan.ref] if scan.ref else []
        try:
            found = await identify(self.catalogue, aid, scan.extras, is_owner=scan.api_key is not None)
        except InputError:
            if not sent:
                raise
            return sent
        if scan.ref in found and references.kind(scan.ref) == references.XUID:
            return sent  # the profile, too, reads it as a tag code
        return sent + found

    async def _exists(self, ref: bytes, api_key: ApiKey | None) -> bool:
        """Whether this caller has such a tag. Another account's tag is looked up like one that does not exist, so that not even
        the work done reveals it."""
        record = self.catalogue.find(ref)
        if record is None or not record.is_for(api_key):
            probe, record = await self._fetched(ref, api_key)
            if probe.error is not None:
                return True  # unknown; the scan itself will fail with the same error
        return record is not None and record.is_for(api_key)

    async def _fetched(self, ref: bytes, api_key: ApiKey | None = None) -> tuple[Scan, Any]:
        """What the catalogue has under a reference, with the probe scan that carries the error if the look-up failed."""
        future: asyncio.Future[tuple[Scan, Any]] = self.loop.create_future()
        probe = Scan(lambda _scan: None, ref, -1, None, api_key, 0, self.loop.time())
        self.catalogue.fetch(probe, ref, lambda scan, found: _resolve(future, (scan, found)))
        return await future

    async def api_key(self, token: str) -> ApiKey | None:
        """The API key of a token, whatever its scopes, or None. Raises UnavailableError if the look-up fails."""
        return await self._api_key(token_sha256(token))

    async def _api_key(self, digest: bytes) -> ApiKey | None:
        cached = self.catalogue.find_api_key(digest)
        if cached is not None:
            return cached
        probe, found = await self._fetched(by_token(digest))
        if probe.error is not None:
            raise UnavailableError(probe.error, probe.error_detail or "")
        return found if isinstance(found, ApiKey) else None

    async def ask(self, start: Callable[[Callable[[Scan], None]], None]) -> Scan:
        """Start a scan with `start(reply)` and wait until it is decided."""
        future: asyncio.Future[Scan] = self.loop.create_future()
        start(lambda scan: _resolve(future, scan))
        return await future

    def spawn(self, work: Any) -> None:
        """Run a coroutine as a task, and keep a reference to it until it ends."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _may_be_a_mirror(query: V1Query) -> bool:
    """Whether what seems to name the tag may be a mirror in a parameter of that name: `x` not as a tag code, or `c` not as a CUID
    but as the MAC of an encrypted mirror, which Bolt Card calls `c`."""
    extras = query.extras
    if extras is None or query.ref is None or query.aid is None or extras.parameters is None:
        return False
    kind = references.kind(query.ref)
    if kind == references.XUID:
        return references.may_be_a_mirror(query.ref)
    return kind == references.CUID and _CODE.fullmatch(extras.parameters.get("c", "")) is not None


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the waiting request may have been cancelled
        future.set_result(result)


def _scan_ids() -> Callable[[], int]:
    return partial(random.Random(os.urandom(32)).getrandbits, _SCAN_ID_BITS)  # noqa: S311 - uniqueness, not secrecy
