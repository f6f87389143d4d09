"""Load hints, the scheduler's side: which workers to probe first, and what to expect of each.

Owns: the last hints of the assistant, for as long as they are news, and a worker's expected wait from them and from
what this scheduler has left there itself. Must not know: jobs, messages to anybody, how workers are chosen by that
(placement/assisted.py).

Every probe and every launch counts at once and for as long as it is there (`Worker.reserved`, `Worker.launched`): that
is exact, and no hint changes it. Without hints all workers are this scheduler's to try first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sparrowmq.core.peers import Worker
from sparrowmq.placement.load import expected_wait
from sparrowmq.protocol import messages as m

NEWS_S: Final = 1.0  # hints are believed for so long, or
NEWS_INTERVALS: Final = 4.0  # for so many times the distance of the last two, where those are further apart
NEWS_S_MAX: Final = 60.0
POOLS_MAX: Final = 64  # kinds of jobs


class Pool(NamedTuple):
    """The workers that a job may have: those to try first, and the others."""

    share: Sequence[str]
    others: Sequence[str]


class Hints:
    """What this scheduler expects. ``workers`` is the scheduler's own table, read only here."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers
        self._share: list[str] = []
        self._mine: frozenset[str] = frozenset()
        self._until: dict[str, float] = {}  # others keep these workers of the share busy until then
        self._heard_at: float | None = None
        self._stale_at = 0.0
        self._pools: dict[str, tuple[list[str], Pool]] = {}  # by the kind of job, with the eligible it was made from
        self._now = 0.0

    def heard(self, now: float, message: m.Hints) -> None:
        """The assistant has sent hints; they replace all earlier ones."""
        before, self._heard_at = self._heard_at, now
        gap_s = now - before if before is not None else 0.0
        self._stale_at = now + min(NEWS_S_MAX, max(NEWS_S, NEWS_INTERVALS * gap_s))
        if message.workers != self._share:
            self._share = message.workers
            self._mine = frozenset(message.workers)
            self._pools.clear()
        waits = zip(message.workers, message.waits_us, strict=False)
        self._until = {worker: now + wait_us * 1e-6 for worker, wait_us in waits if wait_us}

    def pool(self, now: float, kind: str, eligible: list[str]) -> Pool:
        """Return the ``eligible`` workers of this kind of job in two parts, all in the first without hints."""
        self._now = now
        if self._share and now > self._stale_at:
            self._share, self._mine, self._until, self._heard_at = [], frozenset(), {}, None
            self._pools.clear()
        if not self._share:
            return Pool(eligible, ())
        known = self._pools.get(kind)
        if known is None or known[0] is not eligible:
            if len(self._pools) >= POOLS_MAX:
                self._pools.clear()
            allowed = set(eligible)
            share = [worker for worker in self._share if worker in allowed]
            known = eligible, Pool(share, [worker for worker in eligible if worker not in self._mine])
            self._pools[kind] = known
        return known[1]

    def wait(self, worker_id: str) -> float:
        """Return what a task is expected to wait at this worker, in service times; up to 0 it starts at once.

        Elsewhere the schedulers whose share it is are taken to have left one slot free: more of this one's tasks than
        that would wait. A worker that others keep busy comes behind all that they do not.
        """
        worker = self._workers[worker_id]
        mine, slots = worker.launched + worker.reserved, worker.hello.slots
        if self._mine and worker_id not in self._mine:
            return mine / slots
        if self._until and self._until.get(worker_id, 0.0) > self._now:
            return 1.0 + mine / slots
        return expected_wait(worker.reserved, worker.launched, slots)
