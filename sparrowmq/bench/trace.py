"""What arrives when: jobs of sleeps, drawn from a seed, so that every policy meets the same ones.

Owns: the random draw, whose seeds stay comparable with figures measured earlier; simulations draw theirs by the wider
laws of `sim.workload`. Must not know: clusters, clocks.
"""

from __future__ import annotations

from random import Random
from typing import Final

from sparrowmq.errors import UsageError
from sparrowmq.sim.workload import Job

EXPONENTIAL: Final = "exp"
CONSTANT: Final = "constant"
DISTRIBUTIONS: Final = (EXPONENTIAL, CONSTANT)


def draw(
    seed: int,
    *,
    jobs: int,
    tasks: int,
    duration_s: float,
    slots: int,
    load: float,
    spread: float = 0.0,
    dist: str = EXPONENTIAL,
) -> list[Job]:
    """Draw ``jobs`` Poisson arrivals that keep a share ``load`` of ``slots`` busy in the long run.

    A job's mean is uniform within ``duration_s`` * (1 ± ``spread``), 0 to 1; its tasks are exponential around that
    mean (``dist`` "exp") or all equal to it ("constant"). Raises UsageError for values out of range.
    """
    if not 0.0 <= spread <= 1.0:
        raise UsageError(f"spread: expected a share from 0 to 1, got {spread:g}")
    if dist not in DISTRIBUTIONS:
        raise UsageError(f"dist: expected {' or '.join(DISTRIBUTIONS)}, got {dist!r}")
    if not (duration_s > 0.0 and load > 0.0 and slots > 0 and jobs > 0 and tasks > 0):
        raise UsageError("jobs, tasks, duration, slots and load must be greater than 0")
    times, lengths = Random(f"times {seed}"), Random(f"lengths {seed}")
    rate_per_s = load * slots / (tasks * duration_s)
    at_s = 0.0
    trace = []
    for _ in range(jobs):
        at_s += times.expovariate(rate_per_s)
        mean_s = duration_s * lengths.uniform(1.0 - spread, 1.0 + spread)
        exponential = dist == EXPONENTIAL
        durations_s = [mean_s * lengths.expovariate(1.0) if exponential else mean_s for _ in range(tasks)]
        trace.append(Job(at_s, durations_s))
    return trace
