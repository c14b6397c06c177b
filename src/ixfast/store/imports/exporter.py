"""Export of tags: an account's, a group's or a batch's, as a file that can be imported again. Keys stay; their check values go.

The file is one moment's state. It is streamed through a cursor, so that its length does not matter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import orjson

from ixfast.domain.model import FieldDefinition
from ixfast.keys import KeySlot
from ixfast.limits import TAG_FILE_SILENCE_MS_MAX
from ixfast.rules.facts import field_key
from ixfast.store.imports.import_plan import response_of
from ixfast.store.queries import load
from ixfast.tag_files import TagWriter

_ROWS = 2000


async def export_tags(
    connection: Any, account_id: int, *, group_id: int | None = None, batch_id: int | None = None, format_: str = "csv"
) -> AsyncGenerator[bytes]:
    """Lines of the account's tags, or of those in one of its groups or batches, in the order in which they were made, some
    thousand at a time.

    It wants a transaction of its own, or is the first to read in one of REPEATABLE READ. A tag's own rule set is a RESPONSE
    only if it has no groups.
    """
    sql = load("importing")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(sql["export_bounds"], str(TAG_FILE_SILENCE_MS_MAX))
        fields: dict[str, str] = {}
        for row in await connection.fetch(sql["field_definitions"], account_id, group_id):
            for each in msgspec.json.decode(row["fields"], type=list[FieldDefinition]):
                fields.setdefault(field_key(each.name), each.name)
        writer = TagWriter(format_, list(fields.values()))
        yield writer.header()
        cursor = await connection.cursor(sql["export"], account_id, group_id, batch_id, KeySlot.FILE)
        while rows := await cursor.fetch(_ROWS):
            yield writer.lines([_values(writer, row) for row in rows])


def _values(writer: TagWriter, row: Any) -> list[str | None]:
    return writer.values_of(
        xuid=row["xuid"],
        uid=row["uid"],
        cuid=row["cuid"],
        name=row["name"],
        response=response_of(row["rule_set"]),
        active=row["active"],
        assigned_at=row["assigned_at"],
        key_version=row["version"],
        key_check_value=row["check_value"],
        fields=orjson.loads(row["fields"]) if row["fields"] is not None else {},
    )
