"""What a scheduler remembers of tasks: what happened to them, why they failed; and the jobs that are over.

Owns: the bounds on all of this, the order in which it is released, and the rows that tell of tasks. Must not know:
who asks, or what is decided from it.

Of most tasks only the columns of the job's own table are kept (launch, end, worker, service time). Events are noted
only for what is unusual; the usual ones are made from the columns when somebody asks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, Final, cast

from sparrowmq import limits
from sparrowmq.core.job import ABSENT, LAUNCHED, RESTING, UNPLACED, Job
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m

FAILURES_MAX: Final = 20  # failed tasks of a job whose failures are kept
EVENT_BYTES: Final = 200  # what an event takes, beside its detail
_OPEN: Final = {UNPLACED: "unplaced", LAUNCHED: "launched", RESTING: "resting"}
_FAILURES: Final = (m.FAILED, m.TIMED_OUT, m.LOST)
_LAUNCHES: Final = ("launched", "hedged", "adopted")
_ENDINGS: Final = {text.encode(): text for text in ("interrupted", "killed")}


class History:
    """Events and failures of all jobs, and the jobs that are over, oldest first."""

    def __init__(self, bounds: SchedulerLimits, unix_offset_s: float) -> None:
        self._bounds = bounds
        self._unix_offset_s = unix_offset_s
        self.finished: OrderedDict[str, Job] = OrderedDict()
        self._noted = 0  # how many of them have events or failures
        self.tasks = 0  # whose rows are kept
        self.bytes = 0  # what events and failures take, of all jobs

    def __iter__(self) -> Iterator[Job]:
        return iter(self.finished.values())

    # -- noting

    def note(
        self, now: float, job: Job, index: int, kind: str, attempt: int = 0, worker: str = "", detail: str = ""
    ) -> None:
        """Something unusual happened to a task, to this ``attempt`` of it at ``worker`` (0: to none)."""
        detail = detail[: limits.DETAIL_CHARS_MAX]
        if len(job.events.get(index, ())) >= limits.EVENTS_MAX - 8 or not self._room(2 * EVENT_BYTES + len(detail)):
            return
        if attempt:
            self._note_launch(job, index, attempt, worker)
        self._add(job, index, m.Event(self._unix_offset_s + now, kind, attempt, worker, detail))

    def hedged(self, now: float, job: Job, index: int) -> None:
        """A task was given a second attempt."""
        if self._room(2 * EVENT_BYTES):
            first, second = job.live(index)
            self._note_launch(job, index, first.number, first.worker)
            self._add(job, index, m.Event(self._unix_offset_s + now, "hedged", second.number, second.worker))

    def adopted(self, now: float, job: Job, index: int) -> None:
        """An attempt that a former scheduler of the job had launched goes on under this one."""
        if self._room(EVENT_BYTES):
            self._add(job, index, m.Event(self._unix_offset_s + now, "adopted", job.attempts[index], job.place[index]))

    def _note_launch(self, job: Job, index: int, attempt: int, worker: str) -> None:
        """Note a launch before what happened to it, while its time is still known."""
        if not _launch_noted(job.events.get(index, ()), attempt):
            at = next((one.at for one in job.live(index) if one.number == attempt), job.launch_times[index])
            self._add(job, index, m.Event(self._unix_offset_s + at, "launched", attempt, worker))

    def _add(self, job: Job, index: int, event: m.Event) -> None:
        job.events.setdefault(index, []).append(event)
        self.bytes += EVENT_BYTES + len(event.detail)

    def failed(self, job: Job, indices: Iterable[int], statuses: Iterable[int], payloads: Iterable[m.Payload]) -> None:
        """Keep the failures of the first tasks that did not succeed, and how cancelled ones ended."""
        for index, status, payload in zip(indices, statuses, payloads, strict=True):
            if status == m.CANCELLED and len(payload):
                job.endings[index] = _ENDINGS.get(payload_bytes(payload), "")
            if len(job.failed) >= FAILURES_MAX or status not in _FAILURES or not self._room(EVENT_BYTES):
                continue
            fits = len(payload) <= limits.FAILURE_BYTES_MAX and self._room(EVENT_BYTES + len(payload))
            kept = payload_bytes(payload) if fits else b""
            job.failed[index] = kept
            self.bytes += EVENT_BYTES + len(kept)

    def _room(self, more: int) -> bool:
        """Make room by dropping events and failures of finished jobs, the oldest first; return whether there is any."""
        while self.bytes + more > self._bounds.history_bytes and self._noted:
            self._forget_notes(next(job for job in self if job.events or job.failed))
        return self.bytes + more <= self._bounds.history_bytes

    # -- jobs that are over

    def add(self, job: Job) -> Job | None:
        """A job is over; return the one that is forgotten for it, or None."""
        finished = self.finished
        forgotten = finished.pop(job.id, None)  # an earlier epoch of it
        finished[job.id] = job
        if forgotten is None and len(finished) > self._bounds.finished_jobs:
            _, forgotten = finished.popitem(last=False)
        if job.events or job.failed:
            self._noted += 1
        self.tasks += len(job.state)
        if forgotten is not None:
            self.tasks -= len(forgotten.state)
            self._forget_notes(forgotten)
        while self.tasks > self._bounds.history_tasks:
            oldest = next(job for job in self if job.state)
            self.tasks -= len(oldest.state)
            self._forget_notes(oldest)
            oldest.forget_rows()
        return forgotten

    def _forget_notes(self, job: Job) -> None:
        """Drop the events and failures of a job that is over."""
        if job.events or job.failed:
            self._noted -= 1
            self.bytes -= weight(job)
            job.events, job.failed = {}, {}

    # -- telling

    def rows(self, job: Job, indices: Iterable[int]) -> list[m.TaskStatus]:
        """Return what is known of these tasks, at most TASK_ROWS_MAX of them and as many events."""
        rows: list[m.TaskStatus] = []
        events = 0
        for index in indices:
            if len(rows) >= limits.TASK_ROWS_MAX or events >= limits.INVENTORY_MAX:
                break
            if index < len(job.state) and job.state[index] != ABSENT:
                rows.append(self._row(job, index))
                events += len(rows[-1].events)
        return rows

    def _row(self, job: Job, index: int) -> m.TaskStatus:
        state, attempt, worker = job.state[index], job.attempts[index], job.place[index]
        name = _OPEN.get(state) or m.STATUS_NAMES[state]
        offset = self._unix_offset_s
        noted = job.events.get(index, [])
        won = job.twins.get(index, [])
        events = [m.Event(offset + job.submitted_at, "submitted"), *noted]
        if attempt and not _launch_noted(noted, attempt):
            events.append(m.Event(offset + job.launch_times[index], "launched", attempt, worker))
        if state not in _OPEN:
            number = won[0].number if won else attempt
            ended_at = offset + (job.end_times[index] or job.ended_at)
            events.append(m.Event(ended_at, name, number, worker, job.endings.get(index, "")))
        return m.TaskStatus(
            job.id, index, name, attempt, worker, job.service_us[index], events, job.failed.get(index, b"")
        )


def _launch_noted(events: Iterable[m.Event], attempt: int) -> bool:
    return any(event.attempt == attempt and event.kind in _LAUNCHES for event in events)


def weight(job: Job) -> int:
    """Return what the events and failures of a job take, in bytes."""
    events = sum(EVENT_BYTES + len(event.detail) for events in job.events.values() for event in events)
    return events + sum(EVENT_BYTES + len(payload) for payload in job.failed.values())


def payload_bytes(payload: m.Payload) -> bytes:
    """Return a copy of a payload that does not keep the frame that it came in."""
    return payload if isinstance(payload, bytes) else bytes(cast(Any, payload.buffer))
