"""What can be computed instead of simulated: the closed formulas of the paper's analysis (SOSP 2013, sections 3 and 5).

Owns: the formulas. Must not know: clusters, the policies' code (tests hold both against each other).

The model of section 5: a cluster far larger than any job, whose cores are busy independently of each other with
probability ``load`` (rho); a job has ``tasks`` (m) tasks; a worker with ``cores`` (c) is busy when all its cores are,
which happens with probability rho^c. Zero wait means that no task of the job waits. For batch sampling with several
cores the formula still wants a worker for each task, although one with two idle cores could take two: there it is a
lower bound.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Final

from sparrowmq import limits, placement
from sparrowmq.errors import UsageError
from sparrowmq.placement.probe_ratio import probes

_SMALLEST: Final = sys.float_info.min  # below it numbers lose their digits


def zero_wait_random(load: float, tasks: int, *, cores: int = 1) -> float:
    """Return P(zero wait) of a job placed at random: (1 - rho^c)^m."""
    _check(load, tasks, cores=cores)
    return _all_idle(load**cores, tasks)


def zero_wait_per_task(load: float, tasks: int, *, probe_ratio: float = 2.0, cores: int = 1) -> float:
    """Return P(zero wait) with d = ``probe_ratio`` choices for each task by itself: (1 - rho^cd)^m.

    With a ratio between two integers some tasks have a choice more than others, as `placement.per_task` gives them.
    """
    _check(load, tasks, probe_ratio, cores)
    each, more = divmod(probes(tasks, probe_ratio), tasks)
    busy = load**cores
    return _all_idle(busy**each, tasks - more) * _all_idle(busy ** (each + 1), more)


def zero_wait_batch(load: float, tasks: int, *, probe_ratio: float = 2.0, cores: int = 1) -> float:
    """Return P(zero wait) of batch sampling, that at least m of the n = ⌈dm⌉ workers that are asked are idle:

    the sum over i from m to n of C(n, i) (1 - rho^c)^i (rho^c)^(n - i).
    """
    _check(load, tasks, probe_ratio, cores)
    return _at_least(tasks, probes(tasks, probe_ratio), load**cores)


def messages_per_job(policy: str, tasks: int, *, probe_ratio: float = 2.0) -> int:
    """Return how many messages it takes to place a job, each counted by itself (section 3), results left out.

    With n = ⌈dm⌉: random m launches; per-task and batch n probes, n loads, m launches; late-binding n probes, n
    requests and n answers, m of which are tasks. That is without proactive cancellation, which replaces a request and
    its no-op by one message wherever it comes in time (section 3.6).
    """
    name = placement.canonical(policy)
    _check(0.0, tasks, probe_ratio)
    count = probes(tasks, probe_ratio)
    if placement.POLICIES[name].late:
        return 3 * count
    return 2 * count + tasks if placement.POLICIES[name].samples else tasks


def idle_share(task_s: float, round_trip_s: float, *, probe_ratio: float = 2.0) -> float:
    """Return the share of its time that a busy slot waits for answers under late binding: d RTT / (t + d RTT).

    A slot asks once for each of its reservations, d of them for every task of ``task_s`` seconds that it runs, and
    waits a round trip each time (section 5).
    """
    _check(0.0, 1, probe_ratio)
    if not (0.0 < task_s < math.inf and 0.0 <= round_trip_s < math.inf):
        raise UsageError(
            f"expected a task longer than 0 s and a round trip of at least 0 s, got {task_s:g} and {round_trip_s:g}"
        )
    waits_s = probe_ratio * round_trip_s
    return waits_s / (task_s + waits_s)


def _all_idle(busy: float, count: int) -> float:
    """Return (1 - ``busy``)^``count``, exact for the smallest ``busy``."""
    if not count:
        return 1.0
    return math.exp(count * math.log1p(-busy)) if busy < 1.0 else 0.0


def _at_least(least: int, count: int, busy: float) -> float:
    """Return P(at least ``least`` of ``count`` are idle), each busy with probability ``busy``; ``least`` >= 1.

    Binomial coefficients of 20,000 overflow, and powers underflow. So terms are taken relative to the greatest one,
    from which each follows from its neighbour, and divided by their sum: no cancellation, no logarithms.
    """
    if busy in (0.0, 1.0):
        return 1.0 - busy
    enough = total = 0.0
    for idle, term in _terms(count, busy):
        total += term
        if idle >= least:
            enough += term
    return min(1.0, enough / total)


def _terms(count: int, busy: float) -> Iterator[tuple[int, float]]:
    """Give each number of idle ones, with its probability as a multiple of the greatest; those that vanish left out."""
    odds = (1.0 - busy) / busy
    mode = min(count, int((count + 1) * (1.0 - busy)))
    idle, term = mode, 1.0
    while term >= _SMALLEST and idle <= count:
        yield idle, term
        term *= odds * ((count - idle) / (idle + 1))
        idle += 1
    idle, term = mode, 1.0
    while term >= _SMALLEST and idle > 0:
        term *= idle / (count - idle + 1) / odds
        idle -= 1
        yield idle, term


def _check(load: float, tasks: int, probe_ratio: float = 1.0, cores: int = 1) -> None:
    if not 0.0 <= load <= 1.0:
        raise UsageError(f"load: expected a share from 0 to 1, got {load:g}")
    if not 1 <= tasks <= limits.TASKS_PER_JOB_MAX:
        raise UsageError(f"tasks: expected 1 to {limits.TASKS_PER_JOB_MAX:,} tasks a job, got {tasks:,}")
    if not 1.0 <= probe_ratio <= limits.PROBE_RATIO_MAX:
        raise UsageError(f"probe_ratio: expected 1 to {limits.PROBE_RATIO_MAX:g} probes a task, got {probe_ratio:g}")
    if cores < 1:
        raise UsageError(f"cores: expected at least 1, got {cores}")
