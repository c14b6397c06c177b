"""`import ixfast`: what it offers, that it loads nothing else, that type checkers see the names, and that the examples run."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import fences
import pytest

import ixfast

ROOT = Path(__file__).parents[2]
PAGES = ["reference/chips.md"]
INIT = ROOT / "src" / "ixfast" / "__init__.py"


def python(program: str, **environ: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "IXFAST_FORCE_TWIN"} | environ
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_import_loads_nothing_and_installs_no_hook() -> None:
    program = (
        "import sys; modules, hooks = set(sys.modules), list(sys.meta_path)\n"
        "import ixfast\n"
        "assert sys.meta_path == hooks\n"
        "print(*sorted(set(sys.modules) - modules))\n"
    )
    assert python(program).split() == ["ixfast"]


@pytest.mark.parametrize("use", ["ixfast.verify", "ixfast.testing.VirtualTag", "ixfast.read_rules", "ixfast.__version__"])
def test_using_a_name_installs_no_hook_and_loads_no_server(use: str) -> None:
    loaded = python(
        f"import sys; hooks = list(sys.meta_path); import ixfast; {use}; assert sys.meta_path == hooks; print(*sys.modules)"
    )
    servers = {"aiohttp", "asyncpg", "click", "uvloop", "ixfast.http", "ixfast.store", "ixfast.cli"}
    assert not servers & set(loaded.split())


def test_threads_can_load_all_names_at_once_in_any_order() -> None:
    program = (
        "import ixfast, random, sys, threading\n"
        "sys.setswitchinterval(1e-6)\n"
        "start, errors = threading.Barrier(16), []\n"
        "def load(seed):\n"
        "    names = random.Random(seed).sample(ixfast.__all__, len(ixfast.__all__))\n"
        "    start.wait()\n"
        "    try:\n"
        "        for name in names:\n"
        "            getattr(ixfast, name)\n"
        "    except BaseException as error:\n"
        "        errors.append(repr(error))\n"
        "threads = [threading.Thread(target=load, args=(seed,)) for seed in range(16)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print(*errors, sep='\\n', end='')\n"
    )
    assert [python(program) for _ in range(5)] == [""] * 5


def test_what_is_used_is_loaded() -> None:
    """The control: the two tests above could not fail if the names were not looked at."""
    assert {"cryptography", "msgspec"} <= set(python("import sys, ixfast; ixfast.verify; print(*sys.modules)").split())


def test_the_plain_form_is_found_by_a_hook_only_when_it_is_forced() -> None:
    program = "import sys; hooks = len(sys.meta_path); import ixfast; print(len(sys.meta_path) - hooks)"
    assert python(program) == "0\n"
    built = "import ixfast; from ixfast import compiled; print(any(map(compiled._is_built, compiled.MODULES)))"
    assert python(program, IXFAST_FORCE_TWIN="1") == ("1\n" if python(built) == "True\n" else "0\n")


def test_every_name_is_offered_and_listed() -> None:
    assert ixfast.__all__ == sorted(ixfast.__all__)
    assert all(getattr(ixfast, name) is not None for name in ixfast.__all__)
    assert set(dir(ixfast)) >= set(ixfast.__all__)
    with pytest.raises(AttributeError, match="module 'ixfast' has no attribute 'verfy'"):
        ixfast.verfy  # type: ignore[attr-defined]  # noqa: B018


def typed_names() -> dict[str, str]:
    """The names that type checkers see, each with the module that it is imported from."""
    tree = ast.parse(INIT.read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in imports for alias in node.names}


def test_type_checkers_see_the_names_that_are_loaded() -> None:
    typed = typed_names()
    assert sorted([*typed, "__version__"]) == ixfast.__all__
    for name, origin in typed.items():
        module, _, attribute = origin.rpartition(".")
        assert getattr(__import__(module, fromlist=[attribute]), attribute) is getattr(ixfast, name), name


def test_the_version_is_that_of_the_installed_package() -> None:
    assert ixfast.__version__ == metadata.version("ixfast")


def documented() -> Iterator[tuple[str, object]]:
    """Everything public with a docstring of its own: names, and the methods of the classes that this package defines."""
    for name in ixfast.__all__:
        thing = getattr(ixfast, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing
        if inspect.isclass(thing):
            members = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            for key, member in members.items():
                if isinstance(member, property) or inspect.isfunction(member):
                    yield f"{name}.{key}", member
    yield "testing.VirtualTag", ixfast.testing.VirtualTag
    yield "testing.VirtualFleet", ixfast.testing.VirtualFleet
    yield "", ixfast


DOCUMENTED = dict(documented())


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_public_name_has_a_docstring_whose_examples_run(name: str) -> None:
    assert inspect.getdoc(DOCUMENTED[name])
    for example in doctest.DocTestFinder(recurse=False).find(DOCUMENTED[name], name or "ixfast", globs={}):
        report: list[str] = []
        assert doctest.DocTestRunner().run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page: str) -> None:
    blocks = [fence.text for fence in fences.fences((ROOT / "docs" / page).read_text()) if fence.language == "python"]
    assert blocks
    for block in blocks:
        example = doctest.DocTestParser().get_doctest(block, {}, page, None, None)
        assert example.examples and doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if inspect.isfunction(DOCUMENTED[name]) and "." not in name])
def test_every_public_function_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(DOCUMENTED[name]) or "")
