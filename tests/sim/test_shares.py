"""The swarm's check of load hints: what it finds, and what it lets pass."""

from __future__ import annotations

import pytest

from sparrowmq.protocol import messages as m
from sparrowmq.sim.swarm import shares
from tests.support.scheduler import CLIENT, World, result, submit

ASSISTED = m.JobSpec(kind=m.SLEEP, policy="assisted", probe_ratio=2.0)


def loaded(**tasks: int) -> World:
    """A scheduler with one job, of which these workers have so many tasks each."""
    world = World(workers=len(tasks))
    world.hear(CLIENT, submit(sum(tasks.values()), spec=ASSISTED))
    for worker, count in tasks.items():
        assert len(world.start(worker, count)) == count
    world.now += 1.0
    return world


def test_a_worker_whose_tasks_end_after_a_round_in_the_same_event_is_not_missed_in_it() -> None:
    world = loaded(w1=4, w2=1, w3=1)
    world.hear("w1", m.Returned(0, "a", 0, [0], [1], "slow"), result([1, 2, 3]))
    effects = world.said()
    assert {effect.peer for effect in effects if isinstance(getattr(effect, "message", None), m.Probe)} == {"w2", "w3"}
    shares.check(world.machine, world.now, effects)


def test_a_worker_where_tasks_start_sooner_is_missed() -> None:
    world = loaded(w1=4, w2=1, w3=1, w4=2)
    world.hear("w1", m.Returned(0, "a", 0, [0], [1], "slow"))
    effects = world.said()
    shares.check(world.machine, world.now, effects)
    world.machine.state.workers["w4"].launched = 0
    with pytest.raises(AssertionError, match="leaves"):
        shares.check(world.machine, world.now, effects)
