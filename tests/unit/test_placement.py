"""Placement: totals, fairness and optimality of each policy, and the paper's orderings in small."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import example, given, strategies as st

from sparrowmq.errors import UsageError
from sparrowmq.placement import POLICIES, Policy, batch, canonical, late_binding, per_task, uniform
from sparrowmq.placement.load import expected_wait
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.placement.spread import spread

seeds = st.integers(0, 2**32)
sizes = st.integers(0, 60)
tasks_ = st.integers(1, 80)
ratios = st.integers(1000, 5000).map(lambda thousandths: thousandths / 1000)
loads_ = st.dictionaries(st.integers(0, 100), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 7.0]), max_size=12)


def workers(n: int) -> list[str]:
    return [f"worker-{i}" for i in range(n)]


# Names


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("RANDOM", "random"),
        ("CHOOSE_TWO", "per-task"),
        ("BATCH", "batch"),
        ("BATCH+LATE_BINDING", "late-binding"),
        ("batch+late_binding", "late-binding"),
        ("Per_Task", "per-task"),
        *((name, name) for name in POLICIES),
    ],
)
def test_names_are_understood(name: str, policy: str) -> None:
    assert canonical(name) == policy


@pytest.mark.parametrize(
    ("name", "meant"),
    [("late-bindin", "late-binding"), ("radnom", "random"), ("CHOOSE_TOW", "per-task"), ("pertask", "per-task")],
)
def test_unknown_name_hints_at_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UsageError) as raised:
        canonical(name)
    assert raised.value.hint == f"Did you mean {meant!r}?"
    assert repr(name) in str(raised.value)


@pytest.mark.parametrize("name", ["", "zzz", "x" * 10_000])
def test_hopeless_name_lists_the_policies(name: str) -> None:
    with pytest.raises(UsageError, match="the policies are random, per-task, batch, late-binding") as raised:
        canonical(name)
    assert "Did you mean" not in raised.value.hint
    assert len(str(raised.value)) < 200


def test_what_drives_each_policy() -> None:
    assert dict(POLICIES) == {
        "random": Policy("random", late=False, samples=False),
        "per-task": Policy("per-task", late=False, samples=True),
        "batch": Policy("batch", late=False, samples=True),
        "late-binding": Policy("late-binding", late=True, samples=False),
        "assisted": Policy("assisted", late=True, samples=False, hinted=True),
    }


# How many probes


@pytest.mark.parametrize(
    ("tasks", "ratio", "count"),
    [(10, 1.1, 11), (100, 1.1, 110), (10, 1.05, 11), (1, 2.0, 2), (3, 1.0, 3), (3, 1.1, 4), (100_000, 100.0, 10**7)],
)
def test_probes(tasks: int, ratio: float, count: int) -> None:
    assert probes(tasks, ratio) == count


@given(tasks=st.integers(1, 100_000), ratio=ratios)
def test_probes_is_the_exact_ceiling_of_the_decimal_ratio(tasks: int, ratio: float) -> None:
    assert probes(tasks, ratio) == math.ceil(Fraction(repr(ratio)) * tasks)


# Loads


@given(slots=st.integers(1, 64), a=st.tuples(sizes, sizes), b=st.tuples(sizes, sizes))
def test_load_orders_equal_slots_by_queued_and_running(slots: int, a: tuple[int, int], b: tuple[int, int]) -> None:
    left, right = expected_wait(*a, slots), expected_wait(*b, slots)
    assert (left < right) == (sum(a) < sum(b))
    assert (left == right) == (sum(a) == sum(b))


@given(queued=sizes, running=sizes, few=st.integers(1, 63), more=st.integers(1, 63))
def test_load_prefers_more_slots_at_equal_queues(queued: int, running: int, few: int, more: int) -> None:
    assert expected_wait(queued, running, few + more) < expected_wait(queued, running, few)


@given(queued=sizes, running=sizes, slots=st.integers(1, 64))
def test_load_is_positive_exactly_when_no_slot_is_idle(queued: int, running: int, slots: int) -> None:
    assert (expected_wait(queued, running, slots) > 0) == (queued + running >= slots)


def test_load_counts_in_service_times() -> None:
    assert expected_wait(queued=0, running=1, slots=1) == 1.0
    assert expected_wait(queued=3, running=4, slots=4) == 1.0
    assert expected_wait(queued=0, running=3, slots=4) == 0.0
    assert expected_wait(queued=0, running=0, slots=0) == math.inf


# Spread and late binding


@given(seed=seeds, n=sizes, count=st.integers(0, 300))
def test_spread_is_complete_distinct_and_fair(seed: int, n: int, count: int) -> None:
    got = spread(random.Random(seed), workers(n), count)
    assert set(got) <= set(workers(n))
    assert sum(got.values()) == (count if n else 0)
    assert len(got) == min(n, count)
    if got:
        assert min(got.values()) >= 1
        assert max(got.values()) - min(got.values()) <= 1


def test_spread_gives_everyone_the_same_chance_of_one_more() -> None:
    rng = random.Random(5)
    more = Counter[str]()
    for _ in range(4000):
        more.update(worker for worker, count in spread(rng, workers(10), 13).items() if count == 2)
    assert len(more) == 10
    for count in more.values():  # expected 1200, standard deviation 29
        assert 1200 - 150 < count < 1200 + 150


def test_spread_over_many_workers_does_not_cost_a_shuffle() -> None:
    many = workers(10_000)
    rng = random.Random(1)

    def fastest_s(count: int) -> float:
        durations = []
        for _ in range(5):
            start = time.perf_counter()
            spread(rng, many, count)
            durations.append(time.perf_counter() - start)
        return min(durations)

    assert fastest_s(200) < fastest_s(10_000) / 4


@given(seed=seeds, n=sizes, tasks=tasks_, ratio=ratios)
def test_late_binding_reserves_distinct_workers_while_they_last(seed: int, n: int, tasks: int, ratio: float) -> None:
    got = late_binding.reserve(random.Random(seed), workers(n), tasks, ratio)
    wanted = math.ceil(Fraction(repr(ratio)) * tasks)
    assert sum(got.values()) == (wanted if n else 0)
    if wanted <= n:
        assert set(got.values()) <= {1}


# Random


@given(seed=seeds, n=sizes, tasks=tasks_)
def test_random_places_every_task(seed: int, n: int, tasks: int) -> None:
    got = uniform.place(random.Random(seed), workers(n), tasks)
    assert sum(got.values()) == (tasks if n else 0)
    assert set(got) <= set(workers(n))
    assert 0 not in got.values()


def test_random_draws_each_task_by_itself() -> None:
    got = uniform.place(random.Random(3), workers(100), 10_000)
    mean_square = sum((got.get(worker, 0) - 100) ** 2 for worker in workers(100)) / 100
    assert 60 < mean_square < 140  # binomial: about 99; an even spread would have 0


# Per task


@given(seed=seeds, n=st.integers(1, 60), tasks=tasks_, ratio=ratios)
@example(seed=0, n=1, tasks=3, ratio=2.0)
@example(seed=0, n=2, tasks=3, ratio=2.0)
def test_per_task_choices(seed: int, n: int, tasks: int, ratio: float) -> None:
    choices = per_task.choose(random.Random(seed), workers(n), tasks, ratio)
    assert len(choices) == tasks
    for chosen in choices:
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(workers(n))
    widths = [len(chosen) for chosen in choices]
    wanted = math.ceil(Fraction(repr(ratio)) * tasks)
    if wanted <= n:
        assert sum(widths) == wanted
    assert max(widths) - min(widths) <= 1
    assert min(widths) >= 1
    assert max(widths) <= n
    if ratio < 2 <= n and wanted > tasks:
        assert max(widths) == 2


def test_per_task_without_workers_chooses_none() -> None:
    assert per_task.choose(random.Random(1), [], 3, 2.0) == [(), (), ()]
    assert per_task.place(random.Random(1), [(), ()], {}) == [None, None]


def test_per_task_draws_every_pair_alike() -> None:
    choices = per_task.choose(random.Random(8), "abcd", 12_000, 2.0)
    pairs = Counter(choices)
    assert set(pairs) == set(itertools.permutations("abcd", 2))
    for count in pairs.values():  # expected 1000, standard deviation 30
        assert 850 < count < 1150


def test_per_task_takes_the_least_loaded_of_its_own_choices() -> None:
    loads = {"a": 3.0, "b": 1.0, "c": 0.0}
    assert per_task.place(random.Random(1), [("a", "b")], loads) == ["b"]
    assert per_task.place(random.Random(1), [("b", "a")], loads) == ["b"]
    assert per_task.place(random.Random(1), [("a",)], loads) == ["a"]


def test_per_task_skips_workers_without_a_load() -> None:
    assert per_task.place(random.Random(1), [("gone", "a"), ("gone", "lost")], {"a": 9.0}) == ["a", None]


def test_per_task_breaks_ties_at_random() -> None:
    rng = random.Random(11)
    got = Counter(per_task.place(rng, [("a", "b", "c")], {"a": 1.0, "b": 1.0, "c": 1.0})[0] for _ in range(3000))
    for worker in "abc":  # expected 1000, standard deviation 26
        assert 870 < got[worker] < 1130


def test_per_task_counts_what_the_job_has_already_placed() -> None:
    rng = random.Random(2)
    placed = per_task.place(rng, [("a", "b")] * 100, {"a": 0.0, "b": 10.0})
    assert Counter(placed) == {"a": 55, "b": 45}
    placed = per_task.place(rng, [("a", "b")] * 100, {"a": 0.0, "b": 0.0}, slots={"a": 1, "b": 4})
    assert Counter(placed) == {"a": 20, "b": 80}


# Batch


@given(seed=seeds, n=sizes, tasks=tasks_, ratio=ratios)
def test_batch_asks_distinct_workers(seed: int, n: int, tasks: int, ratio: float) -> None:
    chosen = batch.choose(random.Random(seed), workers(n), tasks, ratio)
    assert len(set(chosen)) == len(chosen) == min(n, math.ceil(Fraction(repr(ratio)) * tasks))
    assert set(chosen) <= set(workers(n))


@given(seed=seeds, loads=loads_, tasks=st.integers(0, 40))
def test_batch_places_all_and_levels(seed: int, loads: dict[int, float], tasks: int) -> None:
    got = batch.place(random.Random(seed), loads, tasks)
    assert sum(got.values()) == (tasks if loads else 0)
    assert 0 not in got.values()
    final = {worker: load + got.get(worker, 0) for worker, load in loads.items()}
    for worker in got:  # nobody could be relieved by moving its last task elsewhere
        assert final[worker] <= min(final.values()) + 1


@given(
    seed=seeds,
    loads=st.lists(st.sampled_from([-0.75, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=4),
    slots=st.lists(st.sampled_from([1, 2, 4]), min_size=4, max_size=4),
    tasks=st.integers(1, 6),
)
def test_batch_is_optimal(seed: int, loads: list[float], slots: list[int], tasks: int) -> None:
    """Against all placements there are: no other has a shorter longest wait, nor a smaller sum of waits."""

    def waits(counts: dict[int, int]) -> list[float]:
        return [loads[w] + k / slots[w] for w, count in counts.items() for k in range(count)]

    got = waits(batch.place(random.Random(seed), dict(enumerate(loads)), tasks, slots=dict(enumerate(slots))))
    every = itertools.combinations_with_replacement(range(len(loads)), tasks)
    others = [waits(Counter(chosen)) for chosen in every]
    assert max(got) == min(max(other) for other in others)
    assert sum(got) == pytest.approx(min(sum(other) for other in others))


def test_batch_fills_the_valleys() -> None:
    loads = {"a": 5.0, "b": 0.0, "c": 2.0}
    assert batch.place(random.Random(1), loads, 2) == {"b": 2}
    assert batch.place(random.Random(1), loads, 4) == {"b": 3, "c": 1}
    assert batch.place(random.Random(1), loads, 11) == {"a": 1, "b": 6, "c": 4}


def test_batch_gives_a_worker_no_more_than_it_may() -> None:
    loads = {"a": 9.0, "b": 0.0, "c": 4.0}
    assert batch.place(random.Random(1), loads, 2, most=1) == {"b": 1, "c": 1}  # the two least loaded, as in the paper
    assert batch.place(random.Random(1), loads, 4, most=2) == {"b": 2, "c": 2}
    assert batch.place(random.Random(1), loads, 7, most=2) == {"b": 3, "c": 3, "a": 1}  # fewer have answered


@given(st.integers(0, 99), st.dictionaries(st.integers(0, 50), st.floats(0, 20), min_size=1), st.integers(1, 60))
def test_batch_with_one_task_a_worker_takes_the_least_loaded(seed: int, loads: dict[int, float], tasks: int) -> None:
    tasks = min(tasks, len(loads))
    got = batch.place(random.Random(seed), loads, tasks, most=1)
    assert set(got.values()) == {1}
    assert sorted(loads[worker] for worker in got) == sorted(loads.values())[:tasks]


def test_batch_breaks_ties_at_random() -> None:
    rng = random.Random(4)
    got = Counter[str]()
    for _ in range(3000):
        got.update(batch.place(rng, {"a": 1.0, "b": 1.0, "c": 1.0}, 1))
    for worker in "abc":
        assert 870 < got[worker] < 1130


def test_workers_without_slots_are_the_last_resort() -> None:
    dead = expected_wait(0, 0, 0)
    assert batch.place(random.Random(1), {"a": dead, "b": 9.0}, 3, slots={"a": 0, "b": 1}) == {"b": 3}
    assert per_task.place(random.Random(1), [("a", "b")], {"a": dead, "b": 9.0}, slots={"a": 0, "b": 1}) == ["b"]
    assert batch.place(random.Random(1), {"a": dead}, 2, slots={"a": 0}) == {"a": 2}


# All policies


def test_same_seed_same_placement() -> None:
    def run(seed: int) -> list[object]:
        rng = random.Random(seed)
        names = workers(50)
        loads = {name: float(i % 5) for i, name in enumerate(names)}
        return [
            uniform.place(rng, names, 30),
            per_task.place(rng, per_task.choose(rng, names, 30, 1.5), loads),
            batch.choose(rng, names, 10, 2.0),
            batch.place(rng, loads, 30),
            list(late_binding.reserve(rng, names, 100, 1.1).items()),
        ]

    assert run(1) == run(1)
    assert run(1) != run(2)


def zero_wait_share(policy: str, *, load: float, tasks: int, ratio: int, n: int, jobs: int, seed: int) -> float:
    """Share of jobs of which no task meets a busy single-slot worker, each busy with probability ``load``."""
    rng = random.Random(seed)
    names = list(range(n))
    happy = 0
    for _ in range(jobs):
        busy = [rng.random() < load for _ in names]
        loads = {name: expected_wait(0, int(busy[name]), 1) for name in names}
        if policy == "random":
            placed = uniform.place(rng, names, tasks)
        elif policy == "per-task":
            chosen = per_task.place(rng, per_task.choose(rng, names, tasks, ratio), loads)
            placed = Counter(worker for worker in chosen if worker is not None)
        else:
            placed = batch.place(rng, {w: loads[w] for w in batch.choose(rng, names, tasks, ratio)}, tasks)
        happy += not any(busy[worker] for worker in placed)
    return happy / jobs


def test_zero_wait_probabilities_of_the_paper() -> None:
    """SOSP 2013, section 5: (1-p)^m, (1-p^d)^m and the binomial tail, in a cluster much larger than a job."""
    load, m, d = 0.3, 5, 2
    expected = {
        "random": (1 - load) ** m,
        "per-task": (1 - load**d) ** m,
        "batch": sum(math.comb(d * m, i) * (1 - load) ** i * load ** (d * m - i) for i in range(m, d * m + 1)),
    }
    measured = {
        policy: zero_wait_share(policy, load=load, tasks=m, ratio=d, n=400, jobs=1500, seed=7) for policy in expected
    }
    for policy, share in expected.items():  # standard deviation at most 0.013; collisions cost under 0.02
        assert measured[policy] == pytest.approx(share, abs=0.05)
    assert measured["random"] < measured["per-task"] < measured["batch"]
