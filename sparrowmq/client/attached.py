"""Durable jobs by their id, from any process: their results as Redis has them.

Owns: `AttachedJob`, and `attach`. Must not know: schedulers, which are asked nothing here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec

from sparrowmq import limits
from sparrowmq.client import source
from sparrowmq.client.future import Batch, Future
from sparrowmq.client.link import Link
from sparrowmq.errors import Unavailable, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.security.keyring import owner_in
from sparrowmq.settings import StoreSettings

if TYPE_CHECKING:
    from sparrowmq.store.jobs import KeptJob

BLOCK_S: Final = 0.5  # that Redis waits for the next outcome
PATIENCE_S: Final = 30.0  # for a Redis that does not answer, or has come back without the job


class AttachedJob:
    """A durable job of ``owner`` (`Credentials.owner`): its results are in Redis, whatever became of its scheduler.

    They stay for ``store.results_ttl_s`` after the job's end. Thread-safe; holds what it has read. `close` ends its
    connection to Redis, so does the end of a ``with`` block.
    """

    def __init__(self, settings: StoreSettings, id: str, owner: str = "") -> None:
        from sparrowmq.store.jobs import JobReader  # redis-py loads slowly: only when needed

        if not isinstance(id, str) or not id or len(id) > limits.TEXT_CHARS_MAX:
            raise UsageError(f"{id!r:.80} is no job id", hint="`sparrowmq job list` shows them")
        self.id = id
        self._reader = JobReader(settings, owner)
        self._block_s = min(BLOCK_S, settings.reply_timeout_s / 2)
        found = self._reader.find(id)
        if found is None:
            self._reader.close()
            raise UsageError(
                f"Redis has no durable job {id!r}",
                hint=f"results are kept for {settings.results_ttl_s:g} s; only detached jobs and durable=True are kept",
            )
        self._kept = found
        self._batch = Batch(id, found.kind, found.tasks, cast(Link, None))
        self._futures: list[Future[Any]] = self._batch.futures
        self._after = "0-0"
        self._reading = threading.Lock()

    @property
    def tasks(self) -> int:
        """How many tasks the job has."""
        return len(self._futures)

    def status(self) -> m.JobStatus:
        """Return what Redis knows of the job. Raises Unavailable where it does not answer, or has lost the job."""
        with self._reading:
            self._look()
        return row(self._kept)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the job is over, up to ``timeout_s``; tell whether it is.

        Raises Unavailable where Redis does not answer, or does not know the job any more, for PATIENCE_S.
        """
        return self._read(lambda: False, timeout_s)

    def result(self, index: int = 0, timeout_s: float | None = None) -> Any:
        """Return the value of one task, waiting up to ``timeout_s`` (TimeoutError); raise what the task raised.

        Raises `concurrent.futures.CancelledError` for a task that was cancelled, Unavailable for a result that Redis
        has lost.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < self.tasks:
            raise UsageError(f"{index!r:.40} is no task of job {self.id}, which has {self.tasks:,}")
        future = self._futures[index]
        self._read(future.done, timeout_s)
        if future.done():
            return future.result()
        if self._kept.state == "open":
            raise TimeoutError(f"task {index} of job {self.id} has not ended within {timeout_s or 0:g} s")
        raise Unavailable(
            f"the job is over, and Redis has no result of task {index} of job {self.id} (any more)",
            hint="Redis was restarted without what it had held: docs/guarantees.md tells what survives",
        )

    def results(self, timeout_s: float | None = None, errors: Literal["raise", "return"] = "raise") -> list[Any]:
        """Return the values of all tasks in their order, waiting up to ``timeout_s`` (TimeoutError) for the job's end.

        Raises what the first task raised that did not succeed; with ``errors="return"`` exceptions stand in the list.
        """
        if errors not in ("raise", "return"):
            raise UsageError(f"errors: expected 'raise' or 'return', got {errors!r:.40}")
        if not self.wait(timeout_s):
            raise TimeoutError(f"job {self.id} is not over after {timeout_s or 0:g} s")
        found: list[Any] = []
        for index in range(self.tasks):
            try:
                found.append(self.result(index, 0.0))
            except BaseException as error:  # CancelledError is no Exception
                if errors == "raise" or isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                found.append(error)
        return found

    def futures(self) -> list[Future[Any]]:
        """Return the tasks as futures, for looking at only: those whose outcomes have been read are done."""
        return list(self._futures)

    def _read(self, enough: Callable[[], bool], timeout_s: float | None) -> bool:
        """Read outcomes until there are ``enough``, or the job is over and all are read; tell whether it is over."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        patient_until = time.monotonic() + PATIENCE_S
        while not enough():
            left_s = self._block_s if deadline is None else min(self._block_s, max(0.0, deadline - time.monotonic()))
            try:
                with self._reading:
                    over = self._kept.state != "open"
                    if not self._take(0.0 if over else left_s):
                        if over:
                            return True
                        self._look()
                patient_until = time.monotonic() + PATIENCE_S
            except Unavailable:
                if time.monotonic() >= patient_until:
                    raise
                time.sleep(min(0.1, left_s))
            if deadline is not None and time.monotonic() >= deadline and self._kept.state == "open":
                break
        return self._kept.state != "open"

    def _take(self, block_s: float) -> bool:
        """Read some outcomes; return whether there were any."""
        after, found = self._reader.outcomes(self.id, self._after, block_s=block_s)
        if after == self._after:
            return False
        self._after = after
        for outcome in found:
            while outcome.indices and max(outcome.indices) >= len(self._futures) < limits.TASKS_PER_JOB_MAX:
                self._futures.append(self._batch.add())
            self._batch.settle(outcome.indices, outcome.statuses, outcome.payloads)
        if not self._batch.pending:
            self._look()
        return True

    def _look(self) -> None:
        found = self._reader.find(self.id)
        if found is None:
            raise Unavailable(
                f"Redis does not know job {self.id} any more",
                hint="it was restarted without what it had held, or the time that results are kept is over",
            )
        self._kept = found

    def close(self) -> None:
        """End the connection to Redis. What was read stays."""
        self._reader.close()

    def __enter__(self) -> AttachedJob:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AttachedJob {self.id} {self._kept.state}>"


def attach(
    id: str, target: object = None, *, store: StoreSettings | None = None, keys: str | None = None
) -> AttachedJob:
    """Return a durable job by its full id, without any connection to a scheduler. ``target``: as of `Client`.

    Raises UsageError where Redis does not know it, or where the target is no Redis; Unavailable where it does not
    answer.
    """
    found = source.find(target, store, keys)
    return attached(found.store, id, owner_in(found.keys, m.CLIENT))


def attached(store: StoreSettings | None, id: str, owner: str) -> AttachedJob:
    """As `attach`; ``store`` None: there is no Redis."""
    if store is None:
        raise UsageError(
            f"job {id!r:.80} cannot be looked up: this client knows the addresses of schedulers, and no Redis",
            hint="results of durable jobs are in Redis: connect with its URL, redis://host:6379/0",
        )
    return AttachedJob(store, id, owner)


def row(job: KeptJob) -> m.JobStatus:
    """Return the ledger of a job that no scheduler tells of: what Redis knows."""
    ended = sum(job.counts)
    state = "waiting" if job.state == "open" else job.state
    return m.JobStatus(
        id=job.id,
        name=job.name,
        policy="",
        state=state,
        tasks=job.tasks,
        unplaced=max(0, job.tasks - ended) if job.state == "open" else 0,
        launched=0,
        counts=list(job.counts),
        epoch=job.epoch,
        client=job.client,
        submitted_unix_s=job.submitted_unix_s,
        response_s=max(0.0, job.ended_unix_s - job.submitted_unix_s) if job.ended_unix_s else 0.0,
        queueing_p50_ms=0.0,
        queueing_p99_ms=0.0,
        service_p50_ms=0.0,
        probes=0,
        no_ops=0,
        cancels=0,
        relaunches=0,
        detached=job.detached,
    )


def merged(rows: Iterable[m.JobStatus], kept: Iterable[KeptJob]) -> list[m.JobStatus]:
    """Return schedulers' ledgers beside what Redis knows, one row a job, oldest first.

    Of a job that moved between schedulers each tells its share; Redis has the whole.
    """
    found = {known.id: known for known in rows}
    for job in kept:
        told, ours = found.get(job.id), row(job)
        if told is None or told.epoch < job.epoch or (job.state == "open" and told.state in ("done", "cancelled")):
            found[job.id] = ours
        elif told.epoch:
            changed = {"state": ours.state, "response_s": ours.response_s} if job.state != "open" else {}
            found[job.id] = msgspec.structs.replace(
                told, tasks=ours.tasks, counts=ours.counts, submitted_unix_s=ours.submitted_unix_s, **changed
            )
    return [found[name] for name in sorted(found)]
