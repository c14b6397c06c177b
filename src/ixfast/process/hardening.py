"""What a process with opened keys owes to them: its memory is not written to a file when it dies.

A worker must hold the keys of its tags to verify anything, so they stand in its memory in the clear. What can be kept from them
is the way to a disk, and the way to other processes of the same user. Root can read the memory of every process; nothing here
is against him.
"""

from __future__ import annotations

import ctypes
import resource

from ixfast.errors import ConfigurationError

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Let the kernel dump this process for nobody: neither into a file nor to a collector of dumps, nor for a debugger.

    The flag is what counts (prctl(2), PR_SET_DUMPABLE): a limit of 0 bytes does not hold for a collector behind a pipe (core(5)).
    The flag is lost when another program is executed, so each process calls this for itself; the limit is inherited, which
    keeps the database's processes from filling the disk.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigurationError("The kernel does not keep this process from being dumped (prctl PR_SET_DUMPABLE).")
