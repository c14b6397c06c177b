"""The modules that are compiled as they are, and which of their two forms is in use.

Each of `MODULES` is plain Python, with the types of its fields and locals in a `.pxd` file beside it, and runs in both forms;
the compiled form takes a third to a half of the time. Where it is built, Python finds it before the source.
`IXFAST_FORCE_TWIN=1` in the environment forces the plain form. There is no silent fallback: `PLAIN` is the reason why the plain
form is in use, or None.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

MODULES = (
    "json_members", "domain.records", "domain.scan", "pipeline.engine", "responses.bodies",
    "http.raw_response", "http.hot_request", "http.dispatcher", "http.admission", "http.server_state", "http.front_door",
    "store.catalogue.cache", "store.ledger.committer", "store.ledger.ledger", "store.ledger.refusal_log",
    "store.imports.copy_rows", "store.imports.import_plan", "store.imports.line_matcher",
    "store.imports.seen_tags",
    "tag_files.cells", "tag_files.reader", "tag_files.rows",
)  # fmt: skip
"""Names of modules in the package `ixfast`; setup.py reads them from here."""

_FOLDER = Path(__file__).parent

PLAIN: str | None
"""Why the plain form is in use; None if the compiled form is. Reading it raises ImportError if only some modules are compiled."""


def __getattr__(name: str) -> object:
    """Determine `PLAIN` when it is first read: setup.py reads `MODULES` where the build is not complete."""
    if name != "PLAIN":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return why_plain()


@cache
def why_plain() -> str | None:
    """The value of `PLAIN`."""
    if os.environ.get("IXFAST_FORCE_TWIN") == "1":
        return "forced by IXFAST_FORCE_TWIN=1"
    built = [_is_built(module) for module in MODULES]
    if all(built):
        return None
    if any(built):
        raise ImportError("Some modules of ixfast are compiled and others are not: reinstall ixfast.", name="ixfast")
    return "the compiled modules are not built"


def prefer_plain() -> None:
    """Find the source of each module before the standard finders find what was compiled from it.

    The package calls this for `IXFAST_FORCE_TWIN=1`, before it imports any of the modules. Without a build there is nothing to
    do, because Python finds the source by itself.
    """
    if any(map(_is_built, MODULES)):
        sys.meta_path.insert(0, _PlainFinder)


class _PlainFinder:
    """A finder for `sys.meta_path`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        own = name.removeprefix("ixfast.")
        return spec_from_file_location(name, _source(own)) if own != name and own in MODULES else None


def _source(module: str) -> Path:
    return _FOLDER.joinpath(*module.split(".")).with_suffix(".py")


def _is_built(module: str) -> bool:
    return any(_source(module).with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
