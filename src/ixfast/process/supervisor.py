"""The supervisor: starts the workers, keeps them alive, and lets them go.

It holds the listening sockets, two for each worker (SO_REUSEPORT), so that a connection that reaches a dead worker's socket
waits there for its successor. It serves nothing itself, so nothing a client sends can harm it. It also owns the private
PostgreSQL, if there is one, and starts it again when it dies.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ixfast import meters
from ixfast.config.settings import Settings
from ixfast.embedded import EmbeddedPostgres
from ixfast.errors import ConfigurationError
from ixfast.http.rate_limits import make_memory
from ixfast.process import logs
from ixfast.process.worker import Inheritance

log = logging.getLogger("ixfast.supervisor")

_WORKER = ("-m", "ixfast.process.worker")
_SECRET = "IXFAST_DSN"  # noqa: S105 - the name of what the workers get by another way
_TICK_S = 0.1
_HUNG_S = 15.0  # A loop that did not turn for so long serves nobody.
_SHORT_LIFE_S = 3.0
_BACKOFF_S_MAX = 10.0
_STARTUP_S = 15.0
_EXIT_GRACE_S = 3.0  # Beyond the drain's own time, for closing connections.


class Slot:
    """A worker's place: its sockets outlive it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.public: socket.socket | None = None
        self.private: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.short_lives = 0
        self.restart_at = 0.0

    def close_sockets(self) -> None:
        for listener in (self.public, self.private):
            if listener is not None:
                listener.close()
        self.public = self.private = None


class Supervisor:
    """`run` returns when a signal has been obeyed. `announce(port, private_port)` is called once all workers are ready."""

    def __init__(
        self,
        settings: Settings,
        dsn: str,
        kek_file: Path,
        *,
        postgres: EmbeddedPostgres | None = None,
        announce: Callable[[int, int], None] | None = None,
    ) -> None:
        self._settings = settings
        self._dsn = dsn
        self._kek_file = kek_file
        self._postgres = postgres
        self._announce = announce
        self._count = settings.worker_count
        self._port = settings.port
        self._private_port = settings.private_port
        self._slots = [Slot(index) for index in range(self._count)]
        self._leaving = False
        self._reloading = False
        self._shared = os.memfd_create("ixfast-meters", 0)
        os.ftruncate(self._shared, self._count * meters.REGION_BYTES)
        self._memory = mmap.mmap(self._shared, self._count * meters.REGION_BYTES)
        self._meters = [meters.Meters(self._memory, index) for index in range(self._count)]
        self._rates = make_memory()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP makes the workers read their files again."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_leaving", True))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_reloading", True))
        try:
            self._refuse_taken_ports()
            for slot in self._slots:
                self._open_sockets(slot)
                self._spawn(slot)
            self._await_ready()
            while not self._leaving:
                self._tend()
                time.sleep(_TICK_S)
        finally:
            self._let_go()

    def _open_sockets(self, slot: Slot) -> None:
        settings = self._settings
        slot.public = _listener(settings.host, self._port, "port", beside=True)
        _choose_congestion_control(slot.public, settings.congestion_control)
        self._port = slot.public.getsockname()[1]
        slot.private = _listener(settings.private_host, self._private_port, "private_port", beside=True)
        self._private_port = slot.private.getsockname()[1]

    def _refuse_taken_ports(self) -> None:
        """Sharing a port is for our own workers: another server that shares it too would get half of the scans."""
        settings = self._settings
        for host, port, setting in (
            (settings.host, settings.port, "port"),
            (settings.private_host, settings.private_port, "private_port"),
        ):
            _listener(host, port, setting, beside=False).close()

    def _spawn(self, slot: Slot) -> None:
        if slot.public is None or slot.private is None:
            self._open_sockets(slot)
        assert slot.public is not None and slot.private is not None
        inheritance = Inheritance(
            settings=self._settings,
            dsn=self._dsn,
            kek_file=str(self._kek_file),
            worker=slot.index,
            workers=self._count,
            public=slot.public.fileno(),
            private=slot.private.fileno(),
            meters=self._shared,
            rates=self._rates,
        )
        descriptor = os.memfd_create("ixfast-inheritance", 0)
        try:
            os.write(descriptor, inheritance.encode())
            slot.started_at = time.monotonic()
            slot.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *_WORKER, str(descriptor), str(os.getpid())],
                pass_fds=(descriptor, self._shared, self._rates, inheritance.public, inheritance.private),
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name != _SECRET},
            )
        finally:
            os.close(descriptor)

    def _await_ready(self) -> None:
        until = time.monotonic() + _STARTUP_S
        while not self._leaving and time.monotonic() < until:
            self._tend()
            if all(m.slots[meters.READY] for m in self._meters):
                break
            time.sleep(0.02)
        else:
            if not self._leaving:
                log.warning("not all workers are ready; serving what can be served. /readyz tells why")
        if self._announce is not None and not self._leaving:
            self._announce(self._port, self._private_port)

    def _tend(self) -> None:
        """Restart what died; end what hangs."""
        now = time.monotonic()
        logs.write_repeats()
        if self._reloading:
            self._reload()
        if self._postgres is not None and not self._postgres.running:
            self._revive_postgres(self._postgres)
        for slot in self._slots:
            if slot.process is None:
                if now >= slot.restart_at:
                    self._spawn(slot)
            elif (status := slot.process.poll()) is not None:
                self._bury(slot, status, now)
            elif self._hangs(slot, now):
                log.error("worker %d (pid %d) hangs: killing it", slot.index, slot.process.pid, extra={"about": slot.index})
                slot.process.kill()

    def _reload(self) -> None:
        """Workers that have not got so far as to hear a signal read the file anyway."""
        self._reloading = False
        log.info("reloading")
        for slot in self._slots:
            if slot.process is not None and self._meters[slot.index].slots[meters.HEARTBEAT]:
                slot.process.send_signal(signal.SIGHUP)

    def _hangs(self, slot: Slot, now: float) -> bool:
        heartbeat = self._meters[slot.index].slots[meters.HEARTBEAT]
        return now - max(heartbeat, slot.started_at + _STARTUP_S) > _HUNG_S

    def _bury(self, slot: Slot, status: int, now: float) -> None:
        log.error("worker %d ended with status %d: starting another", slot.index, status, extra={"about": slot.index})
        self._meters[slot.index].reset()
        slot.process = None
        if now - slot.started_at > _SHORT_LIFE_S:
            slot.short_lives = 0
            slot.restart_at = now
            return
        # It cannot live: let the kernel give its connections to the others until it can.
        slot.short_lives += 1
        slot.restart_at = now + min(_BACKOFF_S_MAX, 0.25 * 2**slot.short_lives)
        if self._count > 1:
            slot.close_sockets()

    def _revive_postgres(self, postgres: EmbeddedPostgres) -> None:
        log.error("the private PostgreSQL ended: starting it again")
        try:
            postgres.stop()
            postgres.start()
        except ConfigurationError as error:
            log.error("%s", error)
            time.sleep(1.0)
            return
        if postgres.dsn != self._dsn:
            self._dsn = postgres.dsn
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.terminate()

    def _let_go(self) -> None:
        """Drain the workers; what does not leave in its time is killed."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.terminate()
        for slot in self._slots:
            slot.close_sockets()  # the workers hold them too, and close them when they have drained
        settings = self._settings
        until = time.monotonic() + (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000 + _EXIT_GRACE_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                log.error("worker with pid %d did not leave: killing it", process.pid, extra={"about": process.pid})
                process.kill()
                process.wait()
        os.close(self._shared)
        os.close(self._rates)


def _listener(host: str, port: int, setting: str, *, beside: bool) -> socket.socket:
    """A bound TCP socket that others of this user may bind `beside`. Raises ConfigurationError that names the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if beside:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"{setting}: {host}:{port} cannot be bound ({error.strerror}).") from None
    return listener


def _choose_congestion_control(listener: socket.socket, algorithm: str) -> None:
    """Have the connections of `listener` use it, tcp(7); with "system", or if it is not to be had, the kernel's own."""
    if algorithm == "system":
        return
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm.encode())
    except OSError as error:
        log.info("TCP stays with the system's congestion control: %s is not to be had (%s)", algorithm, error.strerror)
