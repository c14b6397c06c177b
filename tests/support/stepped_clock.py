"""A clock for PostgreSQL that tests step, by libfaketime from Debian: only the servers started with it see its steps.

    with stepped_clock(directory) as clock, EmbeddedPostgres(directory / "data") as server:
        clock.step(-20)     # from now on the server's clock is 20 s behind what it was

Monotonic clocks, and with them the server's timers, go on as they are. A step is there as soon as `step` returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ixfast.embedded import binaries
from support.requirements import skip_without

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SHARED = Path("/dev/shm")  # where the library, not this kit, leaves files


class SteppedClock:
    """The clock of the servers that were started while it was in use; `ahead_s` of this host's."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.step_to(0.0)

    def step(self, by_s: float) -> None:
        self.step_to(self.ahead_s + by_s)

    def step_to(self, ahead_s: float) -> None:
        """Set the clock so far ahead of this host's."""
        self.ahead_s = ahead_s
        written = self._file.with_name("clock.written")
        written.write_text(f"{ahead_s:+f}s")
        written.chmod(0o644)  # the server's user reads it
        written.rename(self._file)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Give this clock to every server that is started meanwhile."""
        usual = binaries._environment
        faked = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        binaries._environment = lambda: usual() | faked
        try:
            yield
        finally:
            binaries._environment = usual


@contextlib.contextmanager
def stepped_clock(directory: Path, *, in_use: bool = True) -> Iterator[SteppedClock]:
    """A clock whose file lies in `directory`, through which the server's user can pass. Without `in_use` the test says which
    servers have it."""
    if not _LIBRARIES:
        skip_without("libfaketime", package="faketime")
    directory.mkdir(mode=0o711, exist_ok=True)
    clock = SteppedClock(directory)
    try:
        with clock.in_use() if in_use else contextlib.nullcontext():
            yield clock
    finally:
        _remove_left_files()


def _remove_left_files() -> None:
    """Remove what the library shares between a process and its children and, if the process was killed, leaves behind."""
    for path in _SHARED.glob("*faketime_*_*"):
        pid = path.name.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)
