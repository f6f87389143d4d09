"""Whole clusters for tests: up and connected, and what became of their jobs."""

from __future__ import annotations

from typing import Any

import msgspec

from sparrowmq.core import effects as fx
from sparrowmq.core.report import job_status
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings
from sparrowmq.sim.cluster import Cluster


def cluster(*, workers: int = 2, slots: int = 1, schedulers: int = 1, seed: int = 1, **settings: Any) -> Cluster:
    """A cluster with one client, up and connected, that places tasks as in the paper."""
    settings.setdefault("scheduler", SchedulerSettings(eager=False))
    world = Cluster(seed, **settings)
    for _ in range(schedulers):
        world.add_scheduler()
    for _ in range(workers):
        world.add_worker(slots=slots)
    world.add_client()
    world.run(0.5)
    return world


def two_homes(**settings: Any) -> tuple[Cluster, list[str]]:
    """A cluster of two schedulers with two clients, whose homes differ; their homes."""
    for seed in range(20):
        world = cluster(schedulers=2, seed=seed, **settings)
        world.add_client("client-2")
        world.run(0.1)
        homes = [world.client(id)._home for id in ("client-1", "client-2")]
        names = [home.scheduler for home in homes if home is not None]
        if len(set(names)) == 2:
            return world, names
    raise AssertionError("every seed gave both clients the same home")


def told(world: Cluster, kind: type[fx.AnyEffect]) -> list[Any]:
    return [effect for _, _, effect in world.told if isinstance(effect, kind)]


def ledger(world: Cluster, job: str, scheduler: str = "scheduler-1") -> m.JobStatus:
    return job_status(world.scheduler(scheduler).state.history.finished[job], 0.0)


def runs(world: Cluster, job: str) -> list[int]:
    """How often each task of a job has started."""
    return [len(world.starts[job, index]) for index in range(world.history.tasks[job])]


def succeeded(world: Cluster, job: str) -> bool:
    return set(world.history.statuses(job)) == {m.SUCCEEDED}


def failure(world: Cluster, job: str, index: int) -> tuple[int, str, str]:
    """Status, class and text of a task that did not succeed."""
    status, payload = world.history.outcomes[job, index]
    data = msgspec.msgpack.decode(bytes(payload))  # type: ignore[arg-type]
    return status, data["type"], data["message"]
