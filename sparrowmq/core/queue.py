"""A worker's queue: reservations, counted per job and round, and tasks that early-binding policies pushed.

Owns: their order (first in, first out, as in radlab/sparrow's default) and what a cancel or a recall removes.
Must not know: slots, connections, or time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sparrowmq.protocol import messages as m


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

    def __len__(self) -> int:
        return len(self.entries) + sum(map(len, self.parked.values()))

    def __iter__(self) -> Iterator[Entry]:
        yield from self.entries
        for entries in self.parked.values():
            yield from entries

    def add(self, entry: Entry, *, first: bool = False) -> None:
        """Put an entry at the tail, or at the head when it comes back."""
        entries = self.parked.get(entry.scheduler, self.entries)
        if first:
            entries.appendleft(entry)
        else:
            entries.append(entry)
        self._count(entry, entry.count)

    def head(self) -> Entry | None:
        """Return the first entry with something left."""
        entries = self.entries
        while entries:
            if entries[0].count:
                return entries[0]
            entries.popleft()
        return None

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

    def remove(self, unwanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take out every entry that is ``unwanted``, and return those with something left."""
        removed = [entry for entry in self if entry.count and unwanted(entry)]
        if removed:
            gone = set(map(id, removed))
            self.entries = deque(entry for entry in self.entries if id(entry) not in gone)
            for scheduler, entries in self.parked.items():
                self.parked[scheduler] = deque(entry for entry in entries if id(entry) not in gone)
            for entry in removed:
                self._count(entry, -entry.count)
        return removed

    def pull(self, scheduler: str, job: str, epoch: int, indices: set[int] | None) -> list[tuple[int, int]]:
        """Take these pushed tasks (None: all of the job) out; return (index, attempt) of each."""
        pulled: list[tuple[int, int]] = []
        for entry in self:
            if entry.scheduler != scheduler or entry.job != job or entry.epoch != epoch:
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
