"""Jobs on real clusters: processes, sockets and signals as users have them."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq import (
    Client,
    CommandFailed,
    CommandResult,
    LocalCluster,
    NotSerializable,
    RemoteError,
    TaskCrashed,
    TaskError,
    TaskLost,
    TaskTimedOut,
    as_completed,
)

TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, slots=1, schedulers=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


def eventually(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def no_op(_: object = None) -> None:
    return None


def touch_and_wait(directory: str, name: str, seconds: float) -> str:
    Path(directory, name).touch()
    time.sleep(seconds)
    return name


def append_line(path: str, text: str, seconds: float = 0.0) -> str:
    with open(path, "a") as file:
        file.write(text + "\n")
    time.sleep(seconds)
    return text


class Outer(Exception):
    """An exception with a constructor that keeps more than a text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


def raises(error: Exception) -> None:
    raise error


def test_ten_thousand_no_ops(client: Client) -> None:
    job = client.map(no_op, range(10_000))
    assert client.gather(job, TIMEOUT_S) == [None] * 10_000
    (status,) = job.status()
    assert (status.tasks, status.counts[0], status.state) == (10_000, 10_000, "done")


def test_values_come_back_in_order_whatever_the_policy(client: Client) -> None:
    for policy in ("late-binding", "batch", "per-task", "random"):
        job = client.map(pow, range(200), [2] * 200, policy=policy)
        assert client.gather(job, TIMEOUT_S) == [n * n for n in range(200)], policy


def test_keyword_arguments_partials_and_methods(client: Client) -> None:
    assert client.submit(int, "ff", base=16).result(TIMEOUT_S) == 255
    assert client.gather(client.map(functools.partial(int, base=2), ["10", "11"]), TIMEOUT_S) == [2, 3]
    assert client.submit("a-b".split, "-").result(TIMEOUT_S) == ["a", "b"]


def test_closures_and_lambdas_travel(client: Client) -> None:
    offset = 40

    def add(n: int) -> int:
        return n + offset

    assert client.submit(add, 2).result(TIMEOUT_S) == 42
    assert client.gather(client.map(lambda n: n * offset, [1, 2]), TIMEOUT_S) == [40, 80]


def test_as_completed_yields_the_short_ones_first(client: Client) -> None:
    job = client.sleep([0.5, 0.0])
    assert [future.index for future in as_completed(job, timeout=TIMEOUT_S)] == [1, 0]


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(client: Client) -> None:
    with pytest.raises(Outer) as caught:
        client.submit(raises, Outer(7, "seven")).result(TIMEOUT_S)
    assert caught.value.code == 7
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteError)
    assert "in raises" in cause.remote_traceback


def test_a_task_that_exits_fails_alone(client: Client) -> None:
    with pytest.raises(RemoteError, match="SystemExit"):
        client.submit(sys.exit, 3).result(TIMEOUT_S)
    assert client.submit(no_op).result(TIMEOUT_S) is None


def test_a_result_that_cannot_be_pickled_fails_its_task(client: Client) -> None:
    job = client.map(lambda n: n if n else (item for item in ()), [1, 0, 2])
    assert (job[0].result(TIMEOUT_S), job[2].result(TIMEOUT_S)) == (1, 2)
    with pytest.raises(NotSerializable, match="result cannot be pickled"):
        job[1].result(TIMEOUT_S)


def test_a_crash_fails_its_own_task_only(client: Client) -> None:
    def maybe(n: int) -> int:
        if n == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        return n

    job = client.map(maybe, range(20))
    with pytest.raises(TaskCrashed, match="SIGSEGV"):
        job[5].result(TIMEOUT_S)
    assert client.gather([future for future in job if future.index != 5], TIMEOUT_S) == [n for n in range(20) if n != 5]


def test_a_task_that_takes_too_long_is_killed(client: Client) -> None:
    started = time.monotonic()
    with pytest.raises(TaskTimedOut):
        client.options(timeout_s=0.2).submit(time.sleep, 60).result(TIMEOUT_S)
    assert time.monotonic() - started < 10.0


def test_commands(client: Client) -> None:
    script = 'echo "$SPARROWMQ_TASK:$GREETING"; cat; echo oops >&2'
    job = client.run_commands(["sh", "-c", script], n=3, env={"GREETING": "hi"}, stdin=b"in\n")
    results = [CommandResult(0, f"{n}:hi\nin\n".encode(), b"oops\n") for n in range(3)]
    assert client.gather(job, TIMEOUT_S) == results
    failed = client.run_commands([["sh", "-c", "echo out; exit 3"], ["true"]])
    with pytest.raises(CommandFailed) as caught:
        failed[0].result(TIMEOUT_S)
    assert (caught.value.status, caught.value.stdout) == (3, b"out\n")
    assert failed[1].result(TIMEOUT_S).status == 0


def test_functions_by_name(client: Client) -> None:
    assert client.gather(client.map("math:hypot", [3, 5], [4, 12]), TIMEOUT_S) == [5.0, 13.0]
    with pytest.raises(RemoteError, match="ZeroDivisionError"):
        client.submit("operator:truediv", 1, 0).result(TIMEOUT_S)
    with pytest.raises(TaskError, match="math:no_such"):
        client.submit("math:no_such").result(TIMEOUT_S)


def test_large_arguments_and_results(client: Client) -> None:
    data = os.urandom(5_000_000)
    futures = client.map(bytes.__add__, [data] * 4, [b"%d" % n for n in range(4)])
    assert all(future.result(TIMEOUT_S) == data + b"%d" % n for n, future in enumerate(futures))


def test_queued_tasks_can_be_cancelled_and_never_run(client: Client, tmp_path: Path) -> None:
    names = [f"task-{n}" for n in range(12)]
    job = client.map(touch_and_wait, [str(tmp_path)] * 12, names, [0.5] * 12)
    eventually(lambda: len(os.listdir(tmp_path)) >= 1)
    cancelled = client.cancel(reversed(job))
    states = [future.cancelled() for future in job]
    assert cancelled == sum(states)
    assert 6 <= cancelled < 12
    concurrent.futures.wait(job, timeout=TIMEOUT_S)
    ran = set(os.listdir(tmp_path))
    assert ran == {name for name, was_cancelled in zip(names, states, strict=True) if not was_cancelled}


def test_a_running_job_can_be_killed(client: Client, tmp_path: Path) -> None:
    job = client.map(touch_and_wait, [str(tmp_path)] * 4, "abcd", [60.0] * 4)
    eventually(lambda: len(os.listdir(tmp_path)) == 2)
    client.kill(job)
    assert job.wait(TIMEOUT_S)
    assert [future.cancelled() for future in job] == [True] * 4
    assert client.submit(no_op).result(TIMEOUT_S) is None


def test_leaving_ends_what_is_unfinished(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    with Client(cluster) as leaver:
        leaver.map(touch_and_wait, [str(tmp_path)] * 4, "abcd", [60.0] * 4)
        eventually(lambda: len(os.listdir(tmp_path)) == 2)
    assert client.gather(client.map(no_op, range(2)), TIMEOUT_S) == [None, None]
    assert len(os.listdir(tmp_path)) == 2


def test_every_scheduler_answers_a_query(cluster: LocalCluster, client: Client) -> None:
    answers = client.query("workers")
    assert {status.scheduler for status in answers} == {member.id for member in cluster.schedulers}
    for status in answers:
        assert {worker.id for worker in status.workers} == {member.id for member in cluster.workers}


def test_clients_of_both_schedulers_share_the_workers(cluster: LocalCluster) -> None:
    with Client(cluster) as one, Client(cluster) as two, Client(cluster) as three, Client(cluster) as four:
        jobs = [(client, client.map(no_op, range(500))) for client in (one, two, three, four)]
        for client, job in jobs:
            assert client.gather(job, TIMEOUT_S) == [None] * 500


def test_clients_that_leave_keep_no_thread_and_no_descriptor(cluster: LocalCluster) -> None:
    Client(cluster).close()  # what is made once and kept
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with Client(cluster) as client:
            client.submit(no_op).result(TIMEOUT_S)
    eventually(lambda: threading.active_count() <= threads)
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


def test_what_a_script_defines_travels_with_it(cluster: LocalCluster, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import dataclasses, sys
            from sparrowmq import Client

            SCALE = 3

            @dataclasses.dataclass
            class Point:
                x: int
                def scaled(self):
                    return Point(self.x * SCALE)

            class Refusal(Exception):
                pass

            def scale(point):
                if point.x < 0:
                    raise Refusal(point)
                return point.scaled()

            with Client(sys.argv[1]) as client:
                good, bad = client.map(scale, [Point(2), Point(-1)])
                assert good.result(30) == Point(6), good.result()
                assert type(good.result()) is Point
                try:
                    bad.result(30)
                except Refusal as error:
                    assert error.args == (Point(-1),)
                    print("refused")
            """
        )
    )
    run = subprocess.run(
        [sys.executable, str(script), cluster.url],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (run.stdout, run.stderr, run.returncode) == ("refused\n", "", 0)


# What follows breaks clusters of its own.


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with LocalCluster(workers=3, slots=2) as cluster, Client(cluster) as client:
        job = client.map(append_line, [str(log)] * 90, map(str, range(90)), [0.05] * 90)
        eventually(lambda: job.finished >= 10)
        cluster.kill_worker(0)
        assert client.gather(job, TIMEOUT_S) == [str(n) for n in range(90)]
        (status,) = job.status()
        assert status.counts[0] == 90
        lines = log.read_text().split()
        assert set(lines) == {str(n) for n in range(90)}
        assert len(lines) <= 90 + 2  # only what the killed worker was running ran twice


def test_a_task_whose_workers_die_again_and_again_is_lost() -> None:
    def kill_my_worker() -> None:
        zygote = os.getppid()
        worker = int(Path(f"/proc/{zygote}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(worker, signal.SIGKILL)
        time.sleep(60)

    with LocalCluster(workers=3) as cluster, Client(cluster) as client:
        future = client.options(max_attempts=2).submit(kill_my_worker)
        with pytest.raises(TaskLost, match="2 workers died"):
            future.result(TIMEOUT_S)
        assert client.submit(no_op).result(TIMEOUT_S) is None


def test_a_killed_scheduler_loses_nothing(tmp_path: Path) -> None:
    with LocalCluster(workers=2, slots=2, schedulers=2) as cluster, Client(cluster) as client:
        jobs = [client.map(append_line, [os.devnull] * 60, map(str, range(60)), [0.03] * 60) for _ in range(2)]
        eventually(lambda: all(job.finished >= 5 for job in jobs))
        (home,) = [status.scheduler for status in client.query("jobs") if status.jobs]
        cluster.kill_scheduler([member.id for member in cluster.schedulers].index(home))
        for job in jobs:
            assert client.gather(job, TIMEOUT_S) == [str(n) for n in range(60)]
        assert client.gather(client.map(no_op, range(100)), TIMEOUT_S) == [None] * 100


def test_the_only_scheduler_restarts(tmp_path: Path) -> None:
    with LocalCluster(workers=2, schedulers=1, restart=True) as cluster, Client(cluster) as client:
        job = client.map(append_line, [os.devnull] * 20, map(str, range(20)), [0.05] * 20)
        eventually(lambda: job.finished >= 2)
        cluster.kill_scheduler(0)
        assert client.gather(job, TIMEOUT_S) == [str(n) for n in range(20)]


def test_jobs_go_on_without_redis() -> None:
    with LocalCluster(workers=2) as cluster, Client(cluster) as client:
        job = client.map(append_line, [os.devnull] * 20, map(str, range(20)), [0.05] * 20)
        eventually(lambda: job.finished >= 2)
        cluster.kill_store()
        assert client.gather(job, TIMEOUT_S) == [str(n) for n in range(20)]
        assert client.submit(no_op).result(TIMEOUT_S) is None


def test_workers_that_join_late_get_their_share() -> None:
    with LocalCluster(workers=0) as cluster, Client(cluster) as client:
        job = client.map(lambda _: (time.sleep(0.05), os.getppid())[1], range(40))
        eventually(lambda: job.accepted_workers == 0)
        cluster.add_worker()
        eventually(lambda: job.finished >= 2)
        cluster.add_worker()
        assert len(set(client.gather(job, TIMEOUT_S))) == 2
