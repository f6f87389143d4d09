"""Executor does what `concurrent.futures` documents, on a real cluster; behaviour as CPython's own tests check it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Future, as_completed
from pathlib import Path
from typing import Any

import pytest

import sparrowmq
from sparrowmq import Client, Executor, LocalCluster, RemoteError, TaskCrashed
from sparrowmq.protocol import messages as m
from tests.support.gates import TIMEOUT_S, Gate, busy, jobs, mark, wait_for

pytestmark = pytest.mark.timeout(120)
SLOTS = 2
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=1, slots=SLOTS) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.fixture
def executor(client: Client) -> Iterator[Executor]:
    with Executor(client) as executor:
        yield executor


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "open")
    yield gate
    gate.open()


def multiply(x: int, y: int) -> int:
    return x * y


def capture(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return args, kwargs


def divide(x: int, y: int) -> float:
    return x / y


class Thing:
    def method(self) -> None:
        pass


def make_thing(gate: Path | None) -> Thing:
    if gate is not None:
        wait_for(gate)
    return Thing()


def settled(value: Any = None, error: BaseException | None = None) -> Future[Any]:
    future: Future[Any] = Future()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


def cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future.cancel()
    future.set_running_or_notify_cancel()
    return future


# submit.


def test_submit_gives_a_future_of_the_standard_kind(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert isinstance(executor, concurrent.futures.Executor)
    assert isinstance(future, Future)
    assert future.result(TIMEOUT_S) == 256
    assert future.exception() is None
    assert (future.done(), future.cancelled(), future.running(), future.cancel()) == (True, False, False, False)


def test_all_keyword_arguments_belong_to_the_function(executor: Executor) -> None:
    assert executor.submit(multiply, 2, y=8).result(TIMEOUT_S) == 16
    names = {"self": 2, "fn": 3, "executor": 4, "timeout": 5}
    assert executor.submit(capture, 1, **names).result(TIMEOUT_S) == ((1,), names)
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit(arg=1)  # type: ignore[call-arg]


def test_closures_travel(executor: Executor) -> None:
    factor = 21
    assert executor.submit(lambda: 2 * factor).result(TIMEOUT_S) == 42


def test_an_exception_is_the_original_with_the_remote_traceback_as_its_cause(executor: Executor) -> None:
    future = executor.submit(divide, 1, 0)
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        future.result(TIMEOUT_S)
    assert isinstance(caught.value.__cause__, RemoteError)
    assert "in divide" in str(caught.value.__cause__)
    assert future.exception() is caught.value


def test_a_task_that_ends_its_process_fails_alone(executor: Executor) -> None:
    crashed, fine = executor.submit(os._exit, 3), executor.submit(multiply, 3, 4)
    assert isinstance(crashed.exception(TIMEOUT_S), TaskCrashed)
    assert fine.result(TIMEOUT_S) == 12


def test_what_cannot_be_pickled_raises_at_once_and_leaves_the_executor_usable(executor: Executor) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        executor.submit(multiply, threading.Lock(), 1)  # type: ignore[arg-type]
    assert executor.submit(multiply, 1, 1).result(TIMEOUT_S) == 1


def test_arguments_are_not_kept(executor: Executor) -> None:
    thing = Thing()
    collected = threading.Event()
    reference = weakref.ref(thing, lambda _: collected.set())
    executor.submit(thing.method)  # the future is dropped too
    del thing
    assert collected.wait(TIMEOUT_S), reference


# map.


@pytest.mark.parametrize("chunksize", [1, 3, 100])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 5, 100])
def test_map_gives_what_map_gives(executor: Executor, chunksize: int, buffersize: int | None) -> None:
    results = executor.map(pow, range(10), itertools.count(), chunksize=chunksize, buffersize=buffersize)
    assert iter(results) is results
    assert list(results) == list(map(pow, range(10), range(10)))
    assert list(results) == []


def test_map_without_anything_to_map(executor: Executor) -> None:
    assert list(executor.map(multiply, [], [])) == []
    assert list(executor.map(multiply)) == []
    assert list(executor.map(multiply, [], [], chunksize=4, buffersize=2)) == []


@pytest.mark.parametrize("chunksize", [1, 5])
def test_map_is_one_job(executor: Executor, client: Client, chunksize: int) -> None:
    before = {row.id for row in jobs(client)}
    assert list(executor.map(abs, range(50), chunksize=chunksize)) == list(range(50))
    assert [row.tasks for row in jobs(client) if row.id not in before] == [50 // chunksize]


def test_chunked_jobs_bear_the_functions_name(executor: Executor, client: Client) -> None:
    list(executor.map(multiply, range(4), range(4), chunksize=2))
    assert jobs(client)[-1].name == "multiply"


def test_map_raises_at_the_place_of_the_call_that_raised(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert [next(results), next(results)] == [(0, 1), (0, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_maps_timeout_counts_from_the_call(executor: Executor, gate: Gate) -> None:
    start = time.monotonic()
    results = executor.map(_wait_if, [None, None, gate.path], timeout=2.0)
    assert [next(results), next(results)] == [None, None]
    with pytest.raises(TimeoutError):
        next(results)
    assert 1.9 < time.monotonic() - start < 20.0
    with pytest.raises(TimeoutError):
        next(executor.map(_wait_if, [gate.path], timeout=0))


def _wait_if(path: Path | None) -> None:
    if path is not None:
        wait_for(path)


def test_map_submits_before_its_iterator_is_used(executor: Executor, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(4)]
    executor.map(mark, paths)  # the iterator is dropped, never started: as with a thread pool, the calls still run
    for path in paths:
        wait_for(path)


@pytest.mark.parametrize("how", ["close", "drop", "error"])
def test_an_iterator_that_is_abandoned_cancels_what_has_not_started(
    executor: Executor, client: Client, gate: Gate, tmp_path: Path, how: str
) -> None:
    (first, *_), never = [None, *([gate.path] * SLOTS)], tmp_path / "never"
    broken = 0 if how == "error" else 1
    results = executor.map(_first_wait_then, [first, *[gate.path] * SLOTS, never], [broken, 1, 1, 1][: SLOTS + 2])
    if how == "error":
        with pytest.raises(ZeroDivisionError):
            next(results)
    else:
        next(results)
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    del results
    deadline = time.monotonic() + TIMEOUT_S
    while jobs(client)[-1].counts[m.CANCELLED] != 1:  # it does not wait for the cluster's answer
        assert time.monotonic() < deadline
        time.sleep(0.005)
    gate.open()
    executor.shutdown()
    assert not never.exists()


def _first_wait_then(path: Path | None, divisor: int) -> float:
    if path is None:
        return 1 / divisor
    if path.name == "never":
        path.touch()
    else:
        wait_for(path)
    return 0.0


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_keeps_no_reference_to_what_it_has_given(executor: Executor, gate: Gate, chunksize: int) -> None:
    results = executor.map(make_thing, [None] * 9 + [gate.path], chunksize=chunksize)  # the job is not over meanwhile
    taken = 0
    for thing in results:
        reference = weakref.ref(thing)
        del thing
        gc.collect()
        assert reference() is None
        taken += 1
        if taken == 9:
            gate.open()
    assert taken == 10


def test_a_buffer_bounds_what_is_read_ahead(executor: Executor) -> None:
    numbers = itertools.count()
    results = executor.map(str, numbers, buffersize=7)
    assert next(numbers) == 7
    taken = [next(results) for _ in range(20)]
    assert taken == [str(n) for n in range(7)] + [str(n) for n in range(8, 21)]
    assert next(numbers) <= 1 + 20 + 1 + 7


def test_an_infinite_iterable_with_a_buffer_and_chunks(executor: Executor) -> None:
    results = executor.map(multiply, itertools.count(), itertools.repeat(2), chunksize=3, buffersize=2)
    assert list(itertools.islice(results, 20)) == [2 * n for n in range(20)]


def test_bad_arguments_of_map(executor: Executor) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(str, [1], chunksize=0)
    for size in ("1", 1.0):
        with pytest.raises(TypeError, match="buffersize must be an integer or None"):
            executor.map(str, [1], buffersize=size)  # type: ignore[arg-type]
    for size in (0, -1):
        with pytest.raises(ValueError, match="buffersize must be None or > 0"):
            executor.map(str, [1], buffersize=size)


def test_an_iterable_that_raises_submits_nothing_and_leaves_the_executor_usable(executor: Executor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        executor.map(str, broken())
    assert list(executor.map(str, [1])) == ["1"]


def test_an_iterable_may_use_the_executor(executor: Executor) -> None:
    assert list(executor.map(abs, (executor.submit(abs, -n).result(TIMEOUT_S) for n in range(3)))) == [0, 1, 2]


# wait.


def test_wait_takes_a_future_twice(executor: Executor) -> None:
    future = executor.submit(multiply, 1, 2)
    done, not_done = concurrent.futures.wait([future, future], TIMEOUT_S, ALL_COMPLETED)
    assert (done, not_done) == ({future}, set())


def test_wait_for_the_first(executor: Executor, gate: Gate) -> None:
    never: Future[Any] = Future()
    quick, slow = executor.submit(multiply, 21, 2), executor.submit(wait_for, gate.path)
    done, not_done = concurrent.futures.wait([never, quick, slow], TIMEOUT_S, FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {never, slow})


def test_wait_for_the_first_where_some_are_over(executor: Executor, gate: Gate) -> None:
    over = {cancelled(), settled(42)}
    slow = executor.submit(wait_for, gate.path)
    done, not_done = concurrent.futures.wait([*over, slow], TIMEOUT_S, FIRST_COMPLETED)
    assert (done, not_done) == (over, {slow})


def test_wait_for_the_first_exception(executor: Executor, tmp_path: Path, gate: Gate) -> None:
    fuse = tmp_path / "fuse"
    quick, failing = executor.submit(multiply, 2, 21), executor.submit(wait_for, fuse, ValueError("expected"))
    quick.add_done_callback(lambda _: fuse.touch())
    slow = executor.submit(wait_for, gate.path)
    done, not_done = concurrent.futures.wait([quick, failing, slow], TIMEOUT_S, FIRST_EXCEPTION)
    assert (done, not_done) == ({quick, failing}, {slow})


def test_wait_for_the_first_exception_where_it_is_in(executor: Executor, gate: Gate) -> None:
    slow = executor.submit(wait_for, gate.path)
    foreign = settled(error=OSError("earlier"))
    assert concurrent.futures.wait([foreign, slow], TIMEOUT_S, FIRST_EXCEPTION) == ({foreign}, {slow})
    failed = executor.submit(divide, 1, 0)
    failed.exception(TIMEOUT_S)
    assert concurrent.futures.wait([failed, slow], TIMEOUT_S, FIRST_EXCEPTION) == ({failed}, {slow})


def test_wait_for_all(executor: Executor) -> None:
    futures = {settled(1), cancelled(), settled(error=OSError()), executor.submit(divide, 2, 0)}
    futures.add(executor.submit(multiply, 2, 21))
    assert concurrent.futures.wait(futures, TIMEOUT_S, ALL_COMPLETED) == (futures, set())


def test_wait_ends_with_its_timeout(executor: Executor, gate: Gate) -> None:
    over = {cancelled(), settled(1), settled(error=OSError())}
    slow = executor.submit(wait_for, gate.path)
    assert concurrent.futures.wait([*over, slow], 0.05, ALL_COMPLETED) == (over, {slow})


def test_many_futures_that_end_while_they_are_waited_for(executor: Executor, gate: Gate) -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        futures = {executor.submit(wait_for, gate.path) for _ in range(100)}
        gate.open()
        assert concurrent.futures.wait(futures, TIMEOUT_S) == (futures, set())
    finally:
        sys.setswitchinterval(before)


# as_completed: the standard library's, and ours, which must be the same.


@pytest.fixture(params=[as_completed, sparrowmq.as_completed], ids=["standard", "sparrowmq"])
def completed(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_as_completed_yields_all_each_once(executor: Executor, completed: Any) -> None:
    futures = {cancelled(), settled(1), settled(error=OSError()), executor.submit(multiply, 2, 21)}
    futures.add(executor.submit(multiply, 7, 6))
    seen = list(completed(futures, TIMEOUT_S))
    assert set(seen) == futures
    assert len(seen) == len(futures)


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_as_completed_times_out_after_what_is_over(
    executor: Executor, completed: Any, gate: Gate, timeout: float
) -> None:
    over = executor.submit(multiply, 1, 1)
    over.result(TIMEOUT_S)
    slow = executor.submit(wait_for, gate.path)
    seen = []
    with pytest.raises(TimeoutError, match=r"1 \(?of 2\)? futures"):
        seen.extend(list(_record(completed([over, slow], timeout), seen)))
    assert seen == [over]


def _record(items: Iterator[Any], seen: list[Any]) -> Iterator[Any]:
    for item in items:
        seen.append(item)
        yield item


def test_as_completed_takes_any_iterable_with_duplicates(executor: Executor, completed: Any) -> None:
    future = executor.submit(multiply, 6, 7)
    assert list(completed(itertools.repeat(future, 3), TIMEOUT_S)) == [future]


def test_as_completed_yields_in_the_order_of_completion(executor: Executor, completed: Any, tmp_path: Path) -> None:
    gates = [tmp_path / str(n) for n in range(SLOTS)]
    futures = [executor.submit(wait_for, path) for path in gates]
    seen = []
    gates[1].touch()
    for future in completed(futures, TIMEOUT_S):
        seen.append(futures.index(future))
        gates[0].touch()
    assert seen == [1, 0]


def test_as_completed_keeps_no_reference(executor: Executor, completed: Any) -> None:
    futures = [executor.submit(multiply, n, n) for n in range(8)]
    concurrent.futures.wait(futures, TIMEOUT_S)
    for future in completed(futures, TIMEOUT_S):
        futures.remove(future)
        reference = weakref.ref(future)
        del future
        gc.collect()
        assert reference() is None
    assert futures == []


# Futures: cancelling.


def test_cancel_of_what_has_not_started(executor: Executor, gate: Gate, tmp_path: Path) -> None:
    running = busy(executor, gate, SLOTS)
    waiting, never = executor.submit(mark, tmp_path / "never"), tmp_path / "never"
    assert waiting.cancel()
    assert (waiting.cancelled(), waiting.done(), waiting.running()) == (True, True, False)
    assert waiting.cancel()
    for call in (waiting.result, waiting.exception):
        with pytest.raises(CancelledError):
            call(0)
    assert not running[0].cancel()
    assert not running[0].cancelled()
    gate.open()
    assert [future.result(TIMEOUT_S) for future in running] == [None] * SLOTS
    assert not never.exists()


def test_cancel_wakes_who_waits(executor: Executor, gate: Gate) -> None:
    busy(executor, gate, SLOTS)
    waiting = executor.submit(multiply, 1, 1)
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            waiting.result(TIMEOUT_S)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.cancel()
    thread.join(TIMEOUT_S)
    assert [type(error) for error in raised] == [CancelledError]
    assert concurrent.futures.wait([waiting], 0).done == {waiting}


def test_cancel_races_with_the_start_and_never_lies(executor: Executor, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n in range(60)]
    futures = [executor.submit(mark, path) for path in paths]
    verdicts = [future.cancel() for future in futures[::-1]][::-1]
    for future, verdict, path in zip(futures, verdicts, paths, strict=True):
        if verdict:
            assert future.cancelled()
            assert not path.exists()
        else:
            assert future.result(TIMEOUT_S) is None
            assert path.exists()


def test_result_and_exception_time_out(executor: Executor, gate: Gate) -> None:
    slow = executor.submit(wait_for, gate.path)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError):
            slow.result(timeout)
        with pytest.raises(TimeoutError):
            slow.exception(timeout)
    assert not slow.done()


# Futures: callbacks.


class Calls:
    def __init__(self, count: int) -> None:
        self.values: list[Any] = []
        self.count = count
        self.over = threading.Event()

    def add(self, value: Any) -> None:
        self.values.append(value)
        if len(self.values) == self.count:
            self.over.set()

    def wait(self) -> list[Any]:
        assert self.over.wait(TIMEOUT_S), self.values
        return self.values


def test_callbacks_get_the_future_once_in_the_order_they_were_added(executor: Executor, gate: Gate) -> None:
    future, calls = executor.submit(wait_for, gate.path, 5), Calls(3)
    for number in range(3):
        future.add_done_callback(lambda future, number=number: calls.add((number, future, future.result(0))))  # type: ignore[misc]
    gate.open()
    assert calls.wait() == [(number, future, 5) for number in range(3)]


def test_callbacks_of_failed_and_cancelled_tasks(executor: Executor, gate: Gate) -> None:
    calls = Calls(2)
    failed = executor.submit(divide, 1, 0)
    failed.add_done_callback(lambda future: calls.add(type(future.exception(0))))
    failed.exception(TIMEOUT_S)
    busy(executor, gate, SLOTS)
    waiting = executor.submit(multiply, 1, 1)
    waiting.add_done_callback(lambda future: calls.add(future.cancelled()))
    assert waiting.cancel()
    assert calls.wait() == [ZeroDivisionError, True]


def test_a_callback_that_raises_does_not_stop_the_others(
    executor: Executor, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    future, calls = executor.submit(wait_for, gate.path), Calls(2)

    def broken(_: Future[Any]) -> None:
        calls.add("broken")
        raise ValueError("a callback's own")

    future.add_done_callback(broken)
    future.add_done_callback(lambda _: calls.add("fine"))
    with caplog.at_level(logging.ERROR):
        gate.open()
        assert calls.wait() == ["broken", "fine"]
    assert "exception calling callback" in caplog.text
    assert "a callback's own" in caplog.text


def test_callbacks_of_what_is_over_run_at_once(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    over, failed, calls = executor.submit(multiply, 2, 3), executor.submit(divide, 1, 0), Calls(2)
    concurrent.futures.wait([over, failed], TIMEOUT_S)
    over.add_done_callback(lambda future: calls.add(future.result(0)))
    failed.add_done_callback(lambda future: calls.add(type(future.exception(0))))
    assert calls.values == [6, ZeroDivisionError]
    with caplog.at_level(logging.ERROR):
        over.add_done_callback(lambda _: 1 // 0)  # type: ignore[arg-type]
    assert "exception calling callback" in caplog.text


def test_a_callback_may_submit_and_wait(executor: Executor) -> None:
    calls = Calls(1)
    executor.submit(multiply, 2, 3).add_done_callback(
        lambda future: calls.add(executor.submit(multiply, future.result(), 7).result(TIMEOUT_S))
    )
    assert calls.wait() == [42]


def test_an_interrupt_while_waiting_reaches_the_caller(executor: Executor, gate: Gate) -> None:
    future = executor.submit(wait_for, gate.path)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with contextlib.suppress(AssertionError), pytest.raises(KeyboardInterrupt):
        future.result(TIMEOUT_S)
    timer.join()
    gate.open()
    assert future.result(TIMEOUT_S) is None


# asyncio.


def test_run_in_executor(executor: Executor) -> None:
    async def main() -> tuple[list[int], Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, multiply, n, n) for n in range(10)]
        values = await asyncio.gather(*calls)
        failed = await asyncio.gather(loop.run_in_executor(executor, divide, 1, 0), return_exceptions=True)
        return list(values), failed[0]

    values, error = asyncio.run(main())
    assert values == [n * n for n in range(10)]
    assert isinstance(error, ZeroDivisionError)
