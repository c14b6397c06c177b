"""Finds the stored tags that the lines of an import refer to, and what contradicts them. Uses no database.

A line refers to the stored tag with its XUID, else with its UID, else with its CUID. A contradiction to the stored tag is a
problem of the line. A contradiction to an earlier line of the file only sets `Matcher.repeats`; which lines repeat each other is
queried at the end, for all lines together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ixfast.store.imports.import_plan import Match, Stored, StoredTags, names_of
from ixfast.store.imports.seen_tags import TagIds
from ixfast.tag_files import Problems
from ixfast.tag_files.rows import TagRow


class Matcher:
    """Finds the stored tags that lines refer to, and remembers those of earlier blocks."""

    def __init__(self, account_id: int, folder_groups: Collection[int], problems: Problems) -> None:
        self._account_id = account_id
        self._folder_groups = folder_groups
        self._problems = problems
        self._seen = TagIds()
        self._freed: set[str] = set()
        self._before: tuple[set[Any], ...] = (set(), set(), set())  # names of the previous block, which is not stored yet
        self.repeats = False

    def add_new_ids(self, tag_ids: Sequence[int]) -> None:
        """Remember the ids of tags that this import adds."""
        self._seen.add_new(tag_ids)

    def match(self, rows: Sequence[TagRow], tags: StoredTags) -> list[Match]:
        """The lines that can be staged; the others become problems. `tags` may lack tags of the previous block, but no older
        ones."""
        self._compare_names(rows)
        if not tags.by_xuid and not self._freed:
            return [(row, None) for row in rows]
        found: list[Match] = []
        for row in rows:
            stored = tags.find(row)
            code = self._contradiction(row, stored, tags)
            if code is not None:
                self._problems.add(row.line, *code)
                continue
            if stored is not None:
                if not self._seen.add(stored["tag_id"]):
                    self.repeats = True
                if stored["cuid"] is not None and row.cuid not in (None, stored["cuid"]):
                    self._freed.add(stored["cuid"])
            found.append((row, stored))
        return found

    def _compare_names(self, rows: Sequence[TagRow]) -> None:
        """Set `repeats` if a name occurs twice in the block, or also in the previous one."""
        names: tuple[list[Any], ...] = names_of(rows)
        distinct = tuple(set(each) for each in names)
        for values, once, before in zip(names, distinct, self._before, strict=True):
            if len(once) < len(values) or not once.isdisjoint(before):
                self.repeats = True
        self._before = distinct

    def _contradiction(self, row: TagRow, stored: Stored | None, tags: StoredTags) -> tuple[str, str] | None:
        """Column and code of a contradiction to a stored tag, or None. A contradiction to another line sets `repeats`."""
        if stored is not None and stored["account_id"] != self._account_id:
            return "XUID", "xuid_taken"
        if row.cuid is not None and row.cuid in self._freed:
            return "CUID", "cuid_taken"
        others = (
            ("UID", "uid_taken", tags.by_uid.get(row.uid) if row.uid is not None else None),
            ("CUID", "cuid_taken", tags.by_cuid.get(row.cuid) if row.cuid is not None else None),
        )
        for column, code, other in others:
            if other is not None and (stored is None or other["tag_id"] != stored["tag_id"]):
                if other["tag_id"] not in self._seen:
                    return column, code
                self.repeats = True
        if stored is None:
            return None
        if row.uid is not None and stored["uid"] is not None and row.uid != stored["uid"]:
            if stored["tag_id"] not in self._seen:
                return "UID", "uid_differs"
            self.repeats = True
        if row.fields and stored["group_id"] not in self._folder_groups:
            return next(iter(row.fields)), "other_folder"
        return None
