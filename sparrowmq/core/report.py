"""What a scheduler tells about itself: rows of `Status`, built on request only.

Owns: how records become status rows, and that nobody sees jobs of another owner. Must not know: who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Final

import msgspec

from sparrowmq import ids
from sparrowmq.core.job import Job
from sparrowmq.core.peers import Worker
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

RECENT_OPEN: Final = 200  # jobs of a "recent" status that are not over
RECENT_OVER: Final = 30  # ... and that are


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values, 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def job_status(job: Job, unix_offset_s: float) -> m.JobStatus:
    """Return the ledger of ``job``. ``unix_offset_s`` turns monotonic times into wall time."""
    queueing_s, service_s = map(sorted, job.times())
    return m.JobStatus(
        id=job.id,
        name=job.spec.name,
        policy=job.spec.policy,
        state=job.status,
        tasks=job.tasks,
        unplaced=job.unplaced,
        launched=job.launched,
        counts=list(job.counts),
        epoch=job.epoch,
        client=job.client,
        submitted_unix_s=unix_offset_s + job.submitted_at,
        response_s=job.ended_at - job.submitted_at if job.how else 0.0,
        queueing_p50_ms=percentile(queueing_s, 0.5) * 1e3,
        queueing_p99_ms=percentile(queueing_s, 0.99) * 1e3,
        service_p50_ms=percentile(service_s, 0.5) * 1e3,
        probes=job.probes,
        no_ops=job.no_ops,
        cancels=job.cancels,
        relaunches=job.relaunches,
        detail=job.detail,
        resting=job.resting,
        retries=job.retries,
        hedges=job.hedges,
        output_bytes=job.transcript.text_bytes if job.transcript is not None else 0,
        detached=job.detached,
    )


def worker_status(worker: Worker, reservations: int) -> m.WorkerStatus:
    """Return one worker as its scheduler sees it; ``reservations`` are those this scheduler left there."""
    hello = worker.hello
    return m.WorkerStatus(
        id=worker.id,
        host=hello.host,
        pid=hello.pid,
        slots=hello.slots,
        state=worker.state,
        reservations=reservations,
        launched=worker.launched,
        done=worker.done,
        rtt_ms=worker.rtt_s * 1e3,
        package=hello.package,
        python=hello.python,
    )


def failure(kind: str, message: str) -> bytes:
    """Return the payload of a failure that no task raised itself: msgpack {type, message, traceback, pickle}.

    ``kind`` is the name of a class in errors.py, which the client raises.
    """
    return msgspec.msgpack.encode({"type": kind, "message": message, "traceback": "", "pickle": None})


def status(
    state: State,
    now: float,
    query: m.Query | m.Subscribe | m.Drain,
    owner: str,
    workers: Sequence[m.WorkerStatus] = (),
) -> m.Status:
    """Return the answer to a query: what it asked for, beside the counters, and ``workers``.

    Of jobs and their tasks it shows those of this ``owner``. Workers and counters are those of the whole scheduler.
    """
    what = "" if isinstance(query, m.Drain) else query.what
    jobs: list[m.JobStatus] = []
    tasks: list[m.TaskStatus] = []
    if what in ("jobs", "job"):
        prefix = query.job if isinstance(query, m.Query) else ""
        jobs = [
            job_status(job, state.unix_offset_s)
            for table in (state.history, state.jobs.values())
            for job in table
            if job.id.startswith(prefix) and ids.owner_of(job.id) == owner
        ]
    elif what in ("workers", "summary", "recent"):
        left = reservations(state)
        workers = [worker_status(worker, left.get(worker.id, 0)) for worker in state.workers.values()]
        if what == "recent":
            jobs = [job_status(job, state.unix_offset_s) for job in _recent(state, owner)]
    elif isinstance(query, m.Query) and ids.owner_of(query.job) == owner:
        tasks = _tasks(state, query)
    return m.Status(
        query.request,
        state.id,
        jobs,
        list(workers),
        _counters(state),
        tasks,
        state.host,
        state.pid,
        state.package,
        max(0.0, state.unix_offset_s + now),
    )


def _recent(state: State, owner: str) -> Iterator[Job]:
    """Yield the newest jobs of an owner: who looks twice a second has no use for a thousand that are over."""
    over = (job for job in reversed(state.history.finished.values()) if ids.owner_of(job.id) == owner)
    here = (job for job in reversed(state.jobs.values()) if ids.owner_of(job.id) == owner)
    return chain(islice(over, RECENT_OVER), islice(here, RECENT_OPEN))


def reservations(state: State) -> dict[str, int]:
    """Return how many reservations are left at each worker."""
    left: dict[str, int] = {}
    for job in state.jobs.values():
        for worker_id, count in job.reserved.items():
            left[worker_id] = left.get(worker_id, 0) + count
    return left


def _tasks(state: State, query: m.Query) -> list[m.TaskStatus]:
    """Return the rows of single tasks of one job, named by its full id."""
    job = state.job(query.job)
    if job is None:
        return []
    if query.what == "tasks":
        return state.history.rows(job, query.indices or range(len(job.state)))
    return state.history.rows(job, job.failed) if query.what == "failures" else []


def _counters(state: State) -> dict[str, int]:
    return {
        **state.counters,
        "workers_now": len(state.workers),
        "clients_now": len(state.clients),
        "jobs_now": len(state.jobs),
        "tasks_now": state.tasks,
        "payload_bytes_now": state.bytes,
        "unplaced_now": sum(job.unplaced for job in state.jobs.values()),
        "launched_now": sum(job.launched for job in state.jobs.values()),
        "resting_now": sum(job.resting for job in state.jobs.values()),
    }
