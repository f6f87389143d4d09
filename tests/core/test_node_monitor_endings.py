"""How a node monitor ends tasks before they are done, replaces processes, and passes on output."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sparrowmq.core import effects as fx, invariants, outputs
from sparrowmq.protocol import messages as m
from tests.core.test_node_monitor import World, result, returned, start, task

INTERRUPTED = b"interrupted"


def cancelled(seq: int, indices: list[int], payload: bytes = b"") -> m.Result:
    return result(seq, indices, m.CANCELLED, us=0, payload=payload)


def ended(world: World, seq: int, status: int, payload: bytes) -> None:
    world.machine.slot_results(world.now, 0, seq, bytes([status]), [0], [payload])


# -- kills with a grace


def test_a_task_that_runs_is_interrupted_and_has_its_grace() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0))
    assert world.said() == [fx.InterruptSlot(0, 1)]
    world.wait(1.9)
    assert world.said() == []
    ended(world, 1, m.CANCELLED, INTERRUPTED)
    assert world.sent() == [cancelled(1, [0], INTERRUPTED)]
    world.hear(m.ResultAck(1))
    world.wait(1.0)
    assert world.said() == []
    invariants.check_rest(world.machine)


def test_one_that_does_not_end_within_its_grace_is_killed() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0))
    world.said()
    world.wait(2.0)
    assert world.said() == [fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 1)
    assert world.sent() == [result(1, [0], m.CANCELLED, us=2_000_000, payload=b"killed")]
    world.wait(0.0)
    assert world.said() == [fx.SpawnSlot(0)]


def test_one_that_ends_by_itself_first_keeps_its_outcome() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0))
    world.said()
    world.done(1)
    assert world.sent() == [result(1, [0])]


def test_one_that_ends_its_process_when_interrupted_was_interrupted() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0))
    world.said()
    world.machine.slot_exited(world.now, 0, "exit status 1", 1)
    assert world.sent() == [cancelled(1, [0], INTERRUPTED)]


def test_a_batch_is_taken_apart_before_its_running_task_is_interrupted() -> None:
    world = World()
    world.busy(0, 1, 2, 3)
    world.hear(m.Kill("a", 0, [0, 2], 2.0))
    assert world.said() == [fx.ReclaimSlot(0)]
    world.machine.slot_reclaimed(world.now, 0, 1)
    assert world.said() == [
        fx.Send(1, cancelled(1, [2])),
        fx.Send(1, returned([1, 3], "slow")),
        fx.InterruptSlot(0, 1),
    ]


def test_kill_of_a_neighbour_that_has_not_started_leaves_the_running_task_alone() -> None:
    world = World()
    world.busy(0, 1, 2)
    world.hear(m.Kill("a", 0, [2], 2.0))
    world.said()
    world.machine.slot_reclaimed(world.now, 0, 2)  # task 1 has started meanwhile
    assert world.said() == [fx.Send(1, cancelled(1, [2]))]
    world.done(1, 2)
    assert world.sent() == [result(2, [0, 1])]


def test_a_later_kill_may_shorten_the_grace() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 60.0), m.Kill("a", 0, [0], 1.0))
    assert world.said() == [fx.InterruptSlot(0, 1)]
    world.wait(1.0)
    assert world.said() == [fx.KillSlot(0)]
    other = World()
    other.busy(0)
    other.hear(m.Kill("a", 0, [0], 60.0), m.Kill("a", 0, [0]))
    assert other.said() == [fx.InterruptSlot(0, 1), fx.KillSlot(0)]


def test_nothing_is_handed_to_a_slot_whose_task_is_interrupted() -> None:
    """It would be killed with a task that does not care."""
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0), task(0, [7], job="b"))
    assert world.said() == [fx.InterruptSlot(0, 1)]
    ended(world, 1, m.CANCELLED, INTERRUPTED)
    assert world.said() == [fx.Send(1, cancelled(1, [0], INTERRUPTED)), start(2, [7], job="b")]


def test_kill_of_a_task_that_its_slot_has_not_begun_cancels_it() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0]))
    assert world.said() == [fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 0)
    assert world.sent() == [cancelled(1, [0])]


def test_the_grace_of_one_task_does_not_end_the_next() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Kill("a", 0, [0], 2.0))
    world.said()
    ended(world, 1, m.CANCELLED, INTERRUPTED)
    world.hear(task(0, [1]))
    world.said()
    world.wait(5.0)
    assert not any(isinstance(effect, fx.KillSlot) for effect in world.said())


# -- failures that are tried again


@pytest.mark.parametrize(
    ("retry_on", "crash", "timeout"),
    [
        ([], m.RETRY, m.RETRY),
        (["TaskCrashed"], m.RETRY, m.TIMED_OUT),
        (["TimeoutError"], m.FAILED, m.RETRY),
        (["sparrowmq.errors.TaskError"], m.RETRY, m.RETRY),
        (["ValueError"], m.FAILED, m.TIMED_OUT),
    ],
)
def test_crashes_and_timeouts_are_tried_again_where_the_job_wants_it(
    retry_on: list[str], crash: int, timeout: int
) -> None:
    spec = m.JobSpec(kind=m.SLEEP, timeout_s=2.5, retries=1, retry_on=retry_on)
    for over, status, kind in ((False, crash, "TaskCrashed"), (True, timeout, "TaskTimedOut")):
        world = World()
        world.busy(0, spec=spec)
        if over:
            world.wait(2.5)
            assert world.said() == [fx.KillSlot(0)]
        world.machine.slot_exited(world.now, 0, "killed by signal 9", 1)
        [sent] = world.sent()
        assert isinstance(sent, m.Result)
        assert (sent.statuses, msgspec.msgpack.decode(sent.payloads[0])["type"]) == (bytes([status]), kind)


# -- processes that are replaced


def test_a_process_is_replaced_after_its_number_of_tasks() -> None:
    world = World(recycle_tasks=3)
    for number in range(1, 3):
        world.busy(number, request=number)
        world.done(number)
        world.said()
    world.hear(m.Probe("a", 0, 1, 5))
    assert world.sent() == [m.Request(3, "a", 0, 1, 1)]
    world.hear(task(3, [5]))
    assert world.said() == [start(3, [5])]
    world.done(3)
    assert world.said() == [fx.Send(1, result(3, [5])), fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 0)
    world.wait(0.0)
    assert world.said() == [fx.SpawnSlot(0)]
    assert world.machine.place.slots[0].crashes == 0
    world.machine.slot_ready(world.now, 0, 200)
    assert world.sent() == [m.Request(4, "a", 0, 1, 3)]


def test_a_slot_is_asked_for_no_more_tasks_than_its_process_may_run() -> None:
    world = World(recycle_tasks=10)
    world.hear(m.Probe("a", 0, 1, 1000))
    world.said()
    seq, request, asked = 1, 1, []
    while request in world.machine.links["s1"].requests:
        n = world.machine.links["s1"].requests[request].count
        asked.append(n)
        world.now += 0.001
        world.hear(task(request, list(range(n))))
        world.said()
        world.done(seq, n, us=5)
        seq += n
        request += 1
        world.said()
    assert sum(asked) == 10
    assert len(asked) < 10


def test_a_process_that_has_grown_finishes_what_was_asked_for_it() -> None:
    world = World()
    world.hear(m.Probe("a", 0, 1, 1))
    world.said()
    world.machine.slot_retired(world.now, 0)
    assert world.said() == []
    world.hear(task(1, [4]))
    assert world.said() == [start(1, [4])]
    world.hear(task(0, [5], job="b"))
    assert world.said() == []
    world.done(1)
    assert world.said() == [fx.Send(1, result(1, [4])), fx.KillSlot(0)]
    world.machine.slot_exited(world.now, 0, "killed by signal 9", 0)
    world.wait(0.0)
    world.said()
    world.machine.slot_ready(world.now, 0, 200)
    assert world.said() == [start(2, [5], job="b")]
    world.machine.slot_retired(world.now, 0)
    world.machine.slot_exited(world.now, 0, "exit status 1", 2)
    world.wait(0.0)
    assert fx.SpawnSlot(0) in world.said()


# -- output


def write(world: World, seq: int, data: bytes, stream: int = 1) -> None:
    world.machine.slot_output(world.now, 0, seq, stream, data)


def output(index: int, data: bytes, stream: int = 1, **fields: Any) -> m.Output:
    return m.Output("a", 0, index, 1, stream, data, **fields)


def test_output_is_passed_on_in_order_and_put_together() -> None:
    world = World()
    world.busy(0, 1)
    write(world, 1, b"one\n")
    write(world, 1, b"two\n")
    write(world, 1, b"err\n", stream=2)
    write(world, 1, b"three\n")
    world.done(1)
    write(world, 2, b"next\n")
    assert world.sent() == [
        output(0, b"one\ntwo\n"),
        output(0, b"err\n", 2),
        output(0, b"three\n"),
        result(1, [0]),
        output(1, b"next\n"),
    ]
    write(world, 2, b"x" * 65_536)
    write(world, 2, b"y")
    assert world.sent() == [output(1, b"x" * 65_536), output(1, b"y")]


def test_output_of_no_task_and_for_nobody_is_left_out() -> None:
    world = World()
    write(world, 1, b"nobody\n")
    world.busy(0)
    world.machine.lost(world.now, 1)
    write(world, 1, b"not connected\n")
    assert world.said() == []


def test_output_beyond_what_a_worker_may_send_is_left_out_and_told() -> None:
    world = World()
    world.busy(0)
    pieces = outputs.BYTES_PER_S // 65_536
    for _ in range(pieces + 3):
        write(world, 1, b"x" * 65_536)
    assert sum(len(sent.data) for sent in world.sent()) == outputs.BYTES_PER_S  # type: ignore[union-attr]
    world.now += 1.0
    write(world, 1, b"again\n")
    assert world.sent() == [output(0, b"again\n", dropped=3 * 65_536)]
    for _ in range(pieces + 1):
        write(world, 1, b"x" * 65_536)
    world.sent()
    world.done(1)
    assert world.sent() == [output(0, b"", dropped=2 * 65_536), result(1, [0])]


# -- drain


def test_a_scheduler_may_have_the_worker_drained() -> None:
    world = World()
    world.busy(0)
    world.hear(m.Drain(3, "w2", 10.0))
    assert world.said() == []
    world.hear(m.Drain(3, "w1", 10.0))
    assert world.sent() == [m.Goodbye("draining")]
    world.hear(m.Drain(4, "w1", 1.0))
    world.wait(1.0)
    assert world.said() == [
        fx.Send(1, m.Goodbye("leaving")),
        fx.Exit("the drain's deadline has passed"),
    ]
