"""Honest clients at a scheduler's limits while everything fails: slowed down, never sent away, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from sparrowmq import limits
from sparrowmq.core import effects as fx
from sparrowmq.settings import ClientSettings, SchedulerSettings
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.wires import Constant, Wire
from tests.support.sim import told


class Scenario:
    """Clients, mostly of one key, with more jobs than that may submit, and what they and the network do meanwhile."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.rate = rng.choice([0.5, 3.0, 20.0, 200.0])
        bounds = limits.SchedulerLimits(submits_per_s=self.rate, probes_per_s=rng.choice([0.0, 5 * self.rate]))
        self.world = world = Cluster(
            seed,
            scheduler=SchedulerSettings(eager=rng.random() < 0.5, limits=bounds),
            client=ClientSettings(jobs_in_flight=rng.choice([1, 3, 100, 10_000])),
        )
        self.schedulers = [world.add_scheduler() for _ in range(rng.randint(1, 3))]
        self.workers = [world.add_worker(slots=2) for _ in range(3)]
        clients = rng.randint(1, 4)
        key = "one key" if rng.random() < 0.7 else ""
        self.clients = [world.add_client(key=key) for _ in range(clients)]
        self.jobs: list[tuple[str, int, str]] = []
        world.run(0.5)

    def submit(self) -> None:
        client, tasks = self.rng.choice(self.clients), self.rng.choice([1, 1, 3])
        flight = self.rng.random() < 0.25
        made = [
            self.world._job([self.rng.choice([0.001, 0.1])] * tasks, {}, "") for _ in range(self.rng.choice([1, 5, 40]))
        ]
        for submit in made:
            self.world.history.submitted(submit.job, tasks)
            self.jobs.append((submit.job, tasks, client))
        machine = self.world.client(client)
        self.world.nodes[client].step(lambda now: machine.submit_all(now, made, flight=flight))

    def recall(self) -> None:
        for job, tasks, client in self.rng.sample(self.jobs, min(len(self.jobs), 10)):
            self.world.recall(job, self.rng.choice([[0], range(tasks)]), client=client)

    def kill(self) -> None:
        for job, _, client in self.rng.sample(self.jobs, min(len(self.jobs), 10)):
            self.world.kill(job, self.rng.choice([[0], []]), client=client)

    def pause(self) -> None:
        id = self.rng.choice([*self.clients, *self.schedulers])
        if self.world.nodes[id].up:
            self.world.pause(id)
            self.world.later(self.rng.choice([0.5, 4.5, 7.0]), self.world.resume, id)

    def reset(self) -> None:
        self.world.reset(self.rng.choice(self.clients), self.rng.choice(self.schedulers))

    def bounce(self) -> None:
        id = self.rng.choice([*self.schedulers, *self.workers])
        if self.world.nodes[id].up:
            self.world.crash(id)
            self.world.later(self.rng.choice([0.01, 1.0]), self.world.restart, id)

    def slow(self) -> None:
        wire = Wire(Constant(self.rng.choice([0.0001, 0.05, 1.0])))
        self.world.set_wire(self.rng.choice(self.clients), self.rng.choice(self.schedulers), wire)

    def run(self) -> None:
        rng, world = self.rng, self.world
        for _ in range(rng.randint(1, 6)):
            world.later(rng.random() * 5, self.submit)
        everything: list[Callable[[], None]] = [
            self.recall, self.kill, self.pause, self.reset, self.bounce, self.slow,
        ]  # fmt: skip
        for _ in range(rng.randint(0, 12)):
            world.later(rng.random() * 7, rng.choice(everything))
        world.run(15.0)
        world.set_wire("", "", Wire())
        world.finish(60.0 + 4 * len(self.jobs) / self.rate, rest_s=20.0)
        self.check()

    def check(self) -> None:
        assert self.world.sent["Refused"] == 0
        assert not self.world.history.ends
        for recalled in told(self.world, fx.Recalled):
            for index in recalled.indices:
                assert not self.world.starts[recalled.job, index], f"{recalled.job}/{index} was recalled, and has run"


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_honest_clients_lose_nothing_at_the_limits_whatever_fails(first: int) -> None:
    for seed in range(first, first + 10):
        try:
            Scenario(seed).run()
        except Exception as error:
            error.add_note(f"with seed {seed}")
            raise
