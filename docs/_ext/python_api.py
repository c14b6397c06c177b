"""The public names of the package, for autodoc to describe from their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType, UnionType
from typing import get_args

MODULES = ("ixfast", "ixfast.testing")


def public_names(module: ModuleType) -> list[str]:
    """The names in `__all__`, without the likes of `__version__` and without modules, which have sections of their own."""
    names = (name for name in getattr(module, "__all__", ()) if not name.startswith("_"))
    return [name for name in names if f"{module.__name__}.{name}" not in MODULES]


def with_links(docstring: str) -> str:
    """A docstring whose names of documents and of public classes are links, in reStructuredText.

    Names in lower case are left alone: they may be those of parameters.
    """
    text = re.sub(r"\bdocs/([\w/-]+)\.md\b", r":doc:`/\1`", docstring)
    for module in map(importlib.import_module, MODULES):
        for name in filter(lambda name: name[0].isupper(), public_names(module)):
            text = re.sub(rf"(?<![`:])`{name}`(?!`)", f":py:obj:`{name} <{module.__name__}.{name}>`", text)
    return text


def names() -> str:
    """One section for each module: its docstring, then functions, classes, exceptions and types in the order of `__all__`."""
    return "\n\n".join(_section(importlib.import_module(name)) for name in MODULES)


def _section(module: ModuleType) -> str:
    described: dict[str, list[str]] = {"Functions": [], "Classes": [], "Exceptions": [], "Types": []}
    for name in public_names(module):
        kind, directive = _describe(f"{module.__name__}.{name}", getattr(module, name))
        described[kind].append(directive)
    parts = [f"## `{module.__name__}`", _rst(f".. automodule:: {module.__name__}\n   :no-members:\n")]
    for kind, directives in described.items():
        if directives:
            parts += [f"### {kind} of `{module.__name__}`", _rst("\n".join(directives))]
    return "\n\n".join(parts)


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}```"


def _describe(name: str, value: object) -> tuple[str, str]:
    """The heading under which a name is listed, and the directive that describes it."""
    if isinstance(value, UnionType):
        members = ", ".join(f"`{each.__name__}`" for each in get_args(value))
        module, _, member = name.rpartition(".")
        return "Types", f".. py:data:: {member}\n   :module: {module}\n\n   One of {members}.\n"
    if inspect.isclass(value) and issubclass(value, BaseException):
        return "Exceptions", f".. autoexception:: {name}\n   :members:\n"
    if inspect.isclass(value):
        return "Classes", f".. autoclass:: {name}\n   :members:\n"
    if callable(value):
        return "Functions", f".. autofunction:: {name}\n"
    return "Types", f".. autodata:: {name}\n"
