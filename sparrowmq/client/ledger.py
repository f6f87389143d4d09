"""One picture from the answers of several schedulers, each of which sees only its own share.

Owns: how rows about the same job, worker or task are put together. Must not know: where the answers come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from sparrowmq.protocol import messages as m

_STATES: Final = ("alive", "draining", "lost")  # a worker is as alive as the scheduler that sees it best says
OVER: Final = frozenset(("done", "cancelled"))  # states of a job that has ended


def jobs(statuses: Iterable[m.Status]) -> list[m.JobStatus]:
    """Return one row a job, oldest first: that of its latest epoch, since a job moves at a fail-over."""
    latest: dict[str, m.JobStatus] = {}
    for status in statuses:
        for row in status.jobs:
            known = latest.get(row.id)
            if known is None or row.epoch > known.epoch:
                latest[row.id] = row
    return [latest[name] for name in sorted(latest)]


def workers(statuses: Iterable[m.Status]) -> list[m.WorkerStatus]:
    """Return one row a worker, sorted by id: counts of all schedulers added up, the longest round trip."""
    rows: dict[str, m.WorkerStatus] = {}
    for status in statuses:
        for row in status.workers:
            known = rows.get(row.id)
            rows[row.id] = row if known is None else _add(known, row)
    return [rows[name] for name in sorted(rows)]


def _add(one: m.WorkerStatus, other: m.WorkerStatus) -> m.WorkerStatus:
    best = min(one, other, key=_rank)
    return msgspec.structs.replace(
        best,
        reservations=one.reservations + other.reservations,
        launched=one.launched + other.launched,
        done=one.done + other.done,
        rtt_ms=max(one.rtt_ms, other.rtt_ms),
    )


def _rank(row: m.WorkerStatus) -> int:
    return _STATES.index(row.state) if row.state in _STATES else len(_STATES)


def tasks(statuses: Iterable[m.Status], job: str) -> list[m.TaskStatus]:
    """Return one row a task, by index: what each scheduler saw of it in order, its end where one saw it end."""
    rows: dict[int, m.TaskStatus] = {}
    for status in statuses:
        for row in status.tasks:
            if row.job == job:
                known = rows.get(row.index)
                rows[row.index] = row if known is None else _join(known, row)
    return [rows[index] for index in sorted(rows)]


def _join(one: m.TaskStatus, other: m.TaskStatus) -> m.TaskStatus:
    events = sorted([*one.events, *other.events], key=_when)
    ended = other.state in m.STATUS_NAMES
    later = other if (ended and one.state not in m.STATUS_NAMES) or _last(other) > _last(one) else one
    return msgspec.structs.replace(later, events=events, attempts=max(one.attempts, other.attempts))


def _when(event: m.Event) -> float:
    return event.unix_s


def _last(row: m.TaskStatus) -> float:
    return max(map(_when, row.events), default=0.0)
