"""What workers do for tasks that are interrupted, fail, print or take too much, seen from a real cluster's client."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sparrowmq import Client, LocalCluster, errors
from sparrowmq.settings import WorkerSettings

TIMEOUT_S = 30.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def hang(path: str) -> None:
    Path(path).touch()
    time.sleep(1000)


def flaky(path: str, failures: int) -> int:
    """Fail so often, then return how often it was tried."""
    with open(path, "a") as file:
        file.write("x")
    tries = os.path.getsize(path)
    if tries <= failures:
        raise ConnectionError(f"try {tries}")
    return tries


def crash_once(path: str) -> str:
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def pid(_: int) -> int:
    return os.getpid()


@pytest.fixture(scope="module")
def client():
    worker = WorkerSettings(recycle_tasks=0, task_memory_mib=300, task_processes=60)
    with LocalCluster(workers=2, slots=1, worker=worker) as cluster, Client(cluster) as client:
        yield client


def test_running_and_waiting_tasks_are_interrupted(client: Client, tmp_path: Path) -> None:
    notes = [str(tmp_path / str(number)) for number in range(6)]
    futures = client.map(hang, notes)
    until(lambda: sum(map(os.path.exists, notes)) == 2)
    verdicts = client.interrupt(futures, grace_s=5.0)
    assert sorted(verdicts) == ["dequeued"] * 4 + ["interrupted"] * 2
    assert client.submit(abs, -1).result(TIMEOUT_S) == 1


def test_neighbours_of_an_interrupted_task_are_not_hit(client: Client) -> None:
    rng = random.Random(3)
    for _ in range(10):
        futures = client.map(abs, range(3000))
        chosen = rng.sample(list(futures), 20)
        verdicts = client.interrupt(chosen, grace_s=1.0)
        assert set(verdicts) <= {"dequeued", "interrupted", "too late"}
        for index, future in enumerate(futures):
            if future not in chosen:
                assert future.result(TIMEOUT_S) == index


def test_failures_and_crashes_are_tried_again(client: Client, tmp_path: Path) -> None:
    assert client.options(retries=3).submit(flaky, str(tmp_path / "a"), 2).result(TIMEOUT_S) == 3
    named = client.options(retries=3, retry_on=OSError)
    assert named.submit(flaky, str(tmp_path / "b"), 3).result(TIMEOUT_S) == 4
    with pytest.raises(ConnectionError, match="try 1"):
        client.options(retries=3, retry_on=ValueError).submit(flaky, str(tmp_path / "c"), 1).result(TIMEOUT_S)
    with pytest.raises(ConnectionError, match="try 2"):
        client.options(retries=1).submit(flaky, str(tmp_path / "d"), 9).result(TIMEOUT_S)
    assert client.options(retries=1).submit(crash_once, str(tmp_path / "e")).result(TIMEOUT_S) == "second"


def test_hungry_tasks_fail_alone(client: Client) -> None:
    with pytest.raises(MemoryError):
        client.submit(bytearray, 10**9).result(TIMEOUT_S)
    with pytest.raises(errors.TaskCrashed, match="more than 60 processes"):
        client.submit(bomb).result(TIMEOUT_S)
    assert client.gather(client.map(abs, range(100)), timeout_s=TIMEOUT_S) == list(range(100))


def bomb() -> None:
    while True:
        os.fork()
        time.sleep(0.005)


def test_what_tasks_print_can_be_read(client: Client) -> None:
    job = client.map(print, ["one", "two"])
    client.gather(job, timeout_s=TIMEOUT_S)
    lines = b"".join(output.data for output in client.job(job.id).logs()).splitlines()
    assert sorted(lines) == [b"one", b"two"]


def test_slots_are_replaced_between_tasks_and_no_task_is_lost() -> None:
    worker = WorkerSettings(recycle_tasks=7, preload=["json.tool"])
    with LocalCluster(workers=1, slots=2, worker=worker) as cluster, Client(cluster) as client:
        pids = client.gather(client.map(pid, range(100)), timeout_s=TIMEOUT_S)
    assert len(pids) == 100
    assert all(pids.count(one) <= 7 for one in set(pids))
    assert len(set(pids)) >= 100 // 7


def test_a_module_that_is_missing_is_said_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        pytest.raises(errors.SparrowError),
        LocalCluster(workers=1, worker=WorkerSettings(preload=["no_such_module"]), log_path=log),
    ):
        pass
    assert "worker.preload: there is no module 'no_such_module'" in log.read_text()
