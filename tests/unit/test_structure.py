"""The structure of the package: layers, imports, names and sizes of modules."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import layers_diagram
import pytest

from ixfast.store.queries import load

SOURCES = Path(__file__).parents[2] / "src" / "ixfast"
MODULE_LINES_MAX = 450
MODULE_LINES_MIN = 30
LAYERS_MAX = 12

LONGER: frozenset[str] = frozenset(
    ("store.catalogue.catalogue", "store.imports.importer", "store.ledger.committer"),
)
"""Modules above the limit that are still to be split."""

SEAMS = {
    "__main__": "`python -m ixfast` needs a module of this name",
    "chips.reasons": "the machine-readable words of the chip schemes and their meanings, one table",
    "chips.registry": "the one place that a further chip scheme is added to",
    "config.addresses": "addresses as URLs have them, for everything that prints one or connects to one",
    "http.json_body": "decodes every JSON body, so that no error quotes a value",
    "process.hardening": "the only system call that protects keys in memory, apart from all other code of a process",
    "store.admin.deleted_tags": "the only code that deletes tags for good",
    "store.imports.group_names": "groups by name, shared by imports and exports",
    "store.random_codes": "tag codes that cannot be guessed, in one place to be reviewed",
    "store.ledger.resolver": "the protocol between the committer and the ledger",
    "store.queries": "loads the SQL files for every module of the store",
    "tag_files.formulas": "protection against spreadsheet formulas, shared by reader and writer",
    "verdict": "the verdicts, which meters and the domain share",
    "versions": "the versions that the command, the metrics and the benchmarks report",
}
"""Modules below the minimum, each with the reason."""

GROUP_COMMANDS = "cli."
"""A module of commands is named after its group, which may be the name of a module elsewhere."""


def modules() -> dict[str, Path]:
    """Every module by its name below `ixfast`; the package itself is "" and a package is named without `__init__`."""
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    """The modules of the package that a module imports anywhere: at the top, in a function, or for typing only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("ixfast.") for alias in node.names if alias.name.startswith("ixfast."))
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "ixfast":
            package = node.module.removeprefix("ixfast").removeprefix(".")
            for alias in node.names:
                module = f"{package}.{alias.name}".removeprefix(".")
                yield module if module in known else package


def import_graph() -> dict[str, set[str]]:
    known = frozenset(MODULES)
    return {name: set(imported(ast.parse(path.read_text()), known)) - {name} for name, path in MODULES.items()}


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting.extend(graph.get(module, ()))
        reachable[start] = seen
    found = {
        tuple(sorted(other for other in reachable[module] if module in reachable.get(other, ())))
        for module in graph
        if module in reachable[module]
    }
    return [list(cycle) for cycle in sorted(found)]


def test_no_import_cycle_typing_imports_included() -> None:
    graph = import_graph()
    assert "limits" in graph["domain.references"] and "domain.scan" in graph["rules.facts"]
    assert cycles(graph) == []


def test_a_cycle_is_found() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ixfast.a import B\nfrom ixfast import c\n"
    assert set(imported(ast.parse(source), frozenset(("a", "c")))) == {"a", "c"}
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert cycles(graph) == [["a", "b", "c"]]


def test_the_import_contract_ignores_nothing_and_names_every_package() -> None:
    assert [contract["type"] for contract in layers_diagram.contracts()] == ["layers"]
    assert all("ignore_imports" not in contract for contract in layers_diagram.contracts())
    layers = layers_diagram.layers()
    assert len(layers) <= LAYERS_MAX
    listed = [name for layer in layers for name in layer]
    assert sorted(listed) == sorted({name.split(".")[0] for name in MODULES} - {""})


def test_the_picture_shows_the_import_contract() -> None:
    assert layers_diagram.drawn() == layers_diagram.diagram(), "run: python tests/layers_diagram.py"


def test_every_named_statement_exists() -> None:
    used = {pair for path in MODULES.values() for pair in re.findall(r'\bload\("(\w+)"\)\["(\w+)"\]', path.read_text())}
    assert len(used) > 20
    assert {(file, name) for file, name in used if name not in load(file)} == set()


def test_base_names_are_unique() -> None:
    by_base = defaultdict(list)
    for name, path in MODULES.items():
        if path.name != "__init__.py" and not name.startswith(GROUP_COMMANDS):
            by_base[path.stem].append(name)
    assert {base: names for base, names in by_base.items() if len(names) > 1} == {}


def test_file_names_of_tests_are_unique() -> None:
    counted = Counter(path.name for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [name for name, count in counted.items() if count > 1] == []


def lines(name: str) -> int:
    return len(MODULES[name].read_text().splitlines())


def test_no_module_is_too_long() -> None:
    longer = {name for name in MODULES if lines(name) > MODULE_LINES_MAX}
    assert longer - LONGER == set()
    assert MODULES.keys() >= LONGER


def test_a_short_module_is_a_seam_with_a_reason() -> None:
    short = {name for name, path in MODULES.items() if lines(name) < MODULE_LINES_MIN and path.name != "__init__.py"}
    assert short - SEAMS.keys() == set()
    assert SEAMS.keys() <= MODULES.keys()


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_every_package_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text())), name
