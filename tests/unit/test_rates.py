"""Token buckets: bursts, averages and bounds."""

from hypothesis import given
from hypothesis import strategies as st

from ixfast.http.rates import Buckets, Limiter


def test_a_burst_of_one_seconds_worth_passes_and_then_the_rate_holds() -> None:
    buckets = Buckets(10)
    assert [buckets.take(b"k", 0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not buckets.take(b"k", 0.05)
    assert buckets.take(b"k", 0.15)
    assert buckets.take(b"other", 0.15)


def test_a_batch_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_off() -> None:
    buckets = Buckets(10)
    assert buckets.take(b"k", 0.0, 1000)
    assert not buckets.take(b"k", 50.0)
    assert buckets.take(b"k", 101.0)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=300), st.integers(1, 50))
def test_never_more_than_the_rate_over_any_time_plus_one_burst(pauses: list[float], rate: int) -> None:
    buckets, now, taken = Buckets(rate), 0.0, 0
    for pause in pauses:
        now += pause
        taken += buckets.take(b"k", now)
    assert taken <= rate + rate * now + 1e-6


def test_a_limiter_counts_addresses_and_tokens_apart_and_splits_by_workers() -> None:
    limiter = Limiter(per_key=4, per_address=8, workers=2)
    assert [limiter.admits("1.2.3.4", b"token", 0.0) for _ in range(3)] == [True, True, False]
    assert limiter.admits("1.2.3.4", b"another", 0.0)
    assert not limiter.admits("1.2.3.4", None, 0.0)
    assert limiter.admits(None, None, 0.0)
    assert not Limiter(per_key=0, per_address=0, workers=2).active
