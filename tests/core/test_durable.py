"""Durable jobs at one scheduler: what is written before it is said, whose a job is, what a store that fails does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.keeping import Orphan
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, SPEC, World, hello, outcome, result, submit

DURABLE = msgspec.structs.replace(SPEC, durable=True)


def job(tasks: int = 2, **fields: Any) -> m.Submit:
    return submit(tasks, spec=DURABLE, **fields)


def chunk(seq: int, indices: list[int], status: int = m.SUCCEEDED, payload: bytes = b"r", epoch: int = 0) -> m.Outcome:
    return m.Outcome(seq, "a", epoch, indices, bytes([status] * len(indices)), [payload] * len(indices))


def accepted(tasks: int = 2, **settings: Any) -> World:
    """A scheduler with one worker that has accepted a durable job, and has left its reservations."""
    world = World(workers=1, durable=True, **settings)
    world.hear(CLIENT, job(tasks))
    world.machine.saved(world.now, 1)
    world.said()
    return world


def refused(code: str, detail: str, *, epoch: int = 0, retry_after_s: float = 0.0) -> fx.Send:
    return fx.Send(CLIENT, m.Rejected("a", epoch, code, detail, retry_after_s))


# -- accepting


def test_a_job_is_accepted_once_it_is_written() -> None:
    world = World(workers=1, durable=True)
    world.hear(CLIENT, job())
    assert world.said() == [fx.SaveJob(1, "c1", job(), 2, world.now)]
    world.hear(CLIENT, job())  # the same again is the same
    assert world.said() == []
    assert world.machine.state.jobs == {}
    world.machine.saved(world.now, 1)
    assert world.said() == [fx.Send(CLIENT, m.Accepted("a", 0, 1)), fx.Send("w1", m.Probe("a", 0, 1, 4))]


@pytest.mark.parametrize(("epoch", "retry_after_s"), [(0, 0.0), (3, 0.5)])
def test_what_cannot_be_written_is_refused(epoch: int, retry_after_s: float) -> None:
    world = World(workers=1, durable=True)
    world.hear(CLIENT, job(epoch=epoch))
    world.said()
    world.machine.saved(world.now, 1, "Redis does not answer")
    assert world.said() == [
        refused("store_unavailable", "Redis does not answer", epoch=epoch, retry_after_s=retry_after_s)
    ]
    assert world.machine.state.jobs == {}
    invariants.check_rest(world.machine)


def test_without_a_store_no_job_is_durable_and_that_is_said() -> None:
    world = World(workers=1)
    world.hear(CLIENT, job())
    detail = "s1 has no Redis (store.url) to keep a durable job in"
    assert world.said() == [refused("store_unavailable", detail)]
    world.hear(CLIENT, submit(detached=True))
    assert world.said()[0] == fx.Send(CLIENT, m.Accepted("a", 0, 1))


def test_a_detached_job_is_durable_where_there_is_a_store() -> None:
    world = World(workers=1, durable=True)
    world.hear(CLIENT, submit(1, detached=True), m.Goodbye("leaving"))
    assert [type(effect) for effect in world.said()] == [fx.SaveJob, fx.Close]
    world.machine.saved(world.now, 1)
    assert world.said() == [fx.Send("w1", m.Probe("a", 0, 1, 2))]
    assert world.start("w1") == [0]
    world.hear("w1", result([0]))
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.SaveOutcomes(2, chunk(1, [0]), True)]
    assert world.job().how == ""
    world.machine.saved(world.now, 2)
    assert world.said() == []
    assert world.job().how == "done"
    invariants.check_rest(world.machine)


def test_a_durable_job_has_a_limit_of_its_own() -> None:
    world = World(durable=True)
    size = limits.DURABLE_BYTES_MAX + 1
    world.hear(CLIENT, job(1, payloads=[m.Blob(b"", size)]))
    detail = f"{size:,} payload bytes in one durable job: the limit is {size - 1:,}; split the job"
    assert world.said() == [refused("too_large", detail)]


def test_only_so_many_wait_for_the_store() -> None:
    world = World(durable=True)
    half = m.Blob(b"", limits.DURABLE_BYTES_MAX)
    for k in range(5):
        world.hear(CLIENT, job(1, job=f"j{k}", payloads=[half]))
    *written, busy = world.said()
    assert [type(effect) for effect in written] == [fx.SaveJob] * 4
    assert (busy.message.job, busy.message.code) == ("j4", "busy")  # type: ignore[union-attr]


def test_a_scheduler_that_drains_meanwhile_gives_the_job_back() -> None:
    world = World(durable=True)
    world.hear(CLIENT, job(), job(job="b"))
    world.said()
    world.machine.drain(world.now, world.now + 9.0)
    world.said()
    world.machine.saved(world.now, 1)
    assert world.said() == [fx.ForgetJob("a", 0), refused("draining", "s1 is shutting down", retry_after_s=0.1)]


# -- telling


def test_outcomes_are_told_once_they_are_written_and_the_job_is_over_with_the_last() -> None:
    world = accepted()
    assert world.start("w1", 2) == [0, 1]
    world.hear("w1", result([0]), result([1], seq=2, status=m.FAILED))
    assert world.said() == [
        fx.Send("w1", m.ResultAck(1)),
        fx.SaveOutcomes(2, chunk(1, [0])),
        fx.Send("w1", m.ResultAck(2)),
        fx.SaveOutcomes(3, chunk(2, [1], m.FAILED), True),
    ]
    world.hear(CLIENT, m.Kill("a", 0))  # there is nothing left to kill
    assert world.said() == []
    assert world.row().state == "running"
    world.machine.saved(world.now, 2)
    assert world.said() == [fx.Send(CLIENT, outcome(1, [0]))]
    world.machine.saved(world.now, 3)
    assert world.said() == [fx.Send(CLIENT, outcome(2, [1], m.FAILED))]
    assert world.row().state == "done"
    world.hear(CLIENT, m.OutcomeAck(2))
    invariants.check_rest(world.machine)


def test_a_store_that_does_not_keep_up_stops_launches_not_more() -> None:
    world = accepted(3, limits=SchedulerLimits(client_credit_bytes=16))
    assert world.start("w1") == [0]
    world.hear("w1", result([0]))
    assert world.said()[1:] == [fx.SaveOutcomes(2, chunk(1, [0]))]
    assert world.start("w1") == []
    world.machine.saved(world.now, 2)
    assert fx.Send(CLIENT, outcome(1, [0])) in world.said()
    assert world.start("w1") == []  # and now it is the client that has no credit left
    world.hear(CLIENT, m.OutcomeAck(1))
    assert world.start("w1") == [1]


def test_a_store_that_has_lost_the_job_is_given_what_is_left() -> None:
    world = accepted(3)
    assert world.start("w1", 3) == [0, 1, 2]
    world.hear("w1", result([0]), result([1], seq=2))
    world.said()
    world.machine.saved(world.now, 2, "gone")
    world.machine.saved(world.now, 3, "gone")
    left = m.Submit("a", 0, DURABLE, 1, [b"p2"], b"", [2])
    assert world.said() == [
        fx.SaveJob(4, "c1", left, 3, world.now, patient=True),
        fx.SaveOutcomes(5, chunk(3, [0])),
        fx.SaveOutcomes(6, chunk(4, [1])),
    ]
    for token in (4, 5, 6):
        world.machine.saved(world.now, token)
    assert world.said() == [fx.Send(CLIENT, outcome(1, [0])), fx.Send(CLIENT, outcome(2, [1]))]


def test_what_is_written_again_does_not_count_as_said_before_what_came_meanwhile() -> None:
    """The swarm's seed 56: the store takes a number below the last for something that it has, and confirms it."""
    world = accepted(4)
    assert world.start("w1", 3) == [0, 1, 2]
    world.hear("w1", result([0]), result([1], seq=2))
    world.said()
    world.machine.saved(world.now, 2, "gone")
    world.hear("w1", result([2], seq=3))
    world.machine.saved(world.now, 3, "gone")
    numbers = [effect.outcome.seq for effect in world.said() if isinstance(effect, fx.SaveOutcomes)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3


def test_deaths_of_workers_are_counted_over_schedulers() -> None:
    world = accepted()
    assert world.start("w1") == [0]
    world.lose("w1")
    world.wait(0.1)
    assert fx.SaveOutcomes(2, m.Outcome(1, "a", 0, [], b"", []), deaths={0: 1}) in world.said()


def test_a_recall_is_answered_after_the_outcomes_that_it_promises() -> None:
    world = accepted(3)
    assert world.start("w1") == [0]
    world.hear(CLIENT, m.Recall(9, "a", 0, [1, 2]), m.Recall(10, "a", 0, [0]))
    assert world.said() == [
        fx.SaveOutcomes(2, chunk(1, [1, 2], m.CANCELLED, b"")),
        fx.Send("w1", m.Cancel("a", 0, 1)),
        fx.Send("w1", m.Recall(2, "a", 0, [0])),
    ]
    world.machine.saved(world.now, 2)
    assert world.said() == [
        fx.Send(CLIENT, outcome(1, [1, 2], m.CANCELLED, b"")),
        fx.Send(CLIENT, m.Returned(9, "a", 0, [1, 2])),
    ]
    world.hear("w1", m.Returned(2, "a", 0, [0], [1]))
    assert world.said() == [fx.SaveOutcomes(3, chunk(2, [0], m.CANCELLED, b""), True)]
    world.machine.saved(world.now, 3)
    assert world.to(CLIENT)[1:] == [m.Returned(10, "a", 0, [0])]
    assert world.job().how == "cancelled"


# -- clients that go


@pytest.mark.parametrize("how", ["leaves", "is lost", "is restarted"])
def test_a_durable_job_goes_on_without_its_client(how: str) -> None:
    world = accepted()
    assert world.start("w1") == [0]
    if how == "leaves":
        world.hear(CLIENT, m.Goodbye("leaving"))
    elif how == "is lost":
        world.lose(CLIENT)
        assert world.start("w1") == [1]  # it is not waited for
        for _ in range(4):
            world.wait(5.0)
            world.hear("w1", m.Pong(0))
        assert world.machine.state.clients == {}
        asked = m.Outcome(1, "a", 0, [], b"", [])  # whose the job is: nothing was heard of it for so long
        assert fx.SaveOutcomes(2, asked) in world.said()
        world.machine.saved(world.now, 2)
    else:
        world.hear("new", hello(m.CLIENT, "c1", 2))
    world.said()
    if how != "is lost":
        assert world.start("w1") == [1]
    world.hear("w1", result([0, 1]))
    n = 2 if how == "is lost" else 1
    assert world.said() == [fx.Send("w1", m.ResultAck(1)), fx.SaveOutcomes(n + 1, chunk(n, [0, 1]), True)]
    world.machine.saved(world.now, n + 1)
    assert world.said() == []
    assert (world.job().how, world.job().detached) == ("done", True)


def test_a_client_that_comes_back_submits_again_and_gets_what_it_has_missed() -> None:
    world = accepted(3)
    assert world.start("w1", 2) == [0, 1]
    world.lose(CLIENT)
    world.wait(0.1)
    world.hear("other", hello(m.CLIENT, "c1", jobs=[]))  # it has given the job up, or moved it
    assert world.job().detached
    world.hear("w1", result([0]))
    world.machine.saved(world.now, 2)
    world.said()
    world.hear("back", hello(m.CLIENT, "c1", connection=2, jobs=["a"]))
    assert world.to("back")[0] == m.Welcome("s1", 7, "", [])  # it is not on its list: it wants outcomes
    again = job(3, epoch=1)
    world.hear("back", again)
    assert world.said() == [fx.SaveJob(3, "c1", again, 3, world.now)]
    world.machine.saved(world.now, 3, "", 0, [chunk(1, [0])])
    assert world.said() == [
        fx.Send("w1", m.Cancel("a", 0, 1)),
        fx.Send("back", m.Accepted("a", 1, 1)),
        fx.Send("back", m.Outcome(1, "a", 1, [0], b"\0", [b"r"])),
        fx.Send("w1", m.Claim("a", 1)),
    ]
    world.hear("w1", m.Claimed("a", 1, [1], [1]))
    assert world.said() == [fx.Send("w1", m.Probe("a", 1, 1, 2))]
    assert world.start("w1", 2) == [2]


def test_a_job_of_which_all_was_written_is_over_at_once() -> None:
    world = World(durable=True)
    world.hear(CLIENT, job(2, epoch=1))
    world.said()
    world.machine.saved(world.now, 1, "", 0, [chunk(1, [1]), chunk(2, [0, 1], m.FAILED)])
    assert world.said() == [
        fx.Send(CLIENT, m.Accepted("a", 1, 0)),
        fx.Send(CLIENT, m.Outcome(1, "a", 1, [1], b"\0", [b"r"])),
        fx.Send(CLIENT, m.Outcome(2, "a", 1, [0], b"\1", [b"r"])),
        fx.SaveOutcomes(2, m.Outcome(1, "a", 1, [], b"", []), True),
    ]
    world.machine.saved(world.now, 2)
    assert world.job().how == "done"


# -- whose it is


def test_a_submission_that_another_scheduler_has_at_a_later_epoch_goes_past_it() -> None:
    world = World(durable=True)
    world.hear(CLIENT, job(epoch=1))
    world.said()
    world.machine.saved(world.now, 1, "fenced", 4)
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 4))]


def test_a_fenced_scheduler_lets_go_and_kills_nothing() -> None:
    world = accepted(3)
    assert world.start("w1") == [0]
    world.hear("w1", result([0]))
    assert world.start("w1") == [1]
    world.machine.saved(world.now, 2, "fenced", 1)
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 1)), fx.Send("w1", m.Cancel("a", 0, 1))]
    assert world.job().how == "cancelled"
    invariants.check_rest(world.machine)


def test_an_orphan_is_taken_over_with_what_runs_of_it() -> None:
    world = World(workers=2, durable=True)
    left = m.Submit("a", 1, SPEC, 2, [b"p1", b"p2"], b"", [1, 2], detached=True)
    world.machine.orphaned(world.now, [Orphan(left, "c9", -5.0)])
    assert world.said() == [fx.Send("w1", m.Claim("a", 1)), fx.Send("w2", m.Claim("a", 1))]
    world.hear("w1", m.Claimed("a", 1, [2], [1]))
    world.hear("w2", m.Claimed("a", 1, [], []))
    assert world.said() == [fx.Send("w1", m.Probe("a", 1, 1, 1)), fx.Send("w2", m.Probe("a", 1, 1, 1))]
    row = world.row()
    assert (row.client, row.epoch, row.detached, row.tasks, row.launched) == ("c9", 1, True, 2, 1)
    world.hear("w1", result([2], epoch=1))
    assert world.said()[1:] == [fx.SaveOutcomes(1, chunk(1, [2], epoch=1))]


@pytest.mark.parametrize("why", ["draining", "known"])
def test_an_orphan_is_given_back(why: str) -> None:
    world = accepted()
    if why == "draining":
        world.machine.drain(world.now, world.now + 9.0)
    world.said()
    late = m.Submit("a", 0, SPEC, 1, [b"p"], detached=True)
    world.machine.orphaned(world.now, [Orphan(late, "c9", 0.0)])
    assert world.said() == [fx.ForgetJob("a", 0)]


def test_a_client_that_comes_to_the_epoch_of_a_take_over_goes_past_it() -> None:
    """The swarm's seed 176: it was told that the job is accepted, and outcomes went to nobody."""
    world = World(workers=1, durable=True)
    world.machine.orphaned(world.now, [Orphan(job(2, epoch=1), "c1", 0.0)])
    world.said()
    world.hear(CLIENT, job(2, epoch=1))
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 1))]
    world.hear(CLIENT, job(2, epoch=2))
    world.machine.saved(world.now, 1)
    assert fx.Send(CLIENT, m.Accepted("a", 2, 1)) in world.said()
    assert not world.job().detached


def test_a_client_whose_job_is_taken_over_while_it_waits_to_be_written_goes_past_that_epoch() -> None:
    """The swarm: its submission was under way to the store, and then it was never answered."""
    world = World(workers=1, durable=True)
    world.hear(CLIENT, job(2, epoch=1))
    world.said()
    world.machine.orphaned(world.now, [Orphan(job(2, epoch=1), "c1", 0.0)])
    assert world.said() == [fx.Send("w1", m.Claim("a", 1))]
    world.machine.saved(world.now, 1)
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 1))]


def test_a_detached_job_that_is_taken_over_while_it_waits_to_be_written_is_accepted() -> None:
    world = World(workers=1, durable=True)
    world.hear(CLIENT, submit(2, epoch=1, detached=True))
    world.said()
    world.machine.orphaned(world.now, [Orphan(submit(2, epoch=1, detached=True), "c1", 0.0)])
    assert world.said() == [fx.Send("w1", m.Claim("a", 1))]
    world.machine.saved(world.now, 1)
    assert world.said() == [fx.Send(CLIENT, m.Accepted("a", 1, 1))]


def test_a_client_that_comes_to_an_epoch_in_which_its_job_has_ended_goes_past_it() -> None:
    """The swarm's seed 689: the store had lost it, and attempts of the same numbers were launched again."""
    world = World(workers=1, durable=True)
    world.machine.orphaned(world.now, [Orphan(job(1, epoch=1), "c1", 0.0)])
    world.hear("w1", m.Claimed("a", 1, [0], [1]), result([0], epoch=1))
    world.machine.saved(world.now, 1)
    world.said()
    world.hear(CLIENT, job(1, epoch=1))
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 1))]


def test_a_job_that_a_worker_knows_a_later_epoch_of_is_for_whoever_takes_it() -> None:
    """The swarm's seed 744: the store had lost that epoch and was given the earlier one, whose owner let the job go."""
    world = World(workers=1, durable=True)
    world.machine.orphaned(world.now, [Orphan(m.Submit("a", 3, SPEC, 1, [b"p"], detached=True), "c9", 0.0)])
    world.said()
    world.hear("w1", m.Stale("a", 4))
    assert fx.ForgetJob("a", 3) in world.said()
    assert world.machine.state.jobs == {}


def test_an_orphan_that_there_is_no_room_for_is_given_back() -> None:
    """The swarm's seed 178: several at once were more jobs than a scheduler may have."""
    world = World(workers=1, durable=True, limits=SchedulerLimits(jobs=2))
    orphans = [Orphan(m.Submit(job, 1, SPEC, 1, [b"p"], detached=True), "c9", 0.0) for job in "abc"]
    world.machine.orphaned(world.now, orphans)
    assert world.said()[-1:] == [fx.ForgetJob("c", 1)]
    assert list(world.machine.state.jobs) == ["a", "b"]


def test_orphans_are_for_schedulers_with_workers_and_room() -> None:
    assert not World(durable=True).machine.may_adopt()
    world = World(workers=1, durable=True, limits=SchedulerLimits(jobs=2))
    assert world.machine.may_adopt()
    world.hear(CLIENT, submit(1))
    assert not world.machine.may_adopt()


def test_after_a_stand_still_the_store_is_asked_before_anything_is_launched() -> None:
    world = accepted(3)
    assert world.start("w1") == [0]
    world.now += 60.0
    world.hear("w1", m.Pong(0))
    asked = [effect for effect in world.said() if isinstance(effect, fx.SaveOutcomes)]
    assert asked == [fx.SaveOutcomes(2, m.Outcome(1, "a", 0, [], b"", []))]
    world.hear("w1", m.Request(77, "a", 0, 1, 5))  # all reservations that are left: for nothing
    assert world.said() == [fx.Send("w1", m.NoOp(77, 5))]
    world.machine.saved(world.now, 2)
    assert world.said() == [fx.Send("w1", m.Probe("a", 0, 2, 4))]
    assert world.start("w1") == [1]


def test_a_job_that_was_taken_over_with_all_that_runs_of_it_is_let_go() -> None:
    world = accepted(1)
    assert world.start("w1") == [0]
    world.wait(2.5)
    world.machine.saved(world.now, 7)  # of no job
    assert not [effect for effect in world.said() if isinstance(effect, fx.SaveOutcomes)]
    world.hear("w1", m.Pong(0))
    world.wait(2.0)
    assert [effect for effect in world.said() if isinstance(effect, fx.SaveOutcomes)] == [
        fx.SaveOutcomes(2, m.Outcome(1, "a", 0, [], b"", []))
    ]
    world.machine.saved(world.now, 2, "fenced", 1)
    assert world.said() == [fx.Send(CLIENT, m.Stale("a", 1))]
    assert world.machine.state.jobs == {}


def test_after_a_stand_still_what_has_been_taken_over_is_not_launched() -> None:
    world = World(workers=1, durable=True)
    world.hear(CLIENT, submit(3, detached=True))
    world.machine.saved(world.now, 1)
    world.said()
    world.now += 60.0
    world.hear("w1", m.Request(1, "a", 0, 1, 1))
    assert fx.Send("w1", m.NoOp(1, 1)) in world.said()
    world.machine.saved(world.now, 2, "fenced", 1)
    assert world.said() == [fx.Send("w1", m.Cancel("a", 0, 1))]
    assert world.machine.state.jobs == {}


# -- whatever the store does


class Store:
    """What a store would hold, and its answers, given when the test says so; it can lose everything."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked: list[fx.SaveJob | fx.SaveOutcomes] = []
        self.known = False
        self.written: list[int] = []
        self.told: list[int] = []

    def take(self) -> None:
        """Take what the machine wants written, and hold what it tells against what is written."""
        for effect in self._world.said():
            if isinstance(effect, fx.SaveJob | fx.SaveOutcomes):
                self._asked.append(effect)
            elif isinstance(effect, fx.Send) and isinstance(effect.message, m.Outcome):
                assert set(effect.message.indices) <= set(self.written), "told before it was written"
                self.told += effect.message.indices
                self._world.hear(CLIENT, m.OutcomeAck(effect.message.seq))

    def answer(self) -> bool:
        """Carry out the first thing that is wanted; return whether there was one."""
        if not self._asked:
            return False
        effect = self._asked.pop(0)
        if isinstance(effect, fx.SaveJob):
            self.known = True
        elif self.known:
            self.written += effect.outcome.indices
        self._world.machine.saved(self._world.now, effect.token, "" if self.known else "gone")
        self.take()
        return True


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["answer", "answer", "lose", "run", "cancel", "stand still"]), max_size=30))
def test_whatever_the_store_does_every_outcome_is_told_once_and_written_before(steps: list[str]) -> None:
    world = World(workers=2, durable=True)
    store = Store(world)
    world.hear(CLIENT, job(6))
    store.take()
    sequence = 0

    def run() -> None:
        nonlocal sequence
        current = world.machine.state.jobs.get("a")
        if current is None:
            return
        world.hear("w1", m.Request(1, "a", 0, max(1, current.round), 1))
        store.take()
        for index in current.launched_on("w1")[:1]:
            sequence += 1
            world.hear("w1", result([index], seq=sequence, attempt=current.attempts[index]))
            store.take()

    for step in steps:
        if step == "answer":
            store.answer()
        elif step == "lose":
            store.known = False
        elif step == "run":
            run()
        elif step == "cancel":
            world.hear(CLIENT, m.Recall(5, "a", 0, [4]))
        else:
            world.now += 5.0
            world.hear("w1", m.Load("", 0, 0, 0, 0, 0))
            world.machine.tick(world.now)
            world.hear("w2", m.Load("", 0, 0, 0, 0, 0))
            world.hear(CLIENT, m.Pong(1))
        store.take()
    for _ in range(40):
        while store.answer():
            pass
        run()
    assert sorted(store.told) == list(range(6))
    assert world.job().how == "done"
    invariants.check_rest(world.machine)
