"""The management_dispatcher: where a request of the management API becomes an act in one transaction.

Every request goes the same way: whose API key, may it, what does the body say, the act, the answer. What a caller may not
know about is `not_found`, in the same words as what does not exist.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from ixfast import limits
from ixfast.error_codes import ERROR_CODES
from ixfast.errors import InputError, UnavailableError
from ixfast.http import scan_app
from ixfast.http.framing import read_body
from ixfast.http.hot_request import header_token
from ixfast.http.management.schemas import ID_MAX
from ixfast.json_members import repeated_members
from ixfast.keys import KeyEncryptionKeys, KeyUnavailableError
from ixfast.pipeline.engine import IsPast
from ixfast.responses import bodies
from ixfast.store.admin import edits
from ixfast.store.admin.edits import Caller
from ixfast.store.queries import load

PAGE_ROWS = 100
PAGE_ROWS_MAX = 1000
_WAITING_MAX = 64  # Requests of a worker that wait for a connection; more are answered 503.
_SEAT_S = 5.0  # How long one waits.
_ETAG_CHARS = 32
_NAME_CHARS_MAX = 64  # What a message quotes of a member's name.
_ENUM_VALUE = re.compile(r"^(Invalid enum value) .*", re.DOTALL)  # The value is not quoted: it may be a token in the wrong place.
_LISTED_ETAG = re.compile(r'(?:W/)?"[^"]*"')

S = TypeVar("S")
Act = Callable[["Call"], Awaitable[web.StreamResponse]]
Change = tuple[str, int | None, str | None]


class Parameter(NamedTuple):
    """A query parameter, for whoever reads the description."""

    name: str
    schema: Mapping[str, Any]
    meaning: str


class Route(NamedTuple):
    """A route with what its description says; `scopes` are those of which a caller needs one."""

    method: str
    path: str
    act: Act
    summary: str
    answer: Any
    body: Any = None
    query: tuple[Parameter, ...] = ()
    scopes: tuple[str, ...] = ("manage",)
    status: int = 200
    paged: bool = False
    errors: tuple[str, ...] = ()
    writes: bool = True
    compatible: bool = False  # one of `/v1`, whose errors are flat
    statement_timeout_ms: int = 5000
    body_types: tuple[str, ...] = ("application/json",)
    answer_types: tuple[str, ...] = ("application/json",)
    streams: bool = False  # Its act gets no connection, and reads the body itself.


class ManagementDispatcher:
    """What acts need of their worker. At most half of the pool's connections are theirs: scans look up through it, too."""

    def __init__(self, pool: Any, keks: KeyEncryptionKeys, is_past: IsPast) -> None:
        self.pool = pool
        self.keks = keks
        self._is_past = is_past
        self._seats = asyncio.Semaphore(max(1, pool.get_max_size() // 2))
        self._stream = asyncio.Semaphore(1)
        self._waiting = 0

    async def serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        """The answer to a request of this route. Raises InputError and UnavailableError."""
        content = b"" if route.streams else await read_body(request)
        try:
            async with self._seated(self._seats), self._asked(route, request) as (connection, caller):
                if not route.streams:
                    return await route.act(Call(self, route, request, connection, caller, content))
            async with self._seated(self._stream, self._seats):
                return await route.act(Call(self, route, request, None, caller, content))
        except KeyUnavailableError:
            raise UnavailableError("unavailable", "key_unavailable") from None

    @contextlib.asynccontextmanager
    async def _seated(self, *rooms: asyncio.Semaphore) -> AsyncIterator[None]:
        """A seat in each room, if they come free soon."""
        if self._waiting >= _WAITING_MAX:
            raise UnavailableError("overloaded", "deadline")
        async with contextlib.AsyncExitStack() as held:
            self._waiting += 1
            try:
                async with asyncio.timeout(_SEAT_S):
                    for room in rooms:
                        await held.enter_async_context(room)
            except TimeoutError:
                raise UnavailableError("overloaded", "deadline") from None
            finally:
                self._waiting -= 1
            yield

    @contextlib.asynccontextmanager
    async def _asked(self, route: Route, request: web.Request) -> AsyncIterator[tuple[Any, Caller]]:
        """A transaction, and who asks in it. Raises InputError if the caller may not."""
        token = _token(request)
        readonly = route.streams or not route.writes
        bounded = edits.transaction(self.pool, readonly=readonly, statement_timeout_ms=route.statement_timeout_ms)
        async with bounded as connection:
            caller = await edits.caller_of(connection, hashlib.sha256(token).digest()) if token is not None else None
            expired = self._is_past(caller.expires_at) if caller is not None and caller.expires_at is not None else False
            if caller is None or expired or caller.scopes.isdisjoint(route.scopes):
                raise unauthorised(route.scopes)
            if expired is None:
                raise UnavailableError("unavailable", "clock_stepped")
            yield connection, caller


class Call:
    """One request on its way: who asks, inside which transaction, and what it says."""

    __slots__ = ("caller", "connection", "content", "management_dispatcher", "request", "route", "sql")

    def __init__(
        self,
        management_dispatcher: ManagementDispatcher,
        route: Route,
        request: web.Request,
        connection: Any,
        caller: Caller,
        content: bytes,
    ) -> None:
        self.management_dispatcher = management_dispatcher
        self.route = route
        self.request = request
        self.connection = connection
        self.caller = caller
        self.content = content
        self.sql = load("management")

    @property
    def account_id(self) -> int:
        return self.caller.account_id

    def body(self, kind: type[S]) -> S:
        """The body as a record."""
        try:
            found = msgspec.json.decode(self.content, type=kind)
            repeated = repeated_members(self.content)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at `$.")
            reason = _ENUM_VALUE.sub(r"\1", reason)
            raise InputError("invalid_request", f"The body is not as expected: {reason}.", place.rstrip("`") or None) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise InputError("invalid_request", "The body is not JSON in UTF-8.") from None
        if repeated:
            raise InputError("invalid_request", f"An object of the body has the member {repeated[0][:_NAME_CHARS_MAX]!r} twice.")
        return found

    def id(self, kind: str, name: str = "id") -> int:
        """The number in the path."""
        text = self.request.match_info[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and 0 < int(text) <= ID_MAX):
            raise unknown(kind)
        return int(text)

    def xuid(self) -> str:
        text = self.request.match_info["xuid"]
        if "\0" in text or not text.isprintable():
            raise unknown("tag")
        return text

    def parameter(self, name: str) -> str | None:
        """A query parameter; given twice it is an error."""
        found = self.request.query.getall(name, [])
        if len(found) > 1:
            raise InputError("invalid_parameter", f"{name} is given twice.", name)
        if found and ("\0" in found[0] or not _is_text(found[0])):
            raise InputError("invalid_parameter", f"{name} is not text.", name)
        return found[0] if found else None

    def number(self, name: str, default: int, most: int) -> int:
        text = self.parameter(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= most):
            raise InputError("invalid_parameter", f"{name} is a number from 1 to {most}.", name)
        return int(text)

    def optional_id(self, name: str) -> int | None:
        return self.number(name, 0, ID_MAX) or None

    def word(self, name: str, words: Iterable[str], default: str | None = None) -> str | None:
        text = self.parameter(name)
        if text is not None and text not in words:
            raise InputError("invalid_parameter", f"{name} is one of {', '.join(words)}.", name)
        return text if text is not None else default

    def limit(self) -> int:
        return self.number("limit", PAGE_ROWS, PAGE_ROWS_MAX)

    def cursor(self, numbers: int = 1) -> tuple[int, ...] | None:
        """The place after which a page begins, as `next_cursor` of the page before had it."""
        text = self.parameter("cursor")
        if not text:
            return None
        try:
            found = msgspec.json.decode(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)), type=tuple[int, ...])
        except (binascii.Error, msgspec.MsgspecError, ValueError):
            found = ()
        if len(found) != numbers or any(abs(each) > (1 << 63) - 1 for each in found):
            raise InputError("invalid_parameter", "cursor is what next_cursor of the page before said.", "cursor")
        return found

    def page(self, items: list[Any], place: tuple[Any, ...] | None) -> web.Response:
        """One page; `place` is that of its last item if there may be more."""
        following = base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode() if place is not None else None
        return answered({"items": items, "next_cursor": following})

    async def paged(self, statement: str, show: Callable[[Any], Any], id_column: str, *more: Any) -> web.Response:
        """A page of what an account has, in the order of its ids."""
        limit, place = self.limit(), self.cursor()
        after = place[0] if place is not None else 0
        rows = await self.connection.fetch(self.sql[statement], self.account_id, after, limit + 1, *more)
        last = (rows[limit - 1][id_column],) if len(rows) > limit else None
        return self.page([show(row) for row in rows[:limit]], last)

    def flag(self, name: str) -> bool:
        return self.word(name, ("true", "false")) == "true"

    async def row(self, kind: str, statement: str, key: Any, *, lock: str | None = None) -> Any:
        """An object of the caller's account; `not_found` if there is none. `lock` names what of it is held until the commit."""
        sql = self.sql[statement]
        if lock is not None:
            sql = f"{sql.rstrip(';')} FOR {lock}"
        row = await self.connection.fetchrow(sql, self.account_id, key)
        if row is None:
            raise unknown(kind)
        return row

    def match(self, shown: Any) -> None:
        """Refuse to change what is not any more as the caller has seen it (If-Match, RFC 9110 section 13.1.1)."""
        given = self.request.headers.get("If-Match")
        if given is None or given.strip() == "*":
            return
        if etag(shown) not in _LISTED_ETAG.findall(given):
            raise InputError("precondition_failed", "It was changed meanwhile: read it again.", "If-Match")

    async def note(self, act: str, kind: str, object_id: object, before: Any, after: Any, *changes: Change) -> None:
        """Log the act, and tell the workers; the transaction's last word."""
        shown = [msgspec.to_builtins(each) if each is not None else None for each in (before, after)]
        await edits.record(self.connection, self.account_id, self.caller.api_key_id, act, kind, object_id, *shown)
        if changes:
            await edits.changed(self.connection, *changes)


def etag(shown: Any) -> str:
    return f'"{hashlib.sha256(msgspec.json.encode(shown)).hexdigest()[:_ETAG_CHARS]}"'


def answered(content: Any, status: int = 200, *, location: str | None = None, tagged: bool = False) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    if tagged:
        headers["ETag"] = etag(content)
    if location is not None:
        headers["Location"] = location
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8", headers=headers)


def shown(content: Any) -> web.Response:
    """One object, with its ETag."""
    return answered(content, tagged=True)


def created(content: Any, location: str) -> web.Response:
    return answered(content, 201, location=location, tagged=True)


def gone() -> web.Response:
    return web.Response(status=204, headers={"Cache-Control": "no-store"})


def unknown(kind: str) -> InputError:
    return InputError("not_found", f"The account has no such {kind}.")


def unauthorised(scopes: Iterable[str]) -> InputError:
    wanted = " or ".join(scopes)
    return InputError("unauthorised", f"An API key with the scope {wanted} is needed: X-API-Key, or Authorization: Bearer.")


def _token(request: web.Request) -> bytes | None:
    fields = {name.lower().encode(): value.encode("utf-8", "surrogateescape") for name, value in request.headers.items()}
    token = header_token(fields)
    return token.encode("utf-8", "surrogateescape") if token else None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(route: Route, request: web.Request, error: InputError | UnavailableError) -> web.Response:
    """An error in the shape of its route: flat on `/v1`, as everywhere else on `/v2`."""
    code = ERROR_CODES[error.code]
    field = error.field if isinstance(error, InputError) else None
    reason = error.reason if isinstance(error, UnavailableError) else None
    message = code.management_message or (code.message if isinstance(error, UnavailableError) else str(error))
    response = scan_app.problem(request, code.status, error.code, message, field=field, reason=reason)
    if route.compatible:
        xuid = request.match_info.get("xuid", "")
        told = xuid.encode() if xuid.isascii() and xuid.isalnum() and len(xuid) <= limits.TAG_CODE_CHARS_MAX else None
        response.body = bodies.v1_error(error.code, told, parameter=field, reason=reason)
    return response
