"""The scheduler: events in, whole effect lists compared."""

from __future__ import annotations

import msgspec
import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, World, hello, outcome, result, submit, task

# -- hellos


def test_hellos_are_welcomed() -> None:
    world = World(client=False)
    world.hear("x", hello(m.WORKER, "w1"))
    world.hear("y", hello(m.CLIENT, "c1"))
    assert world.said() == [fx.Send("x", m.Welcome("s1", 7, "")), fx.Send("y", m.Welcome("s1", 7, ""))]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (m.Ping(1), "no_hello"),
        (msgspec.structs.replace(hello(m.WORKER, "w9"), protocol=99), "version"),
        (hello("king", "k"), "malformed"),
        (hello(m.WORKER, "w1", 0), "identity_conflict"),
        (hello(m.CLIENT, "c2"), "busy"),
    ],
)
def test_others_are_refused_by_name_and_closed(message: m.AnyMessage, code: str) -> None:
    world = World(workers=1, limits=SchedulerLimits(clients=1))
    world.hear("new", message)
    refused, closed = world.said()
    assert isinstance(refused, fx.Send)
    assert isinstance(refused.message, m.Refused)
    assert refused.message.code == code
    assert closed == fx.Close("new")
    assert world.machine.state.counters[f"refused_{code}"] == 1


@pytest.mark.parametrize(("peer", "message"), [(CLIENT, m.Request(1, "a", 0, 1, 1)), ("w1", submit())])
def test_a_message_of_the_wrong_role_ends_the_connection(peer: str, message: m.AnyMessage) -> None:
    world = World(workers=1)
    world.hear(peer, message)
    refused, closed = world.said()
    assert isinstance(refused, fx.Send)
    assert isinstance(refused.message, m.Refused)
    assert (refused.message.code, closed) == ("forbidden", fx.Close(peer))
    assert peer not in world.machine.state.peers


def test_a_second_hello_on_a_connection_is_refused() -> None:
    world = World(workers=1)
    world.hear("w1", hello(m.WORKER, "w1"))
    assert [type(effect) for effect in world.said()] == [fx.Send, fx.Close]
    assert world.machine.state.workers["w1"].peer is None


@pytest.mark.parametrize("first", [hello("king", "k"), hello(m.WORKER, "w1", 0), m.Ping(1)])
def test_who_is_refused_stays_so_whatever_else_it_has_said(first: m.AnyMessage) -> None:
    world = World(workers=1)
    world.hear("new", first, hello(m.WORKER, "w9"), hello(m.CLIENT, "c9"))
    refused, closed = world.said()
    assert isinstance(refused, fx.Send)
    assert isinstance(refused.message, m.Refused)
    assert closed == fx.Close("new")
    state = world.machine.state
    assert not {"w9", "c9"} & {*state.workers, *state.clients}
    world.hear("other", hello(m.WORKER, "w9"))
    assert world.said() == [fx.Send("other", m.Welcome("s1", 7, ""))]


def test_who_breaks_the_protocol_cannot_say_hello_again_in_the_same_breath() -> None:
    world = World(workers=1)
    world.hear("w1", submit(), hello(m.WORKER, "w1"), hello(m.ASSISTANT, "a1"))
    assert [type(effect) for effect in world.said()] == [fx.Send, fx.Close]
    assert world.machine.state.workers["w1"].peer is None
    assert world.machine.state.advisor is None


def test_a_new_connection_replaces_the_old_one() -> None:
    world = World(workers=1)
    world.hear("again", hello(m.WORKER, "w1"))
    assert world.said() == [fx.Close("w1"), fx.Send("again", m.Welcome("s1", 7, ""))]
    world.wait(1.0)
    assert world.machine.state.workers["w1"].peer == "again"


# -- late binding


def test_probes_requests_tasks_results_outcomes() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(2, function=b"f"))
    assert world.said() == [
        fx.Send(CLIENT, m.Accepted("a", 0, 2)),
        fx.Send("w1", m.Probe("a", 0, 1, 2)),
        fx.Send("w2", m.Probe("a", 0, 1, 2)),
    ]
    world.hear("w1", m.Request(11, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w1", task(11, [0], function=b"f", round=1))]
    world.hear("w1", m.Request(12, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w1", task(12, [1], round=1)), fx.Send("w2", m.Cancel("a", 0, 1))]
    world.hear("w2", m.Request(3, "a", 0, 1, 1))  # it had asked before the cancel came
    assert world.said() == [fx.Send("w2", m.NoOp(3, 1))]
    world.hear("w1", result([0, 1]))
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.Send(CLIENT, outcome(1, [0, 1]))]
    world.hear("w1", result([0, 1]))  # again: acknowledged, nothing else
    assert world.said() == [fx.Send("w1", m.ResultAck(1))]
    world.hear(CLIENT, m.OutcomeAck(1))
    invariants.check_rest(world.machine)
    world.hear(CLIENT, m.Query(1, "job", "a"))
    [status] = world.to(CLIENT)
    assert isinstance(status, m.Status)
    [row] = status.jobs
    assert (row.state, row.counts, row.probes, row.no_ops, row.cancels) == ("done", [2, 0, 0, 0, 0], 4, 1, 2)


def test_one_request_for_several_tasks_gets_tasks_and_no_ops() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.said()
    world.hear("w1", m.Request(1, "a", 0, 1, 4))
    assert world.said() == [fx.Send("w1", task(1, [0, 1], round=1)), fx.Send("w1", m.NoOp(1, 2))]


def test_the_last_reservation_of_a_worker_is_renewed_with_the_task() -> None:
    world = World(workers=3)
    world.hear(CLIENT, submit(3, spec=m.JobSpec(kind=m.SLEEP, probe_ratio=1.0)))
    world.said()
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    [sent] = world.to("w1")
    assert isinstance(sent, m.Task)
    assert (sent.indices, sent.renew, sent.round) == ([0], 1, 1)
    assert world.job().reserved == {"w1": 1, "w2": 1, "w3": 1}


def test_no_reservation_is_renewed_where_workers_are_left_that_the_job_has_not_reached() -> None:
    world = World(workers=4)
    world.hear(CLIENT, submit(3, spec=m.JobSpec(kind=m.SLEEP, probe_ratio=1.0)))
    probed = [effect.peer for effect in world.said() if isinstance(effect.message, m.Probe)]  # type: ignore[union-attr]
    world.hear(probed[0], m.Request(1, "a", 0, 1, 1))
    [sent] = world.to(probed[0])
    assert isinstance(sent, m.Task)
    assert (sent.indices, sent.renew) == ([0], 0)
    assert world.job().reserved == dict.fromkeys(probed[1:], 1)


def test_without_cancellation_reservations_end_as_no_ops() -> None:
    world = World(workers=2, cancellation=False)
    world.hear(CLIENT, submit(1))
    world.said()
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w1", task(1, [0], round=1))]
    world.hear("w2", m.Request(2, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w2", m.NoOp(2, 1))]
    world.hear("w1", result([0]))
    world.hear("w2", m.Request(3, "a", 0, 1, 1))
    assert world.said()[-1] == fx.Send("w2", m.NoOp(3, 1))


def test_a_request_for_an_unknown_job_or_epoch_is_answered_with_a_no_op() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.said()
    world.hear("w1", m.Request(1, "z", 0, 1, 3), m.Request(2, "a", 5, 1, 1))
    assert world.said() == [fx.Send("w1", m.NoOp(1, 3)), fx.Send("w1", m.NoOp(2, 1))]


def test_a_worker_whose_queue_is_full_is_left_alone_for_a_second() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.said()
    for _ in range(100):
        world.hear("w1", m.Returned(0, "a", 0, [], [], "full"))
    assert world.said() == []
    assert len(world.machine.state.timers) < 10
    world.wait(1.0)
    assert m.Probe("a", 0, 2, 2) in world.to("w1")


# -- early binding


def test_batch_places_by_the_loads_that_were_answered() -> None:
    world = World(workers=2)
    spec = m.JobSpec(kind=m.SLEEP, policy="BATCH")
    world.hear(CLIENT, submit(3, spec=spec))
    assert set(map(str, world.said()[1:])) == {str(fx.Send(worker, m.Probe("a", 0, 1, 0))) for worker in ("w1", "w2")}
    world.hear("w1", m.Load("a", 0, 1, 9, 1, 1))
    assert world.said() == []
    world.hear("w2", m.Load("a", 0, 1, 0, 0, 1))
    canonical = msgspec.structs.replace(spec, policy="batch")
    assert world.said() == [fx.Send("w2", task(0, [0, 1, 2], spec=canonical, round=1))]


def test_a_worker_that_does_not_answer_is_not_waited_for() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(2, spec=m.JobSpec(kind=m.SLEEP, policy="batch")))
    world.hear("w1", m.Load("a", 0, 1, 9, 1, 1))
    world.said()
    world.wait(0.3)
    assert [type(message) for message in world.to("w1")] == [m.Task]


@pytest.mark.parametrize("how", ["drains", "is lost"])
def test_no_task_goes_to_a_worker_that_leaves_after_its_load_came(how: str) -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(2, spec=m.JobSpec(kind=m.SLEEP, policy="batch")))
    world.hear("w1", m.Load("a", 0, 1, 0, 0, 1))
    world.said()
    if how == "drains":
        world.hear("w1", m.Goodbye("draining"))
    else:
        world.lose("w1")
    world.hear("w2", m.Load("a", 0, 1, 50, 1, 1))
    assert [(e.peer, e.message.indices) for e in world.said() if isinstance(e.message, m.Task)] == [("w2", [0, 1])]


# -- workers come back, or not


def test_an_inventory_settles_what_was_lost_on_the_way() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(4))
    world.hear("w1", m.Request(1, "a", 0, 1, 3))
    world.said()
    world.lose("w1")
    inventory = [m.Held("a", 0, [0], [1]), m.Held("z", 0, [5], [1])]
    reserved = [m.Reserved("a", 0, 1, 4), m.Reserved("z", 0, 2, 1)]
    world.hear("new", hello(m.WORKER, "w1", held=inventory, reserved=reserved))
    assert world.said() == [
        fx.Send("new", m.Welcome("s1", 7, "")),
        fx.Send("new", m.Cancel("z", 0, 2)),
        fx.Send("new", m.Probe("a", 0, 1, 2)),  # its share of the 3 that are unplaced is 6: 4 are there
    ]
    assert world.job().launched_on("w1") == [0]
    assert (world.job().unplaced, world.job().reserved) == (3, {"w1": 6})
    assert world.job().relaunches == 2


@pytest.mark.parametrize("claimed", [False, True])
def test_what_is_not_known_here_is_ended_unless_somebody_claims_it(claimed: bool) -> None:
    """It may be of this scheduler's former life, and the client on its way."""
    world = World(workers=1, client_lease_s=2.0, silent_after_s=60.0)
    world.hear("w2", hello(m.WORKER, "w2", held=[m.Held("a", 0, [0], [1])]))
    assert world.to("w2") == [m.Welcome("s1", 7, "")]
    if claimed:
        world.hear(CLIENT, submit(1, epoch=1))
    world.wait(2.1)
    kills = [message for message in world.to("w2") if isinstance(message, m.Kill)]
    assert kills == ([] if claimed else [m.Kill("a", 0)])


def test_two_attempts_of_a_task_in_an_inventory_are_told_apart() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1), m.Returned(0, "a", 0, [0], [1], "slow"), m.Request(2, "a", 0, 2, 1))
    assert world.job().attempts == [2]
    world.lose("w1")
    world.said()
    held = [m.Held("a", 0, [0, 0], [2, 1])]  # the first attempt has ended all the same, unacknowledged
    world.hear("new", hello(m.WORKER, "w1", held=held))
    assert world.job().launched_on("w1") == [0]


def test_an_inventory_cannot_claim_more_reservations_than_there_can_be() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    reserved = [m.Reserved("a", 0, k, 2**53) for k in range(4)]
    world.hear("w2", hello(m.WORKER, "w2", reserved=reserved))
    world.hear(CLIENT, m.Query(1, "workers"))
    [status] = [message for message in world.to(CLIENT) if isinstance(message, m.Status)]
    assert sum(row.reservations for row in status.workers) < 100


def test_a_lost_worker_has_a_grace_and_is_then_replaced() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.said()
    world.lose("w1")
    world.wait(0.009)
    assert world.said() == []
    world.wait(0.002)
    assert world.said() == [fx.Send(CLIENT, m.Died("a", 0, [0], [1])), fx.Send("w2", m.Probe("a", 0, 2, 2, True))]
    world.hear("w2", m.Request(1, "a", 0, 2, 1))
    assert world.to("w2") == [task(1, [0], [2], round=2), m.Cancel("a", 0, 2)]
    world.hear("w2", result([0], attempt=1))  # another worker had that one
    assert world.to(CLIENT) == []
    world.hear("w1 again", hello(m.WORKER, "w1", held=[m.Held("a", 0, [0], [1])]))
    world.hear("w1 again", result([0], attempt=1))  # of the first attempt, late: it was issued
    assert world.to(CLIENT) == [outcome(1, [0])]


def test_a_result_of_an_attempt_that_was_never_issued_does_not_count() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.said()
    world.hear("w1", result([0], attempt=2), result([0], attempt=0), result([7], attempt=1), result([0], epoch=3))
    assert world.said() == [fx.Send("w1", m.ResultAck(1))] * 4
    assert world.machine.state.counters["stale"] == 4


def test_a_result_counts_only_from_the_worker_that_was_given_its_attempt() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(2))
    assert world.start("w1", 2) == [0, 1]
    world.hear("w2", result([0, 1]))
    assert world.said() == [fx.Send("w2", m.ResultAck(1))]
    assert world.machine.state.counters["stale"] == 2
    world.hear("w1", result([0, 1]))
    assert world.to(CLIENT) == [outcome(1, [0, 1])]
    assert [(worker.launched, worker.done) for worker in world.machine.state.workers.values()] == [(0, 2), (0, 0)]


def test_a_killed_task_whose_worker_dies_is_cancelled_not_lost() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, spec=m.JobSpec(kind=m.SLEEP, max_attempts=1)))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.hear(CLIENT, m.Kill("a", 0))
    world.said()
    world.lose("w1")
    world.wait(0.1)
    assert world.to(CLIENT) == [outcome(1, [0], m.CANCELLED, b"killed")]


def test_a_kill_is_said_again_to_a_worker_that_comes_back() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.lose("w1")
    world.hear(CLIENT, m.Kill("a", 0))
    world.said()
    world.hear("new", hello(m.WORKER, "w1", held=[m.Held("a", 0, [0], [1])]))
    assert world.to("new") == [m.Welcome("s1", 7, ""), m.Kill("a", 0, [0])]


def test_a_killed_task_that_never_arrived_is_over() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.lose("w1")
    world.hear(CLIENT, m.Kill("a", 0))
    world.said()
    world.hear("new", hello(m.WORKER, "w1"))
    assert world.said() == [
        fx.Send("new", m.Welcome("s1", 7, "")),
        fx.Send(CLIENT, outcome(1, [0], m.CANCELLED, b"")),
    ]


def test_a_worker_that_joins_gets_its_share_and_no_more_when_it_comes_again() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(6))
    world.said()
    world.hear("w2", hello(m.WORKER, "w2"))
    assert world.to("w2") == [m.Welcome("s1", 7, ""), m.Probe("a", 0, 1, 6)]
    world.lose("w2")
    world.hear("again", hello(m.WORKER, "w2", reserved=[m.Reserved("a", 0, 1, 6)]))
    assert world.to("again") == [m.Welcome("s1", 7, "")]
    assert world.job().reserved == {"w1": 12, "w2": 6}


def test_a_worker_that_comes_without_its_reservations_gets_enough_for_all_tasks() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(10, spec=m.JobSpec(kind=m.SLEEP, probe_ratio=1.0)))
    world.said()
    world.lose("w1")
    world.hear("again", hello(m.WORKER, "w1"))
    assert world.job().reserved_total >= 10


def test_a_worker_that_drains_gets_nothing_more() -> None:
    world = World(workers=2)
    world.hear(CLIENT, submit(1))
    world.said()
    world.hear("w1", m.Goodbye("draining"), m.Request(1, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w1", m.NoOp(1, 1))]
    world.hear("w1", m.Goodbye("leaving"))
    assert world.said() == [fx.Close("w1")]
    assert list(world.machine.state.workers) == ["w2"]


def test_stale_ends_the_job_here_and_lets_the_client_know() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.said()
    world.hear("w1", m.Stale("a", 4))
    assert world.said() == [
        fx.Send(CLIENT, m.Stale("a", 4)),
        fx.Send("w1", m.Kill("a", 0)),
        fx.Send("w1", m.Cancel("a", 0, 1)),
    ]
    world.hear("w1", m.Stale("a", 4), m.Stale("z", 1))
    assert world.said() == []


# -- clients


def test_a_job_may_be_submitted_again() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.said()
    world.hear(CLIENT, submit(2))
    assert world.said() == [fx.Send(CLIENT, m.Accepted("a", 0, 1))]
    world.hear(CLIENT, submit(1, epoch=2, indices=[1]))
    assert world.said() == [
        fx.Send("w1", m.Cancel("a", 0, 1)),
        fx.Send(CLIENT, m.Accepted("a", 2, 1)),
        fx.Send("w1", m.Claim("a", 2)),
    ]
    world.hear("w1", m.Claimed("a", 2, [], []))
    assert world.said() == [fx.Send("w1", m.Probe("a", 2, 1, 2))]
    world.hear(CLIENT, submit(2, epoch=1))
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 2))]


def test_the_job_of_another_client_is_not_touched() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.hear("other", hello(m.CLIENT, "c2"))
    world.said()
    for epoch in (0, 5):
        world.hear("other", submit(2, epoch=epoch))
        [answer] = world.to("other")
        assert isinstance(answer, m.Rejected)
        assert (answer.code, answer.retry_after_s) == ("conflict", 0.0)
    world.hear("other", m.Recall(3, "a", 0, [0]))
    assert world.said() == [fx.Send("other", m.Returned(3, "a", 0, []))]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (submit(1, spec=m.JobSpec(kind=m.SLEEP, policy="psychic")), "invalid"),
        (submit(1, spec=m.JobSpec(kind=m.PYTHON)), "invalid"),
        (submit(50), "too_large"),
        (submit(8), "busy"),
    ],
)
def test_jobs_that_cannot_be_taken_are_rejected_by_name(message: m.Submit, code: str) -> None:
    world = World(workers=1, limits=SchedulerLimits(tasks=10))
    world.hear(CLIENT, submit(3, job="first"))
    world.said()
    world.hear(CLIENT, message)
    [answer] = world.to(CLIENT)
    assert isinstance(answer, m.Rejected)
    assert (answer.code, answer.retry_after_s > 0) == (code, code == "busy")
    assert "a" not in world.machine.state.jobs


def test_recall_cancels_what_waits_here_at_once() -> None:
    world = World()
    world.hear(CLIENT, submit(3))
    world.said()
    world.hear(CLIENT, m.Recall(9, "a", 0, [1, 2, 2, 99_999]))
    assert world.said() == [
        fx.Send(CLIENT, outcome(1, [1, 2], m.CANCELLED, b"")),
        fx.Send(CLIENT, m.Returned(9, "a", 0, [1, 2])),
    ]


def test_recall_waits_for_the_workers_and_tells_outcomes_first() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(3, spec=m.JobSpec(kind=m.SLEEP, policy="random")))
    world.said()
    world.hear(CLIENT, m.Recall(9, "a", 0, [1, 2]))
    assert world.said() == [fx.Send("w1", m.Recall(1, "a", 0, [1, 2]))]
    world.hear("w1", m.Returned(1, "z", 0, [2], [1], "recalled"))  # about another job: no answer
    assert world.said() == []
    world.hear("w1", m.Returned(1, "a", 0, [2], [1], "recalled"))
    assert world.said() == [
        fx.Send(CLIENT, outcome(1, [2], m.CANCELLED, b"")),
        fx.Send(CLIENT, m.Returned(9, "a", 0, [2])),
    ]


def test_a_recall_does_not_wait_for_a_worker_that_is_lost() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(3, spec=m.JobSpec(kind=m.SLEEP, policy="random")))
    world.hear(CLIENT, m.Recall(9, "a", 0, [1, 2]))
    world.said()
    world.lose("w1")
    assert world.said() == [fx.Send(CLIENT, m.Returned(9, "a", 0, []))]


def test_outcomes_are_said_again_until_they_are_acknowledged() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.hear("w1", m.Request(1, "a", 0, 1, 2), result([0]), result([1], seq=2))
    world.lose(CLIENT)
    world.said()
    world.hear("new", hello(m.CLIENT, "c1", jobs=["a"]))
    assert world.to("new") == [m.Welcome("s1", 7, "", ["a"]), outcome(1, [0]), outcome(2, [1])]
    world.hear("new", m.OutcomeAck(1))
    world.hear("newer", hello(m.CLIENT, "c1", jobs=["a"]))
    assert world.to("newer") == [m.Welcome("s1", 7, "", ["a"]), outcome(2, [1])]


def test_jobs_that_a_client_no_longer_wants_here_end() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.lose(CLIENT)
    world.said()
    world.hear("new", hello(m.CLIENT, "c1"))
    assert world.said() == [
        fx.Send("w1", m.Kill("a", 0)),
        fx.Send("w1", m.Cancel("a", 0, 1)),
        fx.Send("new", m.Welcome("s1", 7, "")),
    ]


def test_nothing_is_launched_for_a_client_that_is_away() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.lose(CLIENT)
    world.said()
    world.hear("w1", m.Request(1, "a", 0, 1, 2))
    assert world.said() == [fx.Send("w1", m.NoOp(1, 2))]
    world.hear("new", hello(m.CLIENT, "c1", jobs=["a"]))
    assert world.said() == [fx.Send("new", m.Welcome("s1", 7, "", ["a"])), fx.Send("new", m.Ping(1))]
    world.hear("w1", m.Request(2, "a", 0, 1, 1))  # what it sent before this scheduler stood still proves nothing
    assert world.said() == [fx.Send("w1", m.NoOp(2, 1))]
    world.hear("new", m.Pong(1))
    assert world.to("w1") == [m.Probe("a", 0, 2, 2)]


def test_credit_counts_outcomes_and_not_only_their_payloads() -> None:
    world = World(workers=1, limits=SchedulerLimits(client_credit_bytes=64))
    world.hear(CLIENT, submit(20))
    world.hear("w1", m.Request(1, "a", 0, 1, 4))
    for index in range(4):
        message = result([index], seq=index + 1)
        world.hear("w1", msgspec.structs.replace(message, payloads=[b""]))
    world.said()
    world.hear("w1", m.Request(2, "a", 0, 1, 1))
    assert world.said() == [fx.Send("w1", m.NoOp(2, 1))]
    world.hear(CLIENT, m.OutcomeAck(4))
    world.hear("w1", m.Request(3, "a", 0, 1, 1))
    assert [type(message) for message in world.to("w1")] == [m.Task]


def test_a_worker_that_joins_while_a_client_has_no_credit_is_used_when_it_has() -> None:
    world = World(workers=1, limits=SchedulerLimits(client_credit_bytes=1))
    world.hear(CLIENT, submit(3))
    world.hear("w1", m.Request(1, "a", 0, 1, 2), result([0]))
    world.lose("w1")
    world.hear("again", hello(m.WORKER, "w1"))  # it has forgotten everything
    world.said()
    world.hear(CLIENT, m.OutcomeAck(1))
    assert any(isinstance(message, m.Probe) for message in world.to("again"))


# -- liveness, status, drain


def test_workers_are_asked_whether_they_are_there() -> None:
    world = World(workers=1, silent_after_s=5.0)
    world.hear("w1", m.Pong(77))  # to no question: it says nothing about the round trip
    assert world.machine.state.workers["w1"].rtt_s == 0.0
    world.wait(1.0)
    [ping] = world.to("w1")
    assert isinstance(ping, m.Ping)
    world.now += 0.002
    world.hear("w1", m.Pong(ping.n))
    assert world.machine.state.workers["w1"].rtt_s == pytest.approx(0.002)
    world.wait(7.0)
    assert world.said()[-1] == fx.Close("w1")
    assert world.machine.state.workers == {}


def test_status_once_and_by_subscription() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.said()
    world.hear(CLIENT, m.Query(1, "jobs"), m.Query(2, "job", "a"), m.Query(3, "workers"), m.Query(4, "job", "zzz"))
    answers = [message for message in world.to(CLIENT) if isinstance(message, m.Status)]
    assert [(len(a.jobs), len(a.workers)) for a in answers] == [(1, 0), (1, 0), (0, 1), (0, 0)]
    assert answers[2].workers[0].reservations == 4

    world.hear(CLIENT, m.Subscribe(5, "jobs", 0.5))
    world.wait(2.25)
    assert len([s for s in world.to(CLIENT) if isinstance(s, m.Status)]) == 5
    for _ in range(1000):
        world.hear(CLIENT, m.Subscribe(5, "jobs", 0.0), m.Subscribe(5, "jobs", 86_400.0))
    assert len(world.machine.state.timers) < 10
    world.hear(CLIENT, m.Subscribe(5, "jobs", 0.0))
    world.wait(2.0)  # so many at once wait for their turns
    world.said()
    world.wait(2.0)
    assert not [s for s in world.to(CLIENT) if isinstance(s, m.Status)]


@pytest.mark.parametrize("how", ["goodbye", "lost"])
def test_a_subscription_ends_with_its_client(how: str) -> None:
    world = World()
    world.hear(CLIENT, m.Subscribe(5, "jobs", 0.5))
    if how == "goodbye":
        world.hear(CLIENT, m.Goodbye("leaving"))
    else:
        world.lose(CLIENT)
    world.said()
    world.wait(3.0)
    assert world.said() == []
    assert world.machine._statuses.subscriptions == {}


def test_a_drain_takes_nothing_new_and_ends_when_all_is_acknowledged() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    world.said()
    world.machine.drain(world.now, world.now + 30.0)
    world.hear(CLIENT, submit(1, job="b"))
    draining, rejected = world.to(CLIENT)
    assert draining == m.Goodbye("draining")
    assert isinstance(rejected, m.Rejected)
    assert rejected.code == "draining"
    world.hear("w1", result([0]))
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.Send(CLIENT, outcome(1, [0]))]
    world.hear(CLIENT, m.OutcomeAck(1))
    assert world.said() == [fx.Send(CLIENT, m.Goodbye("leaving")), fx.Exit("drained")]


def test_a_drain_ends_at_its_deadline() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    world.machine.drain(world.now, world.now + 2.5)
    world.said()
    world.wait(2.5)
    assert world.said()[-2:] == [
        fx.Send(CLIENT, m.Goodbye("leaving")),
        fx.Exit("the drain's deadline has passed"),
    ]
