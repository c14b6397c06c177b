"""Rate limits: bursts, averages and bounds, in memory that processes share."""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ixfast import limits
from ixfast.http.rate_limits import MEMORY_BYTES, Buckets, Limiter, make_memory

_TAKER = """
import mmap, sys, time
from ixfast.http.rate_limits import MEMORY_BYTES, Limiter

limiter = Limiter(mmap.mmap(int(sys.argv[1]), MEMORY_BYTES), per_key=0, per_address=int(sys.argv[2]))
begin, end = float(sys.argv[3]), float(sys.argv[4])
taken = 0
while (now := time.monotonic()) < end:
    taken += now >= begin and limiter.admits("192.0.2.1", None, now)
    while time.monotonic() < now + 25e-6:
        pass
print(taken)
"""


def buckets(rate: int, slots: int = 64) -> Buckets:
    return Buckets(rate, memoryview(bytearray(16 * slots)).cast("Q"), bytes(16))


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = make_memory()
    yield descriptor
    os.close(descriptor)


def limiter(memory: int, *, per_key: int = 0, per_address: int = 0) -> Limiter:
    """A worker's own view of the memory of its host."""
    return Limiter(mmap.mmap(memory, MEMORY_BYTES), per_key=per_key, per_address=per_address)


@pytest.mark.parametrize("rate", [1, 3, 7, 10, 999, 10_000_000])
def test_a_burst_of_one_seconds_worth_passes_and_then_the_rate_holds(rate: int) -> None:
    bucket, burst = buckets(rate), min(rate, 1000)
    assert bucket.take(b"k", 5.0, rate - burst) or rate == burst
    assert [bucket.take(b"k", 5.0) for _ in range(burst + 1)] == [True] * burst + [False]
    assert not bucket.take(b"k", 5 + 0.5 / rate)
    assert bucket.take(b"k", 5 + 1.5 / rate)
    assert not bucket.take(b"k", 5 + 1.6 / rate)
    assert bucket.take(b"other", 5.0)


def test_a_batch_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off() -> None:
    bucket = buckets(10)
    assert bucket.take(b"k", 1.0, 1000)
    assert not bucket.take(b"k", 51.0)
    assert bucket.take(b"k", 102.0)
    assert not bucket.take(b"k", 102.0, 1000)
    assert bucket.take(b"k", 103.0, 1000)


def test_a_refused_scan_costs_nothing() -> None:
    bucket = buckets(1)
    assert bucket.take(b"k", 1.0)
    assert not any(bucket.take(b"k", 1.9) for _ in range(100))
    assert bucket.take(b"k", 2.1)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=300), st.integers(1, 50))
def test_never_more_than_the_rate_over_any_time_plus_one_burst(pauses: list[float], rate: int) -> None:
    bucket, now, taken = buckets(rate), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(b"k", now)
    assert taken <= rate + rate * now + 1e-6


def test_a_limiter_counts_addresses_and_tokens_apart(memory: int) -> None:
    both = limiter(memory, per_key=2, per_address=4)
    assert [both.admits("192.0.2.1", b"token", 9.0) for _ in range(3)] == [True, True, False]
    assert both.admits("192.0.2.1", b"another", 9.0)
    assert not both.admits("192.0.2.1", None, 9.0)
    assert both.admits("192.0.2.2", b"another", 9.0)
    assert both.admits(None, None, 9.0)
    assert not limiter(memory).active
    assert limiter(memory).admits("192.0.2.1", b"token", 9.0)


def test_an_address_may_be_of_any_length(memory: int) -> None:
    both = limiter(memory, per_address=1)
    assert both.admits("\udcff" * 10_000, None, 9.0)
    assert not both.admits("\udcff" * 10_000, None, 9.0)
    assert both.admits("", None, 9.0)


def test_workers_count_a_caller_together(memory: int) -> None:
    workers = [limiter(memory, per_key=4, per_address=100) for _ in range(3)]
    assert sum(worker.admits("192.0.2.1", b"token", 9.0) for worker in workers for _ in range(4)) == 4
    # One that is started in another's place knows what was counted.
    assert not limiter(memory, per_key=4, per_address=100).admits("192.0.2.2", b"token", 9.1)


def test_processes_that_take_at_once_get_the_limit_and_very_few_more(memory: int) -> None:
    """Each asks 40,000 times a second, and both race for every token."""
    rate, length = 2_000, 1.5
    begin = time.monotonic() + 2.0
    command = [sys.executable, "-c", _TAKER, str(memory), str(rate), str(begin), str(begin + length)]
    takers = [subprocess.Popen(command, pass_fds=(memory,), stdout=subprocess.PIPE) for _ in range(2)]
    taken = [int(taker.communicate(timeout=30)[0]) for taker in takers]
    assert min(taken) > 0
    assert sum(taken) <= rate * (1 + length) * 1.1


def test_hosts_and_runs_have_keys_of_their_own() -> None:
    descriptors = [make_memory() for _ in range(2)]
    tables = []
    for descriptor in descriptors:
        assert limiter(descriptor, per_address=1).admits("192.0.2.1", None, 9.0)
        with mmap.mmap(descriptor, MEMORY_BYTES) as table:
            tables.append(table[:])
        os.close(descriptor)
    places = [next(place for place in range(16, MEMORY_BYTES, 8) if any(table[place : place + 8])) for table in tables]
    assert tables[0][:16] != tables[1][:16]
    assert tables[0][places[0] : places[0] + 8] != tables[1][places[1] : places[1] + 8]


def test_a_full_set_gives_the_bucket_that_would_be_full_first_to_a_new_caller() -> None:
    bucket = buckets(10, slots=4)
    for name, count in ((b"a", 10), (b"b", 3), (b"c", 7), (b"d", 9)):
        assert bucket.take(name, 9.0, count)
    assert bucket.take(b"e", 9.0, 8)  # takes over the slot of b
    assert not any(bucket.take(name, 9.0, 4) for name in (b"a", b"c", b"d", b"e"))
    assert bucket.take(b"b", 9.0, 10)  # c's was the next
    assert not any(bucket.take(name, 9.0, 3) for name in (b"a", b"b", b"d", b"e"))


def test_a_set_with_a_bucket_that_is_full_again_takes_nothing_over() -> None:
    bucket = buckets(10, slots=4)
    for name, count in ((b"a", 10), (b"b", 3), (b"c", 7), (b"d", 9)):
        assert bucket.take(name, 9.0, count)
    assert bucket.take(b"e", 9.4, 10)
    assert not any(bucket.take(name, 9.4, 9) for name in (b"a", b"c", b"d", b"e"))


def test_many_callers_are_told_apart(memory: int) -> None:
    """With a fifth of the buckets in use, one set in 700 has more callers than slots."""
    both, names = limiter(memory, per_address=1), [f"2001:db8::{number:x}" for number in range(limits.RATE_BUCKETS_MAX // 5)]
    assert all(both.admits(name, None, 9.0) for name in names)
    assert sum(both.admits(name, None, 9.5) for name in names) < len(names) / 100
