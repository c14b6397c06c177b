"""Named SQL: `queries.load("ledger")["advance"]`.

The statements live in `sql/*.sql`, each under a `-- name:` line and with its description, so that they can be read,
explained and tried with psql as they are.
"""

import functools
import importlib.resources
import importlib.resources.abc
import re

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def sql_folder() -> importlib.resources.abc.Traversable:
    return importlib.resources.files("ixfast.store") / "sql"


@functools.cache
def load(file: str) -> dict[str, str]:
    """The statements of `sql/{file}.sql` by name."""
    pieces = _NAME.split((sql_folder() / f"{file}.sql").read_text("utf-8"))
    return dict(zip(pieces[1::2], (text.strip() for text in pieces[2::2]), strict=True))
