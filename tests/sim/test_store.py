"""The simulated store: beats that arrive, errors, hangs, an empty return, the lease, and assistants on top of it."""

from __future__ import annotations

import random

from sparrowmq.core import effects as fx
from sparrowmq.core.judge import ALIVE, DEAD
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.store import DOWN, HUNG, UP, Line, SimStore


def store() -> tuple[Engine, SimStore]:
    engine = Engine()
    return engine, SimStore(engine, random.Random(1), 0.001, encode=False)


def beat(number: int) -> Beat:
    return Beat("worker", "w", 1, number, 100)


def sequences(store: SimStore) -> list[int]:
    return [entry.what.sequence for entry in store.read((0, 0)) if isinstance(entry.what, Beat)]


def test_only_the_newest_beat_waits_for_the_one_on_its_way() -> None:
    engine, redis = store()
    line = Line()
    for number in range(1, 6):
        redis.deposit(line, beat(number))
    engine.run(0.1)
    assert sequences(redis) == [1, 5]


def test_beats_are_lost_while_it_is_down_and_one_waits_while_it_hangs() -> None:
    engine, redis = store()
    line = Line()
    for number, state in enumerate((UP, DOWN, DOWN, UP, HUNG, HUNG, HUNG, UP), 1):
        redis.turn(state)
        redis.deposit(line, beat(number))
        engine.run(0.1)
    assert sequences(redis) == [1, 4, 5, 7, 8]  # 6 was not the newest any more


def test_an_operation_is_answered_with_an_error_or_when_it_goes_on() -> None:
    engine, redis = store()
    answers: list[tuple[float, bool, object]] = []
    for state in (UP, DOWN, HUNG):
        redis.turn(state)
        redis.call(lambda: "x", lambda done, value: answers.append((round(engine.now, 1), done, value)))
        engine.run(0.1)
    redis.turn(UP)
    engine.run(0.1)
    assert [(done, value) for _, done, value in answers] == [(True, "x"), (False, None), (True, "x")]
    assert answers[2][0] >= 1000.3


def test_a_lease_lasts_while_it_is_renewed_and_each_term_is_higher_even_when_all_is_lost() -> None:
    engine, redis = store()
    first = redis.lease(("a", 1), 0.6, 5.0)
    assert first == 5000
    assert redis.lease(("b", 1), 0.6, 4.0) == 0
    engine.run(0.5)
    assert redis.lease(("a", 1), 0.6, 6.0) == first
    engine.run(0.5)
    assert redis.lease(("b", 1), 0.6, 4.0) == 0
    engine.run(0.2)
    assert redis.lease(("b", 1), 0.6, 4.0) == first + 1  # its clock is behind
    redis.empty()
    assert redis.lease(("a", 1), 0.6, 7.0) == 7000


def test_ids_never_fall_unless_the_stream_was_emptied() -> None:
    _, redis = store()
    before = redis.append(beat(1)).id
    redis.skew_s = -10.0
    after = redis.append(beat(2)).id
    assert after == (before[0], 1)
    redis.empty()
    assert redis.append(beat(3)).id < before


def watched(assistants: int = 1, **settings: object) -> Cluster:
    world = Cluster(
        3, beats=True, assistant=AssistantSettings(),
        scheduler=SchedulerSettings(silent_after_s=60.0), worker=WorkerSettings(silent_after_s=60.0),
    )  # fmt: skip
    world.add_scheduler()
    for _ in range(3):
        world.add_worker()
    world.add_client()
    for _ in range(assistants):
        world.add_assistant()
    world.run(2.0)
    return world


def states(world: Cluster, assistant: str = "assistant-1") -> dict[str, str]:
    return {node.beat.id: node.state for node in world.assistant(assistant).judge}


def test_a_worker_that_stands_still_is_declared_dead_and_its_task_runs_elsewhere() -> None:
    world = watched()
    assert set(states(world).values()) == {ALIVE}
    job = world.submit([1.0])
    world.run(0.1)
    ((_, worker, _, _),) = world.starts[job, 0]
    world.pause(worker)
    world.run(0.7)
    assert states(world)[worker] == DEAD
    assert worker not in world.scheduler().state.workers
    assert len(world.starts[job, 0]) == 2
    world.resume(worker)
    world.finish(10.0)
    assert set(states(world).values()) == {ALIVE}


def test_while_the_store_hangs_or_comes_back_empty_nobody_is_dead() -> None:
    world = watched()
    for state in (HUNG, DOWN):
        world.turn_store(state)
        if state == DOWN:
            world.empty_store()
        world.run(10.0)
        world.turn_store(UP)
        world.run(5.0)
    logs = [effect.event for _, _, effect in world.told if isinstance(effect, fx.Log)]
    assert not [event for event in logs if event.endswith(("is dead", "is suspect"))]
    assert set(states(world)) == {"scheduler-1", "worker-1", "worker-2", "worker-3"}


def test_the_next_assistant_leads_when_the_first_one_dies() -> None:
    world = watched(2)
    ((_, leader, term),) = world.store.terms
    other = next(id for id in ("assistant-1", "assistant-2") if id != leader)
    assert world.scheduler().state.term == world.assistant(leader).term == term
    assert world.assistant(other).term == 0
    world.crash(leader)
    world.run(1.0)
    assert world.assistant(other).term > term
    assert world.scheduler().state.term == world.assistant(other).term


def test_a_scheduler_that_stands_still_is_marked_in_the_registry_until_it_goes_on() -> None:
    world = watched()
    world.add_scheduler()
    world.run(1.0)
    world.pause("scheduler-1")
    world.run(1.0)
    assert world.store.records["scheduler-1"].dead
    assert world.client()._home is not None
    assert world.client()._home.scheduler == "scheduler-2"
    world.resume("scheduler-1")
    world.run(2.0)
    assert not world.store.records["scheduler-1"].dead
