"""The workers: what the assistant judges of each, what the schedulers see, and what has changed since the last look.

Owns: putting the two together. Must not know: how silence is judged, or what is done about a change.

The assistant's word counts first. A scheduler sees a dropped connection within milliseconds and takes the worker off
its list, long before silence proves anything: such a worker is suspect here until the assistant has judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from sparrowmq.client import ledger
from sparrowmq.core.assistant import NodeReport
from sparrowmq.protocol import messages as m
from sparrowmq.web.reading import ALIVE, DEAD, DRAINING, SUSPECT, Reading

REJOINED_S: Final = 15.0  # for so long it is said
FORGET_S: Final = 60.0  # a dead worker of which no assistant tells
WORKERS_MAX: Final = 20_000


class Worker:
    """One worker as the page knows it. ``node`` and ``row`` are of the last reading, None where it is not in there."""

    __slots__ = ("by", "dropped", "id", "node", "rejoined_s", "row", "since_s", "state")

    def __init__(self, id: str, now: float) -> None:
        self.id = id
        self.state = ALIVE
        self.since_s = now
        self.node: NodeReport | None = None
        self.row: m.WorkerStatus | None = None
        self.by: frozenset[str] = frozenset()  # the schedulers that had it on their lists
        self.dropped = False  # a scheduler that had it does not any more
        self.rejoined_s = float("-inf")


class Change(NamedTuple):
    """A worker's state has changed; "" is not to be there."""

    worker: Worker
    before: str
    after: str


class Workers:
    """All workers of a cluster, by id."""

    def __init__(self) -> None:
        self.known: dict[str, Worker] = {}
        self._lost: dict[str, int] = {}  # counters of the schedulers: workers that each has given up

    def read(self, now: float, reading: Reading) -> list[Change]:
        """Take in a reading; return what has changed."""
        answered = {status.scheduler for status in reading.statuses}
        seen: dict[str, set[str]] = {}
        for status in reading.statuses:
            for row in status.workers:
                seen.setdefault(row.id, set()).add(status.scheduler)
        rows = {row.id: row for row in ledger.workers(reading.statuses)}
        nodes = reading.nodes
        died = self._has_lost(reading)
        changes = []
        for id in [*self.known, *(id for id in sorted({*rows, *nodes}) if id not in self.known)]:
            worker = self.known.get(id)
            before = "" if worker is None else worker.state
            if worker is None:
                if len(self.known) >= WORKERS_MAX:
                    break
                worker = Worker(id, now)
            worker.node, worker.row = nodes.get(id), rows.get(id)
            by = worker.by & answered
            worker.dropped = bool(by) and not seen.get(id, set()) & by
            worker.by = frozenset(seen.get(id, by))
            after = self._state(worker, bool(answered), reading.report is not None, died)
            if after == DEAD and worker.node is None and before == DEAD and now - worker.since_s > FORGET_S:
                after = ""
            if after != before:
                changes.append(Change(worker, before, after))
                self._change(now, worker, before, after)
        return changes

    def _state(self, worker: Worker, answered: bool, judged: bool, died: bool) -> str:
        """Return the state that the last reading amounts to, "" where the worker is not there any more."""
        node, row = worker.node, worker.row
        if node is not None and node.state in (DEAD, SUSPECT):
            return node.state
        if row is not None:
            if row.state == DRAINING:
                return DRAINING
            return ALIVE if row.state == ALIVE else SUSPECT
        if not answered:  # nobody can say
            return worker.state if worker.id in self.known else ALIVE
        if node is not None:  # it beats, and no scheduler lists it: its connection has dropped, or is to come
            return SUSPECT if worker.dropped or (worker.state == SUSPECT and worker.by) else ALIVE
        if worker.state == DEAD:
            return "" if judged else DEAD  # the assistant has forgotten it
        return DEAD if worker.dropped and died and worker.state != DRAINING else ""

    def _change(self, now: float, worker: Worker, before: str, after: str) -> None:
        if not after:
            self.known.pop(worker.id, None)
            return
        self.known[worker.id] = worker
        worker.state, worker.since_s = after, now
        if before == DEAD and after in (ALIVE, DRAINING):
            worker.rejoined_s = now

    def _has_lost(self, reading: Reading) -> bool:
        """Return whether a scheduler has given up workers since the last reading."""
        lost = {status.scheduler: status.counters.get("workers_lost", 0) for status in reading.statuses}
        grew = any(count > self._lost.get(id, count) for id, count in lost.items())
        self._lost = lost
        return grew

    def counts(self) -> Mapping[str, int]:
        """Return how many workers are in each state."""
        found = dict.fromkeys((ALIVE, SUSPECT, DEAD, DRAINING), 0)
        for worker in self.known.values():
            found[worker.state] += 1
        return found
