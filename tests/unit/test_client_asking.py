"""What a client asks schedulers, and jobs by their id: against schedulers that answer what the test wants."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sparrowmq import Client, Rejected, TooLarge, Unavailable, UsageError, limits
from sparrowmq.client import follow, ledger
from sparrowmq.client.handle import JobHandle
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings
from tests.support.fake_scheduler import FakeScheduler

TIMEOUT_S = 10.0
JOB = "01jc8x2m9k7q4w3e5r6t"


@pytest.fixture
def schedulers() -> Iterator[tuple[FakeScheduler, FakeScheduler]]:
    fakes = FakeScheduler("scheduler-a"), FakeScheduler("scheduler-b")
    yield fakes
    for fake in fakes:
        fake.close()


@pytest.fixture
def client(schedulers: tuple[FakeScheduler, FakeScheduler]) -> Iterator[Client]:
    with Client(",".join(fake.address for fake in schedulers)) as client:
        yield client


def job_row(id: str = JOB, *, state: str = "running", epoch: int = 0, tasks: int = 3) -> m.JobStatus:
    return m.JobStatus(
        id, "n", "batch", state, tasks, 0, 0, [tasks, 0, 0, 0, 0], epoch, "client-1", 5.0, 0, 0, 0, 0, 0, 0, 0, 0
    )  # fmt: skip


def worker_row(id: str = "worker-a", *, state: str = "alive", launched: int = 1, rtt_ms: float = 1.0) -> m.WorkerStatus:
    return m.WorkerStatus(id, "host", 1, 2, state, 3, launched, 10, rtt_ms, "0.1.0", "3.11")


def event(unix_s: float, kind: str) -> m.Event:
    return m.Event(unix_s, kind)


def task_row(index: int, state: str, *events: m.Event, job: str = JOB, attempts: int = 1) -> m.TaskStatus:
    return m.TaskStatus(job, index, state, attempts, "worker-a", 0, list(events))


# Rows of several schedulers.


def test_jobs_are_those_of_all_schedulers_oldest_first_at_their_latest_epoch(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    one, other = schedulers
    one.job_rows = [job_row("b", epoch=1), job_row("c")]
    other.job_rows = [job_row("a"), job_row("b", epoch=2, state="done")]
    assert client.jobs() == [job_row("a"), job_row("b", epoch=2, state="done"), job_row("c")]


def test_workers_are_added_up(client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    one, other = schedulers
    one.worker_rows = [worker_row("w2"), worker_row("w1", state="lost", launched=0, rtt_ms=9.0)]
    other.worker_rows = [worker_row("w1", launched=4)]
    first, second = client.workers()
    assert (first.id, first.state, first.launched, first.reservations, first.done) == ("w1", "alive", 4, 6, 20)
    assert first.rtt_ms == 9.0
    assert second == worker_row("w2")


def test_what_two_schedulers_saw_of_a_task_is_one_story() -> None:
    before = task_row(1, "launched", event(1, "submitted"), event(2, "launched"), attempts=2)
    after = task_row(1, "succeeded", event(3, "submitted"), event(4, "launched"), event(5, "succeeded"))
    stranger = task_row(1, "failed", job="other")
    for order in ([before, after], [after, before]):
        rows = ledger.tasks([m.Status(1, "s", tasks=[row, stranger]) for row in order], JOB)
        assert [(row.index, row.state, row.attempts) for row in rows] == [(1, "succeeded", 2)]
        assert [found.unix_s for found in rows[0].events] == [1, 2, 3, 4, 5]


def test_a_query_names_tasks(client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    schedulers[0].task_rows = [task_row(n, "launched") for n in range(5)]
    statuses = client.query("tasks", JOB, [1, 3])
    assert sorted(row.index for status in statuses for row in status.tasks) == [1, 3]


# Workers out of service.


def test_the_scheduler_that_knows_a_worker_is_told_to_drain_it(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    schedulers[1].worker_rows = [worker_row("worker-x", state="draining")]
    assert client.drain_worker("worker-x", grace_s=5) == worker_row("worker-x", state="draining")
    assert schedulers[1].wait_for(m.Drain) == [m.Drain(1, "worker-x", 5.0)]
    assert client.drain_worker("worker-y") is None
    for wrong in ("", 3):
        with pytest.raises(UsageError, match="no worker id"):
            client.drain_worker(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="grace_s"):
        client.drain_worker("worker-x", grace_s=-1)


# Handles.


def test_a_job_is_found_by_the_beginning_of_its_id(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    schedulers[0].job_rows = [job_row("abc1"), job_row("abc2")]
    schedulers[1].job_rows = [job_row("abc1", epoch=1), job_row("xyz")]
    assert client.job("x") == JobHandle(client._connection, "xyz")
    assert client.job("abc1").id == "abc1"
    with pytest.raises(UsageError, match="2 jobs begin with 'abc': abc1, abc2"):
        client.job("abc")
    with pytest.raises(UsageError, match="no scheduler knows a job 'q'"):
        client.job("q")
    for wrong in ("", 3, "x" * 300):
        with pytest.raises(UsageError, match="no job id"):
            client.job(wrong)  # type: ignore[arg-type]
    assert client.job(JOB).status() is None  # a whole id is taken as it is
    assert repr(client.job(JOB)) == f"<JobHandle {JOB}>"
    assert len({client.job(JOB), client.job(JOB)}) == 1


def test_waiting_for_a_job_ends_with_it(client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    scheduler = schedulers[0]
    scheduler.job_rows = [job_row(), job_row(JOB[:-1])]
    handle = client.job(JOB)
    assert not handle.wait(0.0)
    assert not handle.wait(0.05)
    done: concurrent.futures.Future[bool] = concurrent.futures.Future()
    threading.Thread(target=lambda: done.set_result(handle.wait(TIMEOUT_S)), daemon=True).start()
    scheduler.wait_for(m.Query, len(scheduler.wait_for(m.Query)) + 3)
    assert not done.done()
    scheduler.job_rows = [job_row(state="done")]
    assert done.result(TIMEOUT_S)
    assert handle.status() == job_row(state="done")


def test_waiting_for_a_job_that_nobody_knows_is_an_error(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    with pytest.raises(UsageError, match="no scheduler knows a job"):
        client.job(JOB).wait(TIMEOUT_S)


def test_waiting_for_a_job_whose_scheduler_is_gone_gives_up(schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    settings = ClientSettings(unavailable_after_s=0.2)
    with Client(",".join(fake.address for fake in schedulers), settings=settings) as client:
        schedulers[0].close()
        with pytest.raises(Unavailable, match="no scheduler that answers knows job"):
            client.job(JOB).wait()


def test_a_job_is_cancelled_where_it_is_at_its_latest_epoch(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    one, other = schedulers
    one.job_rows = [job_row(epoch=1)]
    other.job_rows = [job_row(epoch=2)]
    assert client.job(JOB).cancel(grace_s=3)
    assert other.wait_for(m.Kill) == [m.Kill(JOB, 2, [], 3.0)]
    assert not one.has(m.Kill)
    other.job_rows = [job_row(epoch=2, state="cancelled")]
    assert not client.job(JOB).cancel()
    one.job_rows = other.job_rows = []
    with pytest.raises(UsageError, match="no scheduler knows"):
        client.job(JOB).cancel()


def test_a_jobs_tasks_and_failures(client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    scheduler = schedulers[0]
    scheduler.task_rows = [task_row(n, "failed") for n in range(2500)]
    handle = client.job(JOB)
    assert [row.index for row in handle.tasks([7, 5])] == [5, 7]
    assert len(handle.tasks(range(2500))) == 2500
    assert max(len(query.indices) for query in scheduler.wait_for(m.Query, 4)) <= limits.TASK_ROWS_MAX
    scheduler.task_rows = [task_row(3, "lost")]
    assert [row.state for row in handle.failures()] == ["lost"]
    for wrong in (-1, 100_000, "1", True):
        with pytest.raises(UsageError, match="no task's number"):
            handle.tasks([wrong])  # type: ignore[list-item]


# Output.


def output(data: bytes, *, job: str = JOB, dropped: int = 0) -> m.Output:
    return m.Output(job, 0, 0, 1, 1, data, dropped)


def test_output_comes_from_whichever_scheduler_has_it(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    one, other = schedulers
    one.followed = ""  # it does not know the job
    other.outputs = [output(b"a\n"), output(b"stray", job="other"), output(b"b\n")]
    assert [chunk.data for chunk in client.job(JOB).logs()] == [b"a\n", b"b\n"]
    assert other.wait_for(m.Follow) == [m.Follow(1, JOB, False)]
    client.query("summary")  # what was posted before it is done
    assert client._connection._followers == set()
    other.followed = ""
    other.outputs = []
    with pytest.raises(UsageError, match="no scheduler knows"):
        list(client.job(JOB).logs())


def test_following_goes_on_until_the_reader_has_enough(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    one, other = schedulers
    one.followed, other.followed = "", None
    other.outputs = [output(b"a"), output(b"b")]
    logs = client.job(JOB).logs(follow=True)
    assert [next(logs).data, next(logs).data] == [b"a", b"b"]
    assert other.wait_for(m.Follow) == [m.Follow(1, JOB, True)]
    logs.close()  # type: ignore[attr-defined]
    other.wait_for(m.Goodbye)


def test_a_scheduler_that_is_lost_ends_the_output_with_an_error(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    one, other = schedulers
    one.followed, other.followed = "", None
    other.outputs = [output(b"a")]
    logs = client.job(JOB).logs(follow=True)
    assert next(logs).data == b"a"
    other.close()
    with pytest.raises(Unavailable, match=f"{other.address}: connection lost"):
        next(logs)


def test_output_that_nobody_reads_is_bounded_and_what_is_left_out_counted(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = schedulers
    one.followed = ""
    monkeypatch.setattr(follow, "UNREAD_BYTES_MAX", 10)
    other.outputs = [output(b"12345678", dropped=1), output(b"left out", dropped=2), output(b"ab")]
    found = list(client.job(JOB).logs())
    assert [(chunk.data, chunk.dropped) for chunk in found] == [(b"12345678", 1), (b"ab", 10)]


def test_closing_the_client_ends_the_output(schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    schedulers[0].followed = None
    schedulers[0].outputs = [output(b"a")]
    client = Client(schedulers[0].address)
    logs = client.job(JOB).logs(follow=True)
    assert next(logs).data == b"a"
    client.close()
    assert list(logs) == []


# Detached jobs.


def test_a_detached_job_returns_once_accepted_and_is_forgotten(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler]
) -> None:
    handles = [
        client.detached.map(abs, [1, 2]),
        client.detached.starmap("math:pow", [(1, 2)]),
        client.options(retries=2).detached.run_commands(["true"], n=2),
        client.detached.options(name="nap").sleep([0.1], timeout_s=5),
    ]
    assert len(client.query("summary")) == 2  # both have done what came before
    assert client._connection._sinks == {}
    submits = {submit.job: submit for fake in schedulers for submit in fake.received if isinstance(submit, m.Submit)}
    sent = [submits[handle.id] for handle in handles]
    assert all(submit.detached for submit in sent)
    assert [submit.count for submit in sent] == [2, 1, 2, 1]
    assert [submit.spec.name for submit in sent] == ["abs", "math:pow", "true", "nap"]
    assert (sent[2].spec.retries, sent[3].spec.timeout_s) == (2, 5.0)


def test_what_keeps_a_detached_job_from_being_accepted_raises(
    client: Client, schedulers: tuple[FakeScheduler, FakeScheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    for fake in schedulers:
        fake.reject = ("too_large", "no room for that")
    with pytest.raises(Rejected, match="no room for that"):
        client.detached.map(abs, [1])
    with pytest.raises(UsageError, match="without tasks"):
        client.detached.map(abs, [])
    with pytest.raises(UsageError, match="unknown option 'polcy'"):
        client.detached.map(abs, [1], polcy="x")  # type: ignore[call-arg]
    monkeypatch.setattr(limits, "TASKS_PER_JOB_MAX", 10)
    with pytest.raises(TooLarge, match=r"11 tasks are 2 jobs .* a detached job is one"):
        client.detached.sleep([0.0] * 11)


def test_a_detached_job_without_an_answer_ends_with_the_client(schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    schedulers[0].accept = False
    client = Client(schedulers[0].address)
    raised: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def send() -> None:
        try:
            raised.set_result(client.detached.map(abs, [1]))
        except Exception as error:
            raised.set_exception(error)

    threading.Thread(target=send, daemon=True).start()
    schedulers[0].wait_for(m.Submit)
    client.close()
    with pytest.raises(UsageError, match="closed before the job was accepted"):
        raised.result(TIMEOUT_S)


def test_a_detached_job_without_a_scheduler_is_unavailable(schedulers: tuple[FakeScheduler, FakeScheduler]) -> None:
    settings = ClientSettings(unavailable_after_s=0.2)
    with Client(schedulers[0].address, settings=settings) as client:
        schedulers[0].close()
        with pytest.raises(Unavailable, match="no scheduler could be reached"):
            client.detached.map(abs, [1])
