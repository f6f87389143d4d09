"""SOSP 2013, section 5: the probability that no task of a job waits, by formula, by counting, and by placing jobs.

The formulas are held against every state of the few workers that a small job meets, each weighed with its probability,
in exact arithmetic; and the policies' real code against the formulas, on workers whose slots are busy at random.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.errors import UsageError
from sparrowmq.placement import batch, late_binding, per_task, uniform
from sparrowmq.placement.load import expected_wait
from sparrowmq.sim import theory

# The paper's own numbers.


def test_per_task_sampling_hardly_ever_places_a_large_job_without_wait() -> None:
    """Section 5: two choices a task, 100 tasks, 20 % load."""
    assert theory.zero_wait_per_task(0.2, 100) == pytest.approx(0.01687, abs=5e-6)


def test_batch_sampling_on_four_cores_places_a_large_job_without_wait_at_79_percent() -> None:
    """Section 5, several cores: rho becomes rho^c; 100 tasks, d = 2, c = 4."""
    assert theory.zero_wait_batch(0.79, 100, cores=4) == pytest.approx(0.9994, abs=5e-5)


def test_late_binding_leaves_slots_idle_for_two_percent_of_the_time() -> None:
    """Section 5 and Fig. 3: d RTT / (t + d RTT) for 100 ms tasks, a round trip of 1 ms, d = 2."""
    assert theory.idle_share(0.1, 0.001) == pytest.approx(0.002 / 0.102)
    assert theory.idle_share(0.1, 0.001, probe_ratio=1.0) == pytest.approx(0.001 / 0.101)
    assert theory.idle_share(0.1, 0.0) == 0.0


@pytest.mark.parametrize("load", [0.05, 0.3, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("tasks", [2, 10, 100])
def test_sharing_probes_is_best_and_no_probes_worst(load: float, tasks: int) -> None:
    """Section 3.3: batch sampling places a job without wait whenever per-task sampling does, and more often."""
    random_, each = theory.zero_wait_random(load, tasks), theory.zero_wait_per_task(load, tasks)
    assert random_ < each <= theory.zero_wait_batch(load, tasks)


# Counting: every state of the workers that a job meets, with its probability.


def enumerated(workers: int, busy: Fraction, without_wait: Callable[[tuple[bool, ...]], bool]) -> Fraction:
    """Return the probability of the states, a flag a worker (True: idle), in which no task waits."""
    total = Fraction(0)
    for idle in itertools.product((False, True), repeat=workers):
        if without_wait(idle):
            total += busy ** idle.count(False) * (1 - busy) ** idle.count(True)
    return total


loads = st.fractions(0, 1, max_denominator=50)


@given(loads, st.integers(1, 6), st.integers(1, 3))
def test_random_against_all_states(load: Fraction, tasks: int, cores: int) -> None:
    expected = enumerated(tasks, load**cores, all)
    assert theory.zero_wait_random(float(load), tasks, cores=cores) == pytest.approx(float(expected), abs=1e-15)


@given(loads, st.integers(1, 5), st.integers(1, 3))
def test_per_task_against_all_states(load: Fraction, tasks: int, cores: int) -> None:
    expected = enumerated(2 * tasks, load**cores, lambda idle: all(map(any, zip(idle[::2], idle[1::2], strict=True))))
    assert theory.zero_wait_per_task(float(load), tasks, cores=cores) == pytest.approx(float(expected), abs=1e-15)


@given(loads, st.integers(1, 5), st.sampled_from([1.0, 1.1, 1.5, 2.0]), st.integers(1, 3))
def test_batch_against_all_states(load: Fraction, tasks: int, ratio: float, cores: int) -> None:
    asked = math.ceil(Fraction(str(ratio)) * tasks)
    expected = enumerated(asked, load**cores, lambda idle: sum(idle) >= tasks)
    found = theory.zero_wait_batch(float(load), tasks, probe_ratio=ratio, cores=cores)
    assert found == pytest.approx(float(expected), abs=1e-15)


def test_a_ratio_between_two_integers_gives_some_tasks_a_choice_more() -> None:
    """1.5 choices for four tasks: two have one choice, two have two."""
    expected = (1 - 0.3) ** 2 * (1 - 0.3**2) ** 2
    assert theory.zero_wait_per_task(0.3, 4, probe_ratio=1.5) == pytest.approx(expected)


# Numbers as large and as small as they come.


@pytest.mark.parametrize(("tasks", "load"), [(1000, (1, 2)), (10_000, (9, 20)), (10_000, (1, 2)), (10_000, (51, 100))])
def test_batch_is_exact_for_large_jobs(tasks: int, load: tuple[int, int]) -> None:
    """The binomial tail in whole numbers, which have some 40,000 digits."""
    busy, of = load
    count = 2 * tasks
    term, enough = (of - busy) ** count, 0  # all idle
    for idle in range(count, tasks - 1, -1):
        enough += term
        term = term * idle * busy // ((count - idle + 1) * (of - busy))
    expected = Fraction(enough, of**count)
    assert theory.zero_wait_batch(busy / of, tasks) == pytest.approx(float(expected), rel=1e-10)


def test_small_probabilities_keep_their_digits() -> None:
    assert theory.zero_wait_random(1e-18, 10_000) == pytest.approx(1.0 - 1e-14, abs=1e-17)
    assert theory.zero_wait_random(0.9, 10) == pytest.approx(1e-10)
    assert theory.zero_wait_batch(0.99, 100) == pytest.approx(
        float(sum(math.comb(200, i) * Fraction(99) ** (200 - i) for i in range(100, 201)) / Fraction(100) ** 200)
    )
    assert theory.zero_wait_batch(0.6, limits.TASKS_PER_JOB_MAX) < 1e-300
    assert theory.zero_wait_batch(0.4, limits.TASKS_PER_JOB_MAX, probe_ratio=limits.PROBE_RATIO_MAX) == 1.0


@pytest.mark.parametrize("formula", [theory.zero_wait_random, theory.zero_wait_per_task, theory.zero_wait_batch])
def test_idle_and_full_clusters(formula: Callable[..., float]) -> None:
    assert formula(0.0, 10_000) == 1.0
    assert formula(1.0, 1) == 0.0
    assert formula(1e-300, 10_000, cores=4) == 1.0
    assert 0.0 <= formula(1.0 - 1e-16, 10) < 1e-12


# Placing: the policies' own code.

WORKERS = range(1_000_000)  # so many that no two tasks meet by chance, of which only those that are met get a state
TRIALS = 4000

Placed = Counter[int]


class Slots:
    """Workers whose slots are busy with probability ``load``, each drawn when it is first looked at."""

    def __init__(self, rng: random.Random, load: float, cores: int) -> None:
        self._rng, self._load, self._cores = rng, load, cores
        self._idle: dict[int, int] = {}

    def idle(self, worker: int) -> int:
        if worker not in self._idle:
            self._idle[worker] = sum(self._rng.random() >= self._load for _ in range(self._cores))
        return self._idle[worker]

    def loads(self, workers: list[int]) -> dict[int, float]:
        return {worker: expected_wait(0, self._cores - self.idle(worker), self._cores) for worker in workers}


def place(policy: str, rng: random.Random, slots: Slots, tasks: int, ratio: float, cores: int) -> Placed:
    if policy == "random":
        return Counter(uniform.place(rng, WORKERS, tasks))
    if policy == "per-task":
        choices = per_task.choose(rng, WORKERS, tasks, ratio)
        asked = slots.loads([worker for pair in choices for worker in pair])
        chosen = per_task.place(rng, choices, asked, slots=dict.fromkeys(asked, cores))
        return Counter(worker for worker in chosen if worker is not None)
    asked = slots.loads(batch.choose(rng, WORKERS, tasks, ratio))
    return Counter(batch.place(rng, asked, tasks, slots=dict.fromkeys(asked, cores)))


def share_without_wait(policy: str, load: float, tasks: int, *, ratio: float = 2.0, cores: int = 1) -> float:
    rng = random.Random(f"{policy} {load} {tasks} {ratio} {cores}")
    happy = 0
    for _ in range(TRIALS):
        slots = Slots(rng, load, cores)
        placed = place(policy, rng, slots, tasks, ratio, cores)
        assert placed.total() == tasks
        happy += all(count <= slots.idle(worker) for worker, count in placed.items())
    return happy / TRIALS


def error(probability: float) -> float:
    """Four standard deviations of a share of TRIALS: one of 16,000 comparisons exceeds it by chance."""
    return 4.0 * math.sqrt(probability * (1.0 - probability) / TRIALS) + 1e-3


@pytest.mark.parametrize(("load", "tasks", "cores"), [(0.1, 10, 1), (0.3, 3, 1), (0.6, 5, 4)])
def test_random_placement_waits_as_often_as_computed(load: float, tasks: int, cores: int) -> None:
    """Section 5: (1 - rho^c)^m."""
    expected = theory.zero_wait_random(load, tasks, cores=cores)
    assert 0.1 < expected < 0.9
    assert share_without_wait("random", load, tasks, cores=cores) == pytest.approx(expected, abs=error(expected))


@pytest.mark.parametrize(
    ("load", "tasks", "ratio", "cores"), [(0.2, 20, 2.0, 1), (0.5, 4, 2.0, 1), (0.15, 10, 1.5, 1), (0.7, 8, 2.0, 4)]
)
def test_per_task_placement_waits_as_often_as_computed(load: float, tasks: int, ratio: float, cores: int) -> None:
    """Section 5: (1 - rho^cd)^m."""
    expected = theory.zero_wait_per_task(load, tasks, probe_ratio=ratio, cores=cores)
    assert 0.1 < expected < 0.9
    found = share_without_wait("per-task", load, tasks, ratio=ratio, cores=cores)
    assert found == pytest.approx(expected, abs=error(expected))


@pytest.mark.parametrize(("load", "tasks", "ratio"), [(0.5, 10, 2.0), (0.45, 20, 2.0), (0.3, 20, 1.5), (0.05, 10, 1.1)])
def test_batch_placement_waits_as_often_as_computed(load: float, tasks: int, ratio: float) -> None:
    """Section 5: at least m of dm workers are idle."""
    expected = theory.zero_wait_batch(load, tasks, probe_ratio=ratio)
    assert 0.1 < expected < 0.95
    assert share_without_wait("batch", load, tasks, ratio=ratio) == pytest.approx(expected, abs=error(expected))


def test_batch_placement_on_several_cores_uses_every_idle_one() -> None:
    """Section 5, c cores: the formula is a lower bound. A job finds room whenever cdm cores have m idle ones."""
    load, tasks, cores = 0.85, 10, 4
    expected = theory.zero_wait_batch(load, tasks, probe_ratio=2.0 * cores)  # as of so many workers of one core
    found = share_without_wait("batch", load, tasks, cores=cores)
    assert 0.1 < theory.zero_wait_batch(load, tasks, cores=cores) < expected < 0.9
    assert found == pytest.approx(expected, abs=error(expected))


# Messages.


@settings(max_examples=50)
@given(st.integers(1, 300), st.integers(1000, 4000).map(lambda thousandths: thousandths / 1000))
def test_late_binding_asks_as_often_as_it_reserves(tasks: int, ratio: float) -> None:
    """Section 3.5: each reservation is a probe, a request and an answer."""
    reserved = late_binding.reserve(random.Random(1), range(2000), tasks, ratio)
    assert theory.messages_per_job("late-binding", tasks, probe_ratio=ratio) == 3 * sum(reserved.values())


def test_messages_of_the_policies_that_send_tasks() -> None:
    """Sections 3.1 to 3.3: a launch a task, and two messages a probe."""
    rng = random.Random(1)
    asked = sum(map(len, per_task.choose(rng, range(500), 100, 2.0)))
    assert theory.messages_per_job("random", 100) == 100
    assert theory.messages_per_job("per-task", 100) == 2 * asked + 100 == 500
    assert theory.messages_per_job("BATCH", 100) == 2 * len(batch.choose(rng, range(500), 100, 2.0)) + 100 == 500


# What cannot be.


@pytest.mark.parametrize("formula", [theory.zero_wait_random, theory.zero_wait_per_task, theory.zero_wait_batch])
@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((-0.1, 1), {}, "load"),
        ((1.1, 1), {}, "load"),
        ((math.nan, 1), {}, "load"),
        ((0.5, 0), {}, "tasks"),
        ((0.5, limits.TASKS_PER_JOB_MAX + 1), {}, "tasks"),
        ((0.5, 1), {"cores": 0}, "cores"),
    ],
)
def test_impossible_inputs_are_refused(
    formula: Callable[..., float], arguments: tuple[float, int], options: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageError, match=f"^{said}"):
        formula(*arguments, **options)


@pytest.mark.parametrize("ratio", [0.9, math.nan, 101.0])
def test_impossible_ratios_are_refused(ratio: float) -> None:
    for refused in (
        lambda: theory.zero_wait_per_task(0.5, 1, probe_ratio=ratio),
        lambda: theory.zero_wait_batch(0.5, 1, probe_ratio=ratio),
        lambda: theory.messages_per_job("batch", 1, probe_ratio=ratio),
        lambda: theory.idle_share(0.1, 0.001, probe_ratio=ratio),
    ):
        with pytest.raises(UsageError, match="probe_ratio"):
            refused()


@pytest.mark.parametrize(("task_s", "round_trip_s"), [(0.0, 0.1), (math.nan, 0.1), (0.1, -0.1), (0.1, math.inf)])
def test_impossible_times_are_refused(task_s: float, round_trip_s: float) -> None:
    with pytest.raises(UsageError, match="round trip"):
        theory.idle_share(task_s, round_trip_s)
