"""Many tasks at once: large maps, streams, bursts of calls, against a scheduler that does what the test wants."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
from collections.abc import Iterator

import pytest

from sparrowmq import Client, Job, NotSerializable, Rejected, UsageError, limits
from sparrowmq.protocol import messages as m
from tests.support.fake_scheduler import FakeScheduler

TIMEOUT_S = 10.0


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.close()


@pytest.fixture
def client(scheduler: FakeScheduler) -> Iterator[Client]:
    with Client(scheduler.address) as client:
        yield client


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


@pytest.fixture
def large(client: Client, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> Job[int]:
    """A map of four jobs of two tasks, held by the scheduler."""
    monkeypatch.setattr(limits, "TASKS_PER_JOB_MAX", 2)
    scheduler.hold = True
    return client.map(add, range(8))


def submitted(scheduler: FakeScheduler) -> list[str]:
    return [message.job for message in scheduler.received if isinstance(message, m.Submit)]


def test_of_a_large_map_two_jobs_are_in_flight(client: Client, scheduler: FakeScheduler, large: Job[int]) -> None:
    scheduler.wait_for(m.Submit, 2)
    client.query("summary")
    assert submitted(scheduler) == large.ids[:2]
    scheduler.release(large.ids[1])
    scheduler.wait_for(m.Submit, 3)
    assert submitted(scheduler) == large.ids[:3]
    scheduler.hold = False
    scheduler.release(large.ids[0])
    scheduler.release(large.ids[2])
    assert client.gather(large, timeout_s=TIMEOUT_S) == list(range(8))


def test_what_waits_behind_a_large_map_is_cancelled_killed_and_closed(
    client: Client, scheduler: FakeScheduler, large: Job[int]
) -> None:
    scheduler.wait_for(m.Submit, 2)
    assert large[7].cancel()
    client.kill(large[6])
    with pytest.raises(concurrent.futures.CancelledError):
        large[6].result(TIMEOUT_S)
    assert (large[6].cancellation, large[7].cancellation) == ("dequeued", "dequeued")
    assert not scheduler.has(m.Recall)
    assert not scheduler.has(m.Kill)
    client.close()
    assert all(future.cancelled() for future in large)
    assert len(submitted(scheduler)) == 2


def test_what_waits_behind_a_large_map_follows_a_rejected_job(
    client: Client, scheduler: FakeScheduler, large: Job[int]
) -> None:
    scheduler.wait_for(m.Submit, 2)
    scheduler.reject = ("invalid", "no more")
    scheduler.release(large.ids[0])
    assert large[0].result(TIMEOUT_S) == 0
    for future in large[4:]:
        with pytest.raises(Rejected, match="no more"):
            future.result(TIMEOUT_S)
    assert not large[2].done()
    client.kill(large)
    assert large.wait(TIMEOUT_S)


def test_nothing_of_a_large_map_is_sent_when_its_last_item_cannot_be(
    client: Client, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TASKS_PER_JOB_MAX", 2)
    with pytest.raises(NotSerializable, match="task 6"):
        client.map(add, [*range(6), threading.Lock()])
    client.query("summary")
    assert submitted(scheduler) == []


def test_imap_streams_and_stops_when_it_is_closed(client: Client, scheduler: FakeScheduler) -> None:
    assert list(client.imap(add, range(500), range(500))) == [2 * n for n in range(500)]
    assert sorted(client.imap("math:sqrt", [4, 9], ordered=False)) == [2.0, 3.0]
    scheduler.hold = True
    before = len(submitted(scheduler))
    endless = client.imap(add, itertools.count(), name="endless")
    threading.Thread(target=lambda: next(endless), daemon=True).start()
    first, second = scheduler.wait_for(m.Submit, before + 2)[before:]
    assert (first.count, second.count, first.spec.name) == (32, 128, "endless")
    scheduler.release(first.job, [0])
    endless.close()
    recalled = {recall.job: recall.indices for recall in scheduler.wait_for(m.Recall, 2)}
    assert recalled[second.job] == list(range(128))
    with pytest.raises(UsageError, match="at least one iterable"):
        client.imap(add)
    with pytest.raises(UsageError, match="unknown option 'polcy'"):
        client.imap(add, [1], polcy="batch")  # type: ignore[call-overload]


def test_interrupt_says_what_became_of_each_task(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    scheduler.cancellation = b"interrupted"
    job = client.map(add, range(3))
    scheduler.wait_for(m.Submit)
    scheduler.release(job.id, [1])
    assert job[1].result(TIMEOUT_S) == 1
    assert client.interrupt(job, grace_s=2.5) == ["interrupted", "too late", "interrupted"]
    assert scheduler.wait_for(m.Kill) == [m.Kill(job.id, 0, [0, 2], 2.5)]


def test_calls_in_quick_succession_share_jobs_when_many_are_under_way(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    first = [client.submit(add, n) for n in range(16)]
    scheduler.wait_for(m.Submit, 16)
    hurry = threading.Event()
    client._connection._loop.post(lambda: hurry.wait(TIMEOUT_S))  # the connection's thread is busy
    shared = [client.submit(add, n) for n in range(100)]
    other = client.submit(fail, "x")
    hurry.set()
    jobs = scheduler.wait_for(m.Submit, 18)
    assert [submit.count for submit in jobs] == [1] * 16 + [100, 1]
    assert {future.job for future in shared} == {jobs[16].job}
    assert [future.index for future in shared] == list(range(100))
    assert other.job == jobs[17].job
    assert shared[50].cancel()
    scheduler.hold = False
    for submit in jobs:
        scheduler.release(submit.job)
    assert client.gather([*first, *shared[:50]]) == [*range(16), *range(50)]
    with pytest.raises(ValueError, match="x"):
        other.result(TIMEOUT_S)
