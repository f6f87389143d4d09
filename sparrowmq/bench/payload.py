"""Payloads: how many MB/s of arguments and of results pass through one scheduler.

Owns: the measurement. Must not know: the command line.

Arrays of numpy where it is installed, since these are what people send; bytes otherwise. Nothing in them can be
compressed, and no two results are alike.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, Final

from sparrowmq.bench import figures, report, target, usage
from sparrowmq.bench.tasks import array_block, block, label
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError

_WARM_UP_TASKS: Final = 16
_TASK_S_MAX: Final = 0.5


def run(
    *,
    tasks: int = 200,
    size_bytes: int = 2**20,
    workers: int = 2,
    slots: int = 1,
    runs: int = 5,
    url: str = "",
    tcp: bool = False,
    curve: bool = False,
) -> dict[str, Any]:
    """Send ``tasks`` arguments of ``size_bytes`` each by one map, then as many results; both ``runs`` times.

    MB/s count the payload once, from the call to the last value, pickling included; every figure is the median.
    On a cluster of its own, or on the one registered in the Redis at ``url``: then its workers need numpy, too.
    For ``tcp`` and ``curve`` see `target.opened`.
    """
    with_numpy = importlib.util.find_spec("numpy") is not None
    make = array_block if with_numpy else block
    blocks = [make(number, size_bytes) for number in range(tasks)]
    with (
        target.opened(url, workers=workers, slots=slots, tcp=tcp, curve=curve) as cluster,
        Client(cluster) as client,
    ):

        def there(count: int) -> list[tuple[int, int]]:
            return client.gather(client.map(label, blocks[:count]), timeout_s=target.patience_s(count * _TASK_S_MAX))

        def back(count: int) -> list[tuple[int, int]]:
            job = client.map(functools.partial(make, size_bytes=size_bytes), range(count))
            return list(map(label, client.gather(job, timeout_s=target.patience_s(count * _TASK_S_MAX))))

        ways = {"arguments": there, "results": back}
        for way in ways.values():
            _rate(way, min(tasks, _WARM_UP_TASKS), size_bytes)
        usage.reset_peak((os.getpid(), *cluster.scheduler_pids))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(runs):
            for name, way in ways.items():
                rates[name].append(_rate(way, tasks, size_bytes))
        peaks = {
            "client_peak_mb": usage.mb(usage.peak_rss_bytes([os.getpid()])),
            "scheduler_peak_mb": usage.mb(usage.peak_rss_bytes(cluster.scheduler_pids)) or None,
        }
    measured: dict[str, Any] = {"tasks": tasks, "size_bytes": size_bytes, "data": "numpy" if with_numpy else "bytes"}
    for name, values in rates.items():
        measured |= {f"{name}_mb_per_s": figures.median(values), f"{name}_runs": values}
    return report.result("payload", measured | peaks, cluster)


def _rate(way: Callable[[int], list[tuple[int, int]]], tasks: int, size_bytes: int) -> float:
    """Return the MB/s of one run."""
    began = time.perf_counter()
    labels = way(tasks)
    took_s = time.perf_counter() - began
    if labels != [(number, size_bytes) for number in range(tasks)]:
        raise SparrowError("the cluster returned other blocks than were sent")
    return round(tasks * size_bytes / 1e6 / took_s, 1)
