"""What the supervisor passes to a worker. A module of its own, so that the supervisor does not load what a worker serves with."""

from __future__ import annotations

import msgspec

from ixfast.config.settings import Settings


class WorkerConfig(msgspec.Struct):
    """Sent as JSON through a pipe. `public` and `private` are the descriptors of listening sockets, `unix` that of the
    listening Unix socket (-1: none), `meters` and `rates` those of shared memory, `server` a random name that all workers of a
    supervisor share."""

    settings: Settings
    dsn: str
    kek_file: str
    worker: int
    workers: int
    server: str
    public: int
    private: int
    unix: int
    meters: int
    rates: int

    def encode(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=str)  # paths are the only values without a JSON type

    @classmethod
    def decode(cls, encoded: bytes) -> WorkerConfig:
        return msgspec.json.decode(encoded, type=cls, dec_hook=lambda kind, value: kind(value))
