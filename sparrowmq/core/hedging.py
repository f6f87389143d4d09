"""Second attempts for tasks that run long: the answer to stragglers (Dean & Barroso 2013, "The Tail at Scale").

Owns: when a task counts as slow, and asking other workers for a place for its second attempt. Must not know: who
gets it (whoever requests first, see `Placer`), or how results are weighed against each other (see `Job`).

Late binding for these, too, whatever the job's policy: ceil(d) reservations on workers other than the task's own.
Only jobs that ask for it are looked at, and never more often than they cost.
"""

from __future__ import annotations

from itertools import compress
from typing import Final

from sparrowmq.core.job import Job
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.placer import Placer
from sparrowmq.core.report import percentile
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

FINISHED_MIN: Final = 10  # before that many of its siblings have ended, nobody knows what is slow
LOOK_S_MIN: Final = 0.005
LOOK_S_UNKNOWN: Final = 0.02  # as long as too few have ended
LOOK_S_MAX: Final = 1.0
LOOK_S_PER_TASK: Final = 2e-5  # of those that are launched: looking takes a hundredth of the time at the most
WANTED_MAX: Final = 1000  # tasks of a job that wait for their second attempt at once

_SUCCEEDED: Final = bytes(status == m.SUCCEEDED for status in range(256))


class Hedging:
    """Looks for slow tasks. ``due`` belongs to the timer "hedge"."""

    def __init__(self, state: State, placer: Placer, outcomes: Outcomes) -> None:
        self._state = state
        self._placer = placer
        self._outcomes = outcomes

    def watch(self, now: float, job: Job) -> None:
        """Look at this new job from time to time, if it asks for that."""
        if (job.spec.hedge_quantile or job.spec.hedge_after_s) and job.spec.max_attempts > 1:
            first_s = max(LOOK_S_MIN, min(LOOK_S_MAX, job.spec.hedge_after_s or LOOK_S_UNKNOWN))
            self._state.timers.add(now + first_s, ("hedge", job.id, job.epoch))

    def due(self, now: float, job_id: str, epoch: int) -> None:
        """Find the tasks of a job that have become slow, and probe for them."""
        job = self._state.jobs.get(job_id)
        if job is None or job.epoch != epoch:
            return
        threshold_s = self._threshold_s(job)
        look_s = LOOK_S_UNKNOWN if threshold_s is None else min(LOOK_S_MAX, max(LOOK_S_MIN, threshold_s / 4))
        look_s = max(look_s, LOOK_S_PER_TASK * job.launched)
        self._state.timers.add(now + look_s, ("hedge", job_id, epoch))
        if threshold_s is None or not job.launched or job.claims is not None or not self._outcomes.may_launch(job):
            return
        self._find(job, now - threshold_s)
        self._probe(now, job)

    def _threshold_s(self, job: Job) -> float | None:
        """Return how long a task may run before it counts as slow; None as long as that is not known."""
        if job.spec.hedge_after_s:
            return job.spec.hedge_after_s
        ended = job.counts[m.SUCCEEDED]
        if ended < FINISHED_MIN:
            return None
        if job.slow is None or job.slow[0] * 1.1 <= ended:  # so that a large job is not sorted again and again
            times_us = sorted(compress(job.service_us, job.state.translate(_SUCCEEDED)))
            job.slow = ended, percentile(times_us, job.spec.hedge_quantile) * 1e-6
        return job.slow[1]

    def _find(self, job: Job, since: float) -> None:
        """Note the tasks that were launched before ``since`` and have had no second attempt."""
        for index in job.launched_tasks():
            if job.launch_times[index] <= since and index not in job.twins and index not in job.doomed:
                job.wanted[index] = None
                if len(job.wanted) >= WANTED_MAX:
                    break

    def _probe(self, now: float, job: Job) -> None:
        """See that there are reservations for them, on workers other than their own; any of the job's will do."""
        at: dict[str, int] = {}
        for index in job.wanted:
            at[job.place[index]] = at.get(job.place[index], 0) + 1
        for worker_id, count in at.items():
            elsewhere = job.reserved_total - job.reserved.get(worker_id, 0)
            if elsewhere < count:
                self._placer.reserve_elsewhere(now, job, worker_id, count - elsewhere)
