"""The asynchronous client against a scheduler that does what the test wants."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest

from sparrowmq import AsyncClient, Client, CommandResult, NotSerializable, RemoteError, Unavailable, UsageError
from sparrowmq.client import aiostream, connection
from sparrowmq.protocol import messages as m
from tests.support.fake_scheduler import FakeScheduler

TIMEOUT_S = 10.0


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.close()


Main = Callable[[AsyncClient], Coroutine[Any, Any, Any]]


@pytest.fixture
def run(scheduler: FakeScheduler) -> Callable[[Main], Any]:
    """Run a coroutine function in a loop of its own, with a client of the scheduler."""

    def run(main: Main) -> Any:
        async def whole() -> Any:
            async with asyncio.timeout(TIMEOUT_S), AsyncClient(scheduler.address) as client:
                return await main(client)

        return asyncio.run(whole(), debug=False)

    return run


async def seen(scheduler: FakeScheduler, kind: type[m.AnyMessage], count: int = 1) -> list[Any]:
    return await asyncio.to_thread(scheduler.wait_for, kind, count)


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


def stop(value: int) -> None:
    raise StopIteration(value)


# One task.


def test_submit_is_awaited(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        future = client.submit(add, 2, b=3)
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        assert await future == 5
        assert await future == 5
        assert (future.future.job, future.future.done()) == (future.future.batch.id, True)
        assert await client.submit("math:hypot", 3, 4) == 5.0

    run(main)


def test_a_task_that_raises_raises_here(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await client.submit(fail, "no")
        assert isinstance(caught.value.__cause__, RemoteError)
        with pytest.raises(RuntimeError, match="StopIteration") as stopped:
            await client.submit(stop, 3)
        assert isinstance(stopped.value.__cause__, StopIteration)

    run(main)


def test_what_cannot_be_sent_raises_at_the_call(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        with pytest.raises(NotSerializable):
            client.submit(add, threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="at least one iterable"):
            client.map(add)
        with pytest.raises(UsageError, match="at least one iterable"):
            client.imap(add)

    run(main)


def test_futures_work_with_asyncio(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        assert await asyncio.gather(*(client.submit(add, n) for n in range(20))) == list(range(20))
        done, pending = await asyncio.wait([client.submit(add, 1), client.submit(add, 2)])
        assert (sorted(future.result() for future in done), pending) == ([1, 2], set())
        completed = [await each for each in asyncio.as_completed([client.submit(add, n) for n in range(3)])]
        assert sorted(completed) == [0, 1, 2]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_awaited(client.submit(add, n, n))) for n in range(5)]
        assert [task.result() for task in tasks] == [0, 2, 4, 6, 8]
        with pytest.raises(asyncio.InvalidStateError):
            tasks[0].get_loop().create_future().result()

    run(main)


async def _awaited(future: Awaitable[int]) -> int:
    return await future


# Cancelling.


def test_cancelling_a_future_cancels_its_task_at_once_and_without_waiting(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        future = client.submit(add, 1)
        await seen(scheduler, m.Submit)
        began = time.monotonic()
        assert future.cancel()
        assert time.monotonic() - began < 1.0
        assert future.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await future
        assert not future.cancel()
        (recall,) = await seen(scheduler, m.Recall)
        assert (recall.job, recall.indices) == (future.future.job, [0])
        await asyncio.to_thread(concurrent.futures.wait, [future.future], TIMEOUT_S)
        assert future.future.cancelled()

    run(main)


def test_a_silent_scheduler_does_not_make_cancel_wait(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        future = client.submit(add, 1)
        await seen(scheduler, m.Submit)
        scheduler.mute = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await future
        assert future.cancelled()

    began = time.monotonic()
    run(main)
    assert time.monotonic() - began < 5.0


def test_cancelling_together_is_one_message_a_job(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        job = client.map(add, range(50))
        await seen(scheduler, m.Submit)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.gather(*job)
        (recall,) = await seen(scheduler, m.Recall)
        assert sorted(recall.indices) == list(range(50))
        assert all(future.cancelled() for future in job)
        assert await job.wait(TIMEOUT_S)

    run(main)


def test_cancelling_who_awaits_a_job_cancels_what_has_not_started(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        job = client.map(add, range(5))
        await seen(scheduler, m.Submit)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await job
        (recall,) = await seen(scheduler, m.Recall)
        assert recall.indices == [0, 1, 2, 3, 4]

    run(main)


def test_a_task_that_the_cluster_cancels_cancels_its_future(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        future = client.submit(add, 1)
        job = client.map(add, [1, 2])
        await seen(scheduler, m.Submit, 2)
        client.kill(future)
        with pytest.raises(asyncio.CancelledError):
            await future
        assert not scheduler.has(m.Recall)
        client.kill(job)
        with pytest.raises(concurrent.futures.CancelledError):
            await job
        errors = await client.gather(job, errors="return")
        assert [type(error) for error in errors] == [concurrent.futures.CancelledError] * 2

    run(main)


def test_cancel_counts_what_will_never_run(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        job = client.map(add, range(4))
        futures = [client.submit(add, 1)]
        await seen(scheduler, m.Submit, 2)
        scheduler.release(job.id, [0])
        await job[0]
        assert await client.cancel(job) == 3
        assert await client.cancel(futures) == 1
        assert await client.map(add, [1]).cancel() in (0, 1)

    run(main)


# Jobs.


def test_a_job_is_awaited_or_iterated_over(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        job = client.map(add, range(1000), range(1000))
        expected = [2 * n for n in range(1000)]
        assert await job == expected
        assert [value async for value in job] == expected
        assert await client.gather(job) == expected
        assert await asyncio.gather(*job) == expected
        assert (len(job), job.finished, job.id) == (1000, 1000, job.job.id)
        assert await job[-1] == 1998
        assert [await future for future in job[:2]] == [0, 2]
        assert job[5] is job[5]
        with pytest.raises(IndexError):
            _ = job[1000]
        assert (await client.map(add, []), repr(client.map(add, []))) == ([], "<AsyncJob (no tasks) 0/0 finished>")

    run(main)
    assert scheduler.wait_for(m.Submit)[0].count == 1000


def test_results_come_in_order_as_they_are_ready(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        job = client.map(add, range(3))
        await seen(scheduler, m.Submit)
        results = aiter(job)
        first = asyncio.ensure_future(anext(results))
        scheduler.release(job.id, [2, 1])
        await job[1]
        assert not first.done()
        scheduler.release(job.id, [0])
        assert [await first, await anext(results), await anext(results)] == [0, 1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main)


def test_gather_raises_the_first_or_returns_all(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        futures = [client.submit(add, 1), client.submit(fail, "one"), client.submit(fail, "two")]
        with pytest.raises(ValueError, match="one"):
            await client.gather(futures)
        value, one, two = await client.gather(futures, errors="return")
        assert (value, str(one), str(two)) == (1, "one", "two")
        with pytest.raises(UsageError, match="errors"):
            await client.gather(futures, errors="ignore")  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="one"):
            await client.map(fail, ["one", "two"])

    run(main)


def test_gather_times_out_and_leaves_the_tasks_alone(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        job = client.map(add, [1, 2])
        await seen(scheduler, m.Submit)
        with pytest.raises(TimeoutError):
            await client.gather(job, timeout_s=0.01)
        assert not await job.wait(0.01)
        scheduler.release(job.id)
        assert await client.gather(job, timeout_s=TIMEOUT_S) == [1, 2]
        assert await job.wait()
        assert not scheduler.has(m.Recall)

    run(main)


def test_commands_sleeps_rows_and_options(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        assert await client.run_commands(["echo", "hi"], n=2) == [CommandResult(0, b"echo hi", b"")] * 2
        assert await client.sleep([0.0]) == [None]
        assert await client.starmap(add, [(1, 2), (3, 4)], name="rows") == [3, 7]
        assert await client.options(timeout_s=3, name="view").submit(add, 1) == 1
        (status, *_) = await client.query("summary")
        assert status.scheduler == scheduler.id

    run(main)
    specs = [submit.spec for submit in scheduler.wait_for(m.Submit, 4)]
    assert [(spec.name, spec.timeout_s) for spec in specs[2:]] == [("rows", 0.0), ("view", 3.0)]


# The loop.


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts who wakes it from other threads."""

    wakes = 0

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if threading.current_thread().name.startswith("sparrowmq-client"):
            self.wakes += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_outcomes_that_come_together_wake_the_loop_once(scheduler: FakeScheduler) -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        async with AsyncClient(scheduler.address) as client:
            scheduler.hold = True
            job = client.map(add, range(2000))
            waiting = asyncio.ensure_future(client.gather(job))
            each = asyncio.gather(*job)
            await seen(scheduler, m.Submit)
            settlements: list[int] = []
            job.job[0].batch.watch(lambda futures: settlements.append(len(futures)))
            loop.wakes = 0
            scheduler.release(job.id)
            assert await waiting == await each == list(range(2000))
            return loop.wakes, len(settlements)

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        wakes, settlements = runner.run(main())
    assert 1 <= wakes <= settlements


def test_the_loop_goes_on_turning_while_many_results_come(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        worst, stop = 0.0, asyncio.Event()

        async def tick() -> None:
            nonlocal worst
            while not stop.is_set():
                before = time.monotonic()
                await asyncio.sleep(0)
                worst = max(worst, time.monotonic() - before)

        job = client.map(add, range(20_000))
        ticking = asyncio.ensure_future(tick())
        assert len(await asyncio.gather(*job)) == 20_000
        worst = 0.0
        assert len(await client.gather(job)) == 20_000
        count = 0
        async for _ in client.imap(add, range(20_000)):
            count += 1
        assert count == 20_000
        stop.set()
        await ticking
        assert worst < 1.0

    run(main)


def test_connecting_does_not_block_the_loop() -> None:
    async def main() -> int:
        turns = 0
        connecting = asyncio.ensure_future(AsyncClient("tcp://127.0.0.1:9", timeout_s=0.3).connect())
        while not connecting.done():
            turns += 1
            await asyncio.sleep(0.005)
        with pytest.raises(Unavailable, match="no scheduler answers"):
            await connecting
        return turns

    assert asyncio.run(main()) > 5


def test_a_connect_that_is_cancelled_leaves_no_client_behind(
    scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    let, closed = threading.Event(), threading.Event()
    real_open, real_close = connection.Connection.open, connection.Connection.close

    def slow_open(self: Any, timeout_s: float) -> None:
        let.wait(TIMEOUT_S)
        real_open(self, timeout_s)

    def watched_close(self: Any) -> None:
        real_close(self)
        closed.set()

    monkeypatch.setattr(connection.Connection, "open", slow_open)
    monkeypatch.setattr(connection.Connection, "close", watched_close)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await AsyncClient(scheduler.address).connect()
        let.set()
        assert await asyncio.to_thread(closed.wait, TIMEOUT_S)

    asyncio.run(main())
    (goodbye,) = scheduler.wait_for(m.Goodbye)
    assert goodbye.reason == "leaving"


def test_the_end_of_the_block_cancels_what_is_unfinished(scheduler: FakeScheduler) -> None:
    async def main() -> None:
        async with AsyncClient(scheduler.address) as client:
            scheduler.hold = True
            future, job = client.submit(add, 1), client.map(add, [1, 2])
            waiting = asyncio.ensure_future(job.wait())
            await seen(scheduler, m.Submit, 2)
        with pytest.raises(asyncio.CancelledError):
            await future
        assert await waiting
        await client.close()
        with pytest.raises(UsageError, match="not connected"):
            client.submit(add, 1)

    asyncio.run(main())


def test_outcomes_after_the_loop_is_closed_do_no_harm(
    scheduler: FakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler.hold = True
    with Client(scheduler.address) as inner:

        async def main() -> tuple[Any, Any]:
            client = await AsyncClient(inner).connect()
            job = client.map(add, range(10))
            future = job[0]
            unfinished = asyncio.ensure_future(client.submit(add, 7))
            await seen(scheduler, m.Submit, 2)
            unfinished.cancel()
            return job, future

        job, future = asyncio.run(main())
        scheduler.release(job.id)
        assert job.job.wait(TIMEOUT_S)
        assert not future.done()
        scheduler.hold = False
        assert inner.submit(add, 1).result(TIMEOUT_S) == 1  # the connection's thread is well
    assert caplog.text == ""


def test_a_client_that_was_given_stays_open_and_serves_several_loops(scheduler: FakeScheduler) -> None:
    with Client(scheduler.address) as inner:

        async def main() -> int:
            async with AsyncClient(inner) as client:
                assert client.client is inner
                assert client.id == inner.id
                return await client.submit(add, 1)

        assert [asyncio.run(main()) for _ in range(3)] == [1, 1, 1]
        assert inner.submit(add, 2).result(TIMEOUT_S) == 2


def test_uses_that_make_no_sense(scheduler: FakeScheduler) -> None:
    client = AsyncClient(scheduler.address)
    assert repr(client) == "<AsyncClient not connected>"
    with pytest.raises(UsageError, match="not connected"):
        client.submit(add, 1)

    async def enter() -> None:
        await client.connect()
        with pytest.raises(UsageError, match="connected already"):
            await client.connect()

    async def elsewhere() -> None:
        with pytest.raises(UsageError, match="another event loop"):
            client.submit(add, 1)
        await client.close()

    asyncio.run(enter())
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.submit(add, 1)
    asyncio.run(elsewhere())


def test_listeners_are_forgotten_when_all_is_over(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        job = client.map(add, range(100))
        await asyncio.gather(*job, client.submit(add, 1))
        await job
        cancelled = client.submit(add, 1)
        cancelled.cancel()
        async for _ in client.imap(add, range(100), ordered=False):
            pass
        _, bridge = client._use()
        assert (bridge._waiting, bridge._listeners, bridge._watched) == ({}, {}, {})

    run(main)


# Streams.


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_gives_all_results(run: Any, ordered: bool) -> None:
    async def main(client: AsyncClient) -> None:
        count = 3 * aiostream.AHEAD_TASKS + 17
        found = [value async for value in client.imap(add, range(count), itertools.repeat(1), ordered=ordered)]
        assert (found if ordered else sorted(found)) == list(range(1, count + 1))
        assert [value async for value in client.imap(add, [], ordered=ordered)] == []
        assert [value async for value in client.imap("math:sqrt", [4.0], ordered=ordered)] == [2.0]

    run(main)


def test_imap_takes_asynchronous_iterables_and_does_not_wait_for_more(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def items() -> AsyncIterator[int]:
            for number, gate in enumerate(gates):
                await gate.wait()
                yield number

        results = client.imap(add, items(), [10, 20, 30, 40])
        for gate, expected in zip(gates, (10, 21, 32), strict=True):
            gate.set()
            assert await anext(results) == expected  # although the next item is not there yet
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main)


def test_imap_reads_no_further_ahead_than_it_says(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        read = 0

        def items() -> Iterator[int]:
            nonlocal read
            for number in itertools.count():
                read += 1
                yield number

        async with contextlib.aclosing(client.imap(add, items())) as results:
            for n in range(3):
                assert await anext(results) == n
            while read < aiostream.AHEAD_TASKS:
                await asyncio.sleep(0.001)
            for _ in range(100):
                await asyncio.sleep(0)
            assert read <= aiostream.AHEAD_TASKS + 3
            for n in range(3, aiostream.AHEAD_TASKS):
                assert await anext(results) == n
            assert read <= 2 * aiostream.AHEAD_TASKS

    run(main)


def test_imap_unordered_gives_what_is_ready(run: Any, scheduler: FakeScheduler) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        results = client.imap(add, range(3), ordered=False)
        first = asyncio.ensure_future(anext(results))
        (submit,) = await seen(scheduler, m.Submit)
        for index in (2, 0, 1):
            scheduler.release(submit.job, [index])
            assert await first == index
            first = asyncio.ensure_future(anext(results))
        with pytest.raises(StopAsyncIteration):
            await first

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_raises_a_tasks_error_and_ends(run: Any, ordered: bool) -> None:
    async def main(client: AsyncClient) -> None:
        results = client.imap(fail, ["here"], ordered=ordered)
        with pytest.raises(ValueError, match="here"):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_raises_the_iterables_error_after_what_came_before(run: Any, ordered: bool) -> None:
    async def main(client: AsyncClient) -> None:
        def items() -> Iterator[Any]:
            yield 1
            yield 2
            raise OSError("the disk is gone")

        results = client.imap(add, items(), ordered=ordered)
        assert [await anext(results), await anext(results)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(results)
        with pytest.raises(NotSerializable):
            async for _ in client.imap(add, [threading.Lock()], ordered=ordered):
                pass

    run(main)


@pytest.mark.parametrize("how", ["close", "drop", "cancel"])
def test_an_imap_that_is_left_cancels_the_rest(run: Any, scheduler: FakeScheduler, how: str) -> None:
    async def main(client: AsyncClient) -> None:
        scheduler.hold = True
        results = client.imap(add, itertools.count())
        first = asyncio.ensure_future(anext(results))
        submits = await seen(scheduler, m.Submit)
        scheduler.release(submits[0].job, [0])
        await first
        if how == "close":
            await results.aclose()
        elif how == "cancel":
            second = asyncio.ensure_future(anext(results))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        del results, first
        gc.collect()
        (recall, *_) = await seen(scheduler, m.Recall)
        assert recall.job == submits[0].job
        assert recall.indices[0] == 1

    run(main)


class Result:
    pass


def make(_: int) -> Result:
    return Result()


def test_imap_keeps_no_reference_to_what_it_has_given(run: Any) -> None:
    async def main(client: AsyncClient) -> None:
        async with contextlib.aclosing(client.imap(make, itertools.count())) as results:
            references = [weakref.ref(await anext(results)) for _ in range(2 * aiostream.PART_TASKS)]
        assert sum(reference() is not None for reference in references) <= 1

    run(main)


def test_the_blocking_client_loads_no_asyncio(scheduler: FakeScheduler) -> None:
    code = f"""
import sys
from sparrowmq import Client, Executor
with Client({scheduler.address!r}) as client, Executor(client) as executor:
    assert executor.submit(abs, -1).result(10) == 1
print("asyncio" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout == "False\n"
