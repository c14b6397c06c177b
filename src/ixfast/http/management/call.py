"""A call of the management API: one request, one API key, one transaction, one response.

Every request takes the same steps: wait for a connection, look up the API key, check its scopes, run the route's handler in a
transaction. What belongs to another account is `not_found`, in the same words as what does not exist.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec
from aiohttp import web

from ixfast import limits
from ixfast.error_codes import ERROR_CODES
from ixfast.errors import InputError, UnavailableError
from ixfast.http.credentials import request_token
from ixfast.http.framing import read_body
from ixfast.http.json_body import decode_json
from ixfast.http.management.json_responses import etag, json_response, not_found, unauthorised
from ixfast.http.management.schemas import ID_MAX
from ixfast.http.problem_responses import problem_response
from ixfast.http.unknown_names import check_parameters
from ixfast.json_members import repeated_members
from ixfast.keys import KeyEncryptionKeys, KeyUnavailableError
from ixfast.pipeline.engine import IsPast
from ixfast.responses import bodies
from ixfast.store.admin import edits
from ixfast.store.admin.edits import Caller
from ixfast.store.queries import load

log = logging.getLogger("ixfast.management")

PAGE_ROWS = 100
PAGE_ROWS_MAX = 1000
_WAITING_MAX = 64  # Requests of a worker that wait for a connection; further ones are 503.
_WAIT_S = 5.0  # For a connection.
_NAME_CHARS_MAX = 64  # Of a member's name that a message quotes.
_LISTED_ETAG = re.compile(r'(?:W/)?"[^"]*"')

S = TypeVar("S")
Handler = Callable[["Call"], Awaitable[web.StreamResponse]]
Change = tuple[str, int | None, str | None]


class Parameter(NamedTuple):
    """A query parameter as the OpenAPI description shows it."""

    name: str
    schema: Mapping[str, Any]
    meaning: str


class Route(NamedTuple):
    """A route with its OpenAPI description. The caller needs one of `scopes`."""

    method: str
    path: str
    handler: Handler
    summary: str
    response: Any
    body: Any = None
    query: tuple[Parameter, ...] = ()
    scopes: tuple[str, ...] = ("manage",)  # Routes that change nothing also have `read`.
    status: int = 200
    paged: bool = False
    errors: tuple[str, ...] = ()
    writes: bool = True
    compatible: bool = False  # a route of `/v1`, with flat errors
    statement_timeout_ms: int = 5000
    body_types: tuple[str, ...] = ("application/json",)
    response_types: tuple[str, ...] = ("application/json",)
    streams: bool = False  # the handler gets no connection and reads the body itself

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The query parameters that the route reads."""
        return tuple(parameter.name for parameter in self.query)


class ManagementDispatcher:
    """What handlers need of their worker. They use at most half of the pool's connections: scans look tags up through it, too."""

    def __init__(self, pool: Any, keks: KeyEncryptionKeys, is_past: IsPast) -> None:
        self.pool = pool
        self.keks = keks
        self._is_past = is_past
        self._connections = asyncio.Semaphore(max(1, pool.get_max_size() // 2))
        self._stream = asyncio.Semaphore(1)
        self._waiting = 0

    async def serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        """The response to a request of this route. Raises InputError and UnavailableError."""
        content = b"" if route.streams else await read_body(request)
        try:
            async with self._acquired(self._connections), self._authorised(route, request) as (connection, caller):
                check_parameters(request.query, route.parameter_names)
                if not route.streams:
                    return await route.handler(Call(self, route, request, connection, caller, content))
            async with self._acquired(self._stream, self._connections):
                return await route.handler(Call(self, route, request, None, caller, content))
        except KeyUnavailableError as error:
            log.error("a call of the management API stored nothing: %s", error)
            raise UnavailableError("unavailable", "key_unavailable") from None

    @contextlib.asynccontextmanager
    async def _acquired(self, *semaphores: asyncio.Semaphore) -> AsyncIterator[None]:
        """Hold the semaphores. Raises UnavailableError if they are not free soon, or if too many requests wait already."""
        if self._waiting >= _WAITING_MAX:
            raise UnavailableError("overloaded", "deadline")
        async with contextlib.AsyncExitStack() as held:
            self._waiting += 1
            try:
                async with asyncio.timeout(_WAIT_S):
                    for semaphore in semaphores:
                        await held.enter_async_context(semaphore)
            except TimeoutError:
                raise UnavailableError("overloaded", "deadline") from None
            finally:
                self._waiting -= 1
            yield

    @contextlib.asynccontextmanager
    async def _authorised(self, route: Route, request: web.Request) -> AsyncIterator[tuple[Any, Caller]]:
        """A transaction and the caller. Raises InputError if the caller has no valid API key with one of the route's scopes."""
        token = request_token(request)
        readonly = route.streams or not route.writes
        bounded = edits.transaction(self.pool, readonly=readonly, statement_timeout_ms=route.statement_timeout_ms)
        async with bounded as connection:
            caller = await edits.caller_of(connection, _digest(token)) if token is not None else None
            expired = self._is_past(caller.expires_at) if caller is not None and caller.expires_at is not None else False
            if caller is None or expired or caller.scopes.isdisjoint(route.scopes):
                raise unauthorised(route.scopes)
            if expired is None:
                raise UnavailableError("unavailable", "clock_stepped")
            yield connection, caller


class Call:
    """One request with its caller and its transaction, and readers for what it contains."""

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
        """The body as a `kind`. Raises InputError, also if an object has a member twice."""
        decoded = decode_json(self.content, kind)
        try:
            repeated = repeated_members(self.content)
        except (UnicodeDecodeError, RecursionError):
            raise InputError("invalid_request", "The body is not valid JSON in UTF-8.") from None
        if repeated:
            raise InputError(
                "invalid_request",
                f"An object in the body repeats the member {repeated[0][:_NAME_CHARS_MAX]!r}; keep one of them.",
            )
        return decoded

    def id(self, kind: str, name: str = "id") -> int:
        """The id in the path. Anything that cannot be an id is `not_found`."""
        text = self.request.match_info[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and 0 < int(text) <= ID_MAX):
            raise not_found(kind)
        return int(text)

    def xuid(self) -> str:
        text = self.request.match_info["xuid"]
        if "\0" in text or not text.isprintable():
            raise not_found("tag")
        return text

    def parameter(self, name: str) -> str | None:
        """A query parameter. Raises InputError if it is sent twice or is not text."""
        found = self.request.query.getall(name, [])
        if len(found) > 1:
            raise InputError("invalid_parameter", f"{name} must be sent only once.", name)
        if found and ("\0" in found[0] or not _is_text(found[0])):
            raise InputError("invalid_parameter", f"{name} must be UTF-8 text without NUL.", name)
        return found[0] if found else None

    def number(self, name: str, default: int, most: int) -> int:
        text = self.parameter(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and 1 <= int(text) <= most):
            raise InputError("invalid_parameter", f"{name} must be a number between 1 and {most}.", name)
        return int(text)

    def optional_id(self, name: str) -> int | None:
        return self.number(name, 0, ID_MAX) or None

    def words(self, name: str, words: Collection[str]) -> list[str] | None:
        """A parameter with one or several of `words`: separated by commas, sent repeatedly, or both. None if it is not sent."""
        sent = [word for text in self.request.query.getall(name, []) for word in text.split(",")]
        if not sent:
            return None
        if not set(sent) <= set(words):
            expected = f"one or several of {', '.join(words)}, separated by commas"
            raise InputError("invalid_parameter", f"{name} must be {expected}.", name)
        return list(dict.fromkeys(sent))

    def word(self, name: str, words: Iterable[str], default: str | None = None) -> str | None:
        text = self.parameter(name)
        if text is not None and text not in words:
            raise InputError("invalid_parameter", f"{name} must be one of {', '.join(words)}.", name)
        return text if text is not None else default

    def limit(self) -> int:
        return self.number("limit", PAGE_ROWS, PAGE_ROWS_MAX)

    def cursor(self, numbers: int = 1) -> tuple[int, ...] | None:
        """Where the page begins: the numbers in `next_cursor` of the page before."""
        text = self.parameter("cursor")
        if not text:
            return None
        try:
            found = msgspec.json.decode(base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)), type=tuple[int, ...])
        except (binascii.Error, msgspec.MsgspecError, ValueError):
            found = ()
        if len(found) != numbers or any(abs(each) > (1 << 63) - 1 for each in found):
            raise InputError("invalid_parameter", "cursor must be the next_cursor of the previous page.", "cursor")
        return found

    def page(self, items: list[Any], last: tuple[Any, ...] | None) -> web.Response:
        """One page. `last` is the position of its last item if there may be more, else None."""
        following = base64.urlsafe_b64encode(msgspec.json.encode(last)).rstrip(b"=").decode() if last is not None else None
        return json_response({"items": items, "next_cursor": following})

    def slice(self, items: list[Any]) -> web.Response:
        """One page of a list that is already complete. Its cursor is the number of items before the page."""
        limit, cursor = self.limit(), self.cursor()
        begin = max(0, cursor[0]) if cursor is not None else 0
        end = begin + limit
        return self.page(items[begin:end], (end,) if end < len(items) else None)

    async def paged(self, statement: str, convert: Callable[[Any], Any], id_column: str, *arguments: Any) -> web.Response:
        """A page of the account's objects, in the order of their ids."""
        limit, cursor = self.limit(), self.cursor()
        after = cursor[0] if cursor is not None else 0
        rows = await self.connection.fetch(self.sql[statement], self.account_id, after, limit + 1, *arguments)
        last = (rows[limit - 1][id_column],) if len(rows) > limit else None
        return self.page([convert(row) for row in rows[:limit]], last)

    def flag(self, name: str) -> bool:
        return self.word(name, ("true", "false")) == "true"

    async def row(self, kind: str, statement: str, key: Any, *, lock: str | None = None) -> Any:
        """The row of one of the account's objects; `not_found` if there is none. `lock` is a lock clause, held until commit."""
        sql = self.sql[statement]
        if lock is not None:
            sql = f"{sql.rstrip(';')} FOR {lock}"
        row = await self.connection.fetchrow(sql, self.account_id, key)
        if row is None:
            raise not_found(kind)
        return row

    def match(self, current: Any) -> None:
        """Raise InputError if the object has changed since the caller read it (If-Match, RFC 9110 section 13.1.1)."""
        condition = self.request.headers.get("If-Match")
        if condition is None or condition.strip() == "*":
            return
        if etag(current) not in _LISTED_ETAG.findall(condition):
            raise InputError(
                "precondition_failed",
                "The object has changed since it was read; read it again and repeat the change.",
                "If-Match",
            )

    async def note(self, act: str, kind: str, object_id: object, before: Any, after: Any, *changes: Change) -> None:
        """Write the audit log and notify the workers: the last statements of a transaction."""
        plain = [msgspec.to_builtins(each) if each is not None else None for each in (before, after)]
        await edits.record(self.connection, self.account_id, self.caller.api_key_id, act, kind, object_id, *plain)
        if changes:
            await edits.changed(self.connection, *changes)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def to_jsonb(value: Any) -> str | None:
    """A value for a jsonb column."""
    return None if value is None else msgspec.json.encode(value).decode()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def problem(route: Route, request: web.Request, error: InputError | UnavailableError) -> web.Response:
    """An error response in the shape of its route: flat on `/v1`, with an `error` object everywhere else."""
    code = ERROR_CODES[error.code]
    field = error.field if isinstance(error, InputError) else None
    reason = error.reason if isinstance(error, UnavailableError) else None
    message = code.management_message or (code.message if isinstance(error, UnavailableError) else str(error))
    response = problem_response(request, error.code, message, field=field, reason=reason)
    if route.compatible:
        xuid = request.match_info.get("xuid", "")
        echoed = xuid.encode() if xuid.isascii() and xuid.isalnum() and len(xuid) <= limits.TAG_CODE_CHARS_MAX else None
        response.body = bodies.v1_error(error.code, echoed, parameter=field, reason=reason)
    return response
