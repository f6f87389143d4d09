"""Jobs as commands see them: what schedulers tell, beside the durable ones that Redis has.

Owns: asking both, and one row a job. Must not know: selectors, how rows are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparrowmq.cli import ask, merge
from sparrowmq.client import attached, ledger
from sparrowmq.errors import ConfigError, Refused, Unavailable

if TYPE_CHECKING:
    from sparrowmq.protocol import messages as m
    from sparrowmq.security.credentials import Credentials
    from sparrowmq.settings import StoreSettings
    from sparrowmq.store.jobs import KeptJob


def rows(store: StoreSettings, id: str = "", credentials: Credentials | None = None) -> list[dict[str, Any]]:
    """Return the jobs of this owner that there are, oldest first; with ``id`` only this one.

    Each has the ``scheduler`` that has it now ("nobody": none), and ``durable``. Raises Unavailable where no scheduler
    answers and Redis has no durable job.
    """
    kept = {job.id: job for job in _kept(store, id, owner(credentials))}
    try:
        statuses: list[m.Status] = ask.statuses(store, "job" if id else "jobs", id, credentials=credentials)
    except Unavailable:
        if not kept:
            raise
        statuses = []
    where = {(job.id, job.epoch): status.scheduler for status in statuses for job in status.jobs}
    return [
        merge.job_row(row) | {"scheduler": where.get((row.id, row.epoch), "nobody"), "durable": row.id in kept}
        for row in attached.merged(ledger.jobs(statuses), kept.values())
    ]


def owner(credentials: Credentials | None) -> str:
    """Return the tag that ids of the jobs of these credentials' owner bear."""
    return "" if credentials is None else credentials.owner


def _kept(store: StoreSettings, id: str, owner: str) -> list[KeptJob]:
    """Return the durable jobs; none where Redis does not answer: then schedulers do not, either, or know enough."""
    from sparrowmq.store.jobs import JobReader

    try:
        reader = JobReader(store, owner)
    except ConfigError:
        return []
    try:
        if not id:
            return reader.jobs()
        found = reader.find(id)
        return [] if found is None else [found]
    except (Unavailable, Refused):
        return []
    finally:
        reader.close()
