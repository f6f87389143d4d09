"""Schedulers and workers as single processes: any start order, drain, the second signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.store.embedded import EmbeddedServer

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])
TIMEOUT_S = 30.0

Start = Callable[..., "subprocess.Popen[bytes]"]


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def write_and_sleep(path: str, seconds: float) -> int:
    with open(path, "a") as file:
        file.write("started\n")
    time.sleep(seconds)
    return os.getppid()


def starts(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = EmbeddedServer(tmp_path_factory.mktemp("v"))
    server.launch()
    server.wait_ready()
    yield server.url
    server.stop()


@pytest.fixture
def start(redis: str) -> Iterator[Start]:
    """Start one role by its command; what still runs at the end is killed."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(*command: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "sparrowmq.cli.main", "--redis", redis, *command]
        environment = {**os.environ, "PYTHONPATH": ROOT, "SPARROWMQ_WORKER_SLOTS": "1"}
        processes.append(subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait(TIMEOUT_S)


def test_workers_come_first_and_follow_schedulers_as_they_come_and_go(start: Start, redis: str) -> None:
    start("worker", "start")
    start("worker", "start")
    first = start("scheduler", "start")
    with Client(redis, timeout_s=TIMEOUT_S) as client:
        until(lambda: sum(len(status.workers) for status in client.query("workers")) == 2)
        assert client.gather(client.map(abs, range(-20, 0)), TIMEOUT_S) == list(range(20, 0, -1))
        first.kill()
        second = start("scheduler", "start")
        assert client.gather(client.map(abs, range(-20, 0)), TIMEOUT_S) == list(range(20, 0, -1))
        assert second.poll() is None


def test_sigterm_drains_a_worker(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2) as cluster, Client(cluster) as client:
        job = client.map(write_and_sleep, [str(path)] * 8, [0.3] * 8)
        until(lambda: starts(path) >= 2)
        member = cluster.kill_worker(0, signal.SIGTERM)
        assert len(client.gather(job, TIMEOUT_S)) == 8
        assert starts(path) == 8  # what ran has ended where it was, what waited started elsewhere only
        until(lambda: member not in cluster.workers)
        (status,) = client.query("job", job.id)
        assert sum(row.counts[0] for row in status.jobs) == 8


def test_sigterm_drains_a_scheduler(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2, schedulers=2) as cluster, Client(cluster) as client:
        job = client.map(write_and_sleep, [str(path)] * 6, [0.2] * 6)
        until(lambda: starts(path) >= 2)
        (home,) = [status.scheduler for status in client.query("jobs") if status.jobs]
        index = [member.id for member in cluster.schedulers].index(home)
        member = cluster.kill_scheduler(index, signal.SIGTERM)
        assert client.submit(abs, -1).result(TIMEOUT_S) == 1  # by the other one, while this one finishes its job
        assert len(client.gather(job, TIMEOUT_S)) == 6
        assert starts(path) == 6
        until(lambda: member not in cluster.schedulers)


def test_a_second_signal_ends_a_worker_at_once(start: Start, redis: str, tmp_path: Path) -> None:
    path = tmp_path / "starts"
    start("scheduler", "start")
    worker = start("worker", "start")
    with Client(redis, timeout_s=TIMEOUT_S) as client:
        future = client.submit(write_and_sleep, str(path), 60.0)
        until(lambda: starts(path) == 1)
        worker.send_signal(signal.SIGTERM)
        until(lambda: any(row.state == "draining" for status in client.query("workers") for row in status.workers))
        assert worker.poll() is None  # it waits for its task
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10.0) == 0
        start("worker", "start")
        until(lambda: starts(path) == 2)  # launched elsewhere
        client.kill(future)
