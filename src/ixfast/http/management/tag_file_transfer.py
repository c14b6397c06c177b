"""Tag files over HTTP. Both directions stream: neither an import nor an export is ever held in memory as a whole.

A file with mistakes is refused with 422 `invalid_file` and a problem for each line. A caller who disconnects, or sends nothing
for too long, has imported nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from ixfast.errors import InputError
from ixfast.http.framing import reading
from ixfast.http.management.call import Call
from ixfast.http.management.json_responses import json_response, not_found
from ixfast.http.management.schemas import Imported
from ixfast.http.problem_responses import problem_response
from ixfast.limits import TAG_FILE_SILENCE_MS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports.exporter import export_tags
from ixfast.store.imports.importer import Options, Report, import_tags
from ixfast.store.imports.meta_key_owners import META_KEY_OWNERS
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS, counted

_PIECE_BYTES = 128 * 1024
_SWITCH_S = 0.0005  # Longest time that parsing in its thread holds up the worker's scans; Python's default is 5 ms.
_SILENCE_S = TAG_FILE_SILENCE_MS_MAX / 2000  # Well before the database ends the idle transaction.
_CUT_SHORT = "The body ended early. Nothing was imported."
_TYPES = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


async def import_file(call: Call) -> web.StreamResponse:
    group_id, options = call.optional_id("group"), _options(call)
    if group_id is None:
        raise InputError("missing_parameter", "group is required; it is the group that new tags are added to.", "group")
    batch_id = call.optional_id("batch")
    async with edits.unbounded_connection(call.management_dispatcher.pool, readonly=False) as connection:
        with _short_switch_interval():
            report = await import_tags(
                connection,
                call.management_dispatcher.keks,
                _pieces(call.request),
                account_id=call.account_id,
                group_id=group_id,
                batch=batch_id,
                options=options,
                by=call.caller.api_key_id,
            )
    return _refused(call, report) if report.problems else json_response(_imported(report))


def _options(call: Call) -> Options:
    code_length = call.word("code_length", [str(each) for each in CODE_CHARS], str(CODE_CHARS[-1]))
    assert code_length is not None
    ignored = call.parameter("ignore")
    return Options(
        preset=call.word("preset", PRESETS),
        ignored=ignored.split(",") if ignored else (),
        allow_keys="keys" in call.caller.scopes,
        allow_zero_keys=call.flag("allow_zero_keys"),
        allow_any_uid=call.flag("allow_any_uid"),
        retire_old_keys=call.flag("retire_old_keys"),
        meta_keys=call.word("meta_keys", META_KEY_OWNERS, META_KEY_OWNERS[0]) or "",
        code_chars=int(code_length),
        dry_run=call.flag("dry_run"),
    )


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it arrives."""
    while True:
        try:
            async with asyncio.timeout(_SILENCE_S):
                with reading(request, _CUT_SHORT):
                    piece = await request.content.read(_PIECE_BYTES)
        except TimeoutError:
            raise InputError("invalid_request", _CUT_SHORT) from None
        if not piece:
            return
        yield piece


@contextlib.contextmanager
def _short_switch_interval() -> Iterator[None]:
    """Switch threads more often, so that scans are served during the import."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _imported(report: Report) -> Imported:
    return Imported(**{name: getattr(report, name) for name in Imported.__struct_fields__})


def _refused(call: Call, report: Report) -> web.Response:
    more = "; the rest of the file was not read" if report.more_problems else ""
    message = f"{counted(report.problems)}{more}. Nothing was imported."
    problems = [each._asdict() for each in report.problems]
    return problem_response(call.request, "invalid_file", message, problems=problems)


async def export_file(call: Call) -> web.StreamResponse:
    group_id, batch_id = call.optional_id("group"), call.optional_id("batch")
    format_ = call.word("format", FORMATS, FORMATS[0])
    assert format_ is not None
    async with edits.unbounded_connection(call.management_dispatcher.pool, readonly=True) as connection:
        for kind, statement, key in (("group", "tag_group", group_id), ("batch", "batch", batch_id)):
            if key is not None and await connection.fetchrow(call.sql[statement], call.account_id, key) is None:
                raise not_found(kind)
        pieces = export_tags(connection, call.account_id, group_id=group_id, batch_id=batch_id, format_=format_)
        async with contextlib.aclosing(pieces):
            return await _send(call.request, _TYPES[format_], pieces)


async def _send(request: web.Request, kind: str, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send the pieces. If reading one fails, the connection is aborted, so that half a file is not mistaken for all of it."""
    response = web.StreamResponse(headers={"Cache-Control": "no-store"})
    response.content_type, response.charset = kind, "utf-8"
    first = await anext(pieces)
    await response.prepare(request)
    try:
        await _write(response, first)
        async for piece in pieces:
            await _write(response, piece)
        await response.write_eof()
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    return response


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(_SILENCE_S):
        await response.write(piece)
