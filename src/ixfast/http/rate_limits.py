"""Rate limits: one token bucket per caller, in memory shared by all workers of a host.

A bucket holds one second's worth of scans: a burst of that size passes, and the rate holds on average, whichever workers the
kernel spreads the caller's connections over. A bucket is stored as one number, the time at which it will be full (the generic
cell rate algorithm, ITU-T I.371): each scan moves that time forward by 1 s / rate, and the time of a full bucket lies in the
past. Times are of CLOCK_MONOTONIC, which all processes of a host share and which cannot be set.

A table has a fixed number of slots of two words: a fingerprint of the caller's name, and that time. A name may be in any of the
four slots of its set. A slot whose time has passed is as good as free. If all four are in use, the one that would be full first
is evicted, and its caller starts over with a full bucket: an error in the caller's favour. Fingerprints are keyed with random
bytes of each run, so that names cannot be chosen to collide in one set.

There is no lock. If two workers count for one caller within the same 50 ns, one may overwrite what the other has counted, and a
few scans more than the limit pass: some 1 % if two processes do nothing but count for one caller, 40,000 times per second each,
and fewer otherwise. A process suspended at just that moment overwrites more, one bucket at most.
"""

from __future__ import annotations

import mmap
import os

from ixfast import limits
from ixfast.cmac import aes_cmac

_WORD_BYTES = 8
_SLOT_WORDS = 2  # fingerprint; nanoseconds
_SET_WORDS = 4 * _SLOT_WORDS
_TABLE_BYTES = limits.RATE_BUCKETS_MAX * _SLOT_WORDS * _WORD_BYTES
_KEY_BYTES = 16
_NAME_BYTES_MAX = 256  # An address has at most 45; a balancer may forward anything.
_SECOND_NS = 1_000_000_000

MEMORY_BYTES = _KEY_BYTES + 2 * _TABLE_BYTES
"""The key, the buckets of addresses and the buckets of API keys. Pages that no bucket has touched take no memory."""


def make_memory() -> int:
    """A file descriptor of memory for the limiters of a host's workers, with a random key and all buckets full."""
    descriptor = os.memfd_create("ixfast-rates", 0)
    os.ftruncate(descriptor, MEMORY_BYTES)
    os.pwrite(descriptor, os.urandom(_KEY_BYTES), 0)
    return descriptor


class Buckets:
    """One bucket per name, of `rate_per_s` tokens. `words` is a table with a power of two of sets; `key` has 16 bytes."""

    __slots__ = ("_key", "_last_set", "_rate_per_s", "_words")

    def __init__(self, rate_per_s: int, words: memoryview, key: bytes) -> None:
        self._rate_per_s = rate_per_s
        self._words = words
        self._last_set = len(words) // _SET_WORDS - 1
        self._key = key

    def take(self, name: bytes, now: float, count: int = 1) -> bool:
        """Take `count` tokens at the time `now` (seconds, monotonic). False, and none taken, if there are fewer."""
        words, now_ns = self._words, int(now * _SECOND_NS)
        cost_ns = count * _SECOND_NS // self._rate_per_s
        fingerprint = int.from_bytes(aes_cmac(self._key, name[:_NAME_BYTES_MAX])[:_WORD_BYTES])
        first = at = (fingerprint & self._last_set) * _SET_WORDS
        while words[at] != fingerprint:
            at += _SLOT_WORDS
            if at == first + _SET_WORDS:
                _begin(words, first, fingerprint, now_ns + cost_ns)
                return True
        while True:
            full_ns = words[at + 1]
            # A request for more than a bucket holds passes when it is full, and is paid off by waiting.
            if full_ns <= now_ns:
                next_ns = now_ns + cost_ns
            elif full_ns + cost_ns <= now_ns + _SECOND_NS:
                next_ns = full_ns + cost_ns
            else:
                return False
            if words[at + 1] == full_ns:  # no other worker has counted in between
                words[at + 1] = next_ns
                return True


def _begin(words: memoryview, first: int, fingerprint: int, full_ns: int) -> None:
    """Put a new bucket into the slot of its set with the earliest time: a free one, a full one, or the next to be full."""
    at = min(range(first, first + _SET_WORDS, _SLOT_WORDS), key=lambda slot: words[slot + 1])
    words[at] = 0  # of no name until the time is the new bucket's
    words[at + 1] = full_ns
    words[at] = fingerprint


class Limiter:
    """Both limits of a host, in scans per second; 0 disables one. `memory` maps the descriptor of `make_memory`."""

    __slots__ = ("_by_address", "_by_key")

    def __init__(self, memory: mmap.mmap, *, per_key: int, per_address: int) -> None:
        key, tables = memory[:_KEY_BYTES], memoryview(memory)[_KEY_BYTES:].cast("Q")
        half = len(tables) // 2
        self._by_address = Buckets(per_address, tables[:half], key) if per_address else None
        self._by_key = Buckets(per_key, tables[half:], key) if per_key else None

    @property
    def active(self) -> bool:
        return self._by_key is not None or self._by_address is not None

    def admits(self, address: str | None, token_sha256: bytes | None, now: float, count: int = 1) -> bool:
        """Whether `count` more scans of this address and token may pass. Either may be unknown."""
        if self._by_address is not None and address is not None:
            name = address.encode("utf-8", "surrogateescape")  # how aiohttp represents header bytes that are not UTF-8
            if not self._by_address.take(name, now, count):
                return False
        return self._by_key is None or token_sha256 is None or self._by_key.take(token_sha256, now, count)
