"""Rate limits: token buckets for API keys and for client addresses, bounded in number.

A bucket holds one second's worth of requests, so that a burst of that size passes and the rate holds on average. Buckets live in
the worker; a limit is split evenly among the workers, among which the kernel spreads connections.
"""

from __future__ import annotations

from ixfast import limits
from ixfast.store.cache import TwoGenerations


class Buckets:
    """One bucket a name. Forgotten names begin anew with a full bucket, which errs on the caller's side."""

    __slots__ = ("_buckets", "_capacity", "_rate_per_s")

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._capacity = max(1.0, rate_per_s)
        self._buckets = TwoGenerations(limits.RATE_BUCKETS_MAX)

    def take(self, name: bytes, now: float, count: int = 1) -> bool:
        """Take `count` tokens at the time `now` (seconds, monotonic); False if there are not as many."""
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = [self._capacity, now]
            self._buckets.put(name, bucket)
        tokens = min(self._capacity, bucket[0] + (now - bucket[1]) * self._rate_per_s)
        bucket[1] = now
        # More than the bucket ever holds goes through when it is full, and is paid off by waiting.
        if tokens < min(count, self._capacity):
            bucket[0] = tokens
            return False
        bucket[0] = tokens - count
        return True


class Limiter:
    """Both limits of a worker; 0 is none."""

    __slots__ = ("_by_address", "_by_key")

    def __init__(self, *, per_key: int, per_address: int, workers: int) -> None:
        self._by_key = Buckets(per_key / workers) if per_key else None
        self._by_address = Buckets(per_address / workers) if per_address else None

    @property
    def active(self) -> bool:
        return self._by_key is not None or self._by_address is not None

    def admits(self, address: str | None, token_sha256: bytes | None, now: float, count: int = 1) -> bool:
        """May `count` more scans come from this address and under this token? Either may be unknown."""
        if self._by_address is not None and address is not None:
            name = address.encode("utf-8", "surrogateescape")  # aiohttp's way with bytes of a header that are no text
            if not self._by_address.take(name, now, count):
                return False
        return self._by_key is None or token_sha256 is None or self._by_key.take(token_sha256, now, count)
