"""A job as its user sees it: its tasks' futures, its ids, how far it is.

Owns: `Job`. Must not know: how a job is split, sent or scheduled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from sparrowmq.client import ending, ledger, options
from sparrowmq.client.future import Batch, Future, cancel
from sparrowmq.protocol import messages as m

T = TypeVar("T")


class Job(list[Future[T]]):
    """The futures of one `map`, `run_commands` or `sleep`, in the order of the arguments, and what they share.

    Usually one job of the cluster; more than one where it exceeds a job's limits (100,000 tasks, 60 MiB of
    arguments).
    """

    def __init__(
        self, futures: list[Future[T]], batches: Sequence[Batch], query: Callable[[str], list[m.Status]]
    ) -> None:
        super().__init__(futures)
        self._batches = batches
        self._query = query

    @property
    def id(self) -> str:
        """The cluster's id of the (first) job."""
        return self._batches[0].id if self._batches else ""

    @property
    def futures(self) -> list[Future[T]]:
        """The futures, as a list that is the caller's own."""
        return list(self)

    @property
    def ids(self) -> list[str]:
        """The ids of all jobs of the cluster that this one consists of."""
        return [batch.id for batch in self._batches]

    @property
    def accepted_workers(self) -> int | None:
        """How many workers could run the job when its scheduler accepted it; None until then."""
        known = [batch.workers for batch in self._batches if batch.workers is not None]
        return max(known, default=None)

    @property
    def finished(self) -> int:
        """How many tasks are over, whatever their end."""
        return sum(batch.tasks - batch.pending for batch in self._batches)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until all tasks are over, up to ``timeout_s``; tell whether they are."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return all(
            batch.wait(None if deadline is None else max(0.0, deadline - time.monotonic())) for batch in self._batches
        )

    def kill(self) -> None:
        """End all tasks, running ones too; returns at once."""
        for batch in self._batches:
            batch.link.kill(batch.id, [])

    def cancel(self) -> int:
        """Cancel all tasks that have not started; see `Client.cancel`."""
        return cancel(self)

    def interrupt(self, grace_s: float = 1.0) -> list[str]:
        """End all tasks, wait for that, and return what became of each; see `Client.interrupt`."""
        return ending.interrupt(self, options.seconds("grace_s", grace_s))

    def status(self) -> list[m.JobStatus]:
        """Return the schedulers' ledgers of the job: of each of its ids, the one of the latest epoch."""
        return [row for job in self.ids for row in ledger.jobs(self._query(job)) if row.id == job]

    def __repr__(self) -> str:
        return f"<Job {self.id or '(no tasks)'} {self.finished:,}/{len(self):,} finished>"
