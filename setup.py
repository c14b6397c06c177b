"""Builds the native core. Everything else about the package stands in pyproject.toml.

IXFAST_NO_EXTENSIONS=1 builds plain Python only; IXFAST_SANITIZE=1 builds the core with AddressSanitizer and UBSan.
A compiler that fails fails the build: whoever wants the plain twin asks for it.
"""

import os
from pathlib import Path

from setuptools import Extension, setup


def native_core() -> list[Extension]:
    from Cython.Build import cythonize

    sanitize = os.environ.get("IXFAST_SANITIZE") == "1"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
    core = [
        Extension(
            f"ixfast.{name}",
            [f"src/ixfast/{name}.pyx"],
            include_dirs=["src/ixfast"],
            # A source package carries what is named here; the .pyx would otherwise be missing from it.
            depends=[f"src/ixfast/{name}.pyx", *sorted(map(str, Path("src/ixfast/native").glob("*.h")))],
            extra_compile_args=["-O2", "-std=c11", "-Wall", "-Wextra", *(checks if sanitize else [])],
            extra_link_args=checks if sanitize else [],
        )
        for name in ("_cmac", "_lrp")
    ]
    return cythonize(core, build_dir="build/cython")


setup(ext_modules=[] if os.environ.get("IXFAST_NO_EXTENSIONS") == "1" else native_core())
