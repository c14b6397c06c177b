"""Compiles the load generator's work for each response. `python -m benchmarks.build`; `make bench` runs it.

The generator shares the cores with the server that it measures: what it takes, the server does not have. Uncompiled it works as
well but takes more time. Results record the form (`generator`).
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES

from benchmarks.processes import ROOT

MODULE = "benchmarks.load.connections"
SOURCE = ROOT.joinpath(*MODULE.split(".")).with_suffix(".py")


class StaleError(RuntimeError):
    """The compiled module is older than its source; `make bench` compiles it again."""


def form() -> str:
    """The form in which the generator runs: `compiled` or `plain`. Raises `StaleError`."""
    for built in (SOURCE.with_suffix(suffix) for suffix in EXTENSION_SUFFIXES):
        if built.exists():
            if any(built.stat().st_mtime < each.stat().st_mtime for each in (SOURCE, SOURCE.with_suffix(".pxd"))):
                raise StaleError(f"{built.name} is older than its source. Compile it again: python -m benchmarks.build")
            return "compiled"
    return "plain"


def build() -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    extension = Extension(MODULE, [str(SOURCE)], extra_compile_args=["-O2"])
    modules = cythonize(
        [extension], build_dir=str(ROOT / "build/cython"), compiler_directives={"annotation_typing": False}, quiet=True
    )
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(ROOT), str(ROOT / "build/temp")
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build()
    sys.exit(0 if form() == "compiled" else 1)
