"""Separate submits: no-ops a second through one `Client.submit` each, as programs without a `map` would call it.

Owns: the measurement. Must not know: the command line.
"""

from __future__ import annotations

import time
from typing import Any, Final, NamedTuple

from sparrowmq.bench import figures, report, target
from sparrowmq.bench.meter import Meter
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError

_WARM_UP_TASKS: Final = 1000
_TASK_S_MAX: Final = 10e-3


class _Took(NamedTuple):
    calls_s: float  # until the last call has returned
    total_s: float  # until the last result is there


def run(*, tasks: int = 10_000, workers: int = 2, slots: int = 1, runs: int = 5, url: str = "") -> dict[str, Any]:
    """Measure ``runs`` times; every figure is their median.

    ``tasks_per_s``: from the first call to the last result's value. ``calls_per_s``: the calls alone, which return
    before anything has run. On a cluster of its own, or on the one registered in the Redis at ``url``.
    """
    with target.opened(url, workers=workers, slots=slots) as cluster, Client(cluster) as client:
        _once(client, min(tasks, _WARM_UP_TASKS))
        meter = Meter(cluster)
        meter.start()
        took = [_once(client, tasks) for _ in range(runs)]
        meter.stop()
    rates = [round(tasks / one.total_s, 1) for one in took]
    measured = {
        "tasks": tasks,
        "tasks_per_s": figures.median(rates),
        "runs": rates,
        "cpu_us_per_task": meter.us_per(tasks * runs),
        "calls_per_s": figures.median([round(tasks / one.calls_s, 1) for one in took]),
    }
    return report.result("submit", measured, cluster)


def _once(client: Client, tasks: int) -> _Took:
    began = time.perf_counter()
    futures = [client.submit(echo, number) for number in range(tasks)]
    called = time.perf_counter()
    results = client.gather(futures, timeout_s=target.patience_s(tasks * _TASK_S_MAX))
    took = _Took(called - began, time.perf_counter() - began)
    if results != list(range(tasks)):
        raise SparrowError("the cluster returned other results than the tasks gave")
    return took
