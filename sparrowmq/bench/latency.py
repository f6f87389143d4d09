"""Latency: sequential round trips of single tasks on an idle cluster, beside the bare ZeroMQ round trip.

Owns: the measurement. Must not know: the command line.

Both are measured in turns, so that whatever else the machine does strikes them alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sparrowmq.bench import figures, floor, report, target
from sparrowmq.bench.meter import Meter
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client

_WARM_UP_TRIPS = 200


def run(
    *, trips: int = 1000, workers: int = 1, runs: int = 5, url: str = "", tcp: bool = False, curve: bool = False
) -> dict[str, Any]:
    """Measure ``runs`` times ``trips`` round trips; every figure is the median of the runs.

    ``p50_ms`` and ``p99_ms``: from `Client.submit` to the result's value. ``floor_*``: the same way with nothing
    on it but ZeroMQ (see `floor`). On a cluster of its own, or on the one registered in the Redis at ``url``.
    For ``tcp`` and ``curve``, which change nothing of the floor, see `target.opened`.
    """
    with (
        target.opened(url, workers=workers, tcp=tcp, curve=curve) as cluster,
        Client(cluster) as client,
        floor.Chain() as chain,
    ):

        def task(number: int) -> None:
            client.submit(echo, number).result(target.patience_s())

        def bare(_number: int) -> None:
            chain.round_trip(target.patience_s())

        for trip in (task, bare):
            _trips(trip, _WARM_UP_TRIPS)
        meter = Meter(cluster)
        measured = []
        for _ in range(runs):
            meter.start()
            tasks_s = _trips(task, trips)
            meter.stop()
            measured.append((tasks_s, _trips(bare, trips)))

    def over_runs(which: int, share: float) -> float:
        return figures.ms(figures.median([figures.percentile(pair[which], share) for pair in measured]))

    result = {
        "trips": trips,
        "workers": cluster.workers,
        "p50_ms": over_runs(0, 0.5),
        "p99_ms": over_runs(0, 0.99),
        "cpu_us_per_trip": meter.us_per(trips * runs),
        "floor_p50_ms": over_runs(1, 0.5),
        "floor_p99_ms": over_runs(1, 0.99),
        "runs": [figures.ms(figures.median(tasks_s)) for tasks_s, _ in measured],
        "floor_runs": [figures.ms(figures.median(bare_s)) for _, bare_s in measured],
    }
    return report.result("latency", result, cluster)


def _trips(trip: Callable[[int], None], count: int) -> list[float]:
    times_s = []
    for number in range(count):
        began = time.perf_counter()
        trip(number)
        times_s.append(time.perf_counter() - began)
    return times_s
