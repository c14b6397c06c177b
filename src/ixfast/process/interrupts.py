"""Ctrl-C while modules are loaded: it ends the process quietly.

An exception would be raised somewhere in an import. Modules catch it, or print it, and one compiled library crashes.
"""

import os
import signal
from types import FrameType
from typing import Self

INTERRUPTED = 130  # 128 + SIGINT


class QuietInterrupts:
    """A context in which Ctrl-C ends the process at once with the status 130, if it would raise KeyboardInterrupt otherwise.

    Only for imports: nothing is flushed or cleaned up. In another thread than the main one it changes nothing.
    """

    def __enter__(self) -> Self:
        self._is_set = False
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in a background job
            try:
                signal.signal(signal.SIGINT, _leave)
                self._is_set = True
            except ValueError:  # not the main thread
                pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_set:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)
