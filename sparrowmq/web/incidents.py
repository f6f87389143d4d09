"""Deaths: when a worker fell silent, was given up, suspected, declared dead, and when its last lost task ran again.

Owns: which moments belong to one death, and which tasks to ask the schedulers about. Must not know: how they are asked.

No moment is made up: each is one that the assistant or a scheduler has told, and stays None until it has. Their clocks
may differ where they are on different machines.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sparrowmq import limits
from sparrowmq.core.assistant import NodeReport
from sparrowmq.protocol import messages as m
from sparrowmq.web.jobs import Relaunch
from sparrowmq.web.reading import ALIVE, DEAD, DRAINING, SUSPECT
from sparrowmq.web.workers import Change, Worker

INCIDENTS_MAX: Final = 12
OPEN_MAX: Final = 200  # suspicions at once, of which it is not clear yet what becomes of them
LOST_MAX: Final = 5000  # tasks of one death
ASKED_MAX: Final = 8  # jobs whose tasks are asked for at once
ASK_S: Final = 60.0  # for so long after a death its tasks are asked for
ASK_AGAIN_S: Final = 1.0
FRESH_S: Final = 5.0  # so long after a death, or a suspicion, tasks that are placed again may have been lost with it
SLACK: Final = 100  # tasks that may have been placed since the last reading
GIVE_UP_S: Final = 2.0  # who finds no lost task by then asks no more
WHY_CHARS_MAX: Final = 300
_LAUNCHES: Final = ("launched", "hedged", "adopted")


class Question(NamedTuple):
    """What to ask the schedulers: what happened to these tasks."""

    job: str
    indices: Sequence[int]


class _Wanted:
    __slots__ = ("asked_s", "indices", "job", "since_s")

    def __init__(self, job: str, indices: Sequence[int], now: float) -> None:
        self.job = job
        self.indices = indices
        self.since_s = now
        self.asked_s = float("-inf")


class Incident:
    """One death, or what may become one. All moments are Unix seconds."""

    def __init__(self, worker: str, number: int, now: float) -> None:
        self.number = number
        self.worker = worker
        self.noticed_s = now  # by the page
        self.dead = False
        self.silent_s: float | None = None
        self.suspected_s: float | None = None
        self.declared_s: float | None = None
        self.given_up_s: float | None = None
        self.rejoined_s: float | None = None
        self.why = ""
        self.lost: dict[tuple[str, int], float | None] = {}  # tasks, and when each ran again
        self.ended = 0  # of these, those that will not: their job lost or cancelled them

    def judge(self, node: NodeReport | None) -> None:
        """Take over what the assistant tells of the worker."""
        if node is None or not node.heard_unix_s:
            return
        if node.state in (DEAD, SUSPECT):
            self.silent_s = node.heard_unix_s
            self.suspected_s = node.suspected_unix_s or None
        if node.state == DEAD:
            self.declared_s = node.state_since_unix_s

    def lose(self, task: m.TaskStatus, loss: m.Event) -> None:
        """A scheduler tells that it gave the worker up, and with it this task."""
        key = (task.job, task.index)
        if key not in self.lost and len(self.lost) >= LOST_MAX:
            return
        self.given_up_s = min(loss.unix_s, self.given_up_s or loss.unix_s)
        self.why = self.why or loss.detail[:WHY_CHARS_MAX]
        again_s = _again_s(task, loss)
        self.ended += key not in self.lost and again_s is None and task.state in m.STATUS_NAMES
        self.lost[key] = again_s

    def row(self) -> dict[str, Any]:
        """Return the card."""
        again = [at_s for at_s in self.lost.values() if at_s is not None]
        return {
            "n": self.number,
            "worker": self.worker,
            "noticed_unix_s": round(self.noticed_s, 3),
            "silent_unix_s": _rounded(self.silent_s),
            "given_up_unix_s": _rounded(self.given_up_s),
            "suspected_unix_s": _rounded(self.suspected_s),
            "declared_unix_s": _rounded(self.declared_s),
            "rejoined_unix_s": _rounded(self.rejoined_s),
            "why": self.why,
            "tasks_lost": len(self.lost),
            "tasks_again": len(again),
            "tasks_ended": self.ended,
            "last_again_unix_s": _rounded(max(again)) if again else None,
        }


class Incidents:
    """The deaths of late, and the suspicions of now."""

    def __init__(self) -> None:
        self._open: dict[str, Incident] = {}  # by worker
        self._dead: deque[Incident] = deque(maxlen=INCIDENTS_MAX)
        self._wanted: dict[str, _Wanted] = {}  # by job
        self._number = 0

    # -- what changes

    def changed(self, now: float, changes: Iterable[Change]) -> None:
        """The states of these workers have changed."""
        for worker, _, after in changes:
            if after in (ALIVE, DRAINING):
                self._end(now, worker.id)
            elif after in (DEAD, SUSPECT):
                self._begin(now, worker, after)
            else:
                self._open.pop(worker.id, None)

    def _begin(self, now: float, worker: Worker, state: str) -> None:
        incident = self._open.get(worker.id)
        if incident is None:
            if len(self._open) >= OPEN_MAX:
                return
            self._number += 1
            incident = self._open[worker.id] = Incident(worker.id, self._number, now)
        if state == DEAD and not incident.dead:
            incident.dead = True
            self._dead.append(incident)

    def _end(self, now: float, id: str) -> None:
        incident = self._open.pop(id, None)
        if incident is not None and incident.dead:
            incident.rejoined_s = now

    def judged(self, workers: Iterable[Worker]) -> None:
        """These workers are as the last reading tells."""
        for worker in workers:
            incident = self._open.get(worker.id)
            if incident is not None:
                incident.judge(worker.node)

    # -- the tasks that were lost

    def relaunched(self, now: float, found: Iterable[Relaunch]) -> None:
        """Tasks of these jobs had to be placed again: ask which, where somebody has just died.

        At other times they were given back by workers that had something else to do.
        """
        if not any(now - incident.noticed_s <= FRESH_S for incident in self._all()):
            return
        for job, placed, tasks in found:
            if job in self._wanted or len(self._wanted) < ASKED_MAX:
                end = min(tasks, placed + SLACK)
                self._wanted[job] = _Wanted(job, range(max(0, end - limits.TASK_ROWS_MAX), end), now)

    def questions(self, now: float) -> list[Question]:
        """Return what is to be asked now; it counts as asked."""
        for job in [job for job, wanted in self._wanted.items() if now - wanted.since_s > ASK_S]:
            del self._wanted[job]
        due = [wanted for wanted in self._wanted.values() if now - wanted.asked_s >= ASK_AGAIN_S]
        for wanted in due:
            wanted.asked_s = now
        return [Question(wanted.job, wanted.indices) for wanted in due]

    def told(self, now: float, job: str, rows: Iterable[m.TaskStatus]) -> None:
        """The schedulers tell this of the tasks that were asked for."""
        open_, found = set(), False
        for row in rows:
            for event in row.events:
                incident = self._incident(event) if event.kind == "lost" and event.attempt else None
                if incident is not None:
                    found = True
                    incident.lose(row, event)
                    if incident.lost.get((row.job, row.index)) is None and row.state not in m.STATUS_NAMES:
                        open_.add(row.index)
        wanted = self._wanted.get(job)
        if wanted is None:
            return
        if open_:
            wanted.indices = sorted(open_)
        elif found or now - wanted.since_s > GIVE_UP_S:
            del self._wanted[job]

    def _incident(self, event: m.Event) -> Incident | None:
        """Return the death to which the loss of a task belongs: the nearest in time, as far as clocks agree."""
        known = [one for one in self._all() if one.worker == event.worker]
        nearest = min(known, key=lambda one: abs(event.unix_s - one.noticed_s), default=None)
        return nearest if nearest is not None and abs(event.unix_s - nearest.noticed_s) < ASK_S else None

    def _all(self) -> list[Incident]:
        shown = [*self._dead, *(one for one in self._open.values() if not one.dead)]
        return sorted(shown, key=lambda one: one.number)

    def rows(self) -> list[dict[str, Any]]:
        """Return the cards, the newest first."""
        return [incident.row() for incident in reversed(self._dead)]


def _again_s(row: m.TaskStatus, loss: m.Event) -> float | None:
    """Return when the task ran again after this loss, None if it has not."""
    later = (event for event in row.events if event.kind in _LAUNCHES and event.attempt > loss.attempt)
    return min((event.unix_s for event in later), default=None)


def _rounded(unix_s: float | None) -> float | None:
    return None if unix_s is None else round(unix_s, 4)
