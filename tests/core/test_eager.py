"""Tasks that go straight to idle workers: at the scheduler, at the worker, and between them."""

from __future__ import annotations

from typing import Any

import pytest

from sparrowmq.core.placer import BUSY_PAUSE_S, IDLE_LOOKS
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings
from sparrowmq.sim.slot import Work
from tests.core.test_node_monitor import World as Worker, returned, start, task
from tests.support import scheduler
from tests.support.scheduler import CLIENT, submit
from tests.support.sim import cluster, ledger, runs, succeeded


class World(scheduler.World):
    """A scheduler that believes in idle workers."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(eager=True, **settings)

    def launched(self) -> dict[str, list[int]]:
        """What the machine wants done now, as eager tasks by worker; nothing else may go to workers."""
        tasks: dict[str, list[int]] = {}
        for effect in self.said():
            message = effect.message  # type: ignore[union-attr]
            if effect.peer != CLIENT:  # type: ignore[union-attr]
                assert isinstance(message, m.Task)
                assert (message.request, message.eager) == (0, True)
                tasks.setdefault(effect.peer, []).extend(message.indices)  # type: ignore[union-attr, arg-type]
        return tasks


def test_a_task_goes_to_an_idle_worker_without_a_probe() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    assert world.said()[-1].message == m.Task(  # type: ignore[union-attr]
        0, "a", 0, scheduler.SPEC, [0], [1], [b"p0"], b"", 0, 0, True
    ) or world.job().place == ["w1"]
    assert world.job().probes == 0


def test_a_slot_gets_one_task_and_the_rest_is_left_to_reservations() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(5))
    sent = [effect for effect in world.said() if effect.peer != CLIENT]  # type: ignore[union-attr]
    eager = {effect.peer: effect.message.indices for effect in sent if isinstance(effect.message, m.Task)}  # type: ignore[union-attr]
    probes = [effect.message for effect in sent if isinstance(effect.message, m.Probe)]  # type: ignore[union-attr]
    assert sorted(eager.items()) in ([("w1", [0]), ("w2", [1])], [("w1", [1]), ("w2", [0])])
    assert sum(probe.count for probe in probes) == 6  # two for each of the three that are left


def test_a_worker_with_work_of_this_scheduler_is_not_idle() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1))
    [first] = world.launched()
    world.hear(CLIENT, submit(1, job="b"))
    [second] = world.launched()
    assert {first, second} == {"w1", "w2"}
    world.hear(CLIENT, submit(1, job="c"))
    assert {type(effect.message) for effect in world.said()} == {m.Accepted, m.Probe}  # type: ignore[union-attr]


def test_one_that_was_busy_is_probed_and_believed_busy_for_a_while() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.said()
    world.hear("w1", m.Returned(0, "a", 0, [0], [1], "busy"))
    assert world.to("w1") == [m.Probe("a", 0, 1, 2)]
    assert world.start("w1") == [0]
    world.hear("w1", m.Result(1, "a", 0, [0], [2], b"\0", [9], [b"r"]))
    world.hear(CLIENT, submit(1, job="b"))
    assert [type(message) for message in world.to("w1")] == [m.ResultAck, m.Probe]
    world.hear("w1", m.Request(1, "b", 0, 1, 1))
    world.hear("w1", m.Result(2, "b", 0, [0], [1], b"\0", [9], [b"r"]))
    world.said()
    world.now += 1.01 * BUSY_PAUSE_S
    world.hear(CLIENT, submit(1, job="c"))
    assert world.launched() == {"w1": [0]}


def test_only_a_few_workers_are_looked_at() -> None:
    world = World(workers=40)
    world.hear(CLIENT, submit(40))
    sent = [effect.message for effect in world.said() if effect.peer != CLIENT]  # type: ignore[union-attr]
    assert sum(isinstance(message, m.Task) for message in sent) == IDLE_LOOKS


@pytest.mark.parametrize("policy", ["random", "per-task", "batch"])
def test_early_binding_is_as_it_was(policy: str) -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1, spec=m.JobSpec(kind=m.SLEEP, policy=policy)))
    assert not any(getattr(effect.message, "eager", False) for effect in world.said())  # type: ignore[union-attr]


def test_the_worker_starts_it_at_once() -> None:
    world = Worker()
    world.hear(task(0, [4], eager=True))
    assert world.said() == [start(1, [4])]


@pytest.mark.parametrize("busy", ["runs", "asked", "drains"])
def test_a_worker_that_is_not_idle_gives_it_back(busy: str) -> None:
    world = Worker()
    if busy == "runs":
        world.busy(1, request=1, job="b")
    elif busy == "asked":
        world.hear(m.Probe("b", 0, 1, 1))
        world.said()
    else:
        world.machine.drain(world.now, world.now + 1.0)
        world.said()
    world.hear(task(0, [4], eager=True))
    assert returned([4], "busy") in world.sent()


def test_one_slot_gets_one_task() -> None:
    world = Worker(slots=2)
    world.hear(task(0, [4], eager=True), task(0, [5], eager=True), task(0, [6], eager=True))
    assert world.sent() == [returned([6], "busy")]


@pytest.mark.parametrize("eager", [True, False])
def test_an_idle_cluster_runs_each_task_once(eager: bool) -> None:
    world = cluster(workers=4, scheduler=SchedulerSettings(eager=eager))
    jobs = []
    for _ in range(10):
        jobs.append(world.submit([Work(0.01)]))
        world.run(0.1)
    assert all(succeeded(world, job) and runs(world, job) == [1] for job in jobs)
    probes = [ledger(world, job).probes for job in jobs]
    assert probes == ([0] * 10 if eager else [2] * 10)
