"""Searches the memory of another process: `python memory_search.py PID HEX…` prints `found`, `absent` or `denied`.

It first drops the capability CAP_SYS_PTRACE, and `python memory_search.py COMMAND…` runs a command without it. The kernel then
lets a process read the memory of another one exactly if it would also allow a core dump of it.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path

_PR_CAPBSET_DROP, _CAP_SYS_PTRACE = 24, 19
_HELD = "--held"  # the capability is dropped with the next execve


def search(pid: str, needles: list[bytes]) -> str:
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        memory = Path(f"/proc/{pid}/mem").open("rb", 0)  # noqa: SIM115 - closed with the process
    except PermissionError:
        return "denied"
    for line in maps:
        place, rights, *_ = line.split()
        if rights.startswith("rw"):
            begin, end = (int(each, 16) for each in place.split("-"))
            with contextlib.suppress(OSError):  # mappings of the kernel
                memory.seek(begin)
                content = memory.read(end - begin)
                if any(needle in content for needle in needles):
                    return "found"
    return "absent"


if __name__ == "__main__":
    first, *rest = sys.argv[1:]
    if first == _HELD:
        print(search(rest[0], [bytes.fromhex(each) for each in rest[1:]]))
    else:
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_SYS_PTRACE, 0, 0, 0)
        program = [sys.executable, __file__, _HELD, first, *rest] if first.isdigit() else [first, *rest]
        os.execvp(program[0], program)
