"""The client session: events in, whole effect lists compared."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sparrowmq import limits
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings

A, B = {"s1": "at s1"}, {"s1": "at s1", "s2": "at s2"}
SPEC = m.JobSpec(kind=m.SLEEP)


def session(known: dict[str, str] = A, *, linked: bool = True, **settings: Any) -> Session:
    """A session that knows these schedulers, welcomed by the first that it tries."""
    machine = Session(id="c1", incarnation=3, rng=random.Random(1), settings=ClientSettings(**settings))
    machine.schedulers_changed(0.0, known)
    if linked:
        machine.receive(0.0, 1, m.Welcome(name(machine, 1), 7, "0"))
    machine.take_effects()
    return machine


def name(machine: Session, peer: int) -> str:
    return machine._links[peer].scheduler


def effects(machine: Session) -> list[fx.AnyEffect]:
    found = machine.take_effects()
    invariants.check(machine, found)
    return found


def submit(job: str = "a", tasks: int = 3, **fields: Any) -> m.Submit:
    return m.Submit(job, 0, SPEC, tasks, fields.pop("payloads", [b"x", b"y", b"z"][:tasks]), **fields)


def hello(*jobs: str, connection: int = 2) -> m.Hello:
    return m.Hello(m.PROTOCOL, "", m.CLIENT, "c1", 3, jobs=list(jobs), connection=connection)


def outcome(seq: int, indices: list[int], *, job: str = "a", epoch: int = 0, status: int = m.SUCCEEDED) -> m.Outcome:
    return m.Outcome(seq, job, epoch, indices, bytes([status] * len(indices)), [b"r%d" % i for i in indices])


def test_it_connects_to_a_known_scheduler_and_says_so_once_welcomed() -> None:
    machine = Session(id="c1", incarnation=3, rng=random.Random(1), settings=ClientSettings())
    machine.schedulers_changed(0.0, A)
    assert effects(machine) == [fx.Connect(1, "at s1"), fx.Send(1, hello(connection=1))]
    machine.receive(0.1, 1, m.Welcome("s1", 7, "0"))
    assert effects(machine) == [fx.Linked("s1")]


def test_a_job_is_sent_accepted_shown_and_acknowledged() -> None:
    machine = session()
    machine.submit(1.0, submit())
    assert effects(machine) == [fx.Send(1, submit())]
    machine.receive(1.1, 1, m.Accepted("a", 0, 5))
    machine.receive(1.1, 1, m.Accepted("a", 0, 5))
    assert effects(machine) == [fx.JobAccepted("a", 5)]
    machine.receive(1.2, 1, outcome(1, [2, 0]))
    machine.receive(1.3, 1, outcome(2, [0, 1]))  # task 0 again
    assert effects(machine) == [
        fx.Deliver("a", [2, 0], bytes(2), [b"r2", b"r0"]),
        fx.Deliver("a", [1], bytes(1), [b"r1"]),
        fx.Send(1, m.OutcomeAck(2)),
    ]
    assert machine.jobs == {}


def test_a_job_without_a_scheduler_waits_and_then_goes_out() -> None:
    machine = session(linked=False)
    machine.submit(1.0, submit())
    assert effects(machine) == []
    machine.receive(1.1, 1, m.Welcome("s1", 7, "0"))
    assert effects(machine) == [fx.Linked("s1"), fx.Send(1, submit())]


def test_after_a_reset_the_same_scheduler_keeps_what_it_has() -> None:
    machine = session(B)
    first = name(machine, 1)
    machine.submit(1.0, submit("a"))
    machine.submit(1.0, submit("b"))
    machine.take_effects()
    machine.lost(2.0, 1)
    assert effects(machine) == [
        fx.Linked("", f"the connection to {first} was lost"),
        fx.Connect(2, B[first]),
        fx.Send(2, hello("a", "b")),
    ]
    machine.receive(2.1, 2, m.Welcome(first, 7, "0", ["a"]))  # it never got b
    assert effects(machine) == [
        fx.Linked(first),
        fx.Send(2, m.Submit("b", 1, SPEC, 3, [b"x", b"y", b"z"], indices=[0, 1, 2])),
    ]


@pytest.mark.parametrize("fault", ["restarted", "other"])
def test_elsewhere_what_is_unfinished_is_submitted_under_a_higher_epoch(fault: str) -> None:
    machine = session(B)
    first = name(machine, 1)
    machine.submit(1.0, submit())
    machine.receive(1.1, 1, outcome(1, [1]))
    machine.take_effects()
    machine.lost(2.0, 1)
    peer = 2
    if fault == "other":
        machine.lost(2.0, 2)  # nobody is there any more
        peer = 3
    machine.take_effects()
    machine.receive(2.1, peer, m.Welcome(name(machine, peer), 8, "0", ["a"]))
    again = m.Submit("a", 1, SPEC, 2, [b"x", b"z"], indices=[0, 2])
    assert effects(machine) == [fx.Linked(name(machine, peer)), fx.Send(peer, again)]
    assert (name(machine, peer) == first) == (fault == "restarted")
    machine.receive(2.2, peer, outcome(1, [0], epoch=0))  # of the old epoch: acknowledged, not shown
    machine.receive(2.2, peer, outcome(2, [0, 2], epoch=1))
    assert effects(machine) == [
        fx.Deliver("a", [0, 2], bytes(2), [b"r0", b"r2"]),
        fx.Send(peer, m.OutcomeAck(2)),
    ]


def test_a_payload_that_all_tasks_share_is_sent_once_again() -> None:
    machine = session()
    machine.submit(1.0, submit(payloads=[b"same"]))
    machine.receive(1.0, 1, outcome(1, [0]))
    machine.lost(2.0, 1)
    machine.receive(2.1, 2, m.Welcome("s1", 8, "0"))
    [sent] = [e.message for e in effects(machine) if isinstance(e, fx.Send) and isinstance(e.message, m.Submit)][1:]
    assert sent == m.Submit("a", 1, SPEC, 2, [b"same"], indices=[1, 2])


def test_a_draining_scheduler_keeps_its_jobs_and_new_ones_go_to_the_next() -> None:
    machine = session(B)
    other = ({"s1", "s2"} - {name(machine, 1)}).pop()
    machine.submit(1.0, submit("a"))
    machine.take_effects()
    machine.receive(2.0, 1, m.Goodbye("draining"))
    assert effects(machine) == [fx.Connect(2, B[other]), fx.Send(2, hello())]
    machine.submit(2.1, submit("b"))
    machine.receive(2.2, 2, m.Welcome(other, 7, "0"))
    assert effects(machine) == [fx.Linked(other), fx.Send(2, submit("b"))]
    machine.receive(2.3, 1, outcome(1, [0, 1, 2]))
    assert effects(machine) == [
        fx.Deliver("a", [0, 1, 2], bytes(3), [b"r0", b"r1", b"r2"]),
        fx.Send(1, m.OutcomeAck(1)),
    ]


def test_a_draining_scheduler_is_not_connected_to_anew_even_if_known_by_another_name() -> None:
    machine = session({"tcp://box:1": "tcp://box:1"}, linked=False)
    machine.receive(0.1, 1, m.Welcome("scheduler-x", 7, "0"))
    assert effects(machine) == [fx.Linked("scheduler-x")]
    machine.receive(1.0, 1, m.Goodbye("draining"))
    assert effects(machine) == []
    deadline = machine.next_deadline()
    assert deadline is not None
    machine.tick(deadline)
    assert not any(isinstance(effect, fx.Connect) for effect in effects(machine))


def test_it_tries_every_scheduler_and_then_waits_longer_each_time() -> None:
    machine = session(B, linked=False)
    machine.lost(0.0, 1)
    assert effects(machine)[0] == fx.Connect(2, B[name(machine, 2)])
    waits = []
    now, peer = 0.0, 2
    for _ in range(6):
        machine.lost(now, peer)
        machine.take_effects()
        if not machine._asking():
            deadline = machine.next_deadline()
            assert deadline is not None
            while not machine._asking():
                deadline = machine.next_deadline()
                assert deadline is not None
                machine.tick(deadline)
            waits.append(round(deadline - now, 4))
            now = deadline
        peer = machine._last_peer
    assert waits == [0.01, 0.02, 0.04]


def test_refused_is_told_and_the_next_is_tried() -> None:
    machine = session(B, linked=False)
    first = name(machine, 1)
    machine.receive(0.1, 1, m.Refused("version", "upgrade"))
    told = effects(machine)
    assert told[:3] == [
        fx.Log("error", "refused", {"scheduler": first, "detail": "upgrade"}),
        fx.Linked("", f"{first} refused: upgrade"),
        fx.Close(1),
    ]
    assert isinstance(told[3], fx.Connect)
    assert name(machine, 2) != first


def test_a_silent_scheduler_is_left() -> None:
    machine = session(B, silent_after_s=3.0, ping_interval_s=1.0)
    first = name(machine, 1)
    machine.submit(0.5, submit())
    machine.take_effects()
    now = 0.0
    while now < 3.0:
        now += 1.0
        machine.tick(now)
    assert [e.message for e in machine.take_effects() if isinstance(e, fx.Send)] == [m.Ping(n) for n in (1, 2, 3)]
    machine.tick(4.0)
    told = effects(machine)
    assert told[:2] == [fx.Close(1), fx.Linked("", f"the connection to {first} was lost")]
    assert isinstance(told[2], fx.Connect)
    assert name(machine, 2) != first


def test_jobs_end_when_no_scheduler_is_found_for_long() -> None:
    machine = session(unavailable_after_s=3.0)
    machine.submit(0.0, submit())
    machine.lost(1.0, 1)
    machine.take_effects()
    machine.schedulers_changed(1.1, {})
    machine.lost(1.1, 2)
    machine.tick(4.0)
    assert effects(machine)[-1] == fx.JobEnded("a", "unavailable", "no scheduler could be reached for 3 s")
    assert machine.jobs == {}


def test_rejected_ends_the_job_unless_it_may_be_tried_again() -> None:
    machine = session()
    machine.submit(1.0, submit("a"))
    machine.submit(1.0, submit("b"))
    machine.take_effects()
    machine.receive(1.1, 1, m.Rejected("a", 0, "invalid", "because"))
    machine.receive(1.1, 1, m.Rejected("b", 0, "busy", "full", 0.5))
    assert effects(machine) == [fx.JobEnded("a", "invalid", "because")]
    machine.tick(1.6)
    assert effects(machine)[-1] == fx.Send(1, submit("b"))


def test_the_time_for_rejections_starts_with_the_first_of_them() -> None:
    machine = session(unavailable_after_s=5.0)
    machine.submit(0.0, submit())
    machine.receive(0.1, 1, m.Accepted("a", 0, 1))
    machine.take_effects()
    machine.lost(60.0, 1)
    machine.receive(60.0, 2, m.Welcome("s1", 8, "0"))
    machine.receive(60.1, 2, m.Rejected("a", 1, "busy", "full", 0.5))
    assert "a" in machine.jobs
    machine.tick(60.6)
    machine.receive(65.2, 2, m.Rejected("a", 1, "busy", "full", 0.5))
    assert effects(machine)[-1] == fx.JobEnded("a", "busy", "full")


def test_stale_is_answered_with_a_later_epoch() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.take_effects()
    machine.receive(1.1, 1, m.Stale("a", 4))
    assert effects(machine) == [
        fx.Send(1, m.Submit("a", 5, SPEC, 3, [b"x", b"y", b"z"], indices=[0, 1, 2])),
    ]
    machine.receive(1.2, 1, m.Stale("a", limits.INT_MAX))  # nobody could ever go past that
    assert effects(machine) == []


def test_a_second_welcome_means_nothing() -> None:
    machine = session(B)
    machine.receive(1.0, 1, m.Goodbye("draining"))
    machine.take_effects()
    machine.receive(1.1, 1, m.Welcome("s1", 7, "0"))
    assert effects(machine) == []
    assert machine._home is None


# -- recall and kill


def test_recall_asks_the_scheduler_and_passes_its_answer_on() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.receive(1.0, 1, outcome(1, [1]))
    machine.take_effects()
    machine.recall(2.0, 9, "a", [0, 1, 2, 77, -1])
    machine.receive(2.1, 1, outcome(2, [2], status=m.CANCELLED))
    machine.receive(2.1, 1, m.Returned(9, "a", 0, [2]))
    assert effects(machine) == [
        fx.Send(1, m.Recall(9, "a", 0, [0, 2])),
        fx.Deliver("a", [2], bytes([m.CANCELLED]), [b"r2"]),
        fx.Recalled(9, "a", [2]),
        fx.Send(1, m.OutcomeAck(2)),
    ]


def test_recall_of_what_is_over_or_unknown_is_answered_at_once() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.receive(1.0, 1, outcome(1, [1]))
    machine.take_effects()
    machine.recall(2.0, 9, "a", [1])
    machine.recall(2.0, 10, "z", [0])
    assert effects(machine) == [fx.Recalled(9, "a", []), fx.Recalled(10, "z", [])]


def test_recall_before_any_scheduler_has_the_job_cancels_at_once() -> None:
    machine = session(linked=False)
    machine.submit(1.0, submit())
    machine.recall(1.1, 9, "a", [0])
    assert effects(machine) == [fx.Deliver("a", [0], bytes([m.CANCELLED]), [b""]), fx.Recalled(9, "a", [0])]
    machine.receive(1.2, 1, m.Welcome("s1", 7, "0"))
    [_, sent] = effects(machine)
    assert sent == fx.Send(1, m.Submit("a", 0, SPEC, 2, [b"y", b"z"], indices=[1, 2]))


def test_recall_is_answered_when_the_connection_breaks_or_has_broken() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.recall(1.1, 9, "a", [0])
    machine.take_effects()
    machine.lost(1.2, 1)
    assert effects(machine)[0] == fx.Recalled(9, "a", [])
    machine.recall(1.3, 10, "a", [0])
    assert effects(machine) == [fx.Recalled(10, "a", [])]


def test_kill_names_only_what_is_open() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.receive(1.0, 1, outcome(1, [1]))
    machine.take_effects()
    machine.kill(2.0, "a", [1])  # it is over: nothing is to be ended, least of all the whole job
    assert effects(machine) == []
    machine.kill(2.0, "a", [0, 1])
    machine.kill(2.0, "a")
    machine.kill(2.0, "z")
    assert effects(machine) == [fx.Send(1, m.Kill("a", 0, [0])), fx.Send(1, m.Kill("a", 0))]


def test_a_kill_is_said_again_after_a_reset() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.kill(1.1, "a", [2])
    machine.lost(1.2, 1)
    machine.kill(1.3, "a", [0])
    machine.receive(1.4, 2, m.Welcome("s1", 7, "0", ["a"]))
    assert effects(machine)[-2:] == [fx.Linked("s1"), fx.Send(2, m.Kill("a", 0, [0, 2]))]


def test_killed_tasks_do_not_move() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.kill(1.1, "a", [2])
    machine.lost(1.2, 1)
    machine.receive(1.4, 2, m.Welcome("s1", 8, "0"))
    assert effects(machine)[-2:] == [
        fx.Deliver("a", [2], bytes([m.CANCELLED]), [b"killed"]),
        fx.Send(2, m.Submit("a", 1, SPEC, 2, [b"x", b"y"], indices=[0, 1])),
    ]


def test_a_job_that_was_killed_wholly_does_not_move_at_all() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.kill(1.1, "a")
    machine.lost(1.2, 1)
    machine.receive(1.4, 2, m.Welcome("s1", 8, "0"))
    assert effects(machine)[-2:] == [
        fx.Linked("s1"),
        fx.Deliver("a", [0, 1, 2], bytes([m.CANCELLED] * 3), [b"killed"] * 3),
    ]
    assert machine.jobs == {}


# -- questions


def test_questions_are_asked_again_after_a_fail_over() -> None:
    machine = session()
    machine.query(1.0, 1, "jobs")
    machine.subscribe(1.0, 2, "workers", 0.5)
    assert effects(machine) == [fx.Send(1, m.Query(1, "jobs")), fx.Send(1, m.Subscribe(2, "workers", 0.5))]
    machine.receive(1.1, 1, m.Status(1, "s1"))
    machine.receive(1.1, 1, m.Status(1, "s1"))
    machine.receive(1.1, 1, m.Status(2, "s1"))
    assert effects(machine) == [fx.Answer(1, m.Status(1, "s1")), fx.Answer(2, m.Status(2, "s1"))]
    machine.lost(1.2, 1)
    machine.take_effects()
    machine.receive(1.3, 2, m.Welcome("s1", 7, "0"))
    assert effects(machine) == [fx.Linked("s1"), fx.Send(2, m.Subscribe(2, "workers", 0.5))]
    machine.subscribe(1.4, 2, "workers", 0.0)
    assert effects(machine) == [fx.Send(2, m.Subscribe(2, "workers", 0.0))]
    machine.receive(1.5, 2, m.Status(2, "s1"))
    assert effects(machine) == []


def test_leaving_says_goodbye_and_nothing_more() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.take_effects()
    machine.leave(2.0)
    assert effects(machine) == [fx.Send(1, m.Goodbye("leaving")), fx.Close(1)]
    machine.schedulers_changed(2.1, B)
    machine.receive(2.1, 1, outcome(1, [0]))
    machine.tick(100.0)
    assert effects(machine) == []


# -- schedulers that an assistant has declared dead


def test_a_scheduler_that_was_declared_dead_and_does_not_answer_is_left() -> None:
    machine = session(B)
    home = name(machine, 1)
    machine.submit(1.0, submit())
    effects(machine)
    machine.schedulers_changed(2.0, B, {home: 7})
    assert effects(machine) == [fx.Send(1, m.Ping(1))]
    machine.tick(2.1)
    other = next(id for id in B if id != home)
    left = [effect for effect in effects(machine) if isinstance(effect, fx.Close | fx.Connect | fx.Send)]
    assert [e for e in left if not isinstance(getattr(e, "message", None), m.Ping)] == [
        fx.Close(1),
        fx.Connect(2, B[other]),
        fx.Send(2, hello("a")),
    ]


@pytest.mark.parametrize("why", ["it answers", "it was another incarnation"])
def test_a_scheduler_that_was_declared_dead_wrongly_is_kept(why: str) -> None:
    machine = session(B)
    home = name(machine, 1)
    machine.schedulers_changed(2.0, B, {home: 7 if why == "it answers" else 6})
    effects(machine)
    if why == "it answers":
        machine.receive(2.05, 1, m.Pong(1))
    machine.tick(2.2)
    assert not [effect for effect in effects(machine) if isinstance(effect, fx.Close)]


def test_a_scheduler_that_asks_is_answered() -> None:
    machine = session()
    machine.receive(1.0, 1, m.Ping(9))
    assert effects(machine) == [fx.Send(1, m.Pong(9))]


def test_deaths_go_with_the_job_to_the_next_scheduler() -> None:
    machine = session()
    machine.submit(1.0, submit())
    machine.receive(1.0, 1, m.Died("a", 0, [1, 9], [2, 1]))
    machine.receive(1.0, 1, outcome(1, [0]))
    machine.lost(1.1, 1)
    effects(machine)
    machine.receive(1.2, 2, m.Welcome("s1", 8, "0"))  # another process
    [resubmitted] = [e.message for e in effects(machine) if isinstance(e, fx.Send) and isinstance(e.message, m.Submit)]
    assert (resubmitted.epoch, resubmitted.indices, resubmitted.deaths) == (1, [1, 2], [2, 0])
