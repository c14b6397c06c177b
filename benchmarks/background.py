"""Work beside a measurement: a coroutine in a thread with an event loop of its own, for the duration of a block."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any


@contextlib.contextmanager
def in_background(work: Callable[[threading.Event], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run `work` until it returns, which it should soon after the event is set at the end of the block. Its exception is raised
    there, unless the block raises its own."""
    over = threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        try:
            asyncio.run(work(over))
        except Exception as error:  # raised again by the thread that waits for this one
            errors.append(error)

    thread = threading.Thread(target=run, name="beside a measurement")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
