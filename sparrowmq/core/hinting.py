"""Load hints, the assistant's side: which workers are whose to probe first, and what others have left there.

Owns: what beats have told of workers and of the schedulers that place by hints, the shares. Must not know: connections,
or what a scheduler makes of its hints (`hints`).

A list of the least loaded workers is worth nothing when it arrives: at 36,000 tasks a second over 4,000 slots a free
slot is taken within 11 ms, and schedulers that read the same list meet on the same workers. What schedulers cannot know
of each other, and what stays true for longer, is who else there is. So every worker is in the share of exactly one of
the schedulers that place by hints, and the shares are as large as their demand; a scheduler knows exactly what it has
left in its own share itself. Beside that, what the others are expected to keep a worker of the share busy for: from
load, service time and from whom the worker gets probes (`Beat.probes`), so that a scheduler's own probes are never
counted twice, and no old beat makes it forget a newer one (DESIGN rule 10).

Memory: one entry for each worker and scheduler that the judge watches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final
from zlib import crc32

from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat

DEMAND_S: Final = 5.0  # demand is a mean over about so long: shares that move cost more than shares that fit
RECENT_S: Final = 1.0  # whose probes a worker has got is looked at over about so long
IDLE_S: Final = 10.0  # a scheduler that has placed nothing by hints for so long has no share
SHARE_MIN: Final = 0.25  # of an equal share, at the least
QUEUED: Final = 0.5  # of a reservation: late binding leaves two for a task, and cancels one
_WAIT_US_MAX: Final = 3_600_000_000


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker by its last beat. ``recent``: probes of late, by scheduler; older ones count less."""

    beat: Beat
    recent: dict[str, float] = field(default_factory=dict)

    def wait_us(self, scheduler: str) -> int:
        """Return for how long what others have left here is expected to keep one more task from starting."""
        total = sum(self.recent.values())
        others = 1.0 - self.recent.get(scheduler, 0.0) / total if total else 1.0
        ahead = others * (self.beat.running + QUEUED * self.beat.queued)
        return min(_WAIT_US_MAX, max(0, int(self._turns(ahead) * self.beat.service_us)))

    @property
    def reservations(self) -> int:
        """How many wait here."""
        return max(0, self.beat.queued - self.beat.pushed)

    def expected_wait_us(self, each: float) -> int | None:
        """Return for how long all that is here keeps one more task from starting; None where that cannot be told.

        That is so where no task has ended yet, and where no task is taken (it drains, it has no slots). ``each``: how
        many tasks a reservation stands for.
        """
        beat = self.beat
        if beat.draining or not beat.slots:
            return None
        turns = self._turns(beat.running + beat.pushed + each * self.reservations)
        if turns <= 0.0:
            return 0
        return min(_WAIT_US_MAX, int(turns * beat.service_us)) if beat.service_us else None

    def _turns(self, ahead: float) -> float:
        """Return for how many service times one more task waits behind so many others; up to 0: it does not."""
        return (ahead - self.beat.slots + 1) / max(1, self.beat.slots)


@dataclass(slots=True, eq=False)
class _Scheduler:
    """A scheduler by its last beat. ``demand``: tasks that it places by hints, a second."""

    beat: Beat
    demand: float = 0.0
    used_s: float | None = None  # when it was last heard to use hints; None: never


class Hinting:
    """What is known from beats that count (the judge has looked at them), in the order of the stream."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}
        self._schedulers: dict[str, _Scheduler] = {}
        self._ring: list[str] | None = []  # workers in an order that has nothing to do with their names
        self._shares: dict[str, list[str]] | None = None  # at ``_shared_s``; None: something has changed since
        self._shared_s = 0.0
        self._reservations = 0  # at all workers ...
        self._wanted = 0  # ... and how many tasks they stand for, by the schedulers

    def observe(self, now: float, beat: Beat) -> None:
        """A worker or a scheduler has beaten."""
        self._shares = None
        if beat.kind == m.WORKER:
            self._observe_worker(beat)
        else:
            self._observe_scheduler(now, beat)

    def _observe_worker(self, beat: Beat) -> None:
        worker = self._workers.get(beat.id)
        if worker is None:
            worker = self._workers[beat.id] = _Worker(beat, {id: float(count) for id, count in beat.probes.items()})
            self._reservations += worker.reservations
            self._ring = None
            return
        self._reservations -= worker.reservations
        before, worker.beat = worker.beat, beat
        self._reservations += worker.reservations
        kept = _kept(before, beat, RECENT_S)
        counts = _counts(before, beat)
        worker.recent = {id: kept * worker.recent.get(id, 0.0) + count for id, count in counts.items()}

    def _observe_scheduler(self, now: float, beat: Beat) -> None:
        scheduler = self._schedulers.get(beat.id)
        if scheduler is None:
            scheduler = self._schedulers[beat.id] = _Scheduler(beat)
            count = beat.probes.get(beat.id, 0)
        else:
            count = _counts(scheduler.beat, beat).get(beat.id, 0)
            self._wanted -= scheduler.beat.queued
        self._wanted += beat.queued
        kept = _kept(scheduler.beat, beat, DEMAND_S)
        scheduler.demand = kept * scheduler.demand + count / DEMAND_S
        scheduler.beat = beat
        if count:
            scheduler.used_s = now

    def forget(self, node: str) -> None:
        """This worker or scheduler is gone."""
        self._shares = None
        worker = self._workers.pop(node, None)
        if worker is not None:
            self._reservations -= worker.reservations
            self._ring = None
        scheduler = self._schedulers.pop(node, None)
        if scheduler is not None:
            self._wanted -= scheduler.beat.queued

    def expected_wait_us(self, worker: str) -> int | None:
        """Return for how long one more task, of anybody's, would wait at this worker; None where nobody can tell."""
        known = self._workers.get(worker)
        return known.expected_wait_us(self._tasks_each()) if known is not None else None

    def _tasks_each(self) -> float:
        """Return how many tasks a reservation stands for: fewer and fewer, the more of a job's tasks are placed."""
        if not self._schedulers:  # none beats: nobody can tell
            return QUEUED
        return min(1.0, self._wanted / self._reservations) if self._reservations else 0.0

    def hints(self, now: float, scheduler: str, term: int) -> m.Hints | None:
        """Return what this scheduler is to know now; None where it does not place by hints."""
        if self._shares is None or now != self._shared_s:
            self._shares, self._shared_s = self._divide(now), now
        share = self._shares.get(scheduler)
        if not share:
            return None
        workers = self._workers
        return m.Hints(term, share, [workers[worker].wait_us(scheduler) for worker in share])

    def _divide(self, now: float) -> dict[str, list[str]]:
        """Return the shares: slots in proportion to demand, the same workers as long as demand stays the same."""
        users = {
            id: scheduler.demand
            for id, scheduler in sorted(self._schedulers.items())
            if scheduler.used_s is not None and now - scheduler.used_s <= IDLE_S
        }
        if not users:
            return {}
        if self._ring is None:
            self._ring = sorted(self._workers, key=lambda id: (crc32(id.encode()), id))
        open_workers = [(id, beat.slots) for id in self._ring if not (beat := self._workers[id].beat).draining]
        least = SHARE_MIN * sum(users.values()) / len(users) or 1.0  # nothing is left of what they did
        weights = [max(demand, least) for demand in users.values()]
        scale = sum(slots for _, slots in open_workers) / sum(weights)
        ends = [end * scale for end in accumulate(weights)]
        shares: dict[str, list[str]] = {id: [] for id in users}
        names, at, taken = list(users), 0, 0
        for worker, slots in open_workers:
            while at < len(ends) - 1 and taken + 0.5 * slots > ends[at]:
                at += 1
            taken += slots
            shares[names[at]].append(worker)
        return shares


def _kept(before: Beat, beat: Beat, over_s: float) -> float:
    """Return which part of a mean over ``over_s`` is left from beat to beat, by their own sequence numbers."""
    beats = beat.sequence - before.sequence if beat.incarnation == before.incarnation else 1
    return max(0.0, 1.0 - max(1, beats) * beat.interval_ms * 1e-3 / over_s)


def _counts(before: Beat, beat: Beat) -> Mapping[str, int]:
    """Return by how much the counts have grown; a new incarnation has begun anew."""
    if beat.incarnation != before.incarnation:
        return beat.probes
    return {id: max(0, count - before.probes.get(id, 0)) for id, count in beat.probes.items()}
