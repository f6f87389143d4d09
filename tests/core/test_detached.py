"""Detached jobs, kills and drains: what clients may do beyond their own jobs."""

from __future__ import annotations

from typing import Any

import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, SPEC, World, hello, outcome, result, submit, task

OTHER = "another client's connection"


def detached(tasks: int = 2, **settings: Any) -> World:
    world = World(workers=1, **settings)
    world.hear(CLIENT, submit(tasks, detached=True))
    return world


# -- detached jobs


def test_a_detached_job_runs_and_tells_nobody() -> None:
    world = detached()
    assert world.said() == [fx.Send(CLIENT, m.Accepted("a", 0, 1)), fx.Send("w1", m.Probe("a", 0, 1, 4))]
    world.hear("w1", m.Request(1, "a", 0, 1, 2))
    assert world.said() == [fx.Send("w1", task(1, [0, 1], round=1)), fx.Send("w1", m.Cancel("a", 0, 1))]
    world.hear("w1", result([0]), result([1], seq=2, status=m.FAILED))
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.Send("w1", m.ResultAck(2))]
    row = world.row()
    assert (row.detached, row.client, row.state, row.counts) == (True, "c1", "done", [1, 1, 0, 0, 0])
    assert [failed.index for failed in world.ask(m.Query(1, "failures", "a")).tasks] == [1]
    invariants.check_rest(world.machine)


@pytest.mark.parametrize("how", ["leaves", "is lost", "is restarted"])
def test_it_outlives_its_client(how: str) -> None:
    world = detached()
    if how == "leaves":
        world.hear(CLIENT, m.Goodbye("leaving"))
    elif how == "is lost":
        world.lose(CLIENT)
        for _ in range(4):
            world.wait(5.0)
            world.hear("w1", m.Pong(0))
        assert world.machine.state.clients == {}
    else:
        world.hear("new", hello(m.CLIENT, "c1", 2))
    world.said()
    assert world.start("w1", 2) == [0, 1]
    world.lose("w1")
    world.wait(0.1)
    world.hear("back", hello(m.WORKER, "w1", 2))
    world.said()
    assert world.start("back", 2) == [0, 1]
    world.hear("back", result([0, 1], attempt=2))
    assert world.said() == [fx.Send("back", m.ResultAck(1))]
    assert world.job().how == "done"


def test_it_needs_no_credit() -> None:
    world = detached(limits=SchedulerLimits(client_credit_bytes=1))
    world.hear(CLIENT, submit(2, job="b"))
    world.start("w1", 1, "b")
    world.hear("w1", m.Result(1, "b", 0, [0], [1], b"\0", [1], [b"r"]))
    assert world.start("w1", 1, "b") == []
    assert world.start("w1") == [0]


def test_a_hello_with_fewer_jobs_does_not_end_it_and_says_that_it_is_there() -> None:
    world = detached()
    world.hear("new", hello(m.CLIENT, "c1"))
    assert world.job().how == ""
    world.said()
    world.hear("newer", hello(m.CLIENT, "c1", jobs=["a", "b"]))
    assert world.to("newer") == [m.Welcome("s1", 7, "", ["a"])]


def test_it_is_not_run_again_when_its_client_missed_the_answer() -> None:
    world = detached()
    world.start("w1", 2)
    world.hear("w1", result([0, 1]))
    world.hear("new", hello(m.CLIENT, "c1", jobs=["a"]))
    world.said()
    world.hear("new", submit(2, detached=True))
    assert world.said() == [fx.Send("new", m.Accepted("a", 0, 1))]
    assert world.machine.state.jobs == {}


def test_a_draining_scheduler_finishes_it() -> None:
    world = detached(1)
    world.start("w1")
    world.hear(CLIENT, m.Goodbye("leaving"))
    world.machine.drain(world.now, world.now + 30.0)
    world.said()
    world.hear("w1", result([0]))
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.Exit("drained")]


def test_it_ends_by_itself_without_workers() -> None:
    world = World()
    world.hear(CLIENT, submit(1, detached=True), m.Goodbye("leaving"))
    world.wait(11.0)
    assert world.job().counts == [0, 1, 0, 0, 0]


def test_stale_ends_it_though_its_client_is_gone() -> None:
    world = detached()
    world.hear(CLIENT, m.Goodbye("leaving"))
    world.said()
    world.hear("w1", m.Stale("a", 3))
    assert world.said() == [fx.Send("w1", m.Cancel("a", 0, 1))]


# -- kills


def test_anybody_may_kill_with_the_full_id_and_epoch() -> None:
    world = World(workers=2)
    world.hear(OTHER, hello(m.CLIENT, "c2"))
    world.hear(CLIENT, submit(3, spec=SPEC))
    world.start("w1")
    world.start("w2")
    world.hear(OTHER, m.Kill("a", 1), m.Kill("", 0), m.Kill("a", 7, [0]))
    assert world.said() == []
    world.hear(OTHER, m.Kill("a", 0, [], 1.5))
    assert world.said() == [
        fx.Send("w1", m.Kill("a", 0, [0], 1.5)),
        fx.Send("w2", m.Kill("a", 0, [1], 1.5)),
        fx.Send(CLIENT, outcome(1, [2], m.CANCELLED, b"")),
        fx.Send("w1", m.Cancel("a", 0, 1)),
        fx.Send("w2", m.Cancel("a", 0, 1)),
    ]
    world.hear("w1", result([0], status=m.CANCELLED, payload=b"interrupted"), result([0], seq=2))
    world.hear("w2", result([1]))  # too late: it had ended
    assert world.to(CLIENT) == [outcome(2, [0], m.CANCELLED, b"interrupted"), outcome(3, [1])]
    assert world.row().counts == [1, 0, 0, 2, 0]


def test_a_kill_is_said_again_with_its_grace() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(3))
    world.start("w1", 3)
    world.lose("w1")
    world.hear(CLIENT, m.Kill("a", 0, [0, 2], 1.5), m.Kill("a", 0, [1], 9.0))
    world.hear("new", hello(m.WORKER, "w1", held=[m.Held("a", 0, [0, 1, 2], [1, 1, 1])]))
    assert world.to("new") == [m.Welcome("s1", 7, ""), m.Kill("a", 0, [0, 2], 1.5), m.Kill("a", 0, [1], 9.0)]


# -- drains


def test_a_drain_is_passed_on_and_answered_with_the_workers_row() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1))
    world.said()
    drain = m.Drain(6, "w1", 2.5)
    world.hear(CLIENT, drain)
    passed, answer = world.said()
    assert passed == fx.Send("w1", drain)
    assert isinstance(answer, fx.Send)
    assert isinstance(answer.message, m.Status)
    assert answer.message.request == 6
    assert [(row.id, row.state, row.reservations) for row in answer.message.workers] == [("w1", "alive", 1)]


@pytest.mark.parametrize("worker", ["nobody", "w1"])
def test_a_worker_that_is_not_connected_cannot_be_drained(worker: str) -> None:
    world = World(workers=1)
    world.lose("w1")
    assert world.ask(m.Drain(6, worker, 2.5)).workers == []
