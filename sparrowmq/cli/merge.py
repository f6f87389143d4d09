"""One picture from the answers of several schedulers, each of which sees only its own share.

Owns: how rows about the same worker or job are put together. Must not know: where the answers come from or
how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sparrowmq.protocol import messages as m

_STATES = ("alive", "draining", "lost")  # a worker is as alive as the scheduler that sees it best says


def workers(statuses: Iterable[m.Status]) -> list[dict[str, Any]]:
    """Return one row a worker, sorted by id: counts of all schedulers added up."""
    rows: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for worker in status.workers:
            fresh = msgspec.structs.asdict(worker) | {"schedulers": 1}
            row = rows.setdefault(worker.id, fresh)
            if row is fresh:
                continue
            for name in ("reservations", "launched", "done", "schedulers"):
                row[name] += fresh[name]
            row["rtt_ms"] = max(row["rtt_ms"], fresh["rtt_ms"])
            row["state"] = min(row["state"], fresh["state"], key=_rank)
    return [rows[name] for name in sorted(rows)]


def _rank(state: str) -> int:
    return _STATES.index(state) if state in _STATES else len(_STATES)


def jobs(statuses: Iterable[m.Status]) -> list[dict[str, Any]]:
    """Return one row a job, oldest first: that of its latest epoch, since a job moves at a fail-over."""
    latest: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for job in status.jobs:
            known = latest.get(job.id)
            if known is None or job.epoch > known["epoch"]:
                latest[job.id] = job_row(job) | {"scheduler": status.scheduler}
    return [latest[name] for name in sorted(latest)]


def job_row(job: m.JobStatus) -> dict[str, Any]:
    """Return a job's ledger with its final counts by name."""
    row = msgspec.structs.asdict(job)
    return row | dict(zip(m.STATUS_NAMES, row.pop("counts"), strict=True))
