"""Keeping the keys of a key file open in a worker.

A worker lives without its keys: what cannot be opened is tried again with growing pauses, an alarm each time, and what
is open stays open, whatever happens to the file or to a provider. A file that was changed is read again by itself, on a
signal (`reload`), and when an envelope names a key that is not known yet. Providers block, so they are asked in a thread
of their own; a thread that hangs holds up no scan and no exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ixfast import meters
from ixfast.errors import ConfigurationError, IxfastError
from ixfast.keys.kek import KeyEncryptionKey
from ixfast.keys.key_file import FILE, KeyFile, Signature, signature_of
from ixfast.keys.key_set import KeyEncryptionKeys
from ixfast.keys.sealing import open_line

log = logging.getLogger("ixfast.keys")

_POLL_S = 1.0  # How soon a changed file is noticed without a signal.
_START_PATIENCE_S = 3.0  # A provider that takes longer is waited for while the worker serves already.
_RETRY_S = 1.0
_RETRY_S_MAX = 30.0
_READINGS_MAX = 3  # Waited for by one look-up: one that may have read the file before, one that did not, and a spare.
_T = TypeVar("_T")


class KeyReloader:
    """Opens the keys of a worker and keeps them. `keys` is what to hand to everybody else.

    `changed` may be set; it is called whenever keys are open that were not open before.
    """

    def __init__(self, path: Path, gauges: meters.Meters) -> None:
        self._path = path
        self._meters = gauges
        self.changed: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._signature: Signature | None = None
        self._opened: dict[str, KeyEncryptionKey] = {}
        self._failures = 0
        self.ready = False  # Whether all keys of a file were open once. What comes later is an alarm, not a reason to leave.
        self.keys = KeyEncryptionKeys.none_yet(self._look)

    async def start(self) -> None:
        """Open the keys, or begin to try. Raises nothing."""
        reading = self._read()
        await asyncio.wait([reading], timeout=_START_PATIENCE_S)
        self._task = self._loop.create_task(self._keep())

    async def stop(self) -> None:
        tasks = [task for task in (self._task, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reload(self) -> None:
        """Read the file again, and ask for what is missing, now."""
        self._signature = None
        self._wake.set()

    async def _look(self) -> None:
        """For a look-up that met an unknown key: wait for a reading that is under way, and for one of a changed file."""
        for _ in range(_READINGS_MAX):
            if self._reading is not None and not self._reading.done():
                await asyncio.wait([self._reading])
            signature = signature_of(self._path)
            if signature is None or signature == self._signature:
                return
            self._read()

    async def _keep(self) -> None:
        retry_at = self._loop.time() + _RETRY_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            woken = self._wake.is_set()
            self._wake.clear()
            signature = await _in_thread(lambda: signature_of(self._path))
            due = self._failures > 0 and self._loop.time() >= retry_at
            if woken or due or (signature is not None and signature != self._signature):
                await asyncio.wait([self._read()])
                pause = min(_RETRY_S_MAX, _RETRY_S * 2 ** min(self._failures, 10))
                retry_at = self._loop.time() + pause * random.uniform(0.8, 1.2)  # noqa: S311 - spreads the workers

    def _read(self) -> asyncio.Task[None]:
        """The reading that is under way, or one that begins now."""
        if self._reading is None or self._reading.done():
            self._reading = self._loop.create_task(self._read_and_open())
        return self._reading

    async def _read_and_open(self) -> None:
        try:
            file = await _in_thread(lambda: KeyFile.read(self._path))
        except ConfigurationError as error:
            self._signature = signature_of(self._path)  # the same mistake is told once a retry, not once a poll
            self._alarm("the key file cannot be used; keys that are open stay open: %s", error)
            self._failures += 1
            return
        self._signature = file.signature
        missing: dict[str, str] = {}
        self._opened = {line.id: self._opened[line.id] for line in file.lines if line.id in self._opened}
        opened_before = len(self._opened)
        for line in sorted(file.lines, key=lambda line: line.provider != FILE):  # what needs nobody comes first
            if line.id not in self._opened:
                try:
                    self._opened[line.id] = await _in_thread(lambda line=line: open_line(line))  # type: ignore[misc]
                except IxfastError as error:
                    missing[line.id] = str(error)
                    self._alarm("key-encryption key %s is not open: %s", line.id, error)
                except Exception as error:
                    missing[line.id] = f"{line.provider}: {type(error).__name__}"
                    self._alarm("key-encryption key %s is not open: %s", line.id, missing[line.id])
            self.keys.adopt([each.id for each in file.lines], self._opened, missing)
        self._failures = self._failures + 1 if missing else 0
        self.ready = self.ready or self.keys.complete
        if len(self._opened) > opened_before:
            log.info("open key-encryption keys: %s", ", ".join(self.keys.ids))
            self.changed()

    def _alarm(self, message: str, *arguments: object) -> None:
        self._meters.slots[meters.KEY_UNWRAP_FAILURES] += 1
        log.error(message, *arguments, extra={"about": str(arguments[0])})  # every key has lines of its own


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()
    lock = threading.Lock()
    abandoned = False

    def tell(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with lock:
            if not abandoned:
                loop.call_soon_threadsafe(tell, result, failure)

    threading.Thread(target=run, name="keys", daemon=True).start()
    try:
        return await future
    finally:
        with lock:
            abandoned = True  # a loop that is being closed is not to be called by a thread any more
