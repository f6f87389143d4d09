"""The node monitor: events in, whole effect lists compared."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sparrowmq import limits
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.workplace import STUCK_S
from sparrowmq.limits import WorkerLimits
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings

SPEC = m.JobSpec(kind=m.SLEEP)


class World:
    """A node monitor with slots up and schedulers s1, s2, ... connected as peers 1, 2, ... ."""

    def __init__(self, *, slots: int = 1, schedulers: int = 1, bounds: WorkerLimits | None = None, **settings: Any):
        self.now = 1.0
        self.machine = NodeMonitor(
            id="w1",
            incarnation=7,
            slots=slots,
            settings=WorkerSettings(limits=bounds or WorkerLimits(), beat_interval_s=0.0, **settings),
        )
        self.machine.start(self.now)
        self.addresses = {f"s{k}": f"at s{k}" for k in range(1, schedulers + 1)}
        self.machine.schedulers_changed(self.now, self.addresses)
        for slot in range(slots):
            self.machine.slot_ready(self.now, slot, 100 + slot)
        for peer in range(1, schedulers + 1):
            self.hear(m.Welcome(f"s{peer}", 1, "0"), peer=peer)
        self.said()

    def hear(self, *messages: m.AnyMessage, peer: int = 1) -> None:
        for message in messages:
            self.machine.receive(self.now, peer, message)

    def wait(self, for_s: float) -> None:
        end = self.now + for_s
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.machine.tick(self.now)
            self.machine._feed()
        self.now = end

    def said(self) -> list[fx.AnyEffect]:
        effects = self.machine.take_effects()
        invariants.check(self.machine, effects)
        return [effect for effect in effects if not isinstance(effect, fx.Log | fx.Look)]

    def sent(self) -> list[m.AnyMessage]:
        return [effect.message for effect in self.said() if isinstance(effect, fx.Send)]

    def done(self, first_seq: int, count: int = 1, *, us: int = 100, slot: int = 0) -> None:
        """The slot's process reports that these tasks have succeeded."""
        self.machine.slot_results(self.now, slot, first_seq, bytes(count), [us] * count, [b"r"] * count)

    def busy(self, *indices: int, request: int = 1, **fields: Any) -> None:
        """Have the slot run these tasks of job a, asked for one by one (as one batch if there are several)."""
        self.hear(m.Probe("a", 0, 1, 1))
        self.said()
        self.hear(task(request, list(indices), **fields))
        self.said()


def task(
    request: int, indices: list[int], *, job: str = "a", epoch: int = 0, attempt: int = 1, **fields: Any
) -> m.Task:
    payloads = [b"p%d" % index for index in indices]
    return m.Task(request, job, epoch, fields.pop("spec", SPEC), indices, [attempt] * len(indices), payloads, **fields)


def start(
    first_seq: int, indices: list[int], *, slot: int = 0, job: str = "a", spec: m.JobSpec = SPEC
) -> fx.StartTasks:
    payloads = [b"p%d" % index for index in indices]
    return fx.StartTasks(slot, first_seq, job, 0, spec, b"", payloads, indices, [1] * len(indices))


def result(seq: int, indices: list[int], status: int = 0, us: int = 100, payload: bytes = b"r") -> m.Result:
    n = len(indices)
    return m.Result(seq, "a", 0, indices, [1] * n, bytes([status] * n), [us] * n, [payload] * n)


def returned(indices: list[int], reason: str, *, request: int = 0, job: str = "a") -> m.Returned:
    return m.Returned(request, job, 0, indices, [1] * len(indices), reason)


def hello(**fields: Any) -> m.Hello:
    return m.Hello(m.PROTOCOL, "", m.WORKER, "w1", 7, slots=1, **{"connection": 2, **fields})


# -- connections


def test_it_says_hello_to_every_scheduler_and_is_quiet_until_welcomed() -> None:
    machine = NodeMonitor(id="w1", incarnation=7, slots=1, settings=WorkerSettings(beat_interval_s=0.0))
    machine.start(0.0)
    machine.schedulers_changed(0.0, {"s1": "at s1", "s2": "at s2"})
    assert machine.take_effects() == [
        fx.SpawnSlot(0),
        fx.Connect(1, "at s1"), fx.Send(1, hello(connection=1)),
        fx.Connect(2, "at s2"), fx.Send(2, hello()),
    ]  # fmt: skip
    machine.receive(0.1, 1, m.Probe("a", 0, 1, 1))
    machine.receive(0.1, 77, m.Probe("a", 0, 1, 1))
    assert machine.take_effects() == []
    assert machine.place.waiting() == 0
    machine.receive(0.1, 1, m.Welcome("s1", 1, "0"))
    assert machine.connected == 1


def test_a_scheduler_that_is_lost_is_tried_again_and_told_what_is_here() -> None:
    world = World()
    world.busy(3)
    world.hear(m.Probe("b", 2, 5, 4))
    world.machine.lost(world.now, 1)
    assert world.said() == []
    world.wait(0.006)
    assert world.said() == [
        fx.Connect(2, "at s1"),
        fx.Send(2, hello(reserved=[m.Reserved("b", 2, 5, 4)], held=[m.Held("a", 0, [3], [1])])),
    ]
    world.done(1)
    assert world.said() == []  # not welcomed yet
    world.hear(m.Welcome("s1", 1, "0"), peer=2)
    assert world.sent() == [result(1, [3]), m.Request(2, "b", 2, 5, 1)]


def test_an_inventory_has_one_row_for_each_job() -> None:
    world = World()
    for index in range(3):
        world.busy(index, request=index + 1)
        world.done(index + 1)
        world.said()
    world.machine.lost(world.now, 1)
    world.wait(0.006)
    [_, sent] = world.said()
    assert sent == fx.Send(2, hello(held=[m.Held("a", 0, [0, 1, 2], [1, 1, 1])]))


def test_tasks_that_are_given_back_while_a_hello_tells_of_them_are_given_back_after_the_welcome() -> None:
    """Swarm, seed 217: the scheduler believed for ever that they were here."""
    world = World()
    world.busy(0, 1, 2)
    world.machine.lost(world.now, 1)
    world.wait(0.006)
    [_, sent] = world.said()
    assert sent == fx.Send(2, hello(held=[m.Held("a", 0, [0, 1, 2], [1, 1, 1])]))
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 1)
    assert world.sent() == []
    world.hear(m.Welcome("s1", 1, "0"), peer=2)
    crashed, back = world.sent()
    assert (type(crashed), crashed.indices) == (m.Result, [0])
    assert back == returned([1, 2], "crash")
    world.machine.lost(world.now, 2)
    world.wait(0.1)
    assert [message.held for message in world.sent()] == [[m.Held("a", 0, [0], [1])]]
    world.hear(m.Welcome("s1", 1, "0"), peer=3)
    assert [type(message) for message in world.sent()] == [m.Result]  # said once


def test_requests_without_an_answer_are_queued_again_when_the_connection_breaks() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 3))
    assert world.sent() == [m.Request(1, "a", 0, 1, 1)]
    world.machine.lost(world.now, 1)
    world.wait(0.006)
    [_, sent] = world.said()
    assert sent == fx.Send(2, hello(reserved=[m.Reserved("a", 0, 1, 3)]))


def test_a_scheduler_is_forgotten_when_it_is_neither_listed_nor_there() -> None:
    world = World(scheduler_grace_s=5.0)
    world.hear(m.Probe("a", 0, 1, 3))
    world.machine.schedulers_changed(world.now, {})
    world.machine.lost(world.now, 1)
    for peer in range(2, 60):
        world.wait(0.2)
        world.machine.lost(world.now, peer)
        world.said()
    world.wait(1.5)
    world.said()
    assert world.machine.links == {}
    assert world.machine.place.waiting() == 0


def test_one_that_never_answered_and_is_delisted_is_forgotten_too() -> None:
    world = World(scheduler_grace_s=5.0)
    world.machine.schedulers_changed(world.now, {"s1": "at s1", "s9": "at s9"})
    world.said()
    never = world.machine.links["s9"]
    for attempt in range(30):  # refused, at once, each time
        if attempt == 4:
            world.machine.schedulers_changed(world.now, world.addresses)
        world.machine.lost(world.now, never.peer)
        world.hear(m.Ping(attempt))
        world.wait(1.1)
        world.said()
    assert list(world.machine.links) == ["s1"]


def test_a_scheduler_that_restarted_knows_nothing_of_what_waits() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 3))
    world.machine.lost(world.now, 1)
    world.wait(0.006)
    world.hear(m.Welcome("s1", 2, "0"), peer=2)
    world.said()
    assert world.machine.place.waiting() == 0


def test_refused_waits_longer() -> None:
    world = World(schedulers=0)
    world.machine.schedulers_changed(world.now, {"s1": "at s1"})
    world.said()
    world.hear(m.Refused("version", "upgrade"))
    assert world.said() == [fx.Close(1)]
    world.wait(4.9)
    assert world.said() == []
    world.wait(0.2)
    assert world.said() == [fx.Connect(2, "at s1"), fx.Send(2, hello())]


def test_a_silent_scheduler_is_left_and_tried_again() -> None:
    world = World(silent_after_s=5.0)
    world.hear(m.Ping(3))
    assert world.sent() == [m.Pong(3)]
    world.wait(6.5)
    assert [type(effect) for effect in world.said()] == [fx.Close, fx.Connect, fx.Send]


# -- reservations


def test_a_free_slot_asks_and_gets_a_task_or_a_no_op() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 2))
    assert world.said() == [fx.Send(1, m.Request(1, "a", 0, 1, 1))]
    world.hear(task(1, [4]))
    assert world.said() == [start(1, [4])]
    world.done(1)
    assert world.said() == [fx.Send(1, result(1, [4])), fx.Send(1, m.Request(2, "a", 0, 1, 1))]
    world.hear(m.NoOp(2, 1), m.ResultAck(1))
    assert world.said() == []
    invariants.check_rest(world.machine)


def test_jobs_wait_their_turn() -> None:
    world = World(slots=2)
    world.hear(m.Probe("a", 0, 1, 1), m.Probe("b", 0, 1, 2), m.Probe("c", 0, 1, 1))
    assert world.sent() == [m.Request(1, "a", 0, 1, 1), m.Request(2, "b", 0, 1, 1)]
    world.hear(m.NoOp(1, 1))
    assert world.sent() == [m.Request(3, "b", 0, 1, 1)]
    world.hear(m.NoOp(3, 1))
    assert world.sent() == [m.Request(4, "c", 0, 1, 1)]


def test_a_load_probe_is_answered_with_queue_running_and_slots() -> None:
    world = World(slots=2)
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 3), m.Probe("z", 0, 4, 0))
    assert world.sent()[0] == m.Load("z", 0, 4, 3, 1, 2)
    world.hear(m.Probe("b", 0, 1, 2**53), m.Probe("b", 0, 1, 2**53), m.Probe("z", 0, 5, 0))
    [load] = [message for message in world.sent() if isinstance(message, m.Load)]
    assert load.queued == limits.INT_MAX  # a number that every peer can read


def test_cancel_drops_reservations_up_to_its_round() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 3), m.Probe("b", 0, 2, 4), m.Probe("c", 0, 1, 1), m.Cancel("b", 0, 1))
    assert world.machine.place.waiting() == 5
    world.hear(m.Cancel("b", 1, 2))
    assert world.machine.place.waiting() == 1


def test_a_full_queue_says_so() -> None:
    world = World(bounds=WorkerLimits(queue_entries=1, queued_tasks=2))
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 3), m.Probe("c", 0, 1, 3), task(0, [1], job="d"))
    assert world.sent() == [m.Returned(0, "c", 0, [], [], "full"), returned([1], "full", job="d")]


def test_renewed_reservations_join_the_tail() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 1), m.Probe("b", 0, 1, 1))
    world.said()
    world.hear(task(1, [0], renew=2, round=3))
    world.done(1)
    assert world.sent()[1:] == [m.Request(2, "b", 0, 1, 1)]
    assert world.machine.place.reserved_by("s1") == [m.Reserved("a", 0, 3, 2)]


def test_a_silent_schedulers_requests_are_not_waited_for() -> None:
    world = World(schedulers=2, request_timeout_s=1.0)
    world.hear(m.Probe("a", 0, 1, 3))
    assert world.sent() == [m.Request(1, "a", 0, 1, 1)]
    world.now += 0.5
    world.hear(m.Probe("b", 0, 1, 1), peer=2)
    world.wait(0.6)
    assert world.said() == [fx.Send(2, m.Request(2, "b", 0, 1, 1))]
    world.hear(m.NoOp(2, 1), peer=2)
    assert world.said() == []  # two more of a, but who would answer?
    world.hear(m.Ping(1))
    assert world.sent() == [m.Pong(1), m.Request(3, "a", 0, 1, 1)]
    world.hear(task(1, [5]))  # the answer to the first request, at last: the slot is taken
    assert world.sent() == [returned([5], "late")]


def test_an_answer_that_comes_late_goes_to_an_idle_slot() -> None:
    world = World(slots=2)
    world.hear(m.Probe("a", 0, 1, 1))
    world.said()
    world.machine.slot_exited(world.now, 0, "killed", 0)
    world.hear(task(1, [5]))
    assert world.said() == [start(1, [5], slot=1)]


def test_nothing_is_asked_for_while_too_many_results_wait() -> None:
    world = World(bounds=WorkerLimits(unacked_bytes=10))
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 1))
    world.done(1)
    assert world.sent() == [result(1, [0])]
    world.hear(m.ResultAck(1))
    assert world.sent() == [m.Request(2, "b", 0, 1, 1)]


# -- pushed tasks


def test_pushed_tasks_wait_and_run_in_order() -> None:
    world = World()
    world.hear(task(0, [0, 1]), task(0, [2]))
    assert world.said() == [start(1, [0])]
    world.done(1, us=1_000_000)
    assert world.said() == [fx.Send(1, result(1, [0], us=1_000_000)), start(2, [1])]
    world.done(2, us=1_000_000)
    assert world.said()[1:] == [start(3, [2])]


def test_recall_gives_back_what_waits_and_keeps_the_order_of_the_rest() -> None:
    world = World()
    world.hear(task(0, [0]), task(0, [1], job="x"), task(0, [2, 3, 4]))
    world.said()
    world.hear(m.Recall(9, "a", 0, [0, 3, 77]))
    assert world.sent() == [returned([3], "recalled", request=9)]
    for seq, (job, index) in enumerate([("x", 1), ("a", 2), ("a", 4)], start=2):
        world.done(seq - 1, us=1_000_000)
        assert [e for e in world.said() if isinstance(e, fx.StartTasks)] == [start(seq, [index], job=job)]


def test_recall_of_what_runs_is_too_late() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Recall(9, "a", 0, [0]), m.Recall(10, "z", 0, [0]))
    assert world.sent() == [m.Returned(9, "a", 0, [], []), m.Returned(10, "z", 0, [], [])]


# -- functions and epochs


def test_a_function_is_kept_for_its_job_and_asked_for_when_it_is_gone() -> None:
    world = World(bounds=WorkerLimits(functions=1))
    spec = m.JobSpec(kind=m.PYTHON)
    world.busy(0, spec=spec, function=b"f")
    world.done(1, us=1_000_000)
    world.said()
    world.busy(1, request=2, spec=spec)
    world.done(2, us=1_000_000)
    world.hear(task(0, [5], job="b", spec=spec, function=b"g"))
    world.said()
    world.done(3, us=1_000_000)
    world.said()
    world.hear(m.Probe("a", 0, 1, 1))
    world.said()
    world.hear(task(3, [2], spec=spec, renew=1, round=1))
    assert world.sent() == [returned([2], "function"), m.Request(4, "a", 0, 1, 1)], "the renewed reservation counts"


def test_an_epoch_that_is_over_is_answered_and_frees_the_slot() -> None:
    world = World(schedulers=2)
    world.hear(m.Probe("a", 0, 1, 1))
    assert world.sent() == [m.Request(1, "a", 0, 1, 1)]
    world.hear(m.Probe("a", 1, 1, 1), peer=2)
    world.hear(task(1, [0]))
    assert world.said() == [fx.Send(1, m.Stale("a", 1)), fx.Send(2, m.Request(2, "a", 1, 1, 1))]
    world.hear(m.Probe("a", 0, 1, 1))
    assert world.sent() == [m.Stale("a", 1)]


def test_a_new_epoch_removes_what_waits_of_older_ones() -> None:
    world = World(schedulers=2)
    world.busy(0, job="x")
    world.hear(m.Probe("a", 0, 1, 5))
    world.hear(m.Probe("a", 1, 1, 2), peer=2)
    assert world.machine.place.waiting() == 2


# -- slots


def test_short_tasks_are_asked_for_in_growing_numbers_and_ahead() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 100))
    world.said()
    windows = []
    seq, request = 1, 1
    for _ in range(6):
        n = world.machine.links["s1"].requests[request].count
        windows.append(n)
        world.now += 0.001
        world.hear(task(request, list(range(n))))
        world.said()
        world.done(seq, n, us=5)
        seq += n
        request += 1
        world.said()
    assert windows[0] == 1
    assert windows == sorted(windows)
    assert windows[-1] > 4


def test_the_guilty_task_is_the_one_that_ran_and_the_rest_goes_back() -> None:
    world = World()
    world.busy(0, 1, 2, 3)
    world.done(1)
    world.machine.slot_exited(world.now, 0, "killed by signal 11", 2)
    told = world.said()
    payload = told[1].message.payloads[0]  # type: ignore[union-attr]
    assert msgspec.msgpack.decode(payload)["message"] == (
        "the task's process ended without a result: killed by signal 11"
    )
    assert told == [
        fx.Send(1, result(1, [0])),
        fx.Send(1, result(2, [1], m.FAILED, us=0, payload=payload)),
        fx.Send(1, returned([2, 3], "crash")),
    ]
    world.wait(0.0)
    assert world.said() == [fx.SpawnSlot(0)]


def test_a_slot_that_keeps_ending_by_itself_is_started_less_and_less_often() -> None:
    world = World()
    waits = []
    for _ in range(6):
        world.machine.slot_exited(world.now, 0, "could not be forked", 0)
        world.said()
        deadline = min(when for when, _, what in world.machine._timers._heap if what[0] == "respawn")
        waits.append(round(deadline - world.now, 3))
        world.wait(waits[-1])
        assert fx.SpawnSlot(0) in world.said()
    assert waits == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6]


def test_a_batch_without_progress_gives_its_rest_back() -> None:
    world = World()
    world.busy(0, 1, 2)
    world.wait(STUCK_S)
    assert world.said() == [fx.ReclaimSlot(0)]
    world.machine.slot_reclaimed(world.now, 0, 1)
    assert world.sent() == [returned([1, 2], "slow")]
    world.done(1)
    assert world.sent() == [result(1, [0])]


def test_nothing_is_handed_to_a_slot_that_is_being_reclaimed() -> None:
    """Its answer concerns all that it was handed: what came later would run and be given back."""
    world = World()
    world.busy(0, 1, 2)
    world.hear(m.Probe("b", 0, 1, 1))
    world.machine._request(world.machine.links["s1"], 0, world.machine.place.queue.entries[0], 1)  # asked ahead
    world.said()
    world.wait(STUCK_S)
    assert fx.ReclaimSlot(0) in world.said()
    world.hear(task(2, [7], job="b"))
    assert world.sent() == [returned([7], "late", job="b")]
    world.machine.slot_reclaimed(world.now, 0, 1)
    assert world.sent() == [returned([1, 2], "slow")]


def test_recall_and_kill_reach_into_a_batch() -> None:
    world = World()
    world.busy(0, 1, 2, 3)
    world.hear(m.Recall(9, "a", 0, [0, 2]), m.Kill("a", 0, [3]))
    assert world.said() == [fx.ReclaimSlot(0)]
    world.machine.slot_reclaimed(world.now, 0, 1)
    assert world.sent() == [
        result(1, [3], m.CANCELLED, us=0, payload=b""),
        returned([1], "slow"),
        returned([2], "recalled", request=9),
    ]


def test_recall_and_kill_count_when_the_slot_ends_meanwhile() -> None:
    world = World()
    world.busy(0, 1, 2, 3)
    world.hear(m.Recall(9, "a", 0, [2]), m.Kill("a", 0, [3]))
    world.said()
    world.machine.slot_exited(world.now, 0, "killed", 0)
    assert world.sent() == [
        result(1, [3], m.CANCELLED, us=0, payload=b""),
        returned([0, 1], "crash"),
        returned([2], "recalled", request=9),
    ]


def test_kill_ends_what_runs_and_what_waits() -> None:
    world = World()
    world.hear(task(0, [0]), task(0, [1, 2]), task(0, [9], job="b"))
    world.said()
    world.hear(m.Kill("a", 0))
    assert world.said() == [
        fx.Send(1, m.Result(1, "a", 0, [1, 2], [1, 1], bytes([m.CANCELLED] * 2), [0, 0], [b"", b""])),
        fx.KillSlot(0),
    ]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 1)
    [cancelled] = world.sent()
    assert isinstance(cancelled, m.Result)
    assert (cancelled.indices, cancelled.statuses, cancelled.payloads) == ([0], bytes([m.CANCELLED]), [b"killed"])
    assert world.machine.place.waiting() == 1  # job b


def test_kill_of_the_running_task_of_a_batch_waits_until_the_rest_is_safe() -> None:
    world = World()
    world.busy(0, 1)
    world.hear(m.Kill("a", 0, [0]))
    assert world.said() == [fx.ReclaimSlot(0)]
    world.machine.slot_reclaimed(world.now, 0, 1)
    assert world.said() == [fx.Send(1, returned([1], "slow")), fx.KillSlot(0)]


def test_a_timeout_ends_the_task() -> None:
    world = World()
    world.busy(0, spec=m.JobSpec(kind=m.SLEEP, timeout_s=2.5))
    world.wait(2.4)
    assert world.said() == []
    world.wait(0.11)
    assert world.said() == [fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 1)
    [timed_out] = world.sent()
    assert isinstance(timed_out, m.Result)
    assert timed_out.statuses == bytes([m.TIMED_OUT])


def test_the_clock_of_a_task_starts_when_it_does() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Probe("b", 0, 1, 1))
    world.machine._request(world.machine.links["s1"], 0, world.machine.place.queue.entries[0], 1)  # asked ahead
    world.said()
    world.hear(task(2, [1], job="b", spec=m.JobSpec(kind=m.SLEEP, timeout_s=0.01)))
    world.wait(0.02)  # task 0 still runs
    world.done(1)
    assert not any(isinstance(effect, fx.KillSlot) for effect in world.said())
    world.wait(0.011)
    assert fx.KillSlot(0) in world.said()


def test_timeouts_leave_few_deadlines_behind() -> None:
    world = World()
    spec = m.JobSpec(kind=m.SLEEP, timeout_s=86_400.0)
    for number in range(1, 200):
        world.busy(number, request=number, spec=spec)
        world.now += 0.01
        world.done(number)
        world.hear(m.ResultAck(number))
        world.wait(0.0)
    assert len(world.machine._timers) < 10


# -- drain


def test_a_drain_gives_back_finishes_and_leaves() -> None:
    world = World()
    world.hear(task(0, [0]), task(0, [1, 2]), m.Probe("b", 0, 1, 3))
    world.said()
    world.machine.drain(world.now, world.now + 30.0)
    assert world.sent() == [m.Goodbye("draining"), returned([1, 2], "drain")]
    world.hear(m.Probe("c", 0, 1, 2), task(0, [5]))
    assert world.sent() == [m.Returned(0, "c", 0, [], [], "drain"), returned([5], "drain")]
    world.done(1)
    assert world.sent() == [result(1, [0])]
    world.hear(m.ResultAck(1))
    assert world.said() == [fx.Send(1, m.Goodbye("leaving")), fx.Exit("drained")]


def test_a_drain_waits_for_the_answers_to_its_requests() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 1))
    world.said()
    world.machine.drain(world.now, world.now + 30.0)
    assert world.sent() == [m.Goodbye("draining")]
    world.hear(task(1, [0]))
    assert world.said() == [
        fx.Send(1, returned([0], "drain")),
        fx.Send(1, m.Goodbye("leaving")),
        fx.Exit("drained"),
    ]


@pytest.mark.parametrize("done", [False, True])
def test_a_drain_ends_once_at_its_deadline_at_the_latest(done: bool) -> None:
    world = World()
    world.busy(0)
    world.machine.drain(world.now, world.now + 0.5)
    if done:
        world.done(1)
        world.hear(m.ResultAck(1))
        world.said()
    world.wait(0.5)
    exits = [effect for effect in world.said() if isinstance(effect, fx.Exit)]
    assert exits == ([] if done else [fx.Exit("the drain's deadline has passed")])


def test_an_answer_is_expected_only_while_a_slot_idles_for_it_and_nothing_runs() -> None:
    world = World(slots=2)
    assert not world.machine.place.expecting()
    world.hear(m.Probe("a", 0, 1, 1))
    world.said()
    assert world.machine.place.expecting()
    world.hear(task(1, [0]))
    world.said()
    assert not world.machine.place.expecting()
    world.hear(m.Probe("b", 0, 1, 1))
    world.said()
    assert not world.machine.place.expecting()  # the other slot runs something
