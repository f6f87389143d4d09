"""The ideal central queue: cases worked out by hand, results known in closed form, a simulation second by second."""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from sparrowmq.errors import UsageError
from sparrowmq.sim import omniscient
from sparrowmq.sim.omniscient import Response
from sparrowmq.sim.workload import Job, Workload, jobs

Row = tuple[float, list[float]]


def responses_s(rows: list[Row], slots: int, delay_s: float = 0.0) -> list[float]:
    replay = omniscient.responses((Job(*row) for row in rows), slots, delay_s=delay_s)
    return [response.response_s for response in replay]


@pytest.mark.parametrize(
    ("rows", "slots", "expected_s"),
    [
        pytest.param([(0.0, [1.0, 2.0, 3.0])], 3, [3.0], id="all tasks start at once"),
        pytest.param([(0.0, [1.0, 2.0, 3.0])], 1, [6.0], id="one slot runs them one by one"),
        pytest.param([(0.0, [3.0, 1.0, 1.0, 1.0])], 2, [3.0], id="a free slot takes the next task"),
        pytest.param([(0.0, [1.0, 1.0, 3.0])], 2, [4.0], id="the order of the tasks is kept, even if it costs"),
        pytest.param([(0.0, [1.0] * 5)], 2, [3.0], id="equal tasks go in rounds"),
        pytest.param([(0.0, [4.0]), (1.0, [1.0])], 1, [4.0, 4.0], id="a later job waits its turn"),
        pytest.param([(0.0, [4.0, 1.0]), (1.0, [1.0])], 2, [4.0, 1.0], id="a later job takes what is idle"),
        pytest.param([(0.0, [1.0]), (10.0, [2.0])], 1, [1.0, 2.0], id="an idle time is not made up for"),
        pytest.param([(0.0, [1.0] * 2), (0.5, [2.0]), (0.5, [1.0])], 2, [1.0, 2.5, 1.5], id="equal ends, two jobs"),
        pytest.param([(0.0, [2.0, 2.0]), (1.0, [1.0]), (1.5, [1.0])], 2, [2.0, 2.0, 1.5], id="both after the wait"),
        pytest.param([(2.0, [0.0])], 1, [0.0], id="nothing to do"),
        pytest.param([(0.0, [0.0, 0.0, 1.0, 0.0])], 1, [1.0], id="tasks of no length take turns"),
        pytest.param([], 3, [], id="no job"),
    ],
)
def test_response_times(rows: list[Row], slots: int, expected_s: list[float]) -> None:
    assert responses_s(rows, slots) == pytest.approx(expected_s)


def test_a_task_is_on_its_way_for_the_delay_and_its_slot_is_taken() -> None:
    """SOSP 2013, Fig. 3: at no load the response is the longest task and one network delay."""
    assert responses_s([(0.0, [1.0, 2.0])], 2, delay_s=0.25) == [2.25]
    assert responses_s([(0.0, [1.0, 1.0])], 1, delay_s=0.25) == [2.5]
    (only,) = omniscient.responses([Job(0.0, [1.0, 1.0])], 1, delay_s=0.25)
    assert only == Response(response_s=2.5, queueing_s=1.25)


def test_the_ideal_is_the_longest_task() -> None:
    assert omniscient.ideal_s(Job(5.0, [1.0, 3.0, 2.0])) == 3.0


# Against a simulation that steps through integer seconds and knows nothing of groups and heaps.


def stepwise(rows: list[tuple[int, list[int]]], slots: int, delay_s: int) -> list[tuple[int, int]]:
    """Return response and queueing of each job; no task is shorter than a second."""
    free_at = [0] * slots
    queue: deque[tuple[int, int]] = deque()
    ends, starts = [0] * len(rows), [0] * len(rows)
    now = 0
    while queue or now <= max(at for at, _ in rows):
        for number, (at, durations) in enumerate(rows):
            if at == now:
                queue.extend((number, duration) for duration in durations)
        for slot in range(slots):
            if free_at[slot] <= now and queue:
                number, duration = queue.popleft()
                free_at[slot] = now + delay_s + duration
                starts[number] = now
                ends[number] = max(ends[number], free_at[slot])
        assert not queue or min(free_at) > now  # the reference itself conserves work
        now += 1
    return [(end - at, start - at) for (at, _), end, start in zip(rows, ends, starts, strict=True)]


durations = st.one_of(
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.builds(lambda length, count: [length] * count, st.integers(1, 6), st.integers(1, 9)),
)
rows_ = st.lists(st.tuples(st.integers(0, 15), durations), min_size=1, max_size=10).map(
    lambda rows: sorted(rows, key=lambda row: row[0])
)


@given(rows_, st.integers(1, 5), st.integers(0, 2))
def test_it_agrees_with_a_simulation_second_by_second(
    rows: list[tuple[int, list[int]]], slots: int, delay_s: int
) -> None:
    replay = omniscient.responses([Job(at, list(map(float, d))) for at, d in rows], slots, delay_s=float(delay_s))
    assert [tuple(response) for response in replay] == stepwise(rows, slots, delay_s)


@given(rows_, st.integers(1, 5))
def test_another_slot_never_delays_anyone(rows: list[tuple[int, list[int]]], slots: int) -> None:
    given_jobs = [Job(at, list(map(float, d))) for at, d in rows]
    fewer = list(omniscient.responses(given_jobs, slots))
    more = list(omniscient.responses(given_jobs, slots + 1))
    for job, slow, fast in zip(given_jobs, fewer, more, strict=True):
        assert omniscient.ideal_s(job) <= fast.response_s <= slow.response_s
        assert 0.0 <= fast.queueing_s <= slow.queueing_s


def test_jobs_are_served_in_the_order_of_their_arrivals() -> None:
    drawn = list(
        jobs(Workload(tasks=7, duration_law="exponential-task"), random.Random(4), rate_jobs_per_s=5, count=500)
    )
    replay = list(omniscient.responses(drawn, 4))
    last_starts_s = [job.at_s + response.queueing_s for job, response in zip(drawn, replay, strict=True)]
    assert max(response.queueing_s for response in replay) > 0.5
    assert all(after >= before for before, after in itertools.pairwise(last_starts_s))


@pytest.mark.parametrize("law", ["exponential-job", "exponential-task"])
def test_the_queue_conserves_work(law: str) -> None:
    """With one slot the last job ends when all work since the last idle moment is done."""
    workload = Workload(tasks=5, duration_law=law)  # type: ignore[arg-type]
    drawn = list(jobs(workload, random.Random(3), rate_jobs_per_s=0.95 / 0.5, count=300))
    ends_s = 0.0
    for job, response in zip(drawn, omniscient.responses(drawn, 1), strict=True):
        ends_s = max(ends_s, job.at_s) + sum(job.durations_s)
        assert job.at_s + response.response_s == pytest.approx(ends_s)


# Results known in closed form. A job of one task is a customer.


def test_a_deterministic_queue_waits_never_or_ever_more() -> None:
    """D/D/1: below capacity nobody waits; above, the n-th waits n - 1 times what is missing."""
    workload = Workload("deterministic", tasks=1, duration_s=0.5, duration_law="constant")
    idle = jobs(workload, random.Random(1), rate_jobs_per_s=1.9, count=1000)
    assert {round(response.response_s, 9) for response in omniscient.responses(idle, 1)} == {0.5}
    full = jobs(workload, random.Random(1), rate_jobs_per_s=4.0, count=1000)
    for number, response in enumerate(omniscient.responses(full, 1)):
        assert response.queueing_s == pytest.approx(number * 0.25)


def mean_wait_s(law: str, slots: int, load: float, count: int = 300_000) -> tuple[float, float]:
    """Return the mean wait of tasks of mean 1 s, and the share of them that wait, over a seeded run."""
    workload = Workload(tasks=1, duration_s=1.0, duration_law=law)  # type: ignore[arg-type]
    drawn = jobs(workload, random.Random(7), rate_jobs_per_s=load * slots, count=count)
    waits_s = [response.queueing_s for response in omniscient.responses(drawn, slots)]
    return sum(waits_s) / count, sum(wait_s > 0.0 for wait_s in waits_s) / count


@pytest.mark.parametrize(("slots", "load"), [(1, 0.5), (4, 0.7), (20, 0.8)])
def test_waits_of_poisson_arrivals_and_exponential_tasks_are_erlangs(slots: int, load: float) -> None:
    """M/M/c: Erlang's C formula is the share that waits, and C / (c - offered) the mean wait."""
    offered = load * slots
    tail = offered**slots / math.factorial(slots) / (1.0 - load)
    erlang_c = tail / (sum(offered**k / math.factorial(k) for k in range(slots)) + tail)
    mean_s, share = mean_wait_s("exponential-task", slots, load)
    assert share == pytest.approx(erlang_c, rel=0.03)
    assert mean_s == pytest.approx(erlang_c / (slots - offered), rel=0.06)


def test_waits_of_constant_tasks_are_pollaczeks() -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) tasks."""
    assert mean_wait_s("constant", 1, 0.6)[0] == pytest.approx(0.6 / 0.8, rel=0.04)


# The contract.


def test_jobs_are_taken_as_they_are_asked_for() -> None:
    def endless() -> Iterator[Job]:
        for number in itertools.count():
            taken.append(number)
            yield Job(float(number), [0.5])

    taken: list[int] = []
    replay = omniscient.responses(endless(), 2)
    assert not taken
    assert [next(replay) for _ in range(3)] == [Response(0.5, 0.0)] * 3
    assert taken == [0, 1, 2]


@pytest.mark.parametrize(
    ("rows", "slots", "delay_s", "said"),
    [
        ([], 0, 0.0, "slots"),
        ([], 1, -0.1, "delay_s"),
        ([], 1, math.nan, "delay_s"),
        ([(0.0, [])], 1, 0.0, "no task"),
        ([(2.0, [1.0]), (1.0, [1.0])], 1, 0.0, "ascending"),
        ([(math.nan, [1.0])], 1, 0.0, "ascending"),
    ],
)
def test_what_cannot_be_is_refused(rows: list[Row], slots: int, delay_s: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        responses_s(rows, slots, delay_s)


def test_slots_are_refused_before_a_job_is_asked_for() -> None:
    with pytest.raises(UsageError):
        omniscient.responses([], 0)
