"""The public names of the package, for autodoc to describe from their docstrings."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

MODULES = ("ixfast", "ixfast.testing")


def public_names(module: ModuleType) -> list[str]:
    """The names in `__all__`, without the likes of `__version__`."""
    return [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]


def names() -> str:
    """One section for each module, with its names in the order of `__all__`."""
    return "\n\n".join(_section(importlib.import_module(name)) for name in MODULES)


def _section(module: ModuleType) -> str:
    directives = [_directive(module, name) for name in public_names(module)]
    if not directives:
        return ""
    return "\n".join((f"## `{module.__name__}`", "", "```{eval-rst}", *directives, "```"))


def _directive(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    full = f"{module.__name__}.{name}"
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return f".. {kind}:: {full}\n   :members:\n"
    if inspect.ismodule(value):
        return f".. automodule:: {value.__name__}\n"
    return f".. {'autofunction' if callable(value) else 'autodata'}:: {full}\n"
