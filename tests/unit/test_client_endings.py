"""How futures end: cancelled in which way, waited for together, and all that `concurrent.futures` documents."""

from __future__ import annotations

import concurrent.futures
import threading
from concurrent.futures import InvalidStateError
from typing import Any

import pytest

from sparrowmq.client import waiting
from sparrowmq.client.ending import interrupt
from sparrowmq.client.future import Future
from sparrowmq.client.link import Told
from sparrowmq.errors import UsageError
from sparrowmq.payload import python
from sparrowmq.protocol import messages as m
from tests.unit.test_client_future import FakeLink, fail, make, start, succeed

KILLED = {b"": "dequeued", b"interrupted": "interrupted", b"killed": "killed"}


@pytest.mark.parametrize("looked_at", [False, True])
@pytest.mark.parametrize(("payload", "word"), [*KILLED.items(), (b"words of a later version", "killed")])
def test_a_cancelled_future_tells_how(payload: bytes, word: str, looked_at: bool) -> None:
    batch, (future,) = make(1)
    assert future.cancellation == ""
    if looked_at:
        future.add_done_callback(lambda _: None)
    batch.settle([0], bytes([m.CANCELLED]), [payload])
    assert (future.cancelled(), future.cancellation) == (True, word)
    assert future.cancel()  # of one that is cancelled already: True, whoever asks how often
    for call in (future.result, future.exception):
        with pytest.raises(concurrent.futures.CancelledError):
            call()


def test_only_what_the_cluster_cancelled_has_a_cancellation() -> None:
    batch, (done, failed, left) = make(3)
    succeed(batch, 0, "killed")
    fail(batch, 1, ValueError())
    batch.fail(None)  # the client is closed: who knows
    assert [future.cancellation for future in (done, failed, left)] == ["", "", ""]
    assert left.cancelled()


# Interrupts.


class Killing(FakeLink):
    """Ends what is killed in the ways that the test has listed."""

    def __init__(self, *ends: bytes | None) -> None:
        super().__init__()
        self.ends = list(ends)
        self.batch: Any = None

    def kill(self, job: str, indices: Any, grace_s: float = 0.0) -> None:
        super().kill(job, indices, grace_s)
        for index in indices:
            end = self.ends[index]
            if end is not None:
                cancelled = end in KILLED
                self.batch.settle([index], bytes([m.CANCELLED if cancelled else m.SUCCEEDED]), [end])


def test_interrupt_returns_what_became_of_each() -> None:
    link = Killing(b"interrupted", b"killed", b"", python.dump_result("done"), b"")
    batch, futures = make(5, link=link)
    link.batch = batch
    batch.settle([4], bytes([m.CANCELLED]), [b""])
    assert interrupt(futures, 2.0) == ["interrupted", "killed", "dequeued", "too late", "dequeued"]
    assert link.killed == [("job", [0, 1, 2, 3], 2.0)]
    assert [future.interrupt(0.5) for future in futures[:1]] == ["interrupted"]
    assert len(link.killed) == 1  # nothing is asked about what is over
    with pytest.raises(UsageError, match="grace_s"):
        futures[0].interrupt(-1)


def test_interrupt_without_an_answer_ends_in_time() -> None:
    link = Killing(b"", None)
    batch, futures = make(2, link=link)
    link.batch = batch
    with pytest.raises(TimeoutError, match="1 of 2 interrupted tasks are not over"):
        interrupt(futures, 0.0)


# Questions.


def told(*rows: m.TaskStatus) -> Told:
    return Told("tcp://x", m.Status(1, "s", tasks=list(rows)))


def test_history_and_running_ask_the_schedulers() -> None:
    link = FakeLink()
    batch, (_, future) = make(2, link=link)
    events = [m.Event(1.0, "submitted"), m.Event(2.0, "launched", 1, "worker-a")]
    link.told = [
        told(m.TaskStatus("job", 0, "launched", 1, "w", 0)),
        told(m.TaskStatus("job", 1, "unplaced", 0, "", 0)),
    ]
    assert not future.running()
    link.told = [told(m.TaskStatus("job", 1, "launched", 1, "worker-a", 0, events))]
    assert future.running()
    assert future.history() == events
    assert link.asked == [m.Query(1, "tasks", "job", [1])] * 3
    succeed(batch, 1, None)
    assert not future.running()  # it is over here, whatever a scheduler believes
    assert len(link.asked) == 3
    link.told = []
    assert future.history() == []


# Many at a time.


def test_wait_returns_sets() -> None:
    batch, futures = make(4)
    succeed(batch, 0, None)
    assert waiting.wait(futures, 0) == ({futures[0]}, set(futures[1:]))
    assert waiting.wait([], 0) == (set(), set())
    assert waiting.wait(futures, None, concurrent.futures.FIRST_COMPLETED) == ({futures[0]}, set(futures[1:]))

    def end() -> None:
        batch.settle([1], bytes([m.CANCELLED]), [b""])
        succeed(batch, 3, None)
        fail(batch, 2, ValueError())

    thread = start(end)
    done, not_done = waiting.wait(futures, 10, concurrent.futures.FIRST_EXCEPTION)
    thread.join(10)
    assert futures[2] in done  # neither the cancelled one nor those that succeeded have ended it
    assert (len(done), not_done) == (4, set())
    assert not batch._watchers


def test_wait_takes_futures_of_other_executors() -> None:
    _, (ours,) = make(1)
    theirs: Any = concurrent.futures.Future()
    theirs.set_result(1)
    assert waiting.wait([ours, theirs], 0.01) == ({theirs}, {ours})


def test_gather_raises_or_returns_errors_in_their_places() -> None:
    batch, futures = make(3)
    succeed(batch, 0, "a")
    fail(batch, 1, ValueError("b"))
    batch.settle([2], bytes([m.CANCELLED]), [b""])
    with pytest.raises(ValueError, match="b"):
        waiting.gather(futures, None, "raise")
    one, other, third = waiting.gather(futures, None, "return")
    assert (one, type(other), type(third)) == ("a", ValueError, concurrent.futures.CancelledError)
    _, pending = make(1)
    for errors in ("raise", "return"):
        with pytest.raises(TimeoutError):
            waiting.gather(pending, 0.01, errors)


def test_words_that_are_unknown_are_refused() -> None:
    with pytest.raises(UsageError, match="return_when: 'FIRST'") as caught:
        waiting.wait([], 0, "FIRST")
    assert "FIRST_COMPLETED" in caught.value.hint
    with pytest.raises(UsageError, match="errors: 'raises'") as caught:
        waiting.gather([], None, "raises")
    assert "did you mean 'raise'?" in caught.value.hint


# What the standard library documents.


def test_callbacks_come_in_the_order_in_which_they_were_added() -> None:
    batch, (future,) = make(1)
    seen: list[int] = []
    over = threading.Event()

    def broken(_: object) -> None:
        seen.append(2)
        raise ValueError("logged, and ignored")

    future.add_done_callback(lambda _: seen.append(1))
    future.add_done_callback(broken)
    future.add_done_callback(lambda _: (seen.append(3), over.set()))  # type: ignore[func-returns-value]
    succeed(batch, 0, None)
    assert over.wait(10)
    assert seen == [1, 2, 3]


def test_a_callback_added_to_what_is_over_runs_at_once_here() -> None:
    batch, (done, cancelled) = make(2)
    succeed(batch, 0, None)
    batch.settle([1], bytes([m.CANCELLED]), [b""])
    threads: list[int] = []
    for future in (done, cancelled):
        future.add_done_callback(lambda _: threads.append(threading.get_ident()))
    assert threads == [threading.get_ident()] * 2


def test_a_result_can_be_set_once_only() -> None:
    batch, (settled, by_hand, broken) = make(3)
    succeed(batch, 0, "cluster")
    with pytest.raises(InvalidStateError):
        settled.set_result("again")
    with pytest.raises(InvalidStateError):
        settled.set_exception(ValueError())
    thread_done: concurrent.futures.Future[Any] = concurrent.futures.Future()
    start(lambda: thread_done.set_result(waiting.wait([by_hand, broken], 10)))
    by_hand.set_result("mine")
    broken.set_exception(ValueError("mine"))
    assert thread_done.result(10) == ({by_hand, broken}, set())
    succeed(batch, 1, "cluster")  # too late, and counted all the same
    succeed(batch, 2, "cluster")
    assert (by_hand.result(), batch.pending) == ("mine", 0)
    with pytest.raises(ValueError, match="mine"):
        broken.result()
    assert batch.wait(0)


def test_what_was_set_by_hand_survives_the_end_of_the_client() -> None:
    batch, (by_hand, other) = make(2)
    by_hand.set_result("mine")
    batch.fail(lambda: ValueError("over"))
    assert by_hand.result() == "mine"
    with pytest.raises(ValueError, match="over"):
        other.result()


def test_a_future_marked_as_running_still_gets_its_outcome() -> None:
    batch, (future,) = make(1)
    assert future.set_running_or_notify_cancel()
    assert not future.done()
    succeed(batch, 0, 5)
    assert future.result() == 5


def test_timeouts_are_those_of_concurrent_futures() -> None:
    _, (future,) = make(1)
    for call in (future.result, future.exception):
        with pytest.raises(concurrent.futures.TimeoutError):
            call(timeout=0)
    assert not future.done()
    assert not future.cancelled()


def test_futures_are_generic_and_equal_to_themselves_only() -> None:
    _, (one, other) = make(2)
    assert len({one, other, one}) == 2
    assert Future[int] is not None
    assert isinstance(one, concurrent.futures.Future)
