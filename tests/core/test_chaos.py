"""Everything at once: small clusters, all kinds of jobs, all kinds of faults, from one seed each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.slot import Work

POLICIES = ("late-binding", "random", "per-task", "batch")


class Scenario:
    """A cluster, what may happen to it, and what must be true in the end."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.world = world = Cluster(seed, scheduler=SchedulerSettings(eager=rng.random() < 0.5))
        self.schedulers = [world.add_scheduler() for _ in range(rng.randint(1, 3))]
        self.workers = [world.add_worker(slots=rng.randint(1, 3)) for _ in range(rng.randint(2, 5))]
        self.clients = [world.add_client() for _ in range(rng.randint(1, 2))]
        self.observer = world.add_observer()
        self.jobs: list[tuple[str, int, str]] = []
        self.detached: list[str] = []
        world.run(0.5)

    # -- jobs

    def works(self) -> list[Work]:
        rng = self.rng
        mean_s = rng.choice([0.0, 0.0005, 0.01, 0.1])
        ends = ["ok"] * 16 + ["fail", "fail 1", "fail 2", "crash"]
        output = rng.choice([b"", b"", b"line\n", b"x" * 30_000])
        return [
            Work(rng.expovariate(1 / mean_s) if mean_s else 0.0, rng.choice(ends), output, rng.random() < 0.3)
            for _ in range(rng.choice([1, 2, 5, 20]))
        ]

    def spec(self) -> dict[str, Any]:
        rng = self.rng
        spec: dict[str, Any] = {
            "policy": rng.choice(POLICIES),
            "probe_ratio": rng.choice([1.0, 1.5, 2.0, 3.0]),
            "timeout_s": rng.choice([0.0, 0.0, 0.0, 0.05]),
        }
        if rng.random() < 0.3:
            spec |= {"retries": rng.choice([1, 3]), "backoff_s": rng.choice([0.0, 0.01, 0.3])}
        if rng.random() < 0.3:
            spec |= rng.choice([{"hedge_after_s": 0.001}, {"hedge_after_s": 0.05}, {"hedge_quantile": 0.9}])
        return spec

    def submit(self) -> None:
        works, client = self.works(), self.rng.choice(self.clients)
        self.jobs.append((self.world.submit(works, client=client, **self.spec()), len(works), client))

    def detach(self) -> None:
        scheduler = self.rng.choice(self.schedulers)
        self.detached.append(self.world.detach(self.works(), scheduler, **self.spec()))

    # -- faults, and what clients do

    def recall(self) -> None:
        for job, tasks, client in self.jobs[-1:]:
            self.world.recall(job, self.rng.sample(range(tasks), (tasks + 1) // 2), client=client)

    def kill(self) -> None:
        for job, tasks, client in self.jobs[-1:]:
            which = self.rng.choice([[self.rng.randrange(tasks)], []])
            self.world.kill(job, which, grace_s=self.rng.choice([0.0, 0.02, 1.0]), client=client)

    def kill_as_anybody(self) -> None:
        for job in [job for job, _, _ in self.jobs[-1:]] + self.detached[-1:]:
            for epoch in (0, 1):
                self.world.say(m.Kill(job, epoch, self.rng.choice([[0], []]), self.rng.choice([0.0, 0.02])))

    def follow(self) -> None:
        for job in [job for job, _, _ in self.jobs[-1:]] + self.detached[-1:]:
            self.world.say(m.Follow(len(job), job, True))
            self.world.say(m.Query(1, "tasks", job))
            self.world.say(m.Query(1, "failures", job))

    def reset(self) -> None:
        one = self.rng.choice([*self.workers, *self.clients, self.observer])
        self.world.reset(one, self.rng.choice(self.schedulers))

    def bounce(self) -> None:
        id = self.rng.choice(self.workers + self.schedulers)
        if self.world.nodes[id].up:
            self.world.crash(id)
            self.world.later(self.rng.choice([0.001, 0.02, 0.2, 1.0]), self.world.restart, id)

    def pause(self) -> None:
        id = self.rng.choice([*self.workers, *self.schedulers, *self.clients, self.observer])
        if self.world.nodes[id].up:
            self.world.pause(id)
            self.world.later(self.rng.choice([0.01, 0.5, 2.0, 7.0]), self.world.resume, id)

    def drain(self) -> None:
        id = self.rng.choice(self.workers + self.schedulers)
        if self.world.nodes[id].up:
            self.world.drain(id, self.rng.choice([0.05, 5.0]))
            self.world.later(6.0, self.restart_if_down, id)

    def drain_by_message(self) -> None:
        id = self.rng.choice(self.workers)
        self.world.say(m.Drain(1, id, self.rng.choice([0.05, 5.0])))
        self.world.later(6.0, self.restart_if_down, id)

    def restart_if_down(self, id: str) -> None:
        if not self.world.nodes[id].up:
            self.world.restart(id)

    # -- all of it

    def run(self) -> None:
        rng, world = self.rng, self.world
        for _ in range(rng.randint(3, 12)):
            world.later(rng.random(), rng.choice([self.submit] * 4 + [self.detach]))
        everything: list[Callable[[], None]] = [
            self.reset, self.reset, self.bounce, self.pause, self.drain, self.recall, self.kill, self.kill_as_anybody,
            self.follow, self.drain_by_message,
        ]  # fmt: skip
        kinds = rng.sample(everything, rng.randint(1, 8))
        for _ in range(rng.randint(0, 14)):
            world.later(rng.random() * 1.2, rng.choice(kinds))
        world.run(1.5)
        world.run(120.0, until=world.history.complete)
        world.run(10.0)  # by now the last drain is over
        for id in self.workers:
            self.restart_if_down(id)
        world.run(120.0, until=self.over)
        world.finish(120.0, rest_s=20.0)
        self.check_histories()

    def over(self) -> bool:
        up = [world for id in self.schedulers if (world := self.world.nodes[id]).up and not world.paused]
        return self.world.history.complete() and not any(node.machine.state.jobs for node in up)

    def check_histories(self) -> None:
        """What schedulers tell of tasks agrees with itself, and with what clients were shown."""
        for id in self.schedulers:
            state = self.world.scheduler(id).state
            for job in state.history:
                for row in state.history.rows(job, range(len(job.state))):
                    times = [event.unix_s for event in row.events]
                    assert times == sorted(times), row
                    assert (row.events[0].kind, row.events[-1].kind) == ("submitted", row.state), row
                    launches = [
                        event.attempt for event in row.events if event.kind in ("launched", "hedged", "adopted")
                    ]
                    adopted = [event.attempt for event in row.events if event.kind == "adopted"]
                    assert launches == list(range(adopted[0] if adopted else 1, row.attempts + 1)), row
                    again = sum(event.kind == "hedged" for event in row.events)
                    assert again <= 1 + sum(event.kind in ("returned", "lost", "failed") for event in row.events), row
        for job_id, _, _ in self.jobs:
            shown = self.world.history.statuses(job_id)
            assert None not in shown or job_id in self.world.history.ends


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_every_job_ends_and_every_outcome_is_shown_once_whatever_fails(first: int) -> None:
    for seed in range(first, first + 20):
        try:
            Scenario(seed).run()
        except Exception as error:
            error.add_note(f"with seed {seed}")
            raise
