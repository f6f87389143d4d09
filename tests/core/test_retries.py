"""Retries at the scheduler: a failed attempt rests, is launched again, and at last fails for good."""

from __future__ import annotations

import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.job import BACKOFF_S_MAX
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, World, hello, outcome, result, submit, task

SPEC = m.JobSpec(kind=m.SLEEP, retries=2, backoff_s=0.5)


def failing(retries: int = 2, backoff_s: float = 1.0, tasks: int = 1, workers: int = 1, **spec: object) -> World:
    """A job whose first task has been launched."""
    world = World(workers=workers)
    world.hear(CLIENT, submit(tasks, spec=m.JobSpec(m.SLEEP, retries=retries, backoff_s=backoff_s, **spec)))  # type: ignore[arg-type]
    world.start("w1")
    return world


def fail(world: World, attempt: int, index: int = 0, payload: bytes = b"why") -> None:
    world.hear("w1", result([index], seq=attempt, attempt=attempt, status=m.RETRY, payload=payload))


def test_a_failed_attempt_rests_and_is_launched_again() -> None:
    world = failing(backoff_s=0.5)
    fail(world, 1)
    assert world.said() == [fx.Send("w1", m.ResultAck(1))]
    row = world.row()
    assert (row.tasks, row.unplaced, row.resting, row.launched, row.retries) == (1, 0, 1, 0, 1)
    world.wait(0.49)
    assert world.said() == []
    world.wait(0.02)
    assert world.said() == [fx.Send("w1", m.Probe("a", 0, 2, 2))]
    world.hear("w1", m.Request(5, "a", 0, 2, 1))
    assert world.said()[0] == fx.Send("w1", task(5, [0], [2], spec=SPEC, round=2))
    world.hear("w1", result([0], seq=2, attempt=2))
    assert world.said() == [fx.Send("w1", m.ResultAck(2)), fx.Send(CLIENT, outcome(1, [0]))]
    row = world.row()
    assert (row.state, row.counts, row.retries, row.relaunches) == ("done", [1, 0, 0, 0, 0], 1, 0)


def test_the_last_failure_is_the_outcome() -> None:
    world = failing(retries=1, backoff_s=0.0)
    fail(world, 1)
    assert world.start("w1") == [0]
    fail(world, 2, payload=b"at last")
    assert world.to(CLIENT) == [outcome(1, [0], m.FAILED, b"at last")]
    assert world.row().counts == [0, 1, 0, 0, 0]


def test_without_a_back_off_it_is_placed_at_once() -> None:
    world = failing(backoff_s=0.0)
    fail(world, 1)
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.Send("w1", m.Probe("a", 0, 2, 2))]
    assert world.row().resting == 0


def test_the_back_off_doubles_up_to_five_minutes() -> None:
    world = failing(retries=12, backoff_s=1.0)
    rests: list[float] = []
    for attempt in range(1, 13):
        fail(world, attempt)
        since = world.now
        while world.job().resting:
            deadline = world.machine.next_deadline()
            assert deadline is not None
            world.wait(deadline - world.now)
            world.hear("w1", m.Pong(0))  # it is alive
        rests.append(round(world.now - since, 6))
        world.said()
        assert world.start("w1") == [0]
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, BACKOFF_S_MAX, BACKOFF_S_MAX, BACKOFF_S_MAX]


def test_tasks_rest_each_in_its_own_time() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(3, spec=SPEC))
    assert world.start("w1", 3) == [0, 1, 2]
    for index, at in ((0, 0.2), (2, 0.1), (1, 0.0)):
        world.hear("w1", result([index], seq=index + 1, status=m.RETRY))
        world.wait(at)
    woken = []
    for _ in range(40):
        world.wait(0.05)
        woken += [index for index in world.job()._again or () if index not in woken]
    assert woken == [0, 2, 1]
    assert len(world.machine.state.timers) < 5


@pytest.mark.parametrize("retries", [0, 3])
def test_a_worker_cannot_have_a_killed_task_tried_again(retries: int) -> None:
    world = failing(retries=retries)
    if retries:
        world.hear(CLIENT, m.Kill("a", 0, [0], 1.0))
        world.said()
    fail(world, 1)
    assert world.to(CLIENT) == [outcome(1, [0], m.FAILED, b"why")]


@pytest.mark.parametrize("how", ["recall", "kill"])
def test_a_resting_task_is_cancelled_at_once(how: str) -> None:
    world = failing(tasks=2)
    fail(world, 1)
    world.said()
    world.hear(CLIENT, m.Recall(9, "a", 0, [0]) if how == "recall" else m.Kill("a", 0, [0], 5.0))
    assert world.to(CLIENT)[0] == outcome(1, [0], m.CANCELLED, b"")
    world.wait(3.0)
    assert world.job().unplaced == 1
    assert world.start("w1", 2) == [1]


@pytest.mark.parametrize("ending", ["leaves", "submits again"])
def test_a_job_that_rests_can_be_aborted(ending: str) -> None:
    world = failing()
    fail(world, 1)
    if ending == "leaves":
        world.hear(CLIENT, m.Goodbye("leaving"))
        world.said()
        invariants.check_rest(world.machine)
        assert world.job().counts == [0, 0, 0, 1, 0]
        return
    world.hear(CLIENT, submit(1, epoch=1, spec=SPEC))
    world.said()
    world.wait(2.0)  # the deadline of the older epoch concerns nobody
    assert (world.job().epoch, world.job().unplaced, world.job().resting) == (1, 1, 0)


def test_the_failure_of_an_attempt_that_was_given_up_starts_nothing() -> None:
    world = failing(workers=2)
    world.lose("w1")
    world.wait(0.1)
    assert world.start("w2") == [0]
    world.hear("back", hello(m.WORKER, "w1"))
    world.said()
    world.hear("back", result([0], attempt=1, status=m.RETRY))
    assert world.said() == [fx.Send("back", m.ResultAck(1))]
    assert (world.job().launched, world.job().retries) == (1, 0)


def test_a_late_result_ends_a_task_that_rests() -> None:
    world = failing(workers=2, backoff_s=1.0)
    world.lose("w1")
    world.wait(0.1)
    world.start("w2")
    world.hear("w2", result([0], attempt=2, status=m.RETRY))
    world.hear("back", hello(m.WORKER, "w1"))
    world.said()
    world.hear("back", result([0], attempt=1))
    assert world.to(CLIENT) == [outcome(1, [0])]
    world.wait(3.0)
    assert world.row().state == "done"


def test_a_worker_that_joins_while_all_tasks_rest_gets_no_probe() -> None:
    world = failing()
    fail(world, 1)
    world.said()
    world.hear("w2", hello(m.WORKER, "w2"))
    assert world.said() == [fx.Send("w2", m.Welcome("s1", 7, ""))]


def test_results_of_all_kinds_in_one_message() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(4, spec=SPEC))
    assert world.start("w1", 4) == [0, 1, 2, 3]
    statuses = bytes([m.RETRY, m.SUCCEEDED, m.FAILED, m.TIMED_OUT])
    world.hear("w1", m.Result(1, "a", 0, [0, 1, 2, 3], [1] * 4, statuses, [5] * 4, [b"0", b"1", b"2", b"3"]))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.Send(CLIENT, m.Outcome(1, "a", 0, [1, 2, 3], statuses[1:], [b"1", b"2", b"3"])),
    ]
    row = world.row()
    assert (row.counts, row.resting) == ([1, 1, 1, 0, 0], 1)
