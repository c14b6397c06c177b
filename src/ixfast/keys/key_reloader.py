"""Opens the keys of a key file in a worker, and reloads them when the file changes.

The file is reread when it changes (checked every second), on a signal (`reload`), and when an envelope refers to an unknown key.

Invariants:
1. A worker runs without its keys. A key that cannot be opened is retried with increasing pauses, and each failure is logged and
   counted.
2. An open key stays open, whatever happens to the file or to a provider.
3. Providers block, so they are called in threads of their own. A thread that hangs delays neither scans nor shutdown.
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

_POLL_S = 1.0  # How often to check whether the file has changed.
_START_PATIENCE_S = 3.0  # The worker starts serving after this, even if a provider has not responded yet.
_RETRY_S = 1.0
_RETRY_S_MAX = 30.0
_READINGS_MAX = 3  # Per look-up: one that may have read the file before it changed, one that has not, and a spare.
_T = TypeVar("_T")


class KeyReloader:
    """Opens the keys of a worker and keeps them open. The rest of the worker uses `keys`.

    Set `changed` to a function to have it called whenever further keys have been opened, and `adopted` to one that is called
    whenever the file has been read.
    """

    def __init__(self, path: Path, gauges: meters.Meters) -> None:
        self._path = path
        self._meters = gauges
        self.changed: Callable[[], None] = lambda: None
        self.adopted: Callable[[], None] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._signature: Signature | None = None
        self._opened: dict[str, KeyEncryptionKey] = {}
        self._failures = 0
        self.ready = False  # Whether all keys of a file have been open once. Later failures are logged, but do not unset it.
        self.keys = KeyEncryptionKeys.none_yet(self._look)

    async def start(self) -> None:
        """Open the keys, or keep trying in the background. Never raises."""
        reading = self._read()
        await asyncio.wait([reading], timeout=_START_PATIENCE_S)
        self._task = self._loop.create_task(self._keep())

    async def stop(self) -> None:
        tasks = [task for task in (self._task, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def reload(self) -> None:
        """Reread the file and retry missing keys now."""
        self._signature = None
        self._wake.set()

    async def _look(self) -> None:
        """After a look-up found an unknown key: wait for a read in progress, and reread the file if it has changed."""
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
        """The read that is in progress, or a new one."""
        if self._reading is None or self._reading.done():
            self._reading = self._loop.create_task(self._read_and_open())
        return self._reading

    async def _read_and_open(self) -> None:
        try:
            file = await _in_thread(lambda: KeyFile.read(self._path))
        except ConfigurationError as error:
            self._signature = signature_of(self._path)  # so that an error is logged once per retry, not once per poll
            self._alarm("cannot use the key file, keeping the keys that are open: %s", error)
            self._failures += 1
            return
        self._signature = file.signature
        missing: dict[str, str] = {}
        self._opened = {line.id: self._opened[line.id] for line in file.lines if line.id in self._opened}
        opened_before = len(self._opened)
        for line in sorted(file.lines, key=lambda line: line.provider != FILE):  # keys that need no service first
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
        self.adopted()
        if len(self._opened) > opened_before:
            log.info("open key-encryption keys: %s", ", ".join(self.keys.ids))
            self.changed()

    def _alarm(self, message: str, *arguments: object) -> None:
        self._meters.slots[meters.KEY_UNWRAP_FAILURES] += 1
        log.error(message, *arguments, extra={"about": str(arguments[0])})  # the log's rate limit is per key


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run blocking work in a daemon thread, which does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()
    lock = threading.Lock()
    abandoned = False

    def resolve(result: Any, error: BaseException | None) -> None:
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
                loop.call_soon_threadsafe(resolve, result, failure)

    threading.Thread(target=run, name="keys", daemon=True).start()
    try:
        return await future
    finally:
        with lock:
            abandoned = True  # a thread must not call a loop that may be closed by then
