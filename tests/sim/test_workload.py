"""Drawn workloads: each law has the mean and the shape that it promises, and the same seed draws the same jobs."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from typing import Any

import pytest

from sparrowmq import limits
from sparrowmq.errors import UsageError
from sparrowmq.sim import workload as rooms
from sparrowmq.sim.workload import Job, Workload, jobs, mean_job_s, mean_tasks


def draw(count: int = 4000, seed: int = 1, rate: float = 10.0, **fields: Any) -> list[Job]:
    return list(jobs(Workload(**fields), random.Random(seed), rate_jobs_per_s=rate, count=count))


def work_s(drawn: list[Job]) -> float:
    return sum(sum(job.durations_s) for job in drawn)


LAWS: list[dict[str, Any]] = [
    {"duration_law": "constant"},
    {"duration_law": "exponential-job"},
    {"duration_law": "exponential-task", "tasks": 10},
    {"duration_law": "bimodal", "long_share": 0.1, "long_duration_s": 2.0},
    {"tasks_law": "exponential", "tasks": 3, "duration_law": "constant"},
    {"tasks_law": "exponential", "tasks": 1, "duration_law": "exponential-job"},
]


@pytest.mark.parametrize("fields", LAWS)
def test_the_mean_work_of_a_job_is_as_said(fields: dict[str, Any]) -> None:
    drawn = draw(20_000, **fields)
    works_s = [sum(job.durations_s) for job in drawn]
    error_s = statistics.stdev(works_s) / math.sqrt(len(works_s))
    assert statistics.mean(works_s) == pytest.approx(mean_job_s(Workload(**fields)), rel=1e-9, abs=4.0 * error_s)


@pytest.mark.parametrize("fields", LAWS)
def test_a_rate_from_the_mean_gives_the_load(fields: dict[str, Any]) -> None:
    slots, load = 40, 0.8
    drawn = draw(20_000, rate=load * slots / mean_job_s(Workload(**fields)), **fields)
    assert work_s(drawn) / (drawn[-1].at_s * slots) == pytest.approx(load, rel=0.06)


def test_poisson_arrivals_have_exponential_gaps() -> None:
    times_s = [0.0, *(job.at_s for job in draw(20_000))]
    gaps_s = [after - before for before, after in itertools.pairwise(times_s)]
    assert statistics.mean(gaps_s) == pytest.approx(0.1, rel=0.03)
    for percent in (10, 50, 90, 99):
        longer = sum(gap_s > -0.1 * math.log(1.0 - percent / 100) for gap_s in gaps_s) / len(gaps_s)
        assert longer == pytest.approx(1.0 - percent / 100, abs=4.0 * math.sqrt(0.25 / len(gaps_s)))


def test_deterministic_arrivals_are_at_equal_distances() -> None:
    times_s = [job.at_s for job in draw(3000, arrivals="deterministic", rate=7.0)]
    assert times_s == pytest.approx([number / 7.0 for number in range(1, 3001)], rel=1e-12)


def test_exponential_jobs_have_one_duration_each() -> None:
    """SOSP 2013, Fig. 3: one draw a job; half of the jobs are shorter than ln 2 means."""
    drawn = draw(20_000)
    assert all(len(job.durations_s) == 100 and len(set(job.durations_s)) == 1 for job in drawn)
    assert drawn[0].durations_s[0] is drawn[0].durations_s[-1]  # and one number in memory
    assert statistics.median(job.durations_s[0] for job in drawn) == pytest.approx(0.1 * math.log(2.0), rel=0.03)


def test_exponential_tasks_differ_within_a_job() -> None:
    drawn = draw(2000, duration_law="exponential-task", tasks=10)
    assert all(len(set(job.durations_s)) == 10 for job in drawn)
    lengths_s = [value for job in drawn for value in job.durations_s]
    assert statistics.stdev(lengths_s) == pytest.approx(0.1, rel=0.05)


def test_bimodal_jobs_are_short_or_long_as_a_whole() -> None:
    drawn = draw(10_000, duration_law="bimodal", tasks=3, long_share=0.1)
    assert {tuple(job.durations_s) for job in drawn} == {(0.1,) * 3, (10.0,) * 3}
    share = sum(job.durations_s[0] == 10.0 for job in drawn) / len(drawn)
    assert share == pytest.approx(0.1, abs=4.0 * math.sqrt(0.09 / len(drawn)))
    assert {job.durations_s[0] for job in draw(500, duration_law="bimodal")} == {0.1}  # no share, no long job


def test_exponential_task_counts_are_rounded_up() -> None:
    """P(a job has more than k tasks) is e^(-k/mean)."""
    counts = [len(job.durations_s) for job in draw(20_000, tasks_law="exponential", tasks=4, duration_law="constant")]
    assert min(counts) == 1
    for k in (1, 2, 4, 8, 16):
        assert sum(count > k for count in counts) / len(counts) == pytest.approx(math.exp(-k / 4), abs=0.015)


def test_a_job_never_has_more_tasks_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TASKS_PER_JOB_MAX", 5)
    counts = [len(job.durations_s) for job in draw(20_000, tasks_law="exponential", tasks=4, duration_law="constant")]
    assert max(counts) == 5
    expected = mean_tasks(Workload(tasks_law="exponential", tasks=4))
    assert expected == pytest.approx(sum(math.exp(-k / 4) for k in range(5)), rel=1e-12)
    assert statistics.mean(counts) == pytest.approx(expected, rel=0.02)


# Seeds.


@pytest.mark.parametrize("fields", LAWS)
def test_the_same_seed_draws_the_same_jobs(fields: dict[str, Any]) -> None:
    assert draw(200, seed=7, **fields) == draw(200, seed=7, **fields)
    assert draw(200, seed=7, **fields) != draw(200, seed=8, **fields)


def test_arrivals_depend_on_neither_counts_nor_durations_and_counts_not_on_durations() -> None:
    plain = draw(200)
    for fields in LAWS:
        assert [job.at_s for job in draw(200, **fields)] == [job.at_s for job in plain]
    some, others = (
        draw(200, tasks_law="exponential", duration_law=law) for law in ("exponential-task", "exponential-job")
    )
    assert [len(job.durations_s) for job in some] == [len(job.durations_s) for job in others]


def test_jobs_are_drawn_as_they_are_asked_for_whatever_else_is_drawn_meanwhile() -> None:
    rng = random.Random(3)
    drawn = jobs(Workload(), rng, rate_jobs_per_s=1.0, count=rooms.JOBS_MAX)
    first = []
    for _ in range(5):
        first.append(next(drawn))
        rng.random()
    assert first == draw(5, seed=3, rate=1.0)


# What cannot be.


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arrivals": "posson"}, "arrivals"),
        ({"tasks_law": "normal"}, "tasks_law"),
        ({"duration_law": "exponential"}, "duration_law"),
        ({"tasks": 0}, "tasks"),
        ({"tasks": limits.TASKS_PER_JOB_MAX + 1}, "tasks"),
        ({"duration_s": 0.0}, "duration_s"),
        ({"duration_s": math.nan}, "duration_s"),
        ({"duration_s": math.inf}, "duration_s"),
        ({"duration_law": "bimodal", "long_duration_s": -1.0}, "long_duration_s"),
        ({"duration_law": "bimodal", "long_share": 1.5}, "long_share"),
        ({"long_share": 0.5}, "long_share"),
    ],
)
def test_impossible_workloads_are_refused_before_anything_is_drawn(fields: dict[str, Any], said: str) -> None:
    workload = Workload(**fields)
    for refused in (
        lambda: rooms.check(workload),
        lambda: mean_job_s(workload),
        lambda: jobs(workload, random.Random(1), rate_jobs_per_s=1.0, count=1),
    ):
        with pytest.raises(UsageError, match=f"^{said}: "):
            refused()


@pytest.mark.parametrize(
    ("rate", "count", "said"),
    [(0.0, 1, "rate"), (math.nan, 1, "rate"), (math.inf, 1, "rate"), (1.0, -1, "count"), (1.0, 10**9, "count")],
)
def test_impossible_rates_and_counts_are_refused(rate: float, count: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        jobs(Workload(), random.Random(1), rate_jobs_per_s=rate, count=count)


def test_a_misspelt_law_is_guessed() -> None:
    with pytest.raises(UsageError) as raised:
        rooms.check(Workload(arrivals="posson"))  # type: ignore[arg-type]
    assert "'poisson'" in raised.value.hint
