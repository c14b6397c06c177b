"""Keeps the memory of a process that holds opened keys from being written to disk.

A worker needs the plain keys of its tags to verify anything, so they are in its memory. This module prevents core dumps and
denies debuggers and other processes of the same user access to that memory. It does not protect against root, who can read the
memory of every process.
"""

from __future__ import annotations

import ctypes
import resource

from ixfast.errors import ConfigurationError

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Make this process undumpable: no core file, no crash collector, no debugger of the same user.

    The flag is what counts (prctl(2), PR_SET_DUMPABLE): collectors that read from a pipe ignore a core size limit of 0 bytes
    (core(5)). The flag is reset by execve(2), so each process calls this for itself. The limit is inherited, which keeps
    the embedded database's processes from filling the disk.

    Raises ConfigurationError if the kernel refuses the flag.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_limit))
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigurationError("The kernel refused to disable core dumps for this process (prctl PR_SET_DUMPABLE).")
