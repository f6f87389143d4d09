"""What the swarm has found in the machines, each as a scenario of its own that failed before it was mended."""

from __future__ import annotations

import pytest

from sparrowmq.core import effects as fx
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings, WorkerSettings
from sparrowmq.sim.wires import Constant, Wire
from tests.support.scheduler import CLIENT, World, hello, submit
from tests.support.sim import cluster, succeeded

PATIENT = SchedulerSettings(eager=False, reconnect_grace_s=5.0)


@pytest.mark.parametrize("role", [m.WORKER, m.CLIENT])
def test_a_hello_of_an_older_connection_that_comes_late_does_not_replace_the_newer_one(role: str) -> None:
    """Seed 354: by its outdated inventory tasks that ran were launched again. Seed 377: a client's job was given up."""
    world = World(client=False)
    world.hear("newer", hello(role, "x", connection=2))
    world.said()
    world.hear("older", hello(role, "x", connection=1))
    refused, closed = world.said()
    assert isinstance(refused, fx.Send)
    assert isinstance(refused.message, m.Refused)
    assert (refused.peer, refused.message.code) == ("older", "superseded")
    assert closed == fx.Close("older")
    assert list(world.machine.state.peers) == ["newer"]
    world.hear("newest", hello(role, "x", connection=3))
    world.said()
    assert list(world.machine.state.peers) == ["newest"]


def test_a_worker_that_gives_up_reservations_takes_back_the_hello_that_tells_of_them() -> None:
    """Seed 294: a hello that took longer than the grace told of reservations that were gone by then."""
    world = cluster(workers=2, worker=WorkerSettings(scheduler_grace_s=0.3), scheduler=PATIENT)
    job = world.submit([0.5] * 6)
    world.run(0.1)
    world.set_wire("worker-1", "scheduler-1", Wire(Constant(0.4)))
    world.reset("worker-1", "scheduler-1")
    world.run(0.5)  # the hello is on its way
    world.set_wire("worker-1", "scheduler-1", Wire())
    for _ in range(10):
        world.run(0.1)
        world.check_agreement()
    world.finish(10.0)
    assert succeeded(world, job)


def test_a_request_of_an_epoch_that_is_over_does_not_come_back_into_the_queue() -> None:
    """Seed 343."""
    world = cluster(workers=1, schedulers=2, scheduler=PATIENT, worker=WorkerSettings(request_timeout_s=20.0))
    job = world.submit([0.5] * 3)
    world.run(0.1)
    home = world.client()._home
    assert home is not None
    world.pause(home.scheduler)  # the client moves its job; what the worker has asked for stays unanswered
    world.run(6.5)
    world.reset("worker-1", home.scheduler)
    world.run(0.1)
    epochs = {entry.epoch for entry in world.worker().place.queue if entry.job == job}
    assert epochs == {1}


def test_a_request_that_crosses_a_cancel_does_not_use_up_a_later_reservation() -> None:
    """Seed 148: the reservation of the new round was believed used, and nobody cancelled it."""
    world = World(workers=3)
    world.hear(CLIENT, submit(1))
    first, second = (effect.peer for effect in world.said() if isinstance(effect.message, m.Probe))  # type: ignore[union-attr]
    world.hear(first, m.Request(1, "a", 0, 1, 1))
    world.said()  # the second is sent a cancel, and has asked meanwhile
    world.hear(first, m.Goodbye("leaving"))
    assert m.Probe("a", 0, 2, 1) in world.to(second)
    world.hear(second, m.Request(2, "a", 0, 1, 1))
    sent, cancelled = world.to(second)
    assert isinstance(sent, m.Task)
    assert (sent.request, sent.attempts) == (2, [2])
    assert cancelled == m.Cancel("a", 0, 2)
