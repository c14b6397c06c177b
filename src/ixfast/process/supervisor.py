"""The supervisor: starts the workers, restarts them when they die or hang, and drains them at the end.

It holds the listening sockets, two for each worker (SO_REUSEPORT), so that connections to a dead worker's socket wait for
its successor, and the Unix socket, which all workers share. It does not read from them, so no client can affect it. It also
owns the embedded PostgreSQL, if there is one, and restarts it when it dies.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from ixfast import meters
from ixfast.config.addresses import authority
from ixfast.config.settings import Settings
from ixfast.embedded import EmbeddedPostgres
from ixfast.errors import ConfigurationError
from ixfast.http.rate_limits import make_memory
from ixfast.process import logs
from ixfast.process.unix_socket import UnixSocket
from ixfast.process.worker_config import WorkerConfig

log = logging.getLogger("ixfast.supervisor")

_WORKER = ("-m", "ixfast.process.worker")
_SECRET = "IXFAST_DSN"  # noqa: S105 - a name; workers get the value through a file descriptor
_TICK_S = 0.1
_HUNG_S = 15.0  # A worker without a heartbeat for this long is killed.
_EARLY_EXIT_S = 3.0  # A worker that lives no longer than this is restarted with a growing delay.
_BACKOFF_S_MAX = 10.0
_STARTUP_S = 15.0
_EXIT_GRACE_S = 3.0  # Added to the drain time, for closing connections.


class Slot:
    """The sockets of a worker, which outlive its process, and the process that uses them now."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.public: socket.socket | None = None
        self.private: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.config_pipe = -1  # the worker waits at its other end; -1: it has its configuration, or does not run
        self.started_at = 0.0
        self.early_exits = 0
        self.restart_at = 0.0
        self.recovering = False  # it was restarted, and is not ready yet

    def close_sockets(self) -> None:
        for listener in (self.public, self.private):
            if listener is not None:
                listener.close()
        self.public = self.private = None


class Supervisor:
    """A context manager that starts the workers, which load their modules and then wait for `run`, and stops them at its end.

    In the meantime the caller can prepare the database. `run` serves until a signal ends it. `announce(port, private_port)` is
    called once, when all workers are ready or `_STARTUP_S` have passed.
    """

    def __init__(self, settings: Settings, kek_file: Path, *, announce: Callable[[int, int], None] | None = None) -> None:
        self._settings = settings
        self._dsn = ""
        self._kek_file = kek_file
        self._postgres: EmbeddedPostgres | None = None
        self._announce = announce
        self._count = settings.worker_count
        self._id = secrets.token_hex(16)
        self._port = settings.port
        self._private_port = settings.private_port
        self._slots = [Slot(index) for index in range(self._count)]
        self._unix: UnixSocket | None = None
        self._stopping = False
        self._reload_requested = False
        self._without_congestion_control: str | None = None  # why the kernel's default is used instead
        self._shared = os.memfd_create("ixfast-meters", 0)
        os.ftruncate(self._shared, self._count * meters.REGION_BYTES)
        self._memory = mmap.mmap(self._shared, self._count * meters.REGION_BYTES)
        self._meters = [meters.Meters(self._memory, index) for index in range(self._count)]
        self._rates = make_memory()

    def __enter__(self) -> Self:
        """Start the workers. Raises ConfigurationError if a port or the Unix socket is taken."""
        refuse_taken_ports(self._settings)
        try:
            if self._settings.unix_socket is not None:
                self._unix = UnixSocket(self._settings.unix_socket)
            for slot in self._slots:
                self._open_sockets(slot)
                self._spawn(slot)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._drain_workers()
        os.close(self._shared)
        os.close(self._rates)

    def run(self, dsn: str, postgres: EmbeddedPostgres | None = None) -> None:
        """Serve from this database until SIGTERM or SIGINT. On SIGHUP the workers reload their files."""
        self._dsn, self._postgres = dsn, postgres
        if self._without_congestion_control is not None:  # here, so that a start that fails says nothing but why
            log.info("using the system's TCP congestion control: %s", self._without_congestion_control)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "_stopping", True))
        signal.signal(signal.SIGHUP, lambda *_: setattr(self, "_reload_requested", True))
        try:
            for slot in self._slots:
                self._configure(slot)
            self._await_ready()
            while not self._stopping:
                self._supervise()
                time.sleep(_TICK_S)
        finally:
            self._drain_workers()

    def _open_sockets(self, slot: Slot) -> None:
        settings = self._settings
        slot.public = bind_listener(settings.host, self._port, "port", shared=True)
        self._without_congestion_control = _choose_congestion_control(slot.public, settings.congestion_control)
        self._port = slot.public.getsockname()[1]
        slot.private = bind_listener(settings.private_host, self._private_port, "private_port", shared=True)
        self._private_port = slot.private.getsockname()[1]

    def _spawn(self, slot: Slot) -> None:
        """Start a worker, which loads its modules and waits for `_configure`."""
        if slot.public is None or slot.private is None:
            self._open_sockets(slot)
        descriptor, slot.config_pipe = os.pipe()
        # Ctrl-C reaches the whole process group, but only the supervisor acts on it: a worker inherits the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            slot.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, *_WORKER, str(descriptor), str(os.getpid())],
                pass_fds=(descriptor, self._shared, self._rates, *self._listeners(slot)),
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name != _SECRET},
            )
        finally:
            os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _listeners(self, slot: Slot) -> list[int]:
        """The descriptors of a worker's listening sockets: public, private and, if there is one, the Unix socket's."""
        assert slot.public is not None and slot.private is not None
        unix = [self._unix.listener.fileno()] if self._unix is not None else []
        return [slot.public.fileno(), slot.private.fileno(), *unix]

    def _configure(self, slot: Slot) -> None:
        """Send a worker its configuration, with which it starts to serve."""
        public, private, *unix = self._listeners(slot)
        config = WorkerConfig(
            settings=self._settings,
            dsn=self._dsn,
            kek_file=str(self._kek_file),
            worker=slot.index,
            workers=self._count,
            server=self._id,
            public=public,
            private=private,
            unix=unix[0] if unix else -1,
            meters=self._shared,
            rates=self._rates,
        )
        slot.started_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError), os.fdopen(slot.config_pipe, "wb") as pipe:  # it died: it will be restarted
            slot.config_pipe = -1
            pipe.write(config.encode())

    def _await_ready(self) -> None:
        until = time.monotonic() + _STARTUP_S
        while not self._stopping and time.monotonic() < until:
            self._supervise()
            if all(m.slots[meters.READY] for m in self._meters):
                break
            time.sleep(0.02)
        else:
            if not self._stopping:
                log.warning("some workers are not ready; see /readyz for the reason")
        if self._announce is not None and not self._stopping:
            self._announce(self._port, self._private_port)

    def _supervise(self) -> None:
        """Restart processes that died and kill workers that hang."""
        now = time.monotonic()
        logs.write_repeats()
        if self._reload_requested:
            self._reload()
        if self._postgres is not None and not self._postgres.running:
            self._restart_postgres(self._postgres)
        for slot in self._slots:
            if slot.process is None:
                if now >= slot.restart_at:
                    self._spawn(slot)
                    self._configure(slot)
            elif (status := slot.process.poll()) is not None:
                self._schedule_restart(slot, status, now)
            elif self._is_hung(slot, now):
                log.error(
                    "worker %d (pid %d) stopped responding: killing it", slot.index, slot.process.pid, extra={"about": slot.index}
                )
                slot.process.kill()
            elif slot.recovering and self._meters[slot.index].slots[meters.READY]:
                slot.recovering = False
                log.error("worker %d is ready again (pid %d)", slot.index, slot.process.pid, extra={"about": slot.index})

    def _reload(self) -> None:
        """Send SIGHUP to the workers that handle it; those still starting have yet to read the files."""
        self._reload_requested = False
        log.info("reloading")
        for slot in self._slots:
            if slot.process is not None and self._meters[slot.index].slots[meters.HEARTBEAT]:
                slot.process.send_signal(signal.SIGHUP)

    def _is_hung(self, slot: Slot, now: float) -> bool:
        heartbeat = self._meters[slot.index].slots[meters.HEARTBEAT]
        return now - max(heartbeat, slot.started_at + _STARTUP_S) > _HUNG_S

    def _schedule_restart(self, slot: Slot, status: int, now: float) -> None:
        log.error("worker %d exited with status %d: restarting it", slot.index, status, extra={"about": slot.index})
        self._meters[slot.index].reset()
        slot.process = None
        slot.recovering = True
        if now - slot.started_at > _EARLY_EXIT_S:
            slot.early_exits = 0
            slot.restart_at = now
            return
        # The worker cannot start. Without its sockets, the kernel hands new connections to the other workers.
        slot.early_exits += 1
        slot.restart_at = now + min(_BACKOFF_S_MAX, 0.25 * 2**slot.early_exits)
        if self._count > 1:
            slot.close_sockets()

    def _restart_postgres(self, postgres: EmbeddedPostgres) -> None:
        log.error("the embedded PostgreSQL exited: restarting it")
        try:
            postgres.stop()
            postgres.start()
        except ConfigurationError as error:
            log.error("%s", error)
            time.sleep(1.0)
            return
        log.error("the embedded PostgreSQL runs again")
        if postgres.dsn != self._dsn:
            self._dsn = postgres.dsn
            for slot in self._slots:
                if slot.process is not None:
                    slot.process.terminate()

    def _drain_workers(self) -> None:
        """Drain the workers, and kill those that do not exit in time."""
        running = [slot.process for slot in self._slots if slot.process is not None]
        for process in running:
            process.terminate()
        if self._unix is not None:
            self._unix.close()
        for slot in self._slots:
            slot.close_sockets()  # the workers hold them too, and close them once drained
            if slot.config_pipe >= 0:
                os.close(slot.config_pipe)
                slot.config_pipe = -1
        settings = self._settings
        until = time.monotonic() + (settings.drain_delay_ms + settings.drain_timeout_ms) / 1000 + _EXIT_GRACE_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                log.error("worker with pid %d did not exit in time: killing it", process.pid, extra={"about": process.pid})
                process.kill()
                process.wait()
        for slot in self._slots:
            slot.process = None
        if self._unix is not None:
            self._unix.remove()


def refuse_taken_ports(settings: Settings) -> None:
    """Raise ConfigurationError if another server has bound a port. With SO_REUSEPORT alone the bind would succeed, and each
    server would get a part of the scans."""
    for host, port, setting in (
        (settings.host, settings.port, "port"),
        (settings.private_host, settings.private_port, "private_port"),
    ):
        bind_listener(host, port, setting, shared=False).close()


def bind_listener(host: str, port: int, setting: str, *, shared: bool) -> socket.socket:
    """A bound TCP socket; with `shared`, other processes of this user may bind the same port. Raises ConfigurationError that
    names the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        remedy = "stop the other server or choose another port"
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            setting = setting.replace("port", "host")
            remedy = "use an address of this machine"
        elif error.errno in (errno.EINVAL, errno.ENODEV, errno.EAFNOSUPPORT):  # a link-local address of another interface
            setting = setting.replace("port", "host")
            remedy = "use an address of this machine, with its interface if it is link-local: fe80::1%eth0"
        elif error.errno != errno.EADDRINUSE:
            remedy = "choose another port or address"
        raise ConfigurationError(f"{setting}: cannot bind {authority(host, port)} ({error.strerror}); {remedy}.") from None
    return listener


def _choose_congestion_control(listener: socket.socket, algorithm: str) -> str | None:
    """Set the congestion control of connections to `listener` (tcp(7)). With "system", or if the kernel lacks the algorithm or
    keeps it from this user, they use the kernel's default. Returns the reason in the last two cases."""
    if algorithm == "system":
        return None
    try:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm.encode())
    except OSError as error:
        return f"{algorithm} is not available ({error.strerror})"
    return None
