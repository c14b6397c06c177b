"""The scan dispatcher: every scan of both endpoints starts here, whether it arrives through the front door or aiohttp.

It assigns scan ids, applies the rate limits, looks up API keys, and identifies the tag of taps that do not name one. Verifying
the tap is the engine's work. It has no knowledge of connections or of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from ixfast import meters
from ixfast.domain import references
from ixfast.domain.records import ApiKey
from ixfast.domain.references import by_token, token_sha256
from ixfast.domain.scan import Extras, Scan, parameters_of
from ixfast.errors import InputError, UnavailableError
from ixfast.http.rate_limits import Limiter
from ixfast.http.v1_query import V1Query
from ixfast.keys import KeyUnavailableError
from ixfast.pipeline.engine import Engine
from ixfast.pipeline.identify import account_in_path, identify, readings
from ixfast.store.catalogue.catalogue import Catalogue
from ixfast.trace import PARSE, Trace

_SCAN_ID_BITS = 62  # below KEYED_FROM
_V1_ROUTE = meters.ROUTES.index("/v1/t")


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
        self.moment = loop.time  # the clock of arrivals; `Admission` sets a finer one
        self.waited_s = 0.0  # how long the request submitted next has waited before now
        # A scan id must be unique across workers and hosts. 62 random bits are, and cost 50 ns.
        self.next_scan_id = _scan_ids()
        self._tasks: set[asyncio.Task[None]] = set()
        engine.read_again_by(self._reads_again)

    def client_address(self, peer: str | None, forwarded_for: str | None) -> str | None:
        """The address whose requests are counted together: the peer's, or the one that a trusted balancer reports."""
        return forwarded_for or peer if self._trust_forwarded_for else peer

    def submit_v1(self, query: V1Query, digest: bytes | None, reply: Callable[[Scan], None], address: str | None = None) -> None:
        """Start a scan of `/v1/t`. `digest` is the SHA-256 of a token in the header fields, which takes precedence over `r`."""
        scan = Scan(
            reply,
            query.ref or b"",
            query.counter,
            query.mac,
            None,
            self.next_scan_id(),
            self.moment() - self.waited_s,
            query.extras,
        )
        scan.route = 0
        if digest is None and query.token is not None:
            digest = token_sha256(query.token)
        if digest is None:
            scan.aid = query.aid
        if self.limiter is not None and not self._admits(address, digest):
            self.engine.fail(scan, "rate_limited")
        elif query.ref is None:
            self.spawn(self._identify(scan, query, digest))
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
        scan = Scan(reply, code, counter, mac, None, self.next_scan_id(), self.moment() - self.waited_s, None)
        scan.route = 0
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

    async def _identify(self, scan: Scan, query: V1Query, digest: bytes | None) -> None:
        """Start a scan that names no tag, in the account of the API key or else in that of the query."""
        aid = query.aid
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
            assert api_key is not None
            scan.api_key, aid = api_key, api_key.aid
        await self.identify(scan, aid, query.problem)

    def _reads_again(self, scan: Scan) -> bool:
        """Whether the account's profiles are to read a tap whose tag code, CUID or UID names no tag of this caller: it may be a
        mirror, or a text of the owner's, in a parameter of that name. If so, they do, and the scan goes on from there."""
        extras = scan.extras
        if extras is not None and extras.named:
            return False
        if scan.api_key is not None:
            aid: str | None = scan.api_key.aid
        elif extras is not None and extras.aid is not None:
            aid = extras.aid
        else:
            aid = references.split(scan.ref)[0] if references.kind(scan.ref) != references.XUID else None
        if aid is None and (extras is None or extras.url is None):
            return False
        if extras is None:
            extras = scan.extras = Extras()
        if extras.parameters is None:
            extras.parameters = references.parameters_of(scan.ref) | parameters_of(scan)
        self.spawn(self.identify(scan, aid))
        return True

    async def identify(self, scan: Scan, aid: str | None, problem: InputError | None = None) -> None:
        """Submit a scan under the first reference that exists of those that the account's profiles read from its tap.

        If they read none, it goes on under the reference that the caller sent, and without one ends with `problem` or as unknown.
        Without `aid`, the path of the URL has to name the account.
        """
        try:
            problem = await self._name(scan, aid, problem)
        except KeyUnavailableError:
            self.engine.fail(scan, "unavailable", "key_unavailable")
            return
        except Exception:  # whatever the database raises: without a look-up there is no verdict
            self.engine.fail(scan, "unavailable", "lookup_failed")
            return
        if scan.ref:
            self.engine.submit(scan)
        elif problem is not None:
            self.engine.refuse_input(scan, problem)
        else:
            self.engine.unknown(scan)

    async def account_in_path(self, url: str) -> str | None:
        """The account id (AID) in the path of a tap URL, or None. Raises UnavailableError if the look-up fails."""
        try:
            return await account_in_path(self.catalogue, url)
        except Exception:  # whatever the database raises
            raise UnavailableError("unavailable", "lookup_failed") from None

    async def _name(self, scan: Scan, aid: str | None, problem: InputError | None) -> InputError | None:
        """Set the scan's reference, if its tap names a tag; returns what is wrong with the tap if it names none.

        The tap is read as it was sent. Its other readings (`tap_readings`) follow only if no tag is found by it.
        """
        extras = scan.extras
        assert extras is not None
        extras.named = True
        if await self._names_nobody(scan):
            scan.aid = None  # not an account, but a parameter of the tap's own
            return problem
        sent, given = scan.ref, (extras.url, extras.parameters)
        absent: tuple[bytes, tuple[Any, Any]] | None = None  # the last reference of the first reading that has any
        for reading in readings(extras):
            extras.url, extras.parameters = reading
            try:
                refs = await self._candidates(scan, aid, sent, is_given=reading == given)
            except InputError as error:
                problem = problem if sent else error
                continue
            for ref in refs:
                if await self._exists(ref, scan):
                    scan.ref = ref
                    return None
            if refs and absent is None:
                absent = refs[-1], reading
        scan.ref, (extras.url, extras.parameters) = absent or (sent, given)
        return problem

    async def _candidates(self, scan: Scan, aid: str | None, sent: bytes, *, is_given: bool) -> list[bytes]:
        """The references under which a reading of a tap may name its tag, other than the one that the caller sent."""
        extras = scan.extras
        assert extras is not None
        refs = []
        if not is_given and extras.url is not None:
            code = references.code_in(extras.url)
            if code is not None and code.encode() != sent:
                refs, sent = [code.encode()], code.encode()
        if aid is None:
            assert extras.url is not None
            aid = await account_in_path(self.catalogue, extras.url)
            if aid is None:
                return refs
        return refs + await identify(self.catalogue, aid, extras, is_owner=scan.api_key is not None, sent=sent)

    async def _names_nobody(self, scan: Scan) -> bool:
        """Whether the `a` of `/v1/t` beside a tag code is not the id of an account that this caller can know."""
        if scan.route != _V1_ROUTE or scan.aid is None or not scan.ref or references.kind(scan.ref) != references.XUID:
            return False
        return await self.catalogue.account(scan.aid, is_owner=False) is None

    async def _exists(self, ref: bytes, scan: Scan) -> bool:
        """Whether this scan's caller has such a tag. Another account's tag is looked up like one that does not exist, so that not
        even the work done reveals it."""
        record = self.catalogue.find(ref)
        if record is None or not record.is_for(scan.api_key, scan.aid):
            probe, record = await self._fetched(ref, scan.api_key, scan.aid)
            if probe.error is not None:
                return True  # unknown; the scan itself will fail with the same error
        return record is not None and record.is_for(scan.api_key, scan.aid)

    async def _fetched(self, ref: bytes, api_key: ApiKey | None = None, aid: str | None = None) -> tuple[Scan, Any]:
        """What the catalogue has under a reference, with the probe scan that carries the error if the look-up failed."""
        future: asyncio.Future[tuple[Scan, Any]] = self.loop.create_future()
        probe = Scan(lambda _scan: None, ref, -1, None, api_key, 0, self.loop.time())
        probe.aid = aid
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


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():  # the waiting request may have been cancelled
        future.set_result(result)


def _scan_ids() -> Callable[[], int]:
    return partial(random.Random(os.urandom(32)).getrandbits, _SCAN_ID_BITS)  # noqa: S311 - uniqueness, not secrecy
