"""The ideal to compare with: one central queue that knows every slot at every moment and costs nothing.

Owns: its replay, and the ideal response of a job. Must not know: how durations came about.

It is greedy and first come, first served: a task is given to any idle slot at once, otherwise when all tasks before it
have been given out and a slot becomes free (the "omniscient" scheduler of SOSP 2013, Fig. 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import repeat
from typing import NamedTuple

from sparrowmq.errors import UsageError
from sparrowmq.sim.workload import Job


class Response(NamedTuple):
    """What became of one job, in seconds.

    ``response_s``: from its arrival to the end of the task that ended last. ``queueing_s``: from its arrival to the
    moment when the last of its tasks was given to a slot; 0 if none had to wait for one.
    """

    response_s: float
    queueing_s: float


def ideal_s(job: Job) -> float:
    """Return the response time that no scheduler can beat: the job's longest task."""
    return max(job.durations_s)


def responses(jobs: Iterable[Job], slots: int, *, delay_s: float = 0.0) -> Iterator[Response]:
    """Replay ``jobs`` on ``slots``; return what became of each, in order, one at a time as they are asked for.

    ``delay_s``: how long a task is on its way to its slot, which is taken meanwhile; one network delay of 0.5 ms in
    Fig. 3. Raises UsageError for no slot or a negative delay at once, and when a job comes that has no task or that
    arrives before the one in front of it. Memory: a few words a busy slot, whatever the number of jobs.
    """
    if slots < 1:
        raise UsageError(f"slots: expected at least 1, got {slots}")
    if not 0.0 <= delay_s < math.inf:
        raise UsageError(f"delay_s: expected seconds of at least 0, got {delay_s:g}")
    return _replay(jobs, slots, delay_s)


def _replay(jobs: Iterable[Job], slots: int, delay_s: float) -> Iterator[Response]:
    """Work in groups: slots that become free at the same moment are one entry, as are equal tasks of one job.

    A job of 100 equal tasks costs one step for each moment at which some of them start, not one for each task.
    """
    idle = slots
    moments_s: list[float] = []  # a heap: when busy slots become free, each moment once
    freed: dict[float, int] = {}  # how many do at each of them
    now_s = -math.inf  # when the task in front of the queue can start at the earliest
    before_s = -math.inf
    for at_s, durations_s in jobs:
        _check(at_s, durations_s, before_s)
        before_s = at_s
        now_s = max(now_s, at_s)
        while moments_s and moments_s[0] <= now_s:
            idle += freed.pop(heappop(moments_s))
        last_s = at_s
        first_s = durations_s[0]
        alike = durations_s.count(first_s) == len(durations_s)
        for duration_s, waiting in ((first_s, len(durations_s)),) if alike else zip(durations_s, repeat(1)):
            while waiting:
                if not idle:
                    now_s = heappop(moments_s)
                    idle = freed.pop(now_s)
                started = min(idle, waiting)
                idle -= started
                waiting -= started
                ends_s = now_s + delay_s + duration_s
                if ends_s in freed:
                    freed[ends_s] += started
                else:
                    freed[ends_s] = started
                    heappush(moments_s, ends_s)
                if ends_s > last_s:
                    last_s = ends_s
        yield Response(last_s - at_s, now_s - at_s)


def _check(at_s: float, durations_s: list[float], before_s: float) -> None:
    if not durations_s:
        raise UsageError(f"the job that arrives at {at_s:g} s has no task; expected at least one")
    if not at_s >= before_s:
        raise UsageError(f"a job that arrives at {at_s:g} s follows one of {before_s:g} s; expected ascending arrivals")
