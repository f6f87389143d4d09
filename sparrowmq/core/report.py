"""What a scheduler tells about itself: rows of `Status`, built on request only.

Owns: how records become status rows. Must not know: who asked.
"""

from __future__ import annotations

import msgspec

from sparrowmq.core.job import Job
from sparrowmq.core.peers import Worker
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m


def percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values, 0 if there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def job_status(
    job: Job, state: str, unix_offset_s: float, ended_at: float | None = None, detail: str = ""
) -> m.JobStatus:
    """Return the ledger of ``job``. ``unix_offset_s`` turns monotonic times into wall time."""
    queueing = sorted(job.queueing_s)
    service = sorted(job.service_s)
    return m.JobStatus(
        id=job.id,
        name=job.spec.name,
        policy=job.spec.policy,
        state=state,
        tasks=job.tasks,
        unplaced=job.unplaced,
        launched=job.launched,
        counts=list(job.counts),
        epoch=job.epoch,
        client=job.client,
        submitted_unix_s=unix_offset_s + job.submitted_at,
        response_s=0.0 if ended_at is None else ended_at - job.submitted_at,
        queueing_p50_ms=percentile(queueing, 0.5) * 1e3,
        queueing_p99_ms=percentile(queueing, 0.99) * 1e3,
        service_p50_ms=percentile(service, 0.5) * 1e3,
        probes=job.probes,
        no_ops=job.no_ops,
        cancels=job.cancels,
        relaunches=job.relaunches,
        detail=detail,
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


def status(state: State, request: int, what: str, job_prefix: str) -> m.Status:
    """Return the answer to a query: job rows for "jobs" and "job", worker rows for "workers" and "summary"."""
    jobs: list[m.JobStatus] = []
    workers: list[m.WorkerStatus] = []
    if what in ("jobs", "job"):
        jobs = [
            job_status(over.job, over.how, state.unix_offset_s, over.ended_at, over.detail)
            for over in state.finished
            if over.job.id.startswith(job_prefix)
        ]
        for job in state.jobs.values():
            if job.id.startswith(job_prefix):
                how = "running" if job.ever_eligible else "waiting"
                jobs.append(job_status(job, how, state.unix_offset_s))
    elif what in ("workers", "summary"):
        left: dict[str, int] = {}
        for job in state.jobs.values():
            for worker_id, count in job.reserved.items():
                left[worker_id] = left.get(worker_id, 0) + count
        workers = [worker_status(worker, left.get(worker.id, 0)) for worker in state.workers.values()]
    counters = {
        **state.counters,
        "workers_now": len(state.workers),
        "clients_now": len(state.clients),
        "jobs_now": len(state.jobs),
        "tasks_now": state.tasks,
        "payload_bytes_now": state.bytes,
        "unplaced_now": sum(job.unplaced for job in state.jobs.values()),
        "launched_now": sum(job.launched for job in state.jobs.values()),
    }
    return m.Status(request, state.id, jobs, workers, counters)
