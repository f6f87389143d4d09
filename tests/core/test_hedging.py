"""Second attempts of slow tasks: who is given one, where, and what becomes of the other."""

from __future__ import annotations

import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.attempts import Attempt
from sparrowmq.core.hedging import FINISHED_MIN
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, World, hello, outcome, result, submit, task

AFTER = m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1)


def slow(spec: m.JobSpec = AFTER, tasks: int = 1, workers: int = 2) -> World:
    """All tasks run at w1, for longer than they may."""
    world = World(workers=workers)
    world.hear(CLIENT, submit(tasks, spec=spec))
    assert world.start("w1", tasks) == list(range(tasks))
    world.wait(0.2)
    return world


def twice(spec: m.JobSpec = AFTER) -> World:
    """The task runs at w1 and at w2."""
    world = slow(spec)
    world.said()
    world.hear("w2", m.Request(9, "a", 0, 2, 1))
    world.said()
    assert world.job().live(0)[0][:2] == ("w1", 1)
    assert world.job().live(0)[1][:2] == ("w2", 2)
    return world


def test_a_slow_task_gets_a_second_attempt_elsewhere_and_the_first_result_wins() -> None:
    world = slow()
    assert world.said() == [fx.Send("w2", m.Probe("a", 0, 2, 2))]  # ceil(d) of them, none at its own worker
    world.hear("w1", m.Request(8, "a", 0, 1, 1))  # its own worker does not get it
    assert world.said() == [fx.Send("w1", m.NoOp(8, 1))]
    world.hear("w2", m.Request(9, "a", 0, 2, 1))
    assert world.said() == [
        fx.Send("w2", task(9, [0], [2], spec=AFTER, round=2)),
        fx.Send("w2", m.Cancel("a", 0, 2)),
    ]
    assert (world.row().launched, world.row().hedges) == (1, 1)
    assert {worker.id: worker.launched for worker in world.machine.state.workers.values()} == {"w1": 1, "w2": 1}
    world.hear("w2", result([0], attempt=2))
    assert world.said() == [
        fx.Send("w2", m.ResultAck(1)),
        fx.Send(CLIENT, outcome(1, [0])),
        fx.Send("w1", m.Kill("a", 0, [0])),
    ]
    assert {worker.launched for worker in world.machine.state.workers.values()} == {0}
    world.hear("w1", result([0], attempt=1, status=m.CANCELLED))  # what is left of the first: nobody cares
    assert world.said() == [fx.Send("w1", m.ResultAck(1))]
    world.hear(CLIENT, m.OutcomeAck(1))
    invariants.check_rest(world.machine)


def test_the_first_attempt_may_win_too() -> None:
    world = twice()
    world.hear("w1", result([0], attempt=1))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.Send(CLIENT, outcome(1, [0])),
        fx.Send("w2", m.Kill("a", 0, [0])),
    ]
    [row] = world.ask(m.Query(1, "tasks", "a", [0])).tasks
    assert [(event.kind, event.attempt, event.worker) for event in row.events] == [
        ("submitted", 0, ""),
        ("launched", 1, "w1"),
        ("hedged", 2, "w2"),
        ("succeeded", 1, "w1"),
    ]


def test_a_task_gets_one_second_attempt_only() -> None:
    world = twice()
    world.wait(5.0)
    assert not [e for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Probe)]
    world.hear("w2", m.Returned(0, "a", 0, [0], [2], "late"))
    world.wait(0.5)
    assert not [e for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Probe)]
    assert world.job().live(0)[0][:2] == ("w1", 1)


@pytest.mark.parametrize("how", ["is lost", "gives it back", "forgets it", "fails"])
@pytest.mark.parametrize(("one", "attempt"), [("w1", 1), ("w2", 2)])
def test_when_one_attempt_is_over_without_a_result_the_other_goes_on(one: str, attempt: int, how: str) -> None:
    spec = m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, retries=1, backoff_s=9.0)
    world = twice(spec)
    if how == "is lost":
        world.lose(one)
        world.wait(0.06)
    elif how == "gives it back":
        world.hear(one, m.Returned(0, "a", 0, [0], [attempt], "slow"))
    elif how == "forgets it":
        world.lose(one)
        world.hear("new", hello(m.WORKER, one))
    else:
        world.hear(one, result([0], attempt=attempt, status=m.RETRY))
    assert not [e for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Probe | m.Kill)]
    other, number = ("w2", 2) if one == "w1" else ("w1", 1)
    assert [live[:2] for live in world.job().live(0)] == [(other, number)]
    assert world.row().retries == (how == "fails")
    world.hear(other, result([0], attempt=number))
    assert world.to(CLIENT) == [outcome(1, [0])]


def test_both_attempts_end_in_vain() -> None:
    world = twice(m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, max_attempts=2))
    for worker in ("w1", "w2"):
        world.lose(worker)
        world.wait(0.06)
    died, lost = world.to(CLIENT)
    assert died == m.Died("a", 0, [0], [1])
    assert isinstance(lost, m.Outcome)
    assert lost.statuses == bytes([m.LOST])


def test_a_task_is_not_lost_while_its_other_attempt_runs() -> None:
    world = World(workers=3)
    world.hear(CLIENT, submit(1, spec=m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, max_attempts=2)))
    world.start("w3")
    world.lose("w3")
    world.wait(0.06)
    world.start("w1")
    world.wait(0.2)
    assert world.start("w2") == [0]
    world.lose("w1")
    world.wait(0.06)
    assert world.job().deaths == {0: 2}
    world.said()
    world.hear("w2", result([0], attempt=3))
    assert world.to(CLIENT) == [outcome(1, [0])]


def test_both_attempts_fail() -> None:
    world = twice(m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, retries=1, backoff_s=9.0))
    world.hear("w2", result([0], attempt=2, status=m.RETRY))
    world.hear("w1", result([0], attempt=1, status=m.RETRY, payload=b"again"))
    assert world.to(CLIENT) == [outcome(1, [0], m.FAILED, b"again")]


def test_a_kill_reaches_both_and_waits_for_both() -> None:
    world = twice()
    world.hear(CLIENT, m.Kill("a", 0, [0], 2.0))
    kill = m.Kill("a", 0, [0], 2.0)
    assert world.said() == [fx.Send("w1", kill), fx.Send("w2", kill)]
    world.hear("w2", result([0], attempt=2, status=m.CANCELLED, payload=b""))
    assert world.said() == [fx.Send("w2", m.ResultAck(1))]
    world.hear("w1", result([0], attempt=1, status=m.CANCELLED, payload=b"interrupted"))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.Send(CLIENT, outcome(1, [0], m.CANCELLED, b"interrupted")),
    ]


def test_a_recall_cancels_when_both_have_given_it_back() -> None:
    world = twice()
    world.hear(CLIENT, m.Recall(5, "a", 0, [0]))
    assert world.said() == [fx.Send("w1", m.Recall(1, "a", 0, [0])), fx.Send("w2", m.Recall(1, "a", 0, [0]))]
    world.hear("w1", m.Returned(1, "a", 0, [0], [1]))
    assert world.said() == []
    world.hear("w2", m.Returned(1, "a", 0, [0], [2]))
    assert world.said() == [
        fx.Send(CLIENT, outcome(1, [0], m.CANCELLED, b"")),
        fx.Send(CLIENT, m.Returned(5, "a", 0, [0])),
    ]


def test_a_task_that_ends_before_its_second_attempt_leaves_no_reservations() -> None:
    world = slow()
    world.said()
    world.hear("w1", result([0]))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.Send(CLIENT, outcome(1, [0])),
        fx.Send("w2", m.Cancel("a", 0, 2)),
    ]


def test_a_killed_task_wants_no_second_attempt() -> None:
    world = slow()
    world.said()
    world.hear(CLIENT, m.Kill("a", 0, [0], 5.0))
    assert world.said() == [fx.Send("w1", m.Kill("a", 0, [0], 5.0)), fx.Send("w2", m.Cancel("a", 0, 2))]
    world.wait(1.5)
    assert not [e for e in world.said() if isinstance(e, fx.Send) and isinstance(e.message, m.Probe)]


def test_a_reservation_that_was_lost_is_replaced() -> None:
    world = slow(workers=3)
    world.said()
    for worker in ("w2", "w3"):
        world.hear(worker, m.Goodbye("leaving"))
        world.hear(f"new {worker}", hello(m.WORKER, worker, 2))
    world.said()
    world.wait(0.2)
    assert [type(message) for message in world.to("new w2")] == [m.Probe]
    assert world.job().reserved_total == 2


def test_one_answer_has_first_and_second_attempts() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(3, spec=AFTER))
    assert world.start("w1") == [0]
    world.wait(0.2)
    world.said()
    world.hear("w2", m.Request(4, "a", 0, 1, 3))
    [answer, *_] = world.to("w2")
    assert answer == task(4, [1, 2, 0], [1, 1, 2], spec=AFTER, round=1)


def test_reservations_at_its_own_worker_are_of_no_use() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2, spec=AFTER))
    world.start("w1")
    world.start("w1")
    world.hear("w1", result([1]))
    world.hear(CLIENT, submit(1, job="b"))
    world.hear("w2", hello(m.WORKER, "w2"))
    placer, worker = world.machine._placer, world.machine.state.workers["w1"]
    placer.reserved(world.job(), worker, 3)  # as if they were left over from a relaunch
    world.said()
    world.wait(0.2)
    assert m.Probe("a", 0, 2, 2) in world.to("w2")


def test_unplaced_tasks_keep_enough_reservations() -> None:
    world = World(workers=2)
    spec = m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, probe_ratio=1.0)
    world.hear(CLIENT, submit(4, spec=spec))
    assert world.start("w1") == [0]
    world.wait(0.2)
    assert world.job().needed == 4
    world.said()
    assert world.start("w2") == [0]
    assert world.job().reserved_total >= world.job().unplaced == 3


@pytest.mark.parametrize("policy", ["random", "batch", "per-task"])
def test_early_binding_hedges_by_reservation_too(policy: str) -> None:
    spec = m.JobSpec(kind=m.SLEEP, policy=policy, hedge_after_s=0.1)
    world = World(workers=1)
    world.hear(CLIENT, submit(1, spec=spec))
    if policy != "random":
        world.hear("w1", m.Load("a", 0, 1, 0, 0, 1))
    world.hear("w2", hello(m.WORKER, "w2"))
    world.said()
    world.wait(0.2)
    assert [message for message in world.to("w2") if isinstance(message, m.Probe)] != []
    assert world.start("w2") == [0]


def test_a_quantile_waits_for_ten_to_end() -> None:
    spec = m.JobSpec(kind=m.SLEEP, hedge_quantile=0.9)
    world = World(workers=2)
    tasks = FINISHED_MIN + 2
    world.hear(CLIENT, submit(tasks, spec=spec))
    assert world.start("w1", tasks) == list(range(tasks))
    for index in range(FINISHED_MIN - 1):
        world.hear("w1", result([index], seq=index + 1))
    world.wait(2.0)
    assert world.job().wanted == {}
    world.hear("w1", result([FINISHED_MIN - 1], seq=FINISHED_MIN))  # 1 ms, as all of them
    world.wait(0.1)
    assert list(world.job().wanted) == [tasks - 2, tasks - 1]
    assert world.job().slow == (FINISHED_MIN, pytest.approx(0.001))


@pytest.mark.parametrize(
    "spec",
    [
        m.JobSpec(kind=m.SLEEP),
        m.JobSpec(kind=m.SLEEP, hedge_after_s=0.1, max_attempts=1),  # at most once
    ],
)
def test_no_second_attempt_for_jobs_that_do_not_want_it(spec: m.JobSpec) -> None:
    world = slow(spec)
    world.said()
    world.wait(30.0)
    assert (world.job().wanted, world.job().hedges) == ({}, 0)
    assert not any(what[0] == "hedge" for _, _, what in world.machine.state.timers._heap)


def test_nothing_is_hedged_for_a_client_that_is_away() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1, spec=AFTER))
    world.start("w1")
    world.lose(CLIENT)
    world.wait(1.0)
    assert world.job().wanted == {}


def test_with_no_other_worker_nothing_happens_until_one_comes() -> None:
    world = slow(workers=1)
    assert [message for message in world.to("w1") if isinstance(message, m.Probe)] == []
    world.hear("w2", hello(m.WORKER, "w2"))
    world.said()
    world.wait(0.1)
    assert [type(message) for message in world.to("w2")] == [m.Probe]


def test_the_attempts_of_an_inventory_are_told_apart() -> None:
    world = twice()
    for worker, attempt in (("w1", 1), ("w2", 2)):
        world.lose(worker)
        world.hear(f"new {worker}", hello(m.WORKER, worker, held=[m.Held("a", 0, [0], [attempt])]))
    assert [live[:2] for live in world.job().live(0)] == [("w1", 1), ("w2", 2)]
    assert isinstance(world.job().live(0)[0], Attempt)
