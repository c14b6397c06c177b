"""What is running: the versions of ixfast, its core, the interpreter and the libraries."""

from __future__ import annotations

import importlib.metadata
import platform

from ixfast import cmac, compiled

_LIBRARIES = ("aiohttp", "asyncpg", "cryptography", "msgspec", "orjson", "uvloop")


def versions() -> dict[str, str | None]:
    """Versions by name. `core_reason` says why the native core is not in use, `path_reason` why the compiled modules are not;
    None if they are."""
    return {
        "ixfast": importlib.metadata.version("ixfast"),
        "core": cmac.IMPLEMENTATION,
        "core_reason": cmac.REASON,
        "path": "plain" if compiled.PLAIN is not None else "compiled",
        "path_reason": compiled.PLAIN,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
