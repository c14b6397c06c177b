"""Calls of the management API by a command: the same handlers, without HTTP and without an API key.

A command therefore checks its input, writes the audit log and notifies the workers as the API does, and prints the same objects.
All calls of a command run in one transaction, as an administrator of the account: the audit log has no API key for them.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import GenericAlias
from typing import Any, Literal, NamedTuple, cast

import msgspec
from multidict import MultiDict

from ixfast.cli.database import CommandEnvironment, connected
from ixfast.errors import InputError
from ixfast.http.management import ROUTES
from ixfast.http.management.call import Call
from ixfast.keys import KeyEncryptionKeys
from ixfast.store.admin import edits, tag_search
from ixfast.store.admin.edits import Caller
from ixfast.store.queries import load

PAGE_ROWS = 1000
_SUGGESTIONS = 3
_ROUTES = {(route.method, route.path): route for route in ROUTES}


class _Request(NamedTuple):
    """What the handlers read of an HTTP request."""

    match_info: Mapping[str, str]
    query: Any
    headers: Mapping[str, str]


class _Dispatcher(NamedTuple):
    keks: KeyEncryptionKeys | None


class SinglePool:
    """A pool of the one connection of a command."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def acquire(self) -> Any:
        return self._connection

    async def release(self, _connection: Any, **_options: object) -> None:
        return


class ManagementClient:
    """Calls routes for one account, by their method and path."""

    def __init__(self, connection: Any, account_id: int, aid: str, keks: KeyEncryptionKeys | None) -> None:
        self.connection = connection
        self.account_id = account_id
        self.aid = aid
        self._dispatcher = _Dispatcher(keks)

    async def get(self, path: str, **members: object) -> Any:
        """The object at a path. `members` are the parameters in the path, and in the query."""
        return await self._call("GET", path, members)

    async def post(self, path: str, body: Mapping[str, Any], **members: object) -> Any:
        return await self._call("POST", path, members, body)

    async def patch(self, path: str, body: Mapping[str, Any], **members: object) -> Any:
        return await self._call("PATCH", path, members, body)

    async def delete(self, path: str, **members: object) -> None:
        await self._call("DELETE", path, members)

    async def page(self, path: str, **members: object) -> tuple[list[Any], str | None]:
        """One page of a list, and the cursor of the next one."""
        content = msgspec.json.decode(await self._content("GET", path, members), type=dict[str, msgspec.Raw])
        kind: Any = GenericAlias(list, _ROUTES["GET", path].response)
        items = msgspec.json.decode(content["items"], type=kind)
        return items, msgspec.json.decode(content["next_cursor"], type=str | None)

    async def all(self, path: str, **members: object) -> list[Any]:
        """All pages of a list."""
        found, cursor = await self.page(path, **members)
        while cursor is not None:
            items, cursor = await self.page(path, cursor=cursor, **members)
            found += items
        return found

    async def with_tags(self, place: Literal["group", "batch"], objects: Sequence[Any]) -> list[dict[str, Any]]:
        """The members of groups or batches, with their numbers of tags."""
        counts = await tag_search.count_tags(self.connection, place, [each.id for each in objects])
        return [{**_members(each), "tags": counts[each.id].tags, "tags_exact": counts[each.id].exact} for each in objects]

    async def cursor_after_tag(self, code: str) -> str:
        """The cursor of the page of tags that begins after this tag. Raises InputError if the account has no such tag."""
        row = await self.connection.fetchrow(load("management")["tag_by_xuid"], self.account_id, code)
        if row is None:
            raise unknown("tag", code, await tag_search.similar_codes(self.connection, self.account_id, code))
        return base64.urlsafe_b64encode(msgspec.json.encode([row["tag_id"]])).decode()

    async def _call(self, method: str, path: str, members: Mapping[str, object], body: Any = None) -> Any:
        content = await self._content(method, path, members, body)
        return msgspec.json.decode(content, type=_ROUTES[method, path].response) if content else None

    async def _content(self, method: str, path: str, members: Mapping[str, object], body: Any = None) -> bytes:
        route = _ROUTES[method, path]
        texts = {name: str(value) for name, value in members.items() if value is not None}
        request = _Request(
            {name: text for name, text in texts.items() if f"{{{name}}}" in path},
            MultiDict((name, text) for name, text in texts.items() if f"{{{name}}}" not in path),
            {},
        )
        caller = Caller(cast(int, None), self.account_id, self.aid, frozenset(edits.SCOPES), None)
        content = msgspec.json.encode(body) if body is not None else b""
        call = Call(cast(Any, self._dispatcher), route, cast(Any, request), self.connection, caller, content)
        try:
            response = await route.handler(call)
        except InputError as error:
            if error.field is None or error.field in str(error):
                raise
            raise InputError(error.code, f"{error.field}: {error}", error.field) from None
        return cast(bytes, getattr(response, "body", None) or b"")


@contextlib.asynccontextmanager
async def management(
    dsn: str, aid: str, environment: CommandEnvironment | None = None, *, readonly: bool = False
) -> AsyncIterator[ManagementClient]:
    """A client for the account with this AID, in a transaction that commits at the end of the block.

    Only commands that store keys pass their `environment`. Raises InputError if there is no such account, with similar ones.
    """
    async with connected(dsn) as connection, edits.transaction(SinglePool(connection), readonly=readonly):
        account_id = await account_named(connection, aid)
        yield ManagementClient(
            connection, account_id, aid, await environment.sealing_keys(connection) if environment is not None else None
        )


def _members(made: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(made).items() if value is not msgspec.UNSET}


async def account_named(connection: Any, aid: str) -> int:
    """The id of an account. Raises InputError if there is none, with similar AIDs."""
    try:
        return await edits.account_id_of(connection, aid)
    except InputError:
        raise unknown("account", aid, await tag_search.similar_aids(connection, aid)) from None


def unknown(kind: str, name: str, names: Iterable[str]) -> InputError:
    """The error for a name that does not exist, with the names that are most similar to it."""
    close = difflib.get_close_matches(name, names, _SUGGESTIONS)
    hint = f"; did you mean {' or '.join(close)}?" if close else "."
    return InputError("not_found", f"There is no {kind} {name or repr(name)}{hint}", kind)
