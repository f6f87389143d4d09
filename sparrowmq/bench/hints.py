"""Load hints: how long tasks queue under "assisted" and under late binding, in turn on one cluster.

Owns: which settings are compared, the rounds, the table. Must not know: how a trace is played (`sleep`), the command
line.

Both policies play the same jobs, one after the other, round by round, so that a machine that others use as well slows
both. Two settings of the scheduler: as clusters are by default, where a task goes straight to a worker that seems idle,
and without that, as in the paper (``scheduler.eager``). Beside them what a central queue that knows everything would
have made of the same jobs, with the times that their tasks really took.
"""

from __future__ import annotations

from typing import Any, Final

from sparrowmq.bench import figures, report, sleep, target, trace as traces
from sparrowmq.local import LocalCluster
from sparrowmq.settings import SchedulerSettings

POLICIES: Final = ("late-binding", "assisted")
SHAPES: Final = (1, 10)  # tasks of a job
_IDEAL: Final = "ideal"

_Times = dict[tuple[str, int], list[float]]


def run(
    *, jobs: int, rounds: int, duration_s: float, load: float, workers: int, schedulers: int, seed: int
) -> dict[str, Any]:
    """Play ``rounds`` of jobs of one task and of ten sleeps under each policy; return rows of queueing times.

    ``jobs``: of one task, a round; of those of ten a tenth. Each setting has a cluster of its own, of single-slot
    workers and one assistant.
    """
    rows: list[dict[str, Any]] = []
    described: target.Target | None = None
    for eager in (False, True):
        scheduler = SchedulerSettings(eager=eager)
        with LocalCluster(workers=workers, schedulers=schedulers, scheduler=scheduler) as cluster:
            described = target.Target(cluster.url, workers, workers, schedulers)
            times = _play(described, jobs, rounds, duration_s, load, seed)
        rows += [_row(times, policy, tasks, eager) for tasks in SHAPES for policy in POLICIES]
    assert described is not None
    result = {
        "jobs": jobs, "rounds": rounds, "duration_ms": figures.ms(duration_s), "load": load, "seed": seed, "rows": rows,
    }  # fmt: skip
    return report.result("hints", result, described)


def _play(cluster: target.Target, jobs: int, rounds: int, duration_s: float, load: float, seed: int) -> _Times:
    """Return the queueing times of all tasks, in seconds, by policy and tasks of a job.

    Those of the central queue are there for jobs of one task.
    """
    times: _Times = {}
    with target.clients(cluster) as clients:
        sleep.warm_up(clients, cluster.slots)
        for number in range(rounds):
            for tasks in SHAPES:
                trace = traces.draw(
                    seed + number, jobs=max(1, jobs // tasks), tasks=tasks, duration_s=duration_s,
                    slots=cluster.slots, load=load,
                )  # fmt: skip
                order = POLICIES if number % 2 == 0 else POLICIES[::-1]
                for policy in order:
                    played = sleep.play(clients, policy, trace, cluster.slots)
                    times.setdefault((policy, tasks), []).extend(played.queueing_s)
                    if tasks == 1:
                        ideal = zip(played.ideal_s, played.jobs, strict=True)
                        times.setdefault((_IDEAL, tasks), []).extend(all_s - job.durations_s[0] for all_s, job in ideal)
    return times


def _row(times: _Times, policy: str, tasks: int, eager: bool) -> dict[str, Any]:
    own, native = times[policy, tasks], times[POLICIES[0], tasks]
    p50_ms, native_ms = figures.ms(figures.median(own)), figures.ms(figures.median(native))
    return {
        "policy": policy,
        "tasks": tasks,
        "eager": eager,
        "n": len(own),
        "queueing_p50_ms": p50_ms,
        "queueing_p95_ms": figures.ms(figures.percentile(own, 0.95)),
        "native_p50_ms": native_ms,
        "ideal_p50_ms": figures.ms(figures.median(times[_IDEAL, tasks])) if tasks == 1 else None,
        "times_better": round(native_ms / p50_ms, 2) if p50_ms else None,
    }
