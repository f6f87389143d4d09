"""The client against a scheduler that speaks the protocol over real sockets and does what the test wants."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

import sparrowmq
from sparrowmq import (
    Client,
    CommandResult,
    NotSerializable,
    Refused,
    Rejected,
    RemoteError,
    Unavailable,
    UsageError,
    limits,
)
from sparrowmq.client import connection, source
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings
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


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def add(a: int, b: int = 0) -> int:
    return a + b


def fail(text: str) -> None:
    raise ValueError(text)


# Submitting.


def test_submit_returns_what_the_function_returns(client: Client) -> None:
    assert client.submit(add, 2, b=3).result(TIMEOUT_S) == 5
    assert client.submit(lambda: "closure").result(TIMEOUT_S) == "closure"


def test_map_is_one_job_of_futures_in_order(client: Client, scheduler: FakeScheduler) -> None:
    job = client.map(add, range(100), range(100))
    assert client.gather(job) == [2 * n for n in range(100)]
    assert [(future.job, future.index) for future in job[:2]] == [(job.id, 0), (job.id, 1)]
    (submit,) = scheduler.wait_for(m.Submit)
    assert (submit.job, submit.count, submit.spec.kind, submit.spec.name) == (job.id, 100, m.PYTHON, "add")


def test_map_of_nothing_is_an_empty_job(client: Client, scheduler: FakeScheduler) -> None:
    job = client.map(add, [])
    assert (list(job), job.id, job.finished, job.wait(0), job.status()) == ([], "", 0, True, [])
    with pytest.raises(UsageError, match="at least one iterable"):
        client.map(add)
    assert not scheduler.has(m.Submit)


def test_a_task_that_raises_raises_here_with_its_remote_traceback(client: Client) -> None:
    futures = client.map(fail, ["one", "two"])
    with pytest.raises(ValueError, match="two") as caught:
        futures[1].result(TIMEOUT_S)
    assert isinstance(caught.value.__cause__, RemoteError)
    with pytest.raises(ValueError, match="one"):
        client.gather(futures)


def test_module_and_function_by_name(client: Client) -> None:
    assert client.submit("math:hypot", 3, 4).result(TIMEOUT_S) == 5.0
    assert client.gather(client.map("math:sqrt", [4, 9])) == [2.0, 3.0]


def test_commands_and_sleeps(client: Client) -> None:
    job = client.run_commands(["echo", "hi"], n=3)
    assert client.gather(job) == [CommandResult(0, b"echo hi", b"")] * 3
    assert client.gather(client.sleep([0.0, 0.0])) == [None, None]


def test_options_reach_the_job(client: Client, scheduler: FakeScheduler) -> None:
    client.options(policy="BATCH", timeout_s=3).options(name="n").submit(add, 1).result(TIMEOUT_S)
    client.map(add, [1], max_attempts=1, probe_ratio=1.5).wait(TIMEOUT_S)
    first, second = scheduler.wait_for(m.Submit, 2)
    assert (first.spec.policy, first.spec.timeout_s, first.spec.name) == ("batch", 3.0, "n")
    assert (second.spec.max_attempts, second.spec.probe_ratio, second.spec.name) == (1, 1.5, "add")


def test_what_cannot_be_pickled_sends_nothing(client: Client, scheduler: FakeScheduler) -> None:
    with pytest.raises(NotSerializable, match=r"task 1: args\[0\]"):
        client.map(add, [1, threading.Lock()])
    client.submit(add, 1).result(TIMEOUT_S)
    (submit,) = scheduler.wait_for(m.Submit)
    assert submit.count == 1


def test_a_name_that_cannot_be_sent_is_refused(client: Client) -> None:
    with pytest.raises(UsageError, match="name"):
        client.map(add, [1], name="\ud800")


def test_a_job_beyond_the_limits_is_cut(
    client: Client, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TASKS_PER_JOB_MAX", 40)
    job = client.map(add, range(100))
    assert client.gather(job) == list(range(100))
    assert [submit.count for submit in scheduler.wait_for(m.Submit, 3)] == [40, 40, 20]
    assert [submit.job for submit in scheduler.wait_for(m.Submit, 3)] == job.ids
    assert job.finished == 100


def test_large_arguments_and_results_travel(client: Client) -> None:
    data = os.urandom(3_000_000)
    assert client.submit(bytes.__add__, data, b"!").result(TIMEOUT_S) == data + b"!"


def test_many_threads_submit_at_once(client: Client) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda n: client.submit(add, n, 1), range(200)))
    assert client.gather(futures, timeout_s=TIMEOUT_S) == list(range(1, 201))


# Jobs and waiting.


def test_a_job_tells_how_far_it_is(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    job = client.map(add, range(3))
    assert job.accepted_workers is None or job.accepted_workers == 3
    assert not job.wait(0.0)
    eventually(lambda: job.accepted_workers == 3)
    scheduler.release(job.id, [1])
    assert job[1].result(TIMEOUT_S) == 1
    assert (job.finished, repr(job)) == (1, f"<Job {job.id} 1/3 finished>")
    scheduler.release(job.id)
    assert job.wait(TIMEOUT_S)
    assert job.finished == 3


def test_as_completed_yields_in_the_order_of_completion(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    job = client.map(add, range(3))
    completed = sparrowmq.as_completed(job, timeout=TIMEOUT_S)
    scheduler.wait_for(m.Submit)
    for index in (2, 0, 1):
        scheduler.release(job.id, [index])
        assert next(completed).result() == index


def test_gather_gives_up_in_time(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    with pytest.raises(TimeoutError):
        client.gather(client.map(add, [1]), timeout_s=0.01)


# Cancelling.


def test_cancel_is_true_for_a_queued_task_only(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    job = client.map(add, range(3))
    scheduler.wait_for(m.Submit)
    assert job[1].cancel()
    assert job[1].cancelled()
    assert job[1].cancel()
    scheduler.release(job.id, [0])
    assert job[0].result(TIMEOUT_S) == 0
    assert not job[0].cancel()
    assert [recall.indices for recall in scheduler.wait_for(m.Recall)] == [[1]]


def test_bulk_cancel_is_one_message_a_job(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    one, other = client.map(add, range(5)), client.map(add, range(2))
    scheduler.wait_for(m.Submit, 2)
    scheduler.release(one.id, [0, 1])
    assert one[1].result(TIMEOUT_S) == 1
    assert client.cancel([*one, *other]) == 5
    assert sorted(recall.indices for recall in scheduler.wait_for(m.Recall, 2)) == [[0, 1], [2, 3, 4]]
    assert client.cancel([*one, *other]) == 0


def test_cancel_gives_up_when_no_answer_comes(scheduler: FakeScheduler) -> None:
    with Client(scheduler.address, settings=ClientSettings(connect_timeout_s=0.2)) as client:
        scheduler.hold = True
        future = client.submit(add, 1)
        scheduler.wait_for(m.Submit)
        scheduler.mute = True
        assert not future.cancel()


def test_kill_ends_a_job_or_a_task(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    job, future = client.map(add, range(2)), client.submit(add, 1)
    scheduler.wait_for(m.Submit, 2)
    client.kill(job)
    client.kill(future)
    assert job.wait(TIMEOUT_S)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(TIMEOUT_S)
    client.kill(job)
    client.submit("math:sqrt", 4)
    scheduler.wait_for(m.Submit, 3)
    assert [kill.indices for kill in scheduler.wait_for(m.Kill, 2)] == [[], [0]]


def test_a_callback_may_cancel_and_submit(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    first, second = client.submit(add, 1), client.submit(add, 2)
    done: concurrent.futures.Future[object] = concurrent.futures.Future()
    first.add_done_callback(lambda _: done.set_result((second.cancel(), client.submit(add, 3))))
    scheduler.wait_for(m.Submit, 2)
    scheduler.release(first.job)
    cancelled, third = done.result(TIMEOUT_S)  # type: ignore[misc]
    assert cancelled
    scheduler.wait_for(m.Submit, 3)
    scheduler.release(third.job)
    assert third.result(TIMEOUT_S) == 3


# Errors.


def test_a_rejected_job_fails_its_futures_with_the_code(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.reject = ("busy", "10,001 unfinished jobs")
    for future in client.map(add, range(2)):
        with pytest.raises(Rejected, match="10,001 unfinished jobs") as caught:
            future.result(TIMEOUT_S)
        assert caught.value.code == "busy"


def test_no_scheduler_at_the_address() -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"no scheduler answers at tcp://127.0.0.1:1 .*waited 0\.2 s") as caught:
        Client("tcp://127.0.0.1:1", timeout_s=0.2)
    assert "for clients" in caught.value.hint
    assert time.monotonic() - started < 2.0


def test_a_scheduler_that_never_answers(scheduler: FakeScheduler) -> None:
    scheduler.mute = True
    with pytest.raises(Unavailable, match="no scheduler answers"):
        Client(scheduler.address, timeout_s=0.1)


def test_a_scheduler_that_refuses_is_named_at_once(scheduler: FakeScheduler) -> None:
    scheduler.refuse = m.Refused("version", "upgrade this side")
    started = time.monotonic()
    with pytest.raises(Refused, match=f"{scheduler.address} refused .*upgrade this side") as caught:
        Client(scheduler.address, timeout_s=TIMEOUT_S)
    assert caught.value.code == "version"
    assert time.monotonic() - started < TIMEOUT_S / 2


def test_a_lost_scheduler_fails_what_nobody_takes_over(scheduler: FakeScheduler) -> None:
    with Client(scheduler.address, settings=ClientSettings(unavailable_after_s=0.1)) as client:
        scheduler.hold = True
        future = client.submit(add, 1)
        scheduler.wait_for(m.Submit)
        scheduler.close()
        with pytest.raises(Unavailable, match="no scheduler could be reached"):
            future.result(TIMEOUT_S)


def test_unfinished_tasks_move_to_another_scheduler(scheduler: FakeScheduler) -> None:
    other = FakeScheduler("scheduler-b")
    fakes = {fake.address: fake for fake in (scheduler, other)}
    try:
        with Client(",".join(fakes)) as client:
            scheduler.hold = other.hold = True
            job = client.map(add, range(4))
            eventually(lambda: scheduler.has(m.Submit) or other.has(m.Submit))
            first, second = (scheduler, other) if scheduler.has(m.Submit) else (other, scheduler)
            first.release(job.id, [1])
            assert job[1].result(TIMEOUT_S) == 1
            second.hold = False
            first.close()
            assert client.gather(job, timeout_s=TIMEOUT_S) == [0, 1, 2, 3]
            (moved,) = second.wait_for(m.Submit)
            assert (moved.epoch, moved.indices) == (1, [0, 2, 3])
    finally:
        other.close()


# Queries.


def test_a_query_asks_every_scheduler_and_leaves_out_those_that_are_gone(scheduler: FakeScheduler) -> None:
    other = FakeScheduler("scheduler-b")
    try:
        with Client(f"{scheduler.address},{other.address},tcp://127.0.0.1:1") as client:
            answers = client.query("summary")
            assert sorted(status.scheduler for status in answers) == ["scheduler-a", "scheduler-b"]
            assert len(client.schedulers) == 3
            hellos = scheduler.wait_for(m.Hello) + other.wait_for(m.Hello)
            assert len({hello.id for hello in hellos}) >= 2
            assert client.id in {hello.id for hello in hellos}
            started = time.monotonic()
            assert len(client.query("jobs", timeout_s=TIMEOUT_S)) == 2
            assert time.monotonic() - started < TIMEOUT_S / 2
            other.mute = True
            assert [status.scheduler for status in client.query("jobs", timeout_s=0.2)] == ["scheduler-a"]
    finally:
        other.close()


# The end.


def test_leaving_cancels_what_is_unfinished_and_says_goodbye(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    with Client(scheduler.address) as client:
        job = client.map(add, range(3))
    for future in job:
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
    assert scheduler.wait_for(m.Goodbye)[0].reason == "leaving"
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.submit(add, 1)
    with pytest.raises(UsageError, match="closed"):
        client.query("summary")


def test_close_leaves_no_thread_and_no_descriptor(scheduler: FakeScheduler) -> None:
    Client(scheduler.address).close()  # what is made once and kept
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Client(scheduler.address) as client:
            client.submit(add, 1).result(TIMEOUT_S)
            client.query("summary")
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_a_fork_gets_an_error_and_no_hang(client: Client, scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    future = client.submit(add, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = b""
        for call in (lambda: client.submit(add, 1), future.result, future.cancel, lambda: client.query("jobs")):
            try:
                call()
                said += b"no error;"
            except UsageError as error:
                said += b"ok;" if "fork" in str(error) else str(error).encode()
        client.close()
        os.write(writer, said)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"ok;" * 4
    os.waitpid(child, 0)
    scheduler.release(future.job)
    assert future.result(TIMEOUT_S) == 1


def test_the_end_of_the_process_says_goodbye(scheduler: FakeScheduler) -> None:
    scheduler.hold = True
    code = f"from sparrowmq import Client; client = Client({scheduler.address!r}); client.submit(abs, -1)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT_S, env={**os.environ, "PYTHONPATH": "."})
    scheduler.wait_for(m.Goodbye)


# Targets.


def test_a_cluster_object_is_a_target(scheduler: FakeScheduler) -> None:
    with Client(SimpleNamespace(url=scheduler.address)) as client:
        assert client.submit(add, 1).result(TIMEOUT_S) == 1


def test_the_environment_names_the_target(scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(source.STORE_URL_VARIABLE, scheduler.address)
    with Client() as client:
        assert client.submit(add, 1).result(TIMEOUT_S) == 1


def test_no_target_at_all_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(source.STORE_URL_VARIABLE, raising=False)
    monkeypatch.setattr("sparrowmq.local.detached_url", lambda: "")
    with pytest.raises(Unavailable, match="no target was given") as caught:
        Client()
    assert "sparrowmq up" in caught.value.hint


@pytest.mark.parametrize("target", [3, "http://host", "", "host:6379", "tcp://a:1,redis://b"])
def test_what_is_no_target_is_refused(target: object) -> None:
    with pytest.raises(UsageError):
        Client(target)


def test_redis_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unavailable, match=r"cannot use Redis at redis://user@127.0.0.1:1/0") as caught:
        Client("redis://user:secret@127.0.0.1:1/0", timeout_s=0.3)
    assert "secret" not in str(caught.value)


def test_the_package_exports_what_users_import() -> None:
    assert sparrowmq.Client is Client
    assert all(getattr(sparrowmq, name) is not None for name in sparrowmq.__all__)
    assert not hasattr(sparrowmq, "Clinet")
    assert set(sparrowmq.__all__) <= set(dir(sparrowmq))


def test_importing_the_package_loads_no_client() -> None:
    code = "import sys, sparrowmq; print('zmq' in sys.modules or 'msgspec' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=TIMEOUT_S)
    assert run.stdout == "False\n"


def test_errors_in_the_connections_thread_are_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    connection._on_loop_error("callback", ValueError("broken"), 2)
    assert "callback failed (2 alike before)" in caplog.text
