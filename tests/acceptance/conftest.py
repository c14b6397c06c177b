"""Servers that several tests of a module share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.served import Served, own_database


@pytest.fixture(scope="module")
def server(postgres: Any, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two workers on a database of the module's own."""
    home: Path = tmp_path_factory.mktemp("server")
    with own_database(postgres, template) as dsn, Served(home, dsn=dsn) as served:
        yield served
