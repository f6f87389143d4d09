"""A worker's queue: reservations, counted per job and round, and tasks that early-binding policies pushed.

Owns: their order (first in, first out, as in radlab/sparrow's default) and what a cancel or a recall removes.
Must not know: slots, connections, or time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from sparrowmq.protocol import messages as m

_CANCELLED_MIN: Final = 64


@dataclass(slots=True, eq=False)
class Entry:
    """Some reservations (``tasks`` is None, ``count`` of them), or pushed tasks (``count`` not yet started)."""

    scheduler: str
    job: str
    epoch: int
    round: int
    count: int
    tasks: m.Task | None = None
    function: m.Payload = b""

    def split(self, count: int) -> m.Task:
        """Take the first ``count`` of the pushed tasks out, as a message of their own."""
        tasks = self.tasks
        assert tasks is not None
        done = len(tasks.indices) - self.count
        chosen = slice(done, done + count)
        self.count -= count
        shared = len(tasks.payloads) == 1
        return m.Task(
            0,
            self.job,
            self.epoch,
            tasks.spec,
            tasks.indices[chosen],
            tasks.attempts[chosen],
            tasks.payloads if shared else tasks.payloads[chosen],
        )

    def waiting(self) -> list[tuple[int, int]]:
        """Return (index, attempt) of the pushed tasks that have not started."""
        if self.tasks is None or not self.count:
            return []
        return list(zip(self.tasks.indices[-self.count :], self.tasks.attempts[-self.count :], strict=True))


@dataclass(slots=True)
class Queue:
    """Entries in order. Those of a scheduler that cannot be reached are parked, and keep their order."""

    entries: deque[Entry] = field(default_factory=deque)
    parked: dict[str, deque[Entry]] = field(default_factory=dict)
    reservations: int = 0
    tasks: int = 0
    _of_job: dict[str, list[Entry]] = field(default_factory=dict)
    _cancelled: int = 0  # entries that a cancel has emptied and that still stand in the queue

    def __len__(self) -> int:
        return len(self.entries) + (sum(map(len, self.parked.values())) if self.parked else 0)

    def __iter__(self) -> Iterator[Entry]:
        yield from self.entries
        for entries in self.parked.values():
            yield from entries

    def add(self, entry: Entry, *, first: bool = False) -> None:
        """Put an entry at the tail, or at the head when it comes back."""
        entries = self.parked.get(entry.scheduler, self.entries) if self.parked else self.entries
        if first:
            entries.appendleft(entry)
        else:
            entries.append(entry)
        of_job = self._of_job.get(entry.job)
        if of_job is None:
            self._of_job[entry.job] = [entry]
        else:
            of_job.append(entry)
        self._count(entry, entry.count)

    def head(self) -> Entry | None:
        """Return the first entry with something left."""
        entries = self.entries
        while entries:
            if entries[0].count:
                return entries[0]
            self._forget(entries.popleft())
        return None

    def _forget(self, entry: Entry) -> None:
        """The entry has left the queue."""
        of_job = self._of_job[entry.job]
        of_job.remove(entry)
        if not of_job:
            del self._of_job[entry.job]

    def take(self, entry: Entry, count: int) -> None:
        """Note that ``count`` reservations of this entry have been requested."""
        entry.count -= count
        self._count(entry, -count)

    def start(self, entry: Entry, count: int) -> m.Task:
        """Take ``count`` pushed tasks out of this entry."""
        self._count(entry, -count)
        return entry.split(count)

    def park(self, scheduler: str) -> None:
        """This scheduler does not answer: its entries keep their order aside."""
        if scheduler not in self.parked:
            self.parked[scheduler] = deque(entry for entry in self.entries if entry.scheduler == scheduler)
            self.entries = deque(entry for entry in self.entries if entry.scheduler != scheduler)

    def unpark(self, scheduler: str) -> None:
        """This scheduler answers again: its entries have waited long, they go first."""
        self.entries.extendleft(reversed(self.parked.pop(scheduler, deque())))

    def cancel(self, scheduler: str, job: str, epoch: int, round: int) -> None:
        """Drop the reservations of this job up to ``round`` (and of epochs before).

        There is a cancel for most jobs: it costs the entries of its job only. Emptied entries leave when they reach
        the head, or all together once they are the most of the queue.
        """
        for entry in self._of_job.get(job, ()):
            mine = entry.scheduler == scheduler and entry.epoch <= epoch and entry.round <= round
            if mine and entry.tasks is None and entry.count:
                self.take(entry, entry.count)
                self._cancelled += 1
        if self._cancelled > max(_CANCELLED_MIN, len(self) // 2):
            self._cancelled = 0
            self._keep(lambda entry: entry.count > 0)

    def _keep(self, wanted: Callable[[Entry], bool]) -> None:
        for entry in [entry for entry in self if not wanted(entry)]:
            self._forget(entry)
        self.entries = deque(filter(wanted, self.entries))
        for scheduler, entries in self.parked.items():
            self.parked[scheduler] = deque(filter(wanted, entries))

    def remove(self, unwanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take out every entry that is ``unwanted``, and return those with something left."""
        removed = [entry for entry in self if entry.count and unwanted(entry)]
        if removed:
            self._keep(lambda entry: entry.count > 0 and not unwanted(entry))
            for entry in removed:
                self._count(entry, -entry.count)
        return removed

    def pull(self, scheduler: str, job: str, epoch: int, indices: set[int] | None) -> list[tuple[int, int]]:
        """Take these pushed tasks (None: all of the job) out; return (index, attempt) of each."""
        pulled: list[tuple[int, int]] = []
        for entry in self._of_job.get(job, ()):
            if entry.scheduler != scheduler or entry.epoch != epoch:
                continue
            waiting = entry.waiting()
            gone = [task for task in waiting if indices is None or task[0] in indices]
            if gone:
                pulled += gone
                self._count(entry, -len(gone))
                kept = [k for k, task in enumerate(waiting) if indices is not None and task[0] not in indices]
                entry.tasks = _subset(entry.split(entry.count), kept)
                entry.count = len(kept)
        return pulled

    def _count(self, entry: Entry, count: int) -> None:
        if entry.tasks is None:
            self.reservations += count
        else:
            self.tasks += count


def _subset(tasks: m.Task, positions: list[int]) -> m.Task:
    shared = len(tasks.payloads) == 1 and len(tasks.indices) > 1
    return m.Task(
        0,
        tasks.job,
        tasks.epoch,
        tasks.spec,
        [tasks.indices[p] for p in positions],
        [tasks.attempts[p] for p in positions],
        tasks.payloads if shared else [tasks.payloads[p] for p in positions],
    )
