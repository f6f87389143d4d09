"""What arrives when: jobs of tasks, drawn from a seeded generator by the laws that the papers use.

Owns: arrival processes, task counts, durations, and the expected work of a job, from which a load follows. Must not
know: clusters, policies, files.

Arrivals, task counts and durations are drawn from three generators of their own, so that workloads that differ in one
law meet the same draws of the others: a comparison of two durations is not blurred by other arrival times.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from sparrowmq import limits
from sparrowmq.errors import UsageError

JOBS_MAX: Final = 100_000_000  # of one drawn workload, which never is in memory as a whole
SECONDS_MAX: Final = 1e9  # of a moment or a duration: 31 years, to the microsecond in a double

Arrivals = Literal["poisson", "deterministic"]
TasksLaw = Literal["constant", "exponential"]
DurationLaw = Literal["constant", "exponential-job", "exponential-task", "bimodal"]

_BITS: Final = 64  # of the seed of each generator


class Job(NamedTuple):
    """One job of a workload.

    ``at_s``: when it is submitted, in seconds from the beginning, never before the job in front of it. ``durations_s``:
    how long each task takes, in the order in which tasks are queued, at least one; jobs may share their numbers.
    """

    at_s: float
    durations_s: list[float]


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The laws that jobs are drawn from. The defaults are those of SOSP 2013, Fig. 3.

    arrivals: "poisson", or "deterministic": at equal distances.
    tasks, tasks_law: tasks of a job: always as many, or exponential with this mean, rounded up.
    duration_s, duration_law: "constant"; "exponential-job": one draw with this mean for all tasks of a job;
        "exponential-task": a draw for each task; "bimodal": all tasks of a job last duration_s, or, in a share
        ``long_share`` of the jobs, ``long_duration_s`` (the heterogeneous jobs of SOSP 2013, section 7).
    """

    arrivals: Arrivals = "poisson"
    tasks: int = 100
    tasks_law: TasksLaw = "constant"
    duration_s: float = 0.1
    duration_law: DurationLaw = "exponential-job"
    long_share: float = 0.0
    long_duration_s: float = 10.0


def check(workload: Workload) -> None:
    """Raise UsageError for a workload that cannot be drawn; the text names the field, its value and the range."""
    _check_name("arrivals", workload.arrivals, get_args(Arrivals))
    _check_name("tasks_law", workload.tasks_law, get_args(TasksLaw))
    _check_name("duration_law", workload.duration_law, get_args(DurationLaw))
    if not 1 <= workload.tasks <= limits.TASKS_PER_JOB_MAX:
        raise UsageError(f"tasks: expected 1 to {limits.TASKS_PER_JOB_MAX:,} tasks a job, got {workload.tasks:,}")
    for name, value_s in (("duration_s", workload.duration_s), ("long_duration_s", workload.long_duration_s)):
        if not 0.0 < value_s <= SECONDS_MAX:
            raise UsageError(f"{name}: expected seconds above 0, up to {SECONDS_MAX:g}, got {value_s:g}")
    if not 0.0 <= workload.long_share <= 1.0:
        raise UsageError(f"long_share: expected a share from 0 to 1, got {workload.long_share:g}")
    if workload.long_share and workload.duration_law != "bimodal":
        raise UsageError(
            f"long_share: {workload.long_share:g} means nothing with durations that are {workload.duration_law}",
            hint='set duration_law to "bimodal", or long_share to 0',
        )


def mean_tasks(workload: Workload) -> float:
    """Return the expected number of tasks of a job: exponential ones are rounded up, and bounded by the job limit.

    With ceil(X), X exponential with mean μ, P(more than k) is e^(-k/μ); its sum over k below the limit is the mean.
    """
    check(workload)
    if workload.tasks_law == "constant":
        return float(workload.tasks)
    return math.expm1(-limits.TASKS_PER_JOB_MAX / workload.tasks) / math.expm1(-1.0 / workload.tasks)


def mean_job_s(workload: Workload) -> float:
    """Return the expected work of one job in task-seconds: at load L, jobs arrive at L x slots / this, per second."""
    mean_s = workload.duration_s
    if workload.duration_law == "bimodal":
        mean_s += workload.long_share * (workload.long_duration_s - workload.duration_s)
    return mean_tasks(workload) * mean_s


def jobs(workload: Workload, rng: random.Random, *, rate_jobs_per_s: float, count: int) -> Iterator[Job]:
    """Draw ``count`` jobs that arrive at this rate, one at a time as they are asked for.

    All that is taken from ``rng`` is taken by this call. The first job comes after one gap. Raises UsageError, at
    once, for a workload, a rate or a count that cannot be.
    """
    check(workload)
    if not 0.0 < rate_jobs_per_s < math.inf:
        raise UsageError(f"rate_jobs_per_s: expected jobs per second above 0, got {rate_jobs_per_s:g}")
    if not 0 <= count <= JOBS_MAX:
        raise UsageError(f"count: expected 0 to {JOBS_MAX:,} jobs, got {count:,}")
    times, sizes, lengths = (random.Random(rng.getrandbits(_BITS)) for _ in range(3))
    return _draw(
        _moments(workload, times, rate_jobs_per_s, count), _size(workload, sizes), _durations(workload, lengths)
    )


def _draw(
    moments_s: Iterator[float], size: Callable[[], int], durations_s: Callable[[int], list[float]]
) -> Iterator[Job]:
    for at_s in moments_s:
        yield Job(at_s, durations_s(size()))


def _moments(workload: Workload, rng: random.Random, rate_per_s: float, count: int) -> Iterator[float]:
    if workload.arrivals == "deterministic":
        for number in range(1, count + 1):
            yield number / rate_per_s  # not a running sum: that would drift
        return
    at_s = 0.0
    for _ in range(count):
        at_s += rng.expovariate(rate_per_s)
        yield at_s


def _size(workload: Workload, rng: random.Random) -> Callable[[], int]:
    """Return what draws the task count of one job after another."""
    tasks = workload.tasks
    if workload.tasks_law == "constant":
        return lambda: tasks
    return lambda: min(limits.TASKS_PER_JOB_MAX, max(1, math.ceil(rng.expovariate(1.0 / tasks))))


def _durations(workload: Workload, rng: random.Random) -> Callable[[int], list[float]]:
    """Return what draws the durations of one job after another, given its task count."""
    mean_s, law = workload.duration_s, workload.duration_law
    if law == "constant":
        return lambda tasks: [mean_s] * tasks
    rate_per_s = 1.0 / mean_s
    if law == "exponential-job":
        return lambda tasks: [rng.expovariate(rate_per_s)] * tasks
    if law == "exponential-task":
        return lambda tasks: [rng.expovariate(rate_per_s) for _ in range(tasks)]
    share, long_s = workload.long_share, workload.long_duration_s
    return lambda tasks: [long_s if rng.random() < share else mean_s] * tasks


def _check_name(field: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        near = difflib.get_close_matches(str(given)[: limits.TEXT_CHARS_MAX], known, n=1)
        raise UsageError(
            f"{field}: unknown {str(given)[: limits.TEXT_CHARS_MAX]!r}; expected {', '.join(known)}",
            hint=f"did you mean {near[0]!r}?" if near else "",
        )
