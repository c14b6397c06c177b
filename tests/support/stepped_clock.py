"""A clock for PostgreSQL that tests can step, using libfaketime from Debian. Only servers started with it are affected.

    with stepped_clock(directory) as clock, EmbeddedPostgres(directory / "data") as server:
        clock.step(-20)     # from now on the server's clock is 20 s behind

Monotonic clocks, and therefore the server's timers, are not affected. A step takes effect before `step` returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ixfast.embedded import binaries
from support.requirements import skip_without

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_SHARED = Path("/dev/shm")  # where libfaketime leaves files


class SteppedClock:
    """The clock of the servers started while it was in use, `ahead_s` seconds ahead of this host's."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"
        self.step_to(0.0)

    def step(self, by_s: float) -> None:
        self.step_to(self.ahead_s + by_s)

    def step_to(self, ahead_s: float) -> None:
        """Set how far the clock is ahead of this host's."""
        self.ahead_s = ahead_s
        written = self._file.with_name("clock.written")
        written.write_text(f"{ahead_s:+f}s")
        written.chmod(0o644)  # must be readable by the server's user
        written.rename(self._file)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Use this clock, and no other, for every server started in the block."""
        outer = binaries._environment
        faked = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        binaries._environment = lambda: outer() | faked
        try:
            yield
        finally:
            binaries._environment = outer


@contextlib.contextmanager
def stepped_clock(directory: Path, *, in_use: bool = True) -> Iterator[SteppedClock]:
    """A clock with its file in `directory`, which the server's user must be able to enter. With `in_use=False` the test chooses
    the servers that use it."""
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
    """Remove the shared memory that libfaketime leaves behind when a process is killed."""
    for path in _SHARED.glob("*faketime_*_*"):
        pid = path.name.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)
