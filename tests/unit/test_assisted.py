"""Which workers get reservations by expected waits: the share first, then who is free, then the shortest wait."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, strategies as st

from sparrowmq.placement import assisted


def choose(share, others, count, waits, seed=1):
    return assisted.choose(random.Random(seed), share, others, count, waits.__getitem__)


def test_the_free_ones_of_the_share_come_first_and_of_these_the_least_loaded() -> None:
    waits = {"a": 0.0, "b": -0.5, "c": -0.25, "d": 0.25, "x": -0.75, "y": -0.75}
    assert choose("abcd", "xy", 1, waits) == {"b": 1}
    assert choose("abcd", "xy", 3, waits) == {"b": 1, "c": 1, "a": 1}


def test_then_free_ones_elsewhere_and_then_the_shortest_waits_of_all() -> None:
    waits = {"a": 0.0, "b": 2.0, "c": 0.5, "x": 0.0, "y": 1.0, "z": 0.25}
    assert list(choose("abc", "xyz", 2, waits)) == ["a", "x"]
    assert list(choose("abc", "xyz", 5, waits)) == ["a", "x", "z", "c", "y"]


def test_without_others_it_ranks_all() -> None:
    waits = {"a": 1.0, "b": 0.5, "c": 3.0}
    assert list(choose("abc", "", 2, waits)) == ["b", "a"]
    assert list(choose("", "abc", 2, waits)) == ["b", "a"]
    assert choose("", "", 2, {}) == {}


def test_more_reservations_than_workers_are_spread_evenly_and_the_best_get_one_more() -> None:
    waits = {"a": 1.0, "b": -0.5, "c": 0.5}
    assert choose("ab", "c", 6, waits) == {"a": 2, "b": 2, "c": 2}
    assert choose("ab", "c", 8, waits) == {"a": 2, "b": 3, "c": 3}


def test_equal_workers_are_taken_at_random() -> None:
    rng, workers = random.Random(4), range(40)
    drawn = Counter(worker for _ in range(4000) for worker in assisted.choose(rng, workers, (), 4, lambda _: 0.0))
    assert len(drawn) == 40
    assert max(drawn.values()) < 1.3 * 400
    assert min(drawn.values()) > 0.7 * 400


def test_only_so_many_are_looked_at() -> None:
    looked: list[int] = []

    def wait(worker: int) -> float:
        looked.append(worker)
        return 1.0

    chosen = assisted.choose(random.Random(2), range(10_000), range(10_000, 20_000), 20, wait)
    assert len(chosen) == 20
    assert len(looked) == len(set(looked)) == 2 * assisted.LOOKS * 20
    assert len({worker // 1000 for worker in looked}) == 20  # from everywhere: neighbours are full together


def test_free_names_only_workers_where_nothing_waits() -> None:
    waits = {"a": 0.25, "b": 0.0, "c": -0.5, "d": 0.0}
    assert assisted.free(random.Random(1), "abcd", 2, waits.__getitem__)[0] == "c"
    assert set(assisted.free(random.Random(1), "abcd", 9, waits.__getitem__)) == {"b", "c", "d"}
    assert assisted.free(random.Random(1), "", 2, waits.__getitem__) == []


@given(st.integers(0, 120), st.integers(0, 120), st.integers(1, 400), st.integers(0, 2**32), st.data())
def test_as_many_as_asked_for_on_distinct_workers_none_much_more_than_another(share, others, count, seed, data) -> None:
    waits = data.draw(st.lists(st.integers(-4, 9), min_size=share + others, max_size=share + others))
    counts = choose(range(share), range(share, share + others), count, dict(enumerate(waits)), seed)
    if not share + others:
        assert counts == {}
        return
    assert sum(counts.values()) == count
    full = [counts.get(worker, 0) for worker in range(share + others)]
    assert max(full) - min(full) <= 1
