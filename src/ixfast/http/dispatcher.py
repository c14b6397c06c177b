"""The dispatcher: where both ways in put their scans, so that no request is treated differently for the way it came.

It gives scans their ids, finds out whose token was shown, and identifies taps that name no tag.
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
    """One a worker. `draining` is set when the worker is about to leave."""

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
        self.draining = False
        self.waited_s = 0.0  # how long what is submitted now has waited to be read, beyond the loop's time
        self.unread: dict[asyncio.Transport, float] = {}  # when the first byte came of a head that is not complete yet
        self.answering: set[asyncio.Transport] = set()  # connections on which aiohttp has a request under way
        # Unique is what a scan id must be, across workers and hosts; 62 random bits are, and cost 50 ns.
        self.next_scan_id = _scan_ids()
        self._tasks: set[asyncio.Task[None]] = set()

    def client_address(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """Whose requests are counted together: the peer, or whom a trusted balancer names."""
        return forwarded_for or peer if self._trust_forwarded_for else peer

    def submit_v1(self, query: V1Query, digest: bytes | None, reply: Callable[[Scan], None], address: str | None = None) -> None:
        """Start a scan of `/v1/t`. `digest` is the hash of a header's token, which goes before `r`; `address` the client's."""
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
        """Start a scan of `/v1/t` that says tag code, counter and MAC and nothing else, as nearly all do."""
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
        """Do the rate limits let `count` more scans of this caller in?"""
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
                self.engine.submit(scan)  # a code needs no account, so a wrong one takes nothing from it
            else:
                self.engine.unknown(scan)
            return
        await self.identify(scan, aid)

    async def identify(self, scan: Scan, aid: str) -> None:
        """Find the reference of a scan that names no tag, or none that is certain, and submit it."""
        try:
            claims = await self._claims(scan, aid)
            for ref in claims:
                if ref is claims[-1] or await self._exists(ref, scan.api_key):
                    scan.ref = ref
                    self.engine.submit(scan)
                    return
        except InputError as error:
            scan.error_field = error.field
            self.engine.fail(scan, error.code)
        except KeyUnavailableError:
            self.engine.fail(scan, "unavailable", "key_unavailable")
        except Exception:  # every kind that a database can raise; no answer is no verdict
            self.engine.fail(scan, "unavailable", "lookup_failed")
        else:
            self.engine.unknown(scan)

    async def account_in_path(self, url: str) -> str | None:
        """The account (AID) that a tap URL names in its path; None if none. Raises `UnavailableError` if nobody can say."""
        try:
            return await account_in_path(self.catalogue, url)
        except Exception:  # every kind that a database can raise
            raise UnavailableError("unavailable", "lookup_failed") from None

    async def _claims(self, scan: Scan, aid: str) -> list[bytes]:
        """Under which references the tag may be found: the caller's, if he gave one, then those of the tap itself."""
        assert scan.extras is not None
        given = [scan.ref] if scan.ref else []
        try:
            found = await identify(self.catalogue, aid, scan.extras, is_owner=scan.api_key is not None)
        except InputError:
            if not given:
                raise
            return given
        if scan.ref in found and references.kind(scan.ref) == references.XUID:
            return given  # a code in the profile's eyes, too
        return given + found

    async def _exists(self, ref: bytes, api_key: ApiKey | None) -> bool:
        """Is there such a tag for this caller? Of another account's tag not even the work tells: it is looked up as none."""
        record = self.catalogue.find(ref)
        if record is None or not record.is_for(api_key):
            probe, record = await self._fetched(ref, api_key)
            if probe.error is not None:
                return True  # nobody knows; who asks again is told so
        return record is not None and record.is_for(api_key)

    async def _fetched(self, ref: bytes, api_key: ApiKey | None = None) -> tuple[Scan, Any]:
        """What the catalogue has under a reference, with the probe that carries the error if it cannot say."""
        future: asyncio.Future[tuple[Scan, Any]] = self.loop.create_future()
        probe = Scan(lambda _scan: None, ref, -1, None, api_key, 0, self.loop.time())
        self.catalogue.fetch(probe, ref, lambda scan, found: _resolve(future, (scan, found)))
        return await future

    async def api_key(self, token: str) -> ApiKey | None:
        """The key behind a token, whatever its scopes; None if there is none. Raises `UnavailableError` if nobody can say."""
        return await self._api_key(token_sha256(token))

    async def _api_key(self, digest: bytes) -> ApiKey | None:
        known = self.catalogue.find_api_key(digest)
        if known is not None:
            return known
        probe, found = await self._fetched(by_token(digest))
        if probe.error is not None:
            raise UnavailableError(probe.error, probe.error_detail or "")
        return found if isinstance(found, ApiKey) else None

    async def ask(self, scan_of: Callable[[Callable[[Scan], None]], None]) -> Scan:
        """Start a scan with `scan_of(reply)` and wait until it is decided."""
        future: asyncio.Future[Scan] = self.loop.create_future()
        scan_of(lambda scan: _resolve(future, scan))
        return await future

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _may_be_a_mirror(query: V1Query) -> bool:
    """Whether what names the tag is perhaps a mirror under that name: `x` no tag code, or `c` no CUID but the code of an
    encrypted mirror, which Bolt Card calls so, too."""
    extras = query.extras
    if extras is None or query.ref is None or query.aid is None or extras.parameters is None:
        return False
    kind = references.kind(query.ref)
    if kind == references.XUID:
        return references.may_be_a_mirror(query.ref)
    return kind == references.CUID and _CODE.fullmatch(extras.parameters.get("c", "")) is not None


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the caller may have gone meanwhile
        future.set_result(result)


def _scan_ids() -> Callable[[], int]:
    return partial(random.Random(os.urandom(32)).getrandbits, _SCAN_ID_BITS)  # noqa: S311 - uniqueness, not secrecy
