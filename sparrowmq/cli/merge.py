"""Rows of what schedulers answered: schedulers, workers, jobs.

Owns: the keys of these rows, which `-o json` prints, and the state that a job's counts amount to. Must not know: how
answers about the same job or worker become one (client/ledger.py), where they come from, how they are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sparrowmq.client import ledger
from sparrowmq.protocol import messages as m

UNSUCCESSFUL = ("failed", "timed_out", "lost")


def schedulers(statuses: Iterable[m.Status]) -> list[dict[str, Any]]:
    """Return one row a scheduler, sorted by id: who it is, and its counters without this very question."""
    rows: list[dict[str, Any]] = []
    for status in sorted(statuses, key=lambda status: status.scheduler):
        counters = dict(status.counters)
        if counters.get("clients_now", 0) > 0:
            counters["clients_now"] -= 1  # the one that asks
        named = {"id": status.scheduler, "host": status.host, "pid": status.pid, "package": status.package}
        rows.append(named | counters)
    return rows


def workers(statuses: Sequence[m.Status]) -> list[dict[str, Any]]:
    """Return one row a worker, sorted by id: counts of all schedulers added up; ``schedulers`` is how many know it."""
    known_by = Counter(worker.id for status in statuses for worker in status.workers)
    return [msgspec.structs.asdict(row) | {"schedulers": known_by[row.id]} for row in ledger.workers(statuses)]


def jobs(statuses: Sequence[m.Status]) -> list[dict[str, Any]]:
    """Return one row a job, oldest first, with the ``scheduler`` that has it now."""
    where = {(job.id, job.epoch): status.scheduler for status in statuses for job in status.jobs}
    return [job_row(row) | {"scheduler": where[row.id, row.epoch]} for row in ledger.jobs(statuses)]


def job_row(job: m.JobStatus) -> dict[str, Any]:
    """Return a job's ledger with its final counts by name, and with `state` as people mean it."""
    row = msgspec.structs.asdict(job)
    row |= dict(zip(m.STATUS_NAMES, row.pop("counts"), strict=True))
    row |= {"running": row["launched"], "waiting": row["unplaced"] + row["resting"]}
    return row | {"state": state(row)}


def state(row: Mapping[str, Any]) -> str:
    """Return "waiting", "running", or how the job ended: "done" only where every task succeeded."""
    if row["state"] not in ("done", "cancelled"):
        return str(row["state"])
    if any(row[name] for name in UNSUCCESSFUL):
        return "failed"
    return "cancelled" if row["cancelled"] else str(row["state"])


def is_over(row: Mapping[str, Any]) -> bool:
    """Return whether every task of the job has ended."""
    return row["state"] not in ("waiting", "running")


def unsuccessful(row: Mapping[str, Any]) -> int:
    """Return how many tasks have ended otherwise than by success."""
    return sum(row[name] for name in (*UNSUCCESSFUL, "cancelled"))
