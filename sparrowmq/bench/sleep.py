"""Placement: response times of jobs of sleeps under a policy, beside those of an ideal central queue.

Owns: playing a trace on a cluster, and its figures. Must not know: the command line.

The load is open: jobs arrive at the times drawn, whatever the cluster does, and response times count from
those times, so that a late submission is the cluster's loss and never hidden. The ideal queue is replayed
with the service times that the tasks themselves measured, in which the operating system's lateness is already
contained: what is left is what scheduling cost.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from sparrowmq import placement
from sparrowmq.bench import figures, ideal, report, target
from sparrowmq.bench import trace as traces
from sparrowmq.bench.tasks import nap
from sparrowmq.bench.trace import Arrival
from sparrowmq.client.client import Client

_WARM_UP_ROUNDS: Final = 2
_WARM_UP_NAP_S: Final = 0.05
_LEAD_S: Final = 0.05  # before the first arrival

_Ends = queue.SimpleQueue[tuple[int, float]]


class Played(NamedTuple):
    """What a trace brought, in seconds: per job response, ideal response; per task queueing; the worst lateness."""

    responses_s: list[float]
    ideal_s: list[float]
    queueing_s: list[float]
    late_s: float


def run(
    *,
    method: str,
    jobs: int,
    tasks: int,
    duration_s: float,
    spread: float = 0.0,
    dist: str = traces.EXPONENTIAL,
    workers: int = 10,
    schedulers: int = 1,
    load: float = 0.8,
    seed: int = 1,
    url: str = "",
) -> dict[str, Any]:
    """Play ``jobs`` of ``tasks`` sleeps (see `trace.draw`) under policy ``method``; return the figures.

    On a cluster of its own of single-slot ``workers`` and ``schedulers``, or on the one registered in the Redis at
    ``url``; one client for each scheduler, which take jobs in turn. Raises UsageError for values out of range.
    """
    policy = placement.canonical(method)
    draw = partial(
        traces.draw, seed, jobs=jobs, tasks=tasks, duration_s=duration_s, load=load, spread=spread, dist=dist
    )
    draw(slots=workers)  # a mistake shows before a cluster is started
    with target.opened(url, workers=workers, schedulers=schedulers) as cluster, target.clients(cluster) as clients:
        warm_up(clients, cluster.slots)
        played = play(clients, policy, draw(slots=cluster.slots), cluster.slots)
    result = {
        "policy": policy,
        "jobs": jobs,
        "tasks": tasks,
        "duration_ms": figures.ms(duration_s),
        "spread": spread,
        "dist": dist,
        "load": load,
        "seed": seed,
        "workers": cluster.workers,
        "slots": cluster.slots,
        "schedulers": len(clients),
        **summary(played),
    }
    return report.result("sleep", result, cluster)


def summary(played: Played) -> dict[str, float]:
    """Return the figures of a trace; ratios are to the ideal queue's."""
    result: dict[str, float] = {}
    for name, times_s in (("", played.responses_s), ("ideal_", played.ideal_s)):
        for percent in (50, 95, 99):
            result[f"{name}p{percent}_ms"] = figures.ms(figures.percentile(times_s, percent / 100))
    for percent in (50, 95):
        result[f"p{percent}_ratio"] = round(result[f"p{percent}_ms"] / result[f"ideal_p{percent}_ms"], 4)
    result["queueing_p50_ms"] = figures.ms(figures.median(played.queueing_s))
    result["late_max_ms"] = figures.ms(played.late_s)
    return result


def warm_up(clients: Sequence[Client], slots: int) -> None:
    """Have every slot run a nap for every client."""
    for client in clients:
        for _ in range(_WARM_UP_ROUNDS):
            client.gather(client.map(nap, [_WARM_UP_NAP_S] * slots), timeout_s=target.patience_s())


def play(clients: Sequence[Client], policy: str, trace: Sequence[Arrival], slots: int) -> Played:
    """Submit every job of ``trace`` at its time, the clients in turn; return when all are over.

    Raises what a task raised, or Unavailable when outcomes do not come.
    """
    ends: _Ends = queue.SimpleQueue()
    submitted = []
    began_s = time.monotonic() + _LEAD_S
    began_unix_s = time.time() + _LEAD_S
    late_s = 0.0
    for number, arrival in enumerate(trace):
        due_s = began_s + arrival.at_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        late_s = max(late_s, time.monotonic() - due_s)
        job = clients[number % len(clients)].map(nap, arrival.durations_s, policy=policy)
        note = _noter(ends, number)
        for future in job:
            future.add_done_callback(note)
        submitted.append(job)
    last_s = _last_ends(ends, trace)
    naps = [[future.result() for future in job] for job in submitted]
    arrivals_s = [arrival.at_s for arrival in trace]
    return Played(
        responses_s=[end_s - began_s - at_s for end_s, at_s in zip(last_s, arrivals_s, strict=True)],
        ideal_s=ideal.response_times(arrivals_s, [[took_s for _, took_s in job] for job in naps], slots),
        queueing_s=[
            max(0.0, at_unix_s - began_unix_s - at_s)
            for job, at_s in zip(naps, arrivals_s, strict=True)
            for at_unix_s, _ in job
        ],
        late_s=late_s,
    )


def _noter(ends: _Ends, number: int) -> Callable[[object], None]:
    return lambda _future: ends.put((number, time.monotonic()))


def _last_ends(ends: _Ends, trace: Sequence[Arrival]) -> list[float]:
    """Return when each job's last outcome came, once all have."""
    total = sum(len(arrival.durations_s) for arrival in trace)
    patience_s = target.patience_s(max(max(arrival.durations_s) for arrival in trace))
    last_s = [0.0] * len(trace)
    for count in range(total):
        try:
            number, end_s = ends.get(timeout=patience_s)
        except queue.Empty:
            raise target.stuck(total - count, total) from None
        last_s[number] = max(last_s[number], end_s)
    return last_s
