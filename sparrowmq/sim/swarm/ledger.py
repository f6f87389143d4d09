"""What must be true of durable jobs: what the store was given, whose a job is, what is said of it, and what is left.

Owns: a record of all that was ever written, which no loss of the store empties. Must not know: how anything is written
(`sim/keeper.py`), or what a task may end as (`model`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sparrowmq.core import effects as fx
from sparrowmq.core.history import payload_bytes
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.kept import Written
from sparrowmq.sim.node import Machine
from sparrowmq.sim.swarm.model import Shown


class _Ended(NamedTuple):
    """An outcome in the store. ``life``: how often the store had lost everything before."""

    life: int
    shown: Shown


@dataclass
class _Record:
    """All that was ever written of a job."""

    saved: set[int] = field(default_factory=set)  # epochs under which it was submitted or taken over
    owners: dict[tuple[int, int], str] = field(default_factory=dict)  # (life, epoch) -> who has it
    ended: dict[int, list[_Ended]] = field(default_factory=dict)  # by task


class Ledger:
    """One run of one scenario. `Play` tells it of every event; the store tells it of what is written."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._records: dict[str, _Record] = {}
        self._accepted: set[str] = set()  # jobs that a client was told are accepted
        self._life = 0
        cluster.store.jobs.tell = self._written

    def lost(self) -> None:
        """The store has lost everything."""
        self._life += 1

    # -- what is written

    def _written(self, written: Written) -> None:
        """Of each job and epoch there is one owner, and each task ends once."""
        record = self._records.setdefault(written.job, _Record())
        key = self._life, written.epoch
        if written.what == "forget":
            record.owners.pop(key, None)
            return
        owner = record.owners.setdefault(key, written.owner)
        assert owner == written.owner, f"{written.job} is {written.owner}'s at epoch {written.epoch}, which {owner} has"
        if written.outcome is None:
            record.saved.add(written.epoch)
            return
        for index, shown in self._rows(written.outcome):
            ended = record.ended.setdefault(index, [])
            again = [one for one in ended if one.life == self._life]
            assert not again, f"task {index} of {written.job} ends again in the store: {shown} after {again}"
            ended.append(_Ended(self._life, shown))

    def _rows(self, outcome: m.Outcome) -> Iterator[tuple[int, Shown]]:
        for index, status, payload in zip(outcome.indices, outcome.statuses, outcome.payloads, strict=True):
            yield index, Shown(self._cluster.now, status, payload_bytes(payload), outcome.epoch)

    # -- what is said

    def step(self, machine: Machine, effects: Sequence[fx.AnyEffect]) -> None:
        """A machine has taken an event: what it says of a durable job the store has."""
        if isinstance(machine, Session):
            for effect in effects:
                if isinstance(effect, fx.JobAccepted) and effect.job in self._records:
                    self._accepted.add(effect.job)
        elif isinstance(machine, Scheduler):
            for effect in effects:
                if isinstance(effect, fx.Send):
                    self._check_said(machine, effect.message)

    def _check_said(self, scheduler: Scheduler, message: m.AnyMessage) -> None:
        if isinstance(message, m.Accepted | m.Outcome):
            job = scheduler.state.job(message.job)
            waits = any(one.submit.job == message.job for one in scheduler.state.book._jobs.values())
            if not waits and (job is None or job.keep is None):
                return
            record = self._records.get(message.job, _Record())
            assert message.epoch in record.saved, (
                f"{scheduler.id} says {type(message).__name__.lower()} of {message.job}, whose store has not been "
                f"given epoch {message.epoch}"
            )
        if isinstance(message, m.Outcome):
            for index, shown in self._rows(message):
                known = [(one.shown.status, one.shown.payload) for one in record.ended.get(index, ())]
                assert (shown.status, shown.payload) in known, (
                    f"{scheduler.id} tells how task {index} of {message.job} has ended, and the store does not know"
                )

    def check_shown(self) -> None:
        """What clients were shown of durable jobs is what the store has of them."""
        for (job, index), (status, payload) in self._cluster.history.outcomes.items():
            record = self._records.get(job)
            known = [one.shown for one in record.ended.get(index, ())] if record is not None else []
            same = (status, payload_bytes(payload)) in [(shown.status, shown.payload) for shown in known]
            assert same or not known, f"task {index} of {job} was shown as {status} {payload!r:.40}, kept was {known}"

    def moved(self, job: str, epoch: int, owner: str) -> bool:
        """Whether the store has this job under another owner or epoch."""
        kept = self._cluster.store.jobs.jobs.get(job)
        return kept is not None and (kept.epoch, kept.owner) != (epoch, owner)

    # -- the end

    def open(self) -> list[str]:
        """Return the jobs that the store has as unfinished."""
        return [id for id, _ in self._cluster.store.jobs.open()]

    def check_end(self) -> None:
        """Each task of an accepted job has one outcome, but for jobs that the store has lost."""
        assert not self.open(), f"unfinished in the store: {self.open()}"
        for job_id in sorted(self._accepted):
            kept = self._cluster.store.jobs.jobs.get(job_id)
            if kept is None:
                assert self._life, f"{job_id} was accepted, and the store does not know it"
                continue
            ended = self._records[job_id].ended
            if self.was_lost(job_id):
                continue  # what its scheduler could not write again before it died is gone
            missing = [index for index in range(kept.tasks) if index not in ended and not self._withheld(job_id, index)]
            assert not missing, f"{job_id} is {kept.state}, and its tasks {missing} have no outcome"
            if not self._life:
                found = [index for entry in kept.entries for index in entry.outcome.indices]
                assert sorted(found) == sorted(ended), f"a reader of {job_id} finds outcomes of {found}"

    def _withheld(self, job: str, index: int) -> bool:
        """Whether its client has cancelled a task while no scheduler had it: nobody has heard of that."""
        shown = self._cluster.history.outcomes.get((job, index))
        return shown is not None and shown not in self._cluster.history.reported[job, index]

    def was_lost(self, job: str) -> bool:
        """Whether the store has had this job and lost it."""
        record = self._records.get(job)
        return record is not None and any(life < self._life for life, _ in record.owners)

    def outcome(self, job: str, index: int) -> Shown | None:
        """Return the first outcome of a task that the store was given."""
        record = self._records.get(job)
        ended: Iterable[_Ended] = record.ended.get(index, ()) if record is not None else ()
        return next((one.shown for one in ended), None)
