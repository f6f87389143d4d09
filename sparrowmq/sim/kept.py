"""Durable jobs as the store has them: what its scripts do, without a server.

Owns: the meaning of each script of store/jobs.py: what is written by whom, and what is answered. Must not know: when
anything is written, or what becomes of an answer. tests/integration/test_kept.py holds it against the scripts in a
server, so that it stays what they are.

Replies are those of the scripts: (1, ...) where it has written, (0, epoch) where another scheduler has the job, (-1,)
where there is no such job. Nothing expires here: results are kept for a day, and no run is so long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sparrowmq.core.keeping import Orphan
from sparrowmq.core.orphans import left_of
from sparrowmq.protocol import messages as m

Reply = tuple[int, ...]


class Entry(NamedTuple):
    """An entry of a job's stream: its id is (epoch, seq)."""

    epoch: int
    seq: int
    outcome: m.Outcome


@dataclass
class KeptJob:
    """A job. ``state``: "open", "done", "cancelled"; ``counts``: tasks by final status; ``ends``: 0 or status + 1."""

    owner: str
    epoch: int
    submit: m.Submit | None  # until the job is over
    tasks: int
    client: str
    detached: bool
    submitted_ms: int
    state: str = "open"
    seq: int = 0
    deaths: dict[int, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=lambda: [0] * len(m.STATUS_NAMES))
    ends: bytearray = field(default_factory=bytearray)
    entries: list[Entry] = field(default_factory=list)


class Written(NamedTuple):
    """Something that was written: "save", "append", "take" or "forget" of a job, by an owner at an epoch."""

    what: str
    job: str
    owner: str
    epoch: int
    outcome: m.Outcome | None = None


class KeptJobs:
    """All of them. ``tell`` hears of everything that is written."""

    def __init__(self) -> None:
        self.jobs: dict[str, KeptJob] = {}
        self.tell: Callable[[Written], None] = lambda written: None

    def empty(self) -> None:
        """Everything is lost."""
        self.jobs.clear()

    def open(self) -> list[tuple[str, KeptJob]]:
        """Return unfinished jobs with their ids, oldest first."""
        found = [(id, job) for id, job in self.jobs.items() if job.state == "open"]
        return sorted(found, key=lambda item: (item[1].submitted_ms, item[0]))

    def save(self, owner: str, client: str, submit: m.Submit, tasks: int, submitted_unix_s: float) -> Reply:
        """Write a submission, unless the job is another's at this epoch, or has ended in it, or has a later one.

        Tells how many outcomes it has. Where it was its own at this epoch already, what it has said since stays said.
        """
        job = self.jobs.get(submit.job)
        if job is not None:
            over = job.state != "open" or job.owner not in (owner, "")
            if job.epoch > submit.epoch or (job.epoch == submit.epoch and over):
                return 0, job.epoch
        if job is None:
            submitted_ms = int(submitted_unix_s * 1000)
            job = KeptJob(owner, submit.epoch, submit, tasks, client, submit.detached, submitted_ms)
            self.jobs[submit.job] = job
        elif job.epoch != submit.epoch:
            job.seq = 0
        job.owner, job.epoch, job.submit, job.state, job.deaths = owner, submit.epoch, submit, "open", {}
        job.client, job.detached = client, submit.detached
        self.tell(Written("save", submit.job, owner, submit.epoch))
        return 1, len(job.entries)

    def append(self, owner: str, outcome: m.Outcome, over: bool, deaths: Mapping[int, int]) -> Reply:
        """Append outcomes, none twice, and note deaths; ``over``: the job is. Without any: ask whose it is."""
        job = self.jobs.get(outcome.job)
        if job is None:
            return (-1,)
        if (job.epoch, job.owner) != (outcome.epoch, owner):
            return 0, job.epoch
        if outcome.seq <= job.seq:
            return (1,)
        job.seq = outcome.seq
        if deaths:
            job.deaths = dict(deaths)
        for index, status in zip(outcome.indices, outcome.statuses, strict=True):
            job.ends.extend(bytes(max(0, index + 1 - len(job.ends))))
            job.ends[index] = status + 1
            job.counts[status] += 1
        if outcome.indices:
            job.entries.append(Entry(outcome.epoch, outcome.seq, outcome))
        if over:
            job.state = "cancelled" if job.counts[m.CANCELLED] >= job.tasks else "done"
            job.submit = None
        self.tell(Written("append", outcome.job, owner, outcome.epoch, outcome))
        return (1,)

    def take(self, owner: str, id: str, before: str, epoch: int) -> Reply:
        """Take an unfinished job over, if it is still ``before``'s at this epoch; then it has the next one."""
        job = self.jobs.get(id)
        if job is None:
            return (-1,)
        if (job.epoch, job.owner, job.state) != (epoch, before, "open"):
            return 0, job.epoch
        job.owner, job.epoch, job.seq = owner, epoch + 1, 0
        self.tell(Written("take", id, owner, job.epoch))
        return 1, job.epoch

    def left(self, id: str) -> Orphan | None:
        """Return what is left of a job that was taken over, None where all of it has ended."""
        job = self.jobs[id]
        left = left_of(job.submit, job.epoch, job.ends, job.deaths) if job.submit is not None else None
        return None if left is None else Orphan(left, job.client, job.submitted_ms / 1e3)

    def forget(self, owner: str, id: str, epoch: int) -> Reply:
        """Remove a job of epoch 0 that is not taken after all; of a later one anybody may have it."""
        job = self.jobs.get(id)
        if job is None:
            return (-1,)
        if (job.epoch, job.owner) != (epoch, owner):
            return 0, job.epoch
        if epoch:
            job.owner = ""
        else:
            del self.jobs[id]
        self.tell(Written("forget", id, owner, epoch))
        return (1,)
