"""The bounded cache: what it keeps, what it forgets, and that a removed value never comes back."""

from hypothesis import given
from hypothesis import strategies as st

from ixfast.store.catalogue.cache import TwoGenerations

KEYS = [bytes([n]) for n in range(6)]
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "get", "pop"]), st.sampled_from(KEYS[:4])), min_size=20, max_size=40)


def test_the_oldest_generation_is_forgotten_unless_it_was_asked_for() -> None:
    cache = TwoGenerations(4)
    for n in range(4):
        cache.put(KEYS[n], n)
    assert cache.get(KEYS[0]) == 0  # moves into the young generation
    cache.put(KEYS[4], 4)
    cache.put(KEYS[5], 5)
    assert [cache.get(key) for key in KEYS[:2]] == [0, None]


def test_what_is_forgotten_goes_a_few_entries_at_a_time() -> None:
    """Freeing a whole generation at once would stop the event loop."""

    class Counted:
        alive = 0

        def __init__(self) -> None:
            Counted.alive += 1

        def __del__(self) -> None:
            Counted.alive -= 1

    cache = TwoGenerations(2000)
    for n in range(5000):
        before = Counted.alive
        cache.put(n.to_bytes(4), Counted())
        assert before - Counted.alive <= 2  # one came, at most three went
    assert len(cache) <= 2000
    assert Counted.alive <= 3000  # two generations and the dying one


@given(entries_max=st.integers(1, 6), steps=STEPS)
def test_it_answers_the_latest_value_or_nothing_within_its_bound(entries_max: int, steps: list[tuple[str, bytes]]) -> None:
    cache = TwoGenerations(entries_max)
    latest: dict[bytes, int] = {}
    for number, (step, key) in enumerate(steps):
        if step == "put":
            cache.put(key, number)
            latest[key] = number
        elif step == "pop":
            assert cache.pop(key) in (None, latest.pop(key, None))
            assert cache.get(key) is None  # a value that was replaced before must not come back
        else:
            assert cache.get(key) in (None, latest.get(key))
        assert len(cache) <= max(2, entries_max)
    held = {key: value for key in KEYS if (value := cache.get(key)) is not None}
    assert held.items() <= latest.items()
    cache.clear()
    assert len(cache) == 0
    assert not any(map(cache.get, KEYS))


@given(entries_max=st.integers(2, 12), keys=st.lists(st.sampled_from(KEYS), max_size=60))
def test_what_was_used_among_the_last_half_is_still_there(entries_max: int, keys: list[bytes]) -> None:
    cache = TwoGenerations(entries_max)
    for number, key in enumerate(keys):
        if cache.get(key) is None:
            cache.put(key, key)
        recent = list(dict.fromkeys(reversed(keys[: number + 1])))[: entries_max // 2]
        assert all(recent_key in cache._young or recent_key in cache._old for recent_key in recent)


def test_all_keys_can_be_looked_through_without_using_any() -> None:
    cache: TwoGenerations[int] = TwoGenerations(4)
    for n in range(4):
        cache.put(KEYS[n], n + 1)
    assert sorted(cache.keys()) == KEYS[:4]
    assert [cache.peek(key) for key in KEYS[:5]] == [1, 2, 3, 4, None]
    cache.put(KEYS[4], 5)
    assert sorted(cache.keys()) == KEYS[2:5]  # peeking has saved nobody
