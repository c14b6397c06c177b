"""The modules that are compiled as they are, and which of their two forms is in use.

Each of `MODULES` is plain Python, with the types of its fields and locals in a `.pxd` file beside it, and runs in both forms;
the compiled form takes a third to a half of the time. `IXFAST_FORCE_TWIN=1` in the environment forces the plain form; without a
build it is the only one. There is no silent fallback: `PLAIN` is the reason why the plain form is in use, or None.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from types import ModuleType

MODULES = (
    "json_members", "domain.records", "domain.scan", "pipeline.engine", "responses.bodies",
    "http.raw_response", "http.hot_request", "http.dispatcher", "http.admission", "http.server_state", "http.front_door",
    "store.catalogue.cache", "store.ledger.committer", "store.ledger.ledger", "store.ledger.refusal_log",
    "store.imports.copy_rows", "store.imports.import_plan", "store.imports.seen_tags",
    "tag_files.cells", "tag_files.reader", "tag_files.rows",
)  # fmt: skip
"""Names of modules in the package `ixfast`; setup.py reads them from here."""

_FOLDER = Path(__file__).parent


class _PlainFinder(importlib.abc.MetaPathFinder):
    """Finds the source of a compiled module before the standard finders find the extension."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        own = name.removeprefix("ixfast.")
        if own == name or own not in MODULES:
            return None
        return importlib.util.spec_from_file_location(name, _source(own))


def _source(module: str) -> Path:
    return _FOLDER.joinpath(*module.split(".")).with_suffix(".py")


def _why_plain() -> str | None:
    if os.environ.get("IXFAST_FORCE_TWIN") == "1":
        return "forced by IXFAST_FORCE_TWIN=1"
    built = [any(_source(module).with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES) for module in MODULES]
    if all(built):
        return None
    if any(built):
        raise ImportError("Some modules of ixfast are compiled and others are not: reinstall ixfast.", name="ixfast")
    return "the compiled modules are not built"


PLAIN: str | None = None
"""Why the plain form is in use; None if the compiled form is."""


def choose() -> None:
    """Choose one of the two forms. The package calls this before it imports any of the modules."""
    global PLAIN
    PLAIN = _why_plain()
    if PLAIN is not None:
        sys.meta_path.insert(0, _PlainFinder())
