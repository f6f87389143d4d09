"""Jobs that move to another scheduler: what runs is adopted, what may have run is not repeated where that is asked."""

from __future__ import annotations

from sparrowmq.core import effects as fx
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings, WorkerSettings
from sparrowmq.sim.cluster import Cluster
from tests.support.scheduler import CLIENT, SPEC, World, hello, result, submit
from tests.support.sim import cluster, failure, runs, succeeded

ONCE = m.JobSpec(kind=m.SLEEP, at_most_once=True)


def claimed(indices: list[int], attempts: list[int], *, epoch: int = 1) -> m.Claimed:
    return m.Claimed("a", epoch, indices, attempts)


def test_nothing_is_placed_before_every_worker_has_answered() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(3, epoch=1))
    claim = m.Claim("a", 1)
    assert world.said() == [fx.Send(CLIENT, m.Accepted("a", 1, 2)), fx.Send("w1", claim), fx.Send("w2", claim)]
    world.hear("w1", claimed([2], [4]))
    assert world.said() == []
    world.hear("w2", claimed([], []))
    assert [e.message for e in world.said()] == [m.Probe("a", 1, 1, 2), m.Probe("a", 1, 1, 2)]  # two tasks are left
    world.hear("w1", result([2], epoch=1, attempt=4))
    [outcome] = world.to(CLIENT)[:1]
    assert outcome == m.Outcome(1, "a", 1, [2], b"\0", [b"r"])
    assert [(e.kind, e.attempt, e.worker) for e in world.machine.state.history.rows(world.job(), [2])[0].events] == [
        ("submitted", 0, ""),
        ("adopted", 4, "w1"),
        ("succeeded", 4, "w1"),
    ]


def test_an_adopted_task_is_launched_again_with_the_next_attempt() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, epoch=1))
    world.hear("w1", claimed([0], [4]))
    world.hear("w1", m.Returned(0, "a", 1, [0], [4], "crash"))
    assert world.start("w1") == [0]
    assert world.job().attempts == [5]


def test_who_does_not_answer_is_not_waited_for() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1, epoch=1))
    world.hear("w2", claimed([], []))
    world.said()
    world.wait(0.049)
    assert world.said() == []
    world.wait(0.002)
    assert world.said() == [fx.Send("w2", m.Probe("a", 1, 1, 2))]
    world.hear("w1", claimed([0], [1]))  # late, and still better than to run it again
    assert world.job().launched_on("w1") == [0]


def test_a_worker_that_dies_or_comes_while_it_is_asked() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, epoch=1))
    world.said()
    world.hear("w2", hello(m.WORKER, "w2"))
    assert m.Claim("a", 1) in world.to("w2")
    world.lose("w1")
    assert world.said() == []
    world.hear("w2", claimed([0], [1]))
    assert world.job().launched_on("w2") == [0]


def test_what_the_client_does_not_want_any_more_is_ended() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1, epoch=1, indices=[1]))
    world.said()
    world.hear("w1", claimed([0, 1, 7], [1, 2, 1]))
    assert world.to("w1") == [m.Kill("a", 1, [0, 7])]
    world.hear("w2", claimed([1], [1]))  # a hedge of the former scheduler: one is enough
    assert world.to("w2") == [m.Kill("a", 1, [1])]
    assert world.job().launched_on("w1") == [1]


def test_at_most_once_what_nobody_has_is_lost() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2, epoch=1, spec=ONCE))
    world.said()
    world.hear("w1", claimed([1], [1]))
    [outcome] = world.to(CLIENT)
    assert isinstance(outcome, m.Outcome)
    assert (outcome.indices, outcome.statuses) == ([0], bytes([m.LOST]))
    world.hear("w1", result([1], epoch=1))
    [outcome] = world.to(CLIENT)
    assert isinstance(outcome, m.Outcome)
    assert (outcome.indices, outcome.statuses) == ([1], bytes([m.SUCCEEDED]))


def test_at_most_once_a_task_of_a_dead_worker_is_lost_even_if_that_left_in_order() -> None:
    for last in (None, m.Goodbye("leaving")):
        world = World(workers=2)
        world.hear(CLIENT, submit(1, spec=ONCE))
        assert world.start("w1") == [0]
        world.hear("w1", last) if last is not None else world.lose("w1")
        world.wait(0.02)
        [outcome] = world.to(CLIENT)
        assert isinstance(outcome, m.Outcome)
        assert outcome.statuses == bytes([m.LOST])


def test_at_most_once_what_came_back_unstarted_is_launched_again() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, spec=ONCE))
    assert world.start("w1") == [0]
    world.hear("w1", m.Returned(0, "a", 0, [0], [1], "slow"))
    assert world.start("w1") == [0]


def test_deaths_are_counted_over_schedulers() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, epoch=1, spec=m.JobSpec(kind=m.SLEEP, max_attempts=3), deaths=[2]))
    world.hear("w1", claimed([], []))
    assert world.start("w1") == [0]
    world.lose("w1")
    world.wait(0.02)
    [outcome] = world.to(CLIENT)
    assert isinstance(outcome, m.Outcome)
    assert outcome.statuses == bytes([m.LOST])
    assert b"3 workers died under it (2 of them under a former scheduler)" in bytes(outcome.payloads[0])


# -- the worker's side


def monitor() -> NodeMonitor:
    machine = NodeMonitor(id="w1", incarnation=1, slots=1, settings=WorkerSettings(beat_interval_s=0.0))
    machine.start(1.0)
    machine.slot_ready(1.0, 0, 11)
    machine.schedulers_changed(1.0, {"s1": "one", "s2": "two"})
    for peer in (1, 2):
        machine.receive(1.0, peer, m.Welcome(f"s{peer}", 1, ""))
    machine.take_effects()
    return machine


def sent(machine: NodeMonitor) -> list[tuple[object, m.AnyMessage]]:
    return [(e.peer, e.message) for e in machine.take_effects() if isinstance(e, fx.Send)]


def test_a_claim_takes_what_runs_and_results_that_nobody_has_acknowledged() -> None:
    machine = monitor()
    machine.receive(1.0, 1, m.Probe("a", 0, 1, 2))
    machine.take_effects()
    machine.receive(1.0, 1, m.Task(1, "a", 0, SPEC, [0], [1], [b"p"]))
    machine.slot_results(1.1, 0, 1, b"\0", [5], [b"r"])
    machine.take_effects()
    machine.receive(1.1, 1, m.Task(2, "a", 0, SPEC, [1], [1], [b"p"]))
    machine.receive(1.1, 1, m.Probe("a", 0, 2, 5))  # waits, and is gone with its epoch
    machine.take_effects()
    machine.lost(1.2, 1)
    machine.receive(1.2, 2, m.Claim("a", 1))
    moved = m.Result(1, "a", 1, [0], [1], b"\0", [5], [b"r"])
    assert sent(machine) == [(2, m.Claimed("a", 1, [0, 1], [1, 1])), (2, moved)]
    assert machine.place.waiting() == 0
    machine.slot_results(1.3, 0, 2, b"\0", [6], [b"s"])
    assert sent(machine) == [(2, m.Result(2, "a", 1, [1], [1], b"\0", [6], [b"s"]))]


def test_a_claim_of_an_epoch_that_is_over_is_stale() -> None:
    machine = monitor()
    machine.receive(1.0, 1, m.Probe("a", 3, 1, 1))
    machine.take_effects()
    machine.receive(1.0, 2, m.Claim("a", 2))
    assert sent(machine) == [(2, m.Stale("a", 3))]


def test_what_is_being_killed_is_not_handed_over() -> None:
    """Its end would look like a cancellation that nobody asked for."""
    machine = monitor()
    machine.receive(1.0, 1, m.Probe("a", 0, 1, 1))
    machine.take_effects()
    machine.receive(1.0, 1, m.Task(1, "a", 0, SPEC, [0], [1], [b"p"]))
    machine.receive(1.0, 1, m.Kill("a", 0, [0], 5.0))
    machine.take_effects()
    machine.receive(1.1, 2, m.Claim("a", 1))
    assert sent(machine) == [(2, m.Claimed("a", 1, [], []))]
    machine.tick(6.1)
    assert fx.KillSlot(0) in machine.take_effects()


def test_what_was_claimed_is_out_of_reach_for_the_former_scheduler() -> None:
    machine = monitor()
    machine.receive(1.0, 1, m.Probe("a", 0, 1, 1))
    machine.take_effects()
    machine.receive(1.0, 1, m.Task(1, "a", 0, SPEC, [0], [1], [b"p"]))
    machine.receive(1.1, 2, m.Claim("a", 1))
    machine.take_effects()
    machine.receive(1.1, 1, m.Kill("a", 0))
    assert machine.take_effects() == []


# -- whole clusters


def lone(world: Cluster) -> str:
    home = world.client()._home
    assert home is not None
    return home.scheduler


def test_a_dead_scheduler_wastes_no_running_task() -> None:
    for eager in (False, True):
        world = cluster(workers=4, schedulers=2, scheduler=SchedulerSettings(eager=eager))
        job = world.submit([0.5] * 4 + [0.2] * 4)
        world.run(0.1)
        world.crash(lone(world))
        world.finish()
        assert succeeded(world, job)
        assert runs(world, job) == [1] * 8


def test_at_most_once_over_a_schedulers_death() -> None:
    world = cluster(workers=2, schedulers=2)
    job = world.submit([0.5] * 4, at_most_once=True)
    world.run(0.1)
    world.crash(lone(world))
    world.finish()
    assert world.history.statuses(job) == [m.SUCCEEDED, m.SUCCEEDED, m.LOST, m.LOST]
    assert runs(world, job) == [1, 1, 0, 0]
    assert "at most once" in failure(world, job, 2)[2]


def test_a_poison_task_is_lost_though_schedulers_die_in_between() -> None:
    world = cluster(workers=3, schedulers=2)
    job = world.submit([5.0], max_attempts=3)
    for k in range(3):
        world.run(0.5)
        [worker] = [id for at_s, id, epoch, attempt in world.starts[job, 0][-1:]]
        world.crash(worker)
        if k < 2:
            world.run(0.2)
            home = lone(world)
            world.crash(home)
            world.run(0.2)
            world.restart(home)
    world.finish()
    assert failure(world, job, 0)[:2] == (m.LOST, "TaskLost")
    assert len(world.starts[job, 0]) == 3


def test_a_scheduler_that_thaws_launches_nothing_of_clients_that_have_gone() -> None:
    world = cluster(workers=2, schedulers=2)
    job = world.submit([0.3] * 20)
    world.run(0.4)
    home = lone(world)
    world.pause(home)
    world.run(8.0, until=world.history.complete)  # the client has left it for its silence
    assert succeeded(world, job)
    launched = world.sent["Task"]
    world.resume(home)
    world.run(2.0)
    assert world.sent["Task"] == launched
    world.finish(rest_s=10.0)  # the lease of its client


def test_reservations_of_lost_tasks_go_ahead_of_others() -> None:
    machine = monitor()
    machine.receive(1.0, 1, m.Probe("a", 0, 1, 1))
    machine.take_effects()  # the only slot asks for it
    machine.receive(1.0, 1, m.Probe("b", 0, 1, 1))
    machine.receive(1.0, 2, m.Probe("c", 0, 1, 1, True))
    machine.receive(1.0, 1, m.NoOp(1, 1))
    assert sent(machine) == [(2, m.Request(2, "c", 0, 1, 1))]
