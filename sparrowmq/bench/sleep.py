"""Placement: response times of jobs of sleeps under a policy, beside those of an ideal central queue.

Owns: playing a trace on a cluster, and its figures. Must not know: the command line.

The load is open: jobs arrive at the times drawn, whatever the cluster does, and response times count from
those times, so that a late submission is the cluster's loss and never hidden. The ideal queue is replayed
with the service times that the tasks themselves measured, in which the operating system's lateness is already
contained: what is left is what scheduling cost. A recorded trace (docs/trace.md) has these service times, too, so that
a simulation of it differs from what was measured by scheduling only.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from sparrowmq import placement
from sparrowmq.bench import figures, report, target, trace as traces
from sparrowmq.bench.tasks import nap
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.sim import omniscient, trace as trace_file
from sparrowmq.sim.workload import Job

_WARM_UP_ROUNDS: Final = 2
_WARM_UP_NAP_S: Final = 0.05
_LEAD_S: Final = 0.05  # before the first arrival
_DIGITS: Final = 9  # of recorded seconds; clocks have no more

_Ends = queue.SimpleQueue[tuple[int, float]]


class Played(NamedTuple):
    """What a trace brought, in seconds: per job response, ideal response; per task queueing; the worst lateness.

    ``jobs``: the trace as it came about: when each job was submitted, how long its tasks took.
    """

    responses_s: list[float]
    ideal_s: list[float]
    queueing_s: list[float]
    late_s: float
    jobs: list[Job]


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
    record: Path | None = None,
    url: str = "",
) -> dict[str, Any]:
    """Play ``jobs`` of ``tasks`` sleeps (see `trace.draw`) under policy ``method``; return the figures.

    On a cluster of its own of single-slot ``workers`` and ``schedulers``, or on the one registered in the Redis at
    ``url``; one client for each scheduler, which take jobs in turn. ``record``: a file for the trace as it came about.
    Raises UsageError for values out of range and a file that cannot be written, before anything is started.
    """
    policy = placement.canonical(method)
    draw = partial(
        traces.draw, seed, jobs=jobs, tasks=tasks, duration_s=duration_s, load=load, spread=spread, dist=dist
    )
    part = _claim(record, jobs, tasks) if record is not None else None
    try:
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
        if record is not None and part is not None:
            _save(record, part, trace_file.write(_header(result), played.jobs))
            result["record"] = str(record)
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
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


def play(clients: Sequence[Client], policy: str, trace: Sequence[Job], slots: int) -> Played:
    """Submit every job of ``trace`` at its time, the clients in turn; return when all are over.

    Raises what a task raised, or Unavailable when outcomes do not come.
    """
    ends: _Ends = queue.SimpleQueue()
    submitted = []
    submitted_s = []
    began_s = time.monotonic() + _LEAD_S
    began_unix_s = time.time() + _LEAD_S
    late_s = 0.0
    for number, arrival in enumerate(trace):
        due_s = began_s + arrival.at_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        now_s = time.monotonic()
        late_s = max(late_s, now_s - due_s)
        submitted_s.append(now_s - began_s)
        job = clients[number % len(clients)].map(nap, arrival.durations_s, policy=policy)
        note = _noter(ends, number)
        for future in job:
            future.add_done_callback(note)
        submitted.append(job)
    last_s = _last_ends(ends, trace)
    naps = [[future.result() for future in job] for job in submitted]
    arrivals_s = [arrival.at_s for arrival in trace]
    services_s = [[took_s for _, took_s in job] for job in naps]
    ideal = omniscient.responses(map(Job, arrivals_s, services_s), slots)
    return Played(
        responses_s=[end_s - began_s - at_s for end_s, at_s in zip(last_s, arrivals_s, strict=True)],
        ideal_s=[response.response_s for response in ideal],
        queueing_s=[
            max(0.0, at_unix_s - began_unix_s - at_s)
            for job, at_s in zip(naps, arrivals_s, strict=True)
            for at_unix_s, _ in job
        ],
        late_s=late_s,
        jobs=[
            Job(round(at_s, _DIGITS), [round(took_s, _DIGITS) for took_s in job])
            for at_s, job in zip(submitted_s, services_s, strict=True)
        ],
    )


def _noter(ends: _Ends, number: int) -> Callable[[object], None]:
    return lambda _future: ends.put((number, time.monotonic()))


def _last_ends(ends: _Ends, trace: Sequence[Job]) -> list[float]:
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


# Recording.


def _claim(path: Path, jobs: int, tasks: int) -> Path:
    """Return an empty file beside ``path``, which is to take its place. Raises UsageError if that cannot be."""
    trace_file.check_size(jobs, jobs * tasks)
    hint = "name a file in a directory that exists and that you may write to"
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"--record {path}: this is no regular file", hint=hint)
        if path.exists() and not os.access(path, os.W_OK):
            raise UsageError(f"--record {path}: you may not write to this file", hint=hint)
        real = _followed(path)
        part = real.with_name(f".{real.name}.{os.getpid()}")
        part.write_text("")
    except OSError as error:
        raise UsageError(f"--record {path}: cannot be written: {error.strerror}", hint=hint) from None
    return part


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path))  # a link stays a link, to what is written


def _save(path: Path, part: Path, lines: Iterable[str]) -> None:
    """Write the recording whole, or leave what was there."""
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        part.replace(_followed(path))
    except OSError as error:
        raise SparrowError(f"--record {path}: writing the trace failed: {error.strerror}") from None


def _header(result: dict[str, Any]) -> dict[str, object]:
    """Return what a recording says of itself: names as in `sim.setup.Setup` where they mean the same."""
    slots, rest = divmod(result["slots"], result["workers"])
    header: dict[str, object] = {
        "recorded_by": "sparrowmq bench sleep",
        "recorded_at": time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime()),
        "submit_times": "when each job was submitted, seconds from the beginning",
        "durations": "measured by the tasks, not the sleeps that were asked for",
        "workers": result["workers"],
        "slots_in_all": result["slots"],
        "probe_ratio": m.JobSpec().probe_ratio,
    }
    if not rest:
        header["slots"] = slots  # of each worker; a cluster's own workers may differ
    told = ("policy", "schedulers", "load", "seed", "jobs", "tasks", "duration_ms", "spread", "dist")
    header |= {name: result[name] for name in told}
    header |= {f"response_p{percent}_ms": result[f"p{percent}_ms"] for percent in (50, 95, 99)}
    measured = ("ideal_p50_ms", "ideal_p95_ms", "ideal_p99_ms", "queueing_p50_ms", "late_max_ms")
    return header | {name: result[name] for name in measured}
