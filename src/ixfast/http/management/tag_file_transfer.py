"""Tag files over HTTP: an import reads the body while it comes, an export is written while it is read. Neither is held.

A file with mistakes is answered 422 `invalid_file` with a problem for each line. A caller who goes away, or says nothing for too
long, has imported nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from ixfast.error_codes import STATUS
from ixfast.errors import InputError
from ixfast.http import scan_app
from ixfast.http.framing import reading
from ixfast.http.management.call import Call, answered, unknown
from ixfast.http.management.schemas import Imported
from ixfast.limits import TAG_FILE_SILENCE_MS_MAX
from ixfast.store.admin import edits
from ixfast.store.imports.exporter import export_tags
from ixfast.store.imports.importer import Options, Report, import_tags
from ixfast.store.random_codes import CODE_CHARS
from ixfast.tag_files import FORMATS, PRESETS, counted

_PIECE_BYTES = 128 * 1024
_SWITCH_S = 0.0005  # How long parsing in its thread may hold up scans of the worker; by default 5 ms.
_SILENCE_S = TAG_FILE_SILENCE_MS_MAX / 2000  # Before the database gives the transaction up.
_CUT_SHORT = "The body ended before its end; nothing was imported."
_TYPES = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


async def import_file(call: Call) -> web.StreamResponse:
    group_id, options = call.optional_id("group"), _options(call)
    if group_id is None:
        raise InputError("missing_parameter", "Say in which group new tags are.", "group")
    batch_id = call.optional_id("batch")
    async with edits.long_work(call.management_dispatcher.pool, readonly=False) as connection:
        with _short_turns():
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
    return _refused(call, report) if report.problems else answered(_imported(report))


def _options(call: Call) -> Options:
    code_length = call.word("code_length", [str(each) for each in CODE_CHARS], str(CODE_CHARS[-1]))
    assert code_length is not None
    ignored = call.parameter("ignore")
    return Options(
        preset=call.word("preset", PRESETS),
        ignored=ignored.split(",") if ignored else (),
        allow_keys="keys" in call.caller.scopes,
        allow_zero_keys=call.flag("allow_zero_keys"),
        retire_old_keys=call.flag("retire_old_keys"),
        code_chars=int(code_length),
        dry_run=call.flag("dry_run"),
    )


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes."""
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
def _short_turns() -> Iterator[None]:
    """Threads take turns more often: scans are served beside the import."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _imported(report: Report) -> Imported:
    return Imported(**{name: getattr(report, name) for name in Imported.__struct_fields__})


def _refused(call: Call, report: Report) -> web.Response:
    more = "; the rest of the file was not read" if report.more_problems else ""
    message = f"{counted(report.problems)}{more}. Nothing was imported."
    problems = [each._asdict() for each in report.problems]
    return scan_app.problem(call.request, STATUS["invalid_file"], "invalid_file", message, problems=problems)


async def export_file(call: Call) -> web.StreamResponse:
    group_id, batch_id = call.optional_id("group"), call.optional_id("batch")
    format_ = call.word("format", FORMATS, FORMATS[0])
    assert format_ is not None
    async with edits.long_work(call.management_dispatcher.pool, readonly=True) as connection:
        for kind, statement, key in (("group", "tag_group", group_id), ("batch", "batch", batch_id)):
            if key is not None and await connection.fetchrow(call.sql[statement], call.account_id, key) is None:
                raise unknown(kind)
        pieces = export_tags(connection, call.account_id, group_id=group_id, batch_id=batch_id, format_=format_)
        async with contextlib.aclosing(pieces):
            return await _written(call.request, _TYPES[format_], pieces)


async def _written(request: web.Request, kind: str, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """The pieces as the answer. If one cannot be had, the connection is cut, so that half a file is not taken for a whole one."""
    response = web.StreamResponse(headers={"Cache-Control": "no-store"})
    response.content_type, response.charset = kind, "utf-8"
    first = await anext(pieces)
    await response.prepare(request)
    try:
        await _written_soon(response, first)
        async for piece in pieces:
            await _written_soon(response, piece)
        await response.write_eof()
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise
    return response


async def _written_soon(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(_SILENCE_S):
        await response.write(piece)
