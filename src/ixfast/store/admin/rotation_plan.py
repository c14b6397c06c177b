"""What a rotation of the key-encryption key does next, decided from the key file, the database and the running servers.

`make_plan` is a pure function, so that what a command shows beforehand is what it does. The same command is right at every step
of a rotation, on one host and on several: it resumes what is incomplete, goes on to a key that was added, or adds one. Nothing is
sealed under a key that a running server has not announced.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from ixfast.keys.key_file import KeyFile
from ixfast.store.admin.rotation import Usage


class Step(enum.Enum):
    """What comes next."""

    ADD = "add"  # a new key, to which the envelopes then move
    RESEAL = "reseal"  # under `target`
    NOTHING = "nothing"  # all is sealed under the current key, and another one in the file seals nothing any more


class Plan(NamedTuple):
    """`target` is the key to seal under, None before it is added; `rows` counts the envelopes that move to it."""

    step: Step
    target: str | None
    rows: int
    unused: tuple[str, ...] = ()


def make_plan(
    file: KeyFile, used: Mapping[str, Usage], *, target: str | None = None, new_key: bool = False, may_resume: bool = True
) -> Plan:
    """What `ixfast keys rotate` does now.

    `used` counts rows by key. `target` is a key that the user named; `new_key` asks for a further key whatever the file has;
    without `may_resume`, the keys of the file are not of the kind that the user wants.
    """
    current, ids = file.lines[0].id, {line.id for line in file.lines}
    used = {id_: rows for id_, rows in used.items() if rows.live or id_ in ids}  # the rest is retired, and its key is gone
    if target is not None:
        return Plan(Step.RESEAL, target, _rows_elsewhere(used, target))
    unused = tuple(line.id for line in file.lines[1:] if line.id not in used and line.id != file.next_id)
    if not new_key and may_resume:
        if file.next_id is not None:
            return Plan(Step.RESEAL, file.next_id, _rows_elsewhere(used, file.next_id))
        if _rows_elsewhere(used, current):
            return Plan(Step.RESEAL, current, _rows_elsewhere(used, current))
        if unused:
            return Plan(Step.NOTHING, current, 0, unused)
    return Plan(Step.ADD, None, sum(rows.rows for rows in used.values()))


def _rows_elsewhere(used: Mapping[str, Usage], kek_id: str) -> int:
    return sum(rows.rows for id_, rows in used.items() if id_ != kek_id)
