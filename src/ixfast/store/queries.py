"""Named SQL statements: `queries.load("ledger")["advance"]`.

The statements are in `sql/*.sql`, each below a `-- name:` line and a comment that describes it and its parameters, so that
they can be read, explained and run with psql.
"""

import functools
import importlib.resources
import importlib.resources.abc
import re

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def sql_folder() -> importlib.resources.abc.Traversable:
    """The folder of the SQL files, which may be inside a zip archive."""
    return importlib.resources.files("ixfast.store") / "sql"


@functools.cache
def load(file: str) -> dict[str, str]:
    """The statements of `sql/{file}.sql` by name."""
    pieces = _NAME.split((sql_folder() / f"{file}.sql").read_text("utf-8"))
    return dict(zip(pieces[1::2], (text.strip() for text in pieces[2::2]), strict=True))
