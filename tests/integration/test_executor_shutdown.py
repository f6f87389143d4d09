"""How an Executor ends: shutdown, what it closes, and what happens when the process ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from sparrowmq import Client, Executor, LocalCluster, UsageError
from sparrowmq.client.executor import _Work
from sparrowmq.client.future import Batch
from sparrowmq.protocol import messages as m
from tests.support.gates import TIMEOUT_S, Gate, busy, jobs

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
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "open")
    yield gate
    gate.open()


# shutdown.


def test_nothing_is_taken_after_shutdown(client: Client) -> None:
    executor = Executor(client)
    future = executor.submit(pow, 2, 5)
    executor.shutdown()
    executor.shutdown()
    assert future.done()
    for call in (lambda: executor.submit(pow, 2, 5), lambda: executor.map(pow, [2], [5])):
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            call()
    assert client.submit(pow, 2, 5).result(TIMEOUT_S) == 32  # a client that was given stays open


def test_shutdown_waits_for_all(client: Client) -> None:
    executor = Executor(client)
    futures = [executor.submit(time.sleep, 0.01) for _ in range(50)]
    results = executor.map(time.sleep, [0.01] * 10)
    executor.shutdown()
    assert all(future.done() for future in futures)
    assert list(results) == [None] * 10


def test_the_end_of_the_block_waits_even_after_an_error(client: Client) -> None:
    futures = []

    def block() -> None:
        with Executor(client) as executor:
            futures.append(executor.submit(time.sleep, 0.1))
            raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        block()
    assert futures[0].done()


def test_shutdown_without_waiting_lets_all_run(client: Client, gate: Gate) -> None:
    executor = Executor(client)
    futures = busy(executor, gate, SLOTS)
    results = executor.map(abs, range(-5, 5))
    executor.shutdown(wait=False)
    assert not any(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    gate.open()
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    executor.shutdown()
    assert all(future.done() for future in futures)


def test_shutdown_can_cancel_what_has_not_started(client: Client, gate: Gate) -> None:
    executor = Executor(client)
    running = busy(executor, gate, SLOTS)
    waiting = [executor.submit(abs, n) for n in range(50)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    gate.open()
    executor.shutdown()
    assert [future.result(0) for future in running] == [None] * SLOTS


def test_shutdown_after_a_cancel_does_not_hang(client: Client) -> None:
    executor = Executor(client)
    executor.submit(int).result(TIMEOUT_S)
    executor.submit(int).cancel()
    shutting = threading.Thread(target=executor.shutdown)
    shutting.start()
    shutting.join(TIMEOUT_S)
    assert not shutting.is_alive()


def test_shutdown_right_after_map(client: Client) -> None:
    for _ in range(20):
        executor = Executor(client)
        executor.map(str, [2] * (SLOTS + 1))
        executor.shutdown()


def test_submitting_while_another_thread_shuts_down(client: Client) -> None:
    executor = Executor(client)
    futures: list[Future[int]] = []
    refused: list[str] = []

    def submit() -> None:
        try:
            while True:
                futures.append(executor.submit(abs, -1))
        except RuntimeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(futures) < 50:
        time.sleep(0.001)
    executor.shutdown()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert refused == ["cannot schedule new futures after shutdown"] * 2
    assert {future.result(0) for future in futures} == {1}  # all that were taken are over


# Whose is what.


def test_an_executor_of_a_cluster_closes_its_own_client(cluster: LocalCluster) -> None:
    with Executor(cluster) as executor:
        assert executor.submit(abs, -1).result(TIMEOUT_S) == 1
        mine = executor._submitter._connection
    assert not mine._thread.is_alive()


@pytest.mark.parametrize("how", ["drop", "no wait"])
def test_its_client_closes_when_all_is_over(cluster: LocalCluster, gate: Gate, how: str) -> None:
    executor = Executor(cluster)
    futures = busy(executor, gate, SLOTS)
    results = executor.map(abs, range(-5, 5))
    connection = executor._submitter._connection
    if how == "no wait":
        executor.shutdown(wait=False)
    del executor
    gc.collect()
    gate.open()
    assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
    assert [future.result(TIMEOUT_S) for future in futures] == [None] * SLOTS
    connection._thread.join(TIMEOUT_S)
    assert not connection._thread.is_alive()


def test_options_are_those_of_the_jobs(client: Client) -> None:
    with Executor(client, name="by the executor", policy="batch") as executor:
        executor.submit(abs, 1).result(TIMEOUT_S)
    newest = jobs(client)[-1]
    assert (newest.name, newest.policy) == ("by the executor", "batch")
    with pytest.raises(UsageError, match="unknown option"):
        Executor(client, polcy="batch")  # type: ignore[call-arg]


def test_a_view_of_a_client_is_a_target(client: Client) -> None:
    with Executor(client.options(name="view")) as executor:
        assert executor.submit(abs, -2).result(TIMEOUT_S) == 2


def test_max_workers_starts_a_cluster_of_that_size() -> None:
    with Executor(max_workers=2) as executor:
        pids = set(executor.map(pid_after, [0.1] * 8))
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_max_workers_that_make_no_sense(cluster: LocalCluster) -> None:
    for count in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            Executor(max_workers=count)
    with pytest.raises(UsageError, match="without a target"):
        Executor(cluster, max_workers=2)


# The end of the process.


def run(code: str, url: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, script, url, tmp_path], capture_output=True, text=True, timeout=60, env=environ, check=False
    )


PREAMBLE = """
import atexit, pathlib, sys, time
url, directory = sys.argv[1], pathlib.Path(sys.argv[2])
def slow(name):
    time.sleep(0.3)
    (directory / name).touch()
"""


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "executor.shutdown(wait=False)",
        "del executor",
        "sys.exit()",
        "client = Client(url); Executor(client).submit(slow, 'c')",
    ],
)
def test_what_was_submitted_still_runs_when_the_process_ends(
    cluster: LocalCluster, tmp_path: Path, ending: str
) -> None:
    code = f"""{PREAMBLE}
from sparrowmq import Client, Executor
executor = Executor(url)
executor.submit(slow, "a")
executor.map(slow, ["b"])
{ending}
"""
    ended = run(code, cluster.url, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    made = {path.name for path in tmp_path.iterdir()} - {"script.py"}
    assert made == {"a", "b", "c"} if "client" in ending else {"a", "b"}


def test_cancelled_futures_do_not_hold_the_process_back(cluster: LocalCluster, tmp_path: Path) -> None:
    code = f"""{PREAMBLE}
from sparrowmq import Executor
executor = Executor(url)
futures = [executor.submit(time.sleep, 0.5) for _ in range(200)]
executor.shutdown(wait=False, cancel_futures=True)
"""
    ended = run(code, cluster.url, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_is_taken_when_the_process_has_ended(cluster: LocalCluster, tmp_path: Path) -> None:
    code = f"""{PREAMBLE}
@atexit.register
def last():
    try:
        executor.submit(abs, 1)
    except RuntimeError as error:
        print(error)
from sparrowmq import Executor
executor = Executor(url)
executor.submit(abs, 1).result()
"""
    ended = run(code, cluster.url, tmp_path)
    assert (ended.stdout, ended.stderr) == ("cannot schedule new futures after interpreter shutdown\n", "")


def test_a_thread_may_go_on_submitting_after_the_main_one_has_ended(cluster: LocalCluster, tmp_path: Path) -> None:
    code = f"""{PREAMBLE}
import threading
from sparrowmq import Executor
executor = Executor(url)
def late():
    threading.main_thread().join()
    executor.submit(slow, "late")
threading.Thread(target=late).start()
"""
    ended = run(code, cluster.url, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (tmp_path / "late").exists()


# What is under way, without a cluster.


class NoLink:
    answer_timeout_s = 1.0

    def check_process(self) -> None:
        pass


def test_tasks_that_are_over_before_they_are_watched_are_not_waited_for() -> None:
    closed = threading.Event()
    work = _Work(closed.set)
    batch = Batch("job", m.PYTHON, 2, NoLink())  # type: ignore[arg-type]
    futures = batch.futures
    batch.fail(None)
    work.add(futures)
    work.end("over")
    assert closed.wait(TIMEOUT_S)


@pytest.mark.parametrize("waits", [True, False])
def test_the_end_waits_for_calls_that_are_being_submitted(waits: bool) -> None:
    closed = threading.Event()
    work = _Work(closed.set)
    with work.admit():
        work.end("over", closes=not waits)
        if waits:
            threading.Thread(target=work.wait).start()
        assert not closed.wait(0.1)
    assert closed.wait(TIMEOUT_S)
