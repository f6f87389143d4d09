"""Asking ahead: a slot that runs short tasks of many jobs is not left to idle for a round trip before each."""

from __future__ import annotations

import pytest

from sparrowmq.core.slots import RECENT_MIN
from sparrowmq.core.workplace import AHEAD_JOBS
from sparrowmq.protocol import messages as m
from tests.core.test_node_monitor import World, start, task


def settle_in(world: World, us: int) -> int:
    """Run enough jobs of one task each, that take ``us`` microseconds; return how many requests that took."""
    for number in range(1, RECENT_MIN + 1):
        world.hear(m.Probe(f"old{number}", 0, 1, 1))
        world.said()
        world.hear(task(number, [0], job=f"old{number}"))
        world.said()
        world.done(number, us=us)
        world.sent()
        world.hear(m.ResultAck(number))
    return RECENT_MIN


def requests(messages: list[m.AnyMessage]) -> list[tuple[int, str, int]]:
    return [(x.request, x.job, x.count) for x in messages if isinstance(x, m.Request)]


def test_jobs_of_one_task_are_asked_for_ahead_where_tasks_are_short() -> None:
    world = World()
    n = settle_in(world, us=10)
    world.hear(*(m.Probe(job, 0, 1, 1) for job in "bcd"))
    assert world.sent() == [m.Request(n + 1 + k, job, 0, 1, 1) for k, job in enumerate("bcd")]
    world.hear(task(n + 1, [0], job="b"), m.NoOp(n + 2, 1), task(n + 3, [0], job="d"))
    assert world.said() == [start(n + 1, [0], job="b"), start(n + 2, [0], job="d")]


def test_nothing_is_asked_for_ahead_where_tasks_are_long() -> None:
    world = World()
    n = settle_in(world, us=100_000)
    world.hear(*(m.Probe(job, 0, 1, 1) for job in "bcd"))
    assert requests(world.sent()) == [(n + 1, "b", 1)]


def test_nothing_is_asked_for_ahead_before_anything_is_known() -> None:
    world = World()
    world.hear(*(m.Probe(job, 0, 1, 1) for job in "bcd"))
    assert requests(world.sent()) == [(1, "b", 1)]


def test_one_long_task_among_the_last_ones_is_remembered() -> None:
    world = World()
    n = settle_in(world, us=10)
    world.hear(m.Probe("long", 0, 1, 1))
    world.said()
    world.hear(task(n + 1, [0], job="long"))
    world.said()
    world.done(n + 1, us=50_000)
    world.hear(m.Probe("b", 0, 1, 1), m.Probe("c", 0, 1, 1))
    assert requests(world.sent()) == [(n + 2, "b", 1)]


def test_a_job_that_nothing_is_known_of_gets_one_task_a_slot() -> None:
    world = World(slots=2)
    n = settle_in(world, us=10)
    world.hear(m.Probe("b", 0, 1, 9))
    assert requests(world.sent()) == [(n + 1, "b", 1), (n + 2, "b", 1)]
    world.hear(task(n + 1, [0], job="b"))
    assert requests(world.sent()) == []  # the rest may be long: it stays where others can have it


def test_what_waits_in_a_slot_is_bounded() -> None:
    world = World()
    settle_in(world, us=1)
    world.hear(*(m.Probe(f"job{k}", 0, 1, 1) for k in range(2 * AHEAD_JOBS)))
    assert 1 < len(requests(world.sent())) <= AHEAD_JOBS + 1


@pytest.mark.parametrize("long_first", [True, False])
def test_requests_of_many_jobs_are_queued_again_when_the_connection_breaks(long_first: bool) -> None:
    world = World()
    n = settle_in(world, us=10)
    world.hear(*(m.Probe(job, 0, 1, 1) for job in "bcd"))
    world.said()
    if long_first:
        world.hear(task(n + 1, [0], job="b"))
    world.machine.lost(world.now, 1)
    world.said()
    assert world.machine.place.waiting() == (2 if long_first else 3)
    assert not world.machine.place.slots[0].asked
