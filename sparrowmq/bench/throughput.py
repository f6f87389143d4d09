"""Throughput: no-ops a second through one `Client.map`, from submitting to the last result.

Owns: the measurement. Must not know: the command line.
"""

from __future__ import annotations

import time
from typing import Any

from sparrowmq.bench import figures, target
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError

_WARM_UP_RUNS = 2


def run(*, tasks: int = 10_000, workers: int = 2, slots: int = 1, runs: int = 5, url: str = "") -> dict[str, Any]:
    """Measure ``runs`` times; ``tasks_per_s`` is their median. Values are read and checked within the time.

    On a cluster of its own with ``workers`` of ``slots`` each, or on the one registered in the Redis at ``url``.
    """
    with target.opened(url, workers=workers, slots=slots) as cluster, Client(cluster.url) as client:
        for _ in range(_WARM_UP_RUNS):
            _once(client, min(tasks, 1000))
        rates = [round(tasks / _once(client, tasks), 1) for _ in range(runs)]
    return {
        "tasks": tasks,
        "workers": cluster.workers,
        "slots": cluster.slots,
        "tasks_per_s": figures.median(rates),
        "runs": rates,
    }


def _once(client: Client, tasks: int) -> float:
    """Return the seconds that one map took."""
    began = time.perf_counter()
    results = client.gather(client.map(echo, range(tasks)), timeout_s=target.patience_s())
    took_s = time.perf_counter() - began
    if results != list(range(tasks)):
        raise SparrowError("the cluster returned other results than the tasks gave")
    return took_s
