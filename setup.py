"""Compile the native core and the modules of `compiled.py`. Everything else about the package is in pyproject.toml.

IXFAST_NO_EXTENSIONS=1 in the environment builds plain Python only; IXFAST_SANITIZE=1 builds the core with AddressSanitizer and
UBSan. If the compiler fails, the build fails: the Python twin has to be requested. No option depends on the CPU of the build
machine; the core chooses its instructions at run time.
"""

import os
import re
import runpy
import tomllib
from pathlib import Path

from setuptools import Extension, setup

CPUS = os.cpu_count() or 1
# Plain Python modules to compile, with types from a .pxd beside some of them.
COMPILED = runpy.run_path("src/ixfast/compiled.py")["MODULES"]


def _source(module: str, ending: str) -> str:
    return f"src/ixfast/{module.replace('.', '/')}{ending}"


def description() -> str:
    """README.md with absolute links."""
    source = tomllib.loads(Path("pyproject.toml").read_text())["project"]["urls"]["Source"]

    def absolute(link: re.Match[str]) -> str:
        return f"{link[1]}{link[2]}({source}/{'raw' if link[1] else 'blob'}/main/{link[3]})"

    return re.sub(r"(!?)(\[[^\]]*\])\((?![a-z]+:|#)([^)\s]+)\)", absolute, Path("README.md").read_text())


def native_core() -> list[Extension]:
    from Cython.Build import cythonize

    sanitize = os.environ.get("IXFAST_SANITIZE") == "1"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
    core = [
        Extension(
            f"ixfast.{name}",
            [_source(name, ".pyx")],
            include_dirs=["src/ixfast"],
            depends=[_source(name, ".pyx"), *sorted(map(str, Path("src/ixfast/native").glob("*.h")))],
            extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra", *(checks if sanitize else [])],
            extra_link_args=checks if sanitize else [],
        )
        for name in ("_cmac", "_lrp", "http._plain_query")
    ]
    path = [
        Extension(
            f"ixfast.{name}",
            [_source(name, ".py")],
            depends=[_source(name, ".py"), *filter(os.path.exists, [_source(name, ".pxd")])],
            extra_compile_args=["-O2"],
        )
        for name in COMPILED
    ]
    # Annotations are for mypy. C relies on the types in the .pxd alone.
    return cythonize([*core, *path], build_dir="build/cython", nthreads=CPUS, compiler_directives={"annotation_typing": False})


if __name__ == "__main__":  # the processes that Cython starts import this file
    setup(
        long_description=description(),
        long_description_content_type="text/markdown",
        ext_modules=[] if os.environ.get("IXFAST_NO_EXTENSIONS") == "1" else native_core(),
        options={"build_ext": {"parallel": CPUS}},
    )
