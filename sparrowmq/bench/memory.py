"""Memory: what one queued task costs its scheduler, and its client.

Owns: the measurement. Must not know: the command line, what schedulers and clients keep.

All slots sleep while the tasks are queued, so that every one of them stays with its scheduler.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final, NamedTuple

from sparrowmq.bench import figures, report, target, usage
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.client.job import Job
from sparrowmq.errors import Unavailable
from sparrowmq.payload import python

_BUSY_S: Final = 3600.0
_POLL_S: Final = 0.02


class _Grown(NamedTuple):
    scheduler_bytes: int
    scheduler_peak_bytes: int
    client_bytes: int


def run(*, tasks: int = 100_000, runs: int = 5, url: str = "") -> dict[str, Any]:
    """Queue ``tasks`` no-ops by one map, ``runs`` times; every figure is the median, in bytes a task.

    ``scheduler_bytes_per_task``: how much more memory (PSS) the schedulers take with the tasks queued than
    before, without the arguments' bytes themselves; the peak (RSS) includes what receiving them took for a
    moment. ``client_bytes_per_task``: by how much this process grew in the first run, futures, arguments and all;
    later ones use that memory again. Each run has a cluster of its own; the one registered in the Redis at ``url``
    may use in later runs what it freed in earlier ones.
    Raises UsageError where its schedulers are not on this machine.
    """
    payload_bytes = sum(len(python.dump_call((number,), {})) for number in range(tasks))
    grown = []
    for _ in range(runs):
        with target.opened(url, workers=1) as cluster, Client(cluster) as client:
            target.need_pids(cluster)
            grown.append(_once(client, cluster, tasks))
    scheduler = [round((one.scheduler_bytes - payload_bytes) / tasks, 1) for one in grown]
    measured = {
        "tasks": tasks,
        "payload_bytes_per_task": round(payload_bytes / tasks, 1),
        "scheduler_bytes_per_task": figures.median(scheduler),
        "runs": scheduler,
        "scheduler_peak_bytes_per_task": figures.median(
            [round((one.scheduler_peak_bytes - payload_bytes) / tasks, 1) for one in grown]
        ),
        "client_bytes_per_task": round(grown[0].client_bytes / tasks, 1),
    }
    return report.result("memory", measured, cluster)


def _once(client: Client, cluster: target.Target, tasks: int) -> _Grown:
    client.gather(client.map(echo, range(cluster.slots)), timeout_s=target.patience_s())
    busy = client.sleep([_BUSY_S] * cluster.slots)
    _await_state(client, busy, launched=cluster.slots, unplaced=0)
    us = (os.getpid(),)
    usage.reset_peak(cluster.scheduler_pids)
    before = usage.pss_bytes(cluster.scheduler_pids)
    before_peak = usage.peak_rss_bytes(cluster.scheduler_pids)
    before_client = usage.rss_bytes(us)
    job = client.map(echo, range(tasks))
    _await_state(client, job, launched=0, unplaced=tasks)
    return _Grown(
        usage.pss_bytes(cluster.scheduler_pids) - before,
        usage.peak_rss_bytes(cluster.scheduler_pids) - before_peak,
        usage.rss_bytes(us) - before_client,
    )  # the client's end is that of both jobs


def _await_state(client: Client, job: Job[Any], *, launched: int, unplaced: int) -> None:
    """Wait until the schedulers have so many tasks of ``job``. Raises Unavailable."""
    deadline = time.monotonic() + target.patience_s()
    while time.monotonic() < deadline:
        rows = job.status()
        if (sum(row.launched for row in rows), sum(row.unplaced for row in rows)) == (launched, unplaced):
            return
        time.sleep(_POLL_S)
    raise Unavailable(
        f"job {job.id} did not come to {launched:,} launched and {unplaced:,} queued tasks",
        hint="is the cluster busy with other jobs?",
    )
