"""Exports the tags of an account, group or batch as a file that can be imported again. It contains check values but no keys.

The file is a consistent snapshot. It is streamed through a cursor, so its length does not matter.
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
    """Yield encoded lines, some thousand at a time, for the tags of the account or of one of its groups or batches, in the order
    of their creation.

    Runs in a transaction of its own, or must be the first statement of one with REPEATABLE READ. A tag's rule set is exported as
    RESPONSE only if it has no groups.
    """
    sql = load("importing")
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(sql["set_export_timeouts"], str(TAG_FILE_SILENCE_MS_MAX))
        fields: dict[str, str] = {}
        for row in await connection.fetch(sql["field_definitions"], account_id, group_id):
            for each in msgspec.json.decode(row["fields"], type=list[FieldDefinition]):
                fields.setdefault(field_key(each.name), each.name)
        slots = KeySlot.FILE, KeySlot.META
        own_meta_keys = await connection.fetchval(sql["any_meta_keys"], account_id, group_id, batch_id, KeySlot.META)
        writer = TagWriter(format_, list(fields.values()), meta_keys=own_meta_keys)
        yield writer.header()
        cursor = await connection.cursor(sql["export"], account_id, group_id, batch_id, *slots)
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
        last_counter=row["last_counter"],
        scan_count=row["scan_count"] or None,
        meta_key_check_value=row["meta_check_value"],
        fields=orjson.loads(row["fields"]) if row["fields"] is not None else {},
    )
