"""An event loop with a simulated clock, and processes on it that can be frozen and killed.

Nothing here waits: when no callback is ready, the clock jumps to the next timer. Callbacks belong to the process in whose context
they were created. A killed process only runs its cleanup, which has no effect outside. A frozen one does nothing; once thawed, it
first reads what has arrived and then runs its timers, as a real process does.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import base_events, events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)

_DONE_KEPT = 64  # Tasks tracked before the finished ones are discarded.


class _Handle(events.Handle):
    """A callback for the next iteration."""

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is not None and process.frozen:
            process.deferred.append(self)
        else:
            super()._run()


class _TimerHandle(events.TimerHandle):
    """A timer; it never fires if its process is dead."""

    def __lt__(self, other: Any) -> bool:
        return bool(self._when < other._when)  # type: ignore[attr-defined]

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or (process.alive and not process.frozen):
            super()._run()
        elif process.alive:
            process.deferred_timers.append(self)


class Process:
    """A simulated process: a name, and whether it is alive and running."""

    def __init__(self, loop: SimulatedLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.frozen = False
        self.deferred: list[events.Handle] = []
        self.deferred_timers: list[events.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self.loop.create_task(work, context=self._context.copy())

    def run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call immediately, as code of this process."""
        return self._context.copy().run(call, *arguments)

    def deliver(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Call from outside after a delay; dropped if the process is dead by then."""
        self.loop.call_later(delay_s, self._arrive, call, arguments, context=OUTSIDE)

    def _arrive(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if self.alive:
            self.loop.call_soon(call, *arguments, context=self._context.copy())

    def note_task(self, task: asyncio.Task[Any]) -> None:
        if len(self._tasks) >= _DONE_KEPT:
            self._tasks = {known: None for known in self._tasks if not known.done()}
        self._tasks[task] = None

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.frozen = False
        for handle in (*self.deferred, *self.deferred_timers):
            self.loop.resume(handle)
        self.deferred, self.deferred_timers = [], []

    def kill(self) -> None:
        """End the process. Its tasks are cancelled so that nothing is left over; what they do then has no effect outside."""
        if not self.alive:
            return
        self.alive = False
        self.thaw()
        for task in [known for known in self._tasks if not known.done()]:
            task.cancel()


OUTSIDE = copy_context()
"""The context of code that belongs to no process."""
OUTSIDE.run(PROCESS.set, None)


class _Selector:
    """Replaces waiting for sockets: there are none, so time passes instantly."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("the simulation is waiting for something that never happens")
        self._loop.now += timeout
        return []


class SimulatedLoop(base_events.BaseEventLoop):
    """Deterministic: the same callbacks in the same order for the same program."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.broken: list[str] = []
        self._selector = _Selector(self)
        self._clock_resolution = 1e-9
        self.set_debug(False)
        self.set_task_factory(_make_task)
        self.set_exception_handler(_note_broken)

    def time(self) -> float:
        return self.now

    def resume(self, handle: events.Handle) -> None:
        """Schedule a callback that was held back."""
        self._ready.append(handle)  # type: ignore[attr-defined]

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> events.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _make_task(loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    context = options.get("context")
    process = PROCESS.get() if context is None else context.get(PROCESS)
    if process is not None:
        process.note_task(task)
        if not process.alive:
            task.cancel()
    return task


def _note_broken(loop: Any, context: dict[str, Any]) -> None:
    loop.broken.append(f"{context.get('message')}: {context.get('exception')!r}")
