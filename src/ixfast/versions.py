"""What is running: our version, which core, which interpreter and libraries."""

from __future__ import annotations

import importlib.metadata
import platform

from ixfast import __version__, cmac, compiled

_LIBRARIES = ("aiohttp", "asyncpg", "cryptography", "msgspec", "orjson", "uvloop")


def versions() -> dict[str, str | None]:
    """Names and versions; `core_reason` tells why the native core is not in use, or is None, and `path_reason` the same of
    the compiled way of a scan."""
    return {
        "ixfast": __version__,
        "core": cmac.IMPLEMENTATION,
        "core_reason": cmac.REASON,
        "path": "plain" if compiled.PLAIN is not None else "compiled",
        "path_reason": compiled.PLAIN,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
