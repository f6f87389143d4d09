"""Futures: they behave as `concurrent.futures` says, whoever looks at them and whenever."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from sparrowmq.client.future import Batch, Future, cancel
from sparrowmq.client.link import Question, Sink, Told
from sparrowmq.client.waiting import as_completed
from sparrowmq.errors import RemoteError, UsageError
from sparrowmq.payload import failure, python
from sparrowmq.protocol import messages as m


class FakeLink:
    """Answers recalls with what the test says."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.recalled: list[tuple[str, list[int]]] = []
        self.killed: list[tuple[str, list[int], float]] = []
        self.asked: list[Question] = []
        self.told: list[Told] = []
        self.queued: set[int] = set()
        self.answers = True
        self.answer_timeout_s = 0.01

    def check_process(self) -> None:
        if self.pid != os.getpid():
            raise UsageError("a fork")

    def start_recall(self, sink: Sink, indices: Sequence[int]) -> concurrent.futures.Future[None]:
        self.recalled.append((sink.id, list(indices)))
        cancelled = [index for index in indices if index in self.queued]
        sink.settle(cancelled, bytes([m.CANCELLED]) * len(cancelled), [b""] * len(cancelled))
        reply: concurrent.futures.Future[None] = concurrent.futures.Future()
        if self.answers:
            reply.set_result(None)
        return reply

    def kill(self, job: str, indices: Sequence[int], grace_s: float = 0.0) -> None:
        self.killed.append((job, list(indices), grace_s))

    def new_id(self) -> str:
        raise AssertionError("nothing here submits")

    def submit(self, jobs: Sequence[tuple[m.Submit, Sink]], *, flight: bool = False) -> None:
        raise AssertionError("nothing here submits")

    def inquire(
        self,
        question: Question,
        timeout_s: float,
        *,
        addresses: Iterable[str] | None = None,
        first: Sequence[m.AnyMessage] = (),
    ) -> list[Told]:
        self.asked.append(question)
        return self.told


def make(tasks: int, kind: int = m.PYTHON, link: FakeLink | None = None) -> tuple[Batch, list[Future[object]]]:
    batch = Batch("job", kind, tasks, link or FakeLink())
    return batch, list(batch.futures)


def succeed(batch: Batch, index: int, value: object) -> None:
    batch.settle([index], bytes([m.SUCCEEDED]), [python.dump_result(value)])


def fail(batch: Batch, index: int, error: Exception) -> None:
    batch.settle([index], bytes([m.FAILED]), [failure.dump(error)])


def start(target: object, *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_a_settled_future_gives_its_value_without_a_lock_of_its_own() -> None:
    batch, (first, second) = make(2)
    batch.settle([1, 0], bytes(2), [python.dump_result("one"), python.dump_result("zero")])
    assert (first.result(), second.result()) == ("zero", "one")
    assert first.done()
    assert not first._watched
    assert first.exception() is None


def test_a_value_is_decoded_once_and_stays_the_same_object() -> None:
    batch, (future,) = make(1)
    succeed(batch, 0, ["x"])
    assert future.result() is future.result()


def enter(again: bool) -> object:
    return looked_up.pop().result() if again and looked_up else object()


looked_up: list[Future[object]] = []


class Reentrant:
    """Unpickling it asks the same future for its result, as another thread may at that moment."""

    def __reduce__(self) -> object:
        return (enter, (True,))


def test_two_that_decode_at_the_same_time_see_the_same_object() -> None:
    batch, (future,) = make(1)
    batch.settle([0], bytes(1), [pickle.dumps([Reentrant()])])
    looked_up.append(future)
    assert type(future.result()[0]) is object  # type: ignore[index]  # the value of the inner call, which came first
    assert not looked_up


def test_result_waits_for_the_outcome() -> None:
    batch, (future,) = make(1)
    waiting = threading.Event()
    got: list[object] = []

    def wait() -> None:
        waiting.set()
        got.append(future.result(10))

    thread = start(wait)
    assert waiting.wait(10)
    succeed(batch, 0, 7)
    thread.join(10)
    assert got == [7]


def test_result_times_out_while_the_task_is_pending() -> None:
    _, (future,) = make(1)
    with pytest.raises(TimeoutError):
        future.result(0)
    with pytest.raises(TimeoutError):
        future.exception(0.001)


def test_a_failure_raises_the_original_with_the_remote_traceback() -> None:
    batch, (future,) = make(1)
    try:
        raise KeyError("lost")
    except KeyError as error:
        fail(batch, 0, error)
    with pytest.raises(KeyError) as caught:
        future.result()
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "raise KeyError" in caught.value.__cause__.remote_traceback
    assert future.exception() is caught.value


def test_a_result_that_cannot_be_loaded_fails_that_future_only() -> None:
    batch, (bad, good) = make(2)
    batch.settle([0, 1], bytes(2), [b"\x80\x05cnowhere\nThing\n.", python.dump_result(1)])
    with pytest.raises(RemoteError, match="cannot be loaded here: ModuleNotFoundError"):
        bad.result()
    assert good.result() == 1


def test_plain_results_are_read_as_plain_data() -> None:
    batch, (future,) = make(1, kind=m.CALL)
    batch.settle([0], bytes(1), [b"\x93\x01\xa1a\xc0"])
    assert future.result() == [1, "a", None]


def test_results_in_frames_of_their_own_are_read() -> None:
    batch, (future,) = make(1)
    data = python.dump_result("x" * 100_000)
    batch.settle([0], bytes(1), [m.Blob(data, len(data))])
    assert future.result() == "x" * 100_000


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_cancelled_outcome_cancels(looked_at: bool) -> None:
    batch, (future,) = make(1)
    if looked_at:
        future.add_done_callback(lambda _: None)
    batch.settle([0], bytes([m.CANCELLED]), [b""])
    assert future.cancelled()
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_cancel_is_true_only_when_the_task_was_dequeued() -> None:
    link = FakeLink()
    link.queued = {0}
    batch, (queued, running) = make(2, link=link)
    assert queued.cancel()
    assert not running.cancel()
    assert link.recalled == [("job", [0]), ("job", [1])]
    succeed(batch, 1, 5)
    assert running.result() == 5


def test_cancel_of_what_is_over_asks_nobody() -> None:
    link = FakeLink()
    batch, (future,) = make(1, link=link)
    succeed(batch, 0, None)
    assert not future.cancel()
    assert link.recalled == []


def test_as_completed_and_wait_work_on_pending_and_settled_ones() -> None:
    batch, futures = make(50)
    succeed(batch, 49, 49)
    thread = start(lambda: [succeed(batch, index, index) for index in range(49)])
    done, not_done = concurrent.futures.wait(futures, timeout=10)
    thread.join(10)
    assert len(done) == 50
    assert not not_done

    batch, futures = make(50)
    completed = concurrent.futures.as_completed(futures, timeout=10)
    thread = start(lambda: [succeed(batch, index, index) for index in reversed(range(50))])
    assert sorted(future.result() for future in completed) == list(range(50))  # type: ignore[type-var]
    thread.join(10)


def test_our_as_completed_yields_each_once_in_order_of_completion() -> None:
    one, futures = make(4)
    other, others = make(1)
    succeed(one, 3, None)
    completed = as_completed([*futures, *others, futures[0]], timeout=10)
    assert next(completed) is futures[3]
    fail(one, 1, ValueError())
    one.settle([2], bytes([m.CANCELLED]), [b""])
    assert [next(completed), next(completed)] == [futures[1], futures[2]]
    thread = start(lambda: [other.fail(None), succeed(one, 0, None)])
    assert list(completed) == [others[0], futures[0]]
    thread.join(10)
    assert not one._watchers
    assert not other._watchers


def test_our_as_completed_leaves_out_what_was_not_asked_for() -> None:
    batch, futures = make(3)
    completed = as_completed(futures[1:], timeout=10)
    succeed(batch, 1, None)
    assert next(completed) is futures[1]
    succeed(batch, 0, None)
    succeed(batch, 2, None)
    assert next(completed) is futures[2]
    assert list(completed) == []


def test_our_as_completed_gives_up_in_time_and_stops_watching() -> None:
    batch, futures = make(2)
    succeed(batch, 0, None)
    completed = as_completed(futures, timeout=0.01)
    assert next(completed) is futures[0]
    with pytest.raises(TimeoutError, match="1 of 2 futures are unfinished"):
        next(completed)
    assert not batch._watchers
    abandoned = as_completed(futures)
    next(abandoned)
    del abandoned
    assert not batch._watchers


def test_our_as_completed_takes_futures_of_other_executors() -> None:
    batch, (ours,) = make(1)
    succeed(batch, 0, 1)
    theirs: concurrent.futures.Future[object] = concurrent.futures.Future()
    theirs.set_result(2)
    both: Any = [ours, theirs]
    assert sorted(future.result() for future in as_completed(both, timeout=10)) == [1, 2]


def test_wait_returns_at_the_first_exception() -> None:
    batch, futures = make(3)
    thread = start(fail, batch, 1, ValueError("no"))
    done, not_done = concurrent.futures.wait(futures, timeout=10, return_when=concurrent.futures.FIRST_EXCEPTION)
    thread.join(10)
    assert done == {futures[1]}
    assert not_done == {futures[0], futures[2]}


def test_callbacks_run_once_in_a_thread_that_may_wait_for_another_future() -> None:
    batch, (first, second) = make(2)
    seen: list[object] = []
    over = threading.Event()

    def callback(future: concurrent.futures.Future[object]) -> None:
        seen.append((future.result(), second.result(10)))
        over.set()

    first.add_done_callback(callback)
    succeed(batch, 0, "a")  # a callback run in here would wait for ever: the next line settles what it waits for
    succeed(batch, 1, "b")
    assert over.wait(10)
    assert seen == [("a", "b")]
    first.add_done_callback(lambda future: seen.append(future.result()))
    assert seen[1:] == ["a"]


def test_a_callback_that_exits_stops_no_other_callback(caplog: pytest.LogCaptureFixture) -> None:
    batch, (first, second) = make(2)
    over = threading.Event()
    first.add_done_callback(lambda _: sys.exit(1))
    second.add_done_callback(lambda _: over.set())
    succeed(batch, 0, None)
    succeed(batch, 1, None)
    assert over.wait(10)
    assert "callback failed" in caplog.text


def test_an_outcome_that_comes_twice_counts_once() -> None:
    batch, (future, _) = make(2)
    succeed(batch, 0, "first")
    succeed(batch, 0, "second")
    assert future.result() == "first"
    assert batch.pending == 1


@pytest.mark.parametrize("looked_at", [False, True])
def test_failing_a_batch_ends_what_is_pending(looked_at: bool) -> None:
    batch, futures = make(3)
    if looked_at:
        for future in futures:
            future.add_done_callback(lambda _: None)
    succeed(batch, 1, "kept")
    batch.fail(lambda: ValueError("over"))
    assert futures[1].result() == "kept"
    for future in (futures[0], futures[2]):
        with pytest.raises(ValueError, match="over"):
            future.result(0)
    assert futures[0].exception() is not futures[2].exception()
    assert batch.wait(0)


def test_a_batch_can_be_waited_for() -> None:
    batch, _ = make(2)
    assert not batch.wait(0)
    thread = start(lambda: [succeed(batch, 0, None), succeed(batch, 1, None)])
    assert batch.wait(10)
    thread.join(10)


def test_a_finished_batch_keeps_no_futures_alive() -> None:
    batch, futures = make(2)
    gone = [weakref.ref(future) for future in futures]
    gc.disable()
    try:
        batch.settle([0, 1], bytes(2), [python.dump_result(None)] * 2)
        futures.clear()
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_two_threads_that_look_at_the_same_time_share_one_lock() -> None:
    for _ in range(200):
        _, (future,) = make(1)
        barrier = threading.Barrier(2)
        locks: list[object] = []

        def look(future: Future[object] = future, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(10)
            locks.append(future._condition)  # noqa: B023  # joined before the next round

        threads = [start(look), start(look)]
        for thread in threads:
            thread.join(10)
        assert locks[0] is locks[1]


def test_a_future_cannot_be_sent_and_says_so() -> None:
    _, (future,) = make(1)
    with pytest.raises(TypeError, match="pass its result"):
        pickle.dumps(future)


def test_waiting_in_a_fork_is_an_error_and_no_hang() -> None:
    link = FakeLink()
    batch, (future,) = make(1, link=link)
    link.pid = -1
    for call in (future.result, future.exception, lambda: batch.wait(None), lambda: next(as_completed([future]))):
        with pytest.raises(UsageError):
            call()


def test_unknown_attributes_are_errors() -> None:
    _, (future,) = make(1)
    assert not hasattr(future, "histroy")
    assert (future.job, future.index) == ("job", 0)


def test_repr_names_task_and_state() -> None:
    batch, (first, second, third) = make(3)
    succeed(batch, 0, None)
    fail(batch, 1, ValueError())
    assert repr(first) == "<Future job[0] succeeded>"
    assert repr(second) == "<Future job[1] failed>"
    assert repr(third) == "<Future job[2] pending>"


def test_cancelling_many_sends_one_recall_a_job() -> None:
    link = FakeLink()
    link.queued = {0, 2}
    one, futures = make(3, link=link)
    _, others = make(1, link=link)
    succeed(one, 1, None)
    assert cancel(futures + others) == 3
    assert link.recalled == [("job", [0, 2]), ("job", [0])]
    assert cancel(futures + others) == 0
    assert len(link.recalled) == 2


def test_a_cancel_without_an_answer_ends_in_time() -> None:
    link = FakeLink()
    link.answers = False
    _, (future,) = make(1, link=link)
    assert not future.cancel()
