"""A client that does not take its results, in real processes: it fills nothing, disturbs nobody, loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from sparrowmq.client.client import Client
from sparrowmq.limits import SchedulerLimits
from sparrowmq.local import LocalCluster
from sparrowmq.settings import SchedulerSettings

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])
MIB = 1024 * 1024
CREDIT_BYTES = 4 * MIB
TASKS = 4000
RESULT_BYTES = 64 * 1024  # 250 MiB in all
TIMEOUT_S = 60.0

# Counts how often each result arrives, and what it is.
CLIENT = f"""
import sys
import threading
from collections import Counter
from sparrowmq.client.client import Client

def work(n):
    return n.to_bytes(4, "big") * ({RESULT_BYTES} // 4)

seen, all_seen = Counter(), threading.Event()

def see(future):
    seen[int.from_bytes(future.result()[:4], "big")] += 1
    if seen.total() == {TASKS}:
        all_seen.set()

with Client(sys.argv[1]) as client:
    job = client.map(work, range({TASKS}), name="slow-reader")
    for future in job:
        future.add_done_callback(see)
    job[0].result({TIMEOUT_S})
    print("begun", flush=True)
    for n, future in enumerate(job):
        assert future.result({TIMEOUT_S}) == work(n)
    assert all_seen.wait({TIMEOUT_S})
assert seen == Counter(range({TASKS})), seen.most_common(3)
print("complete", flush=True)
"""


def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    settings = SchedulerSettings(limits=SchedulerLimits(client_credit_bytes=CREDIT_BYTES))
    with LocalCluster(workers=2, scheduler=settings) as made:
        yield made


@pytest.fixture
def slow(cluster: LocalCluster) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CLIENT, cluster.url]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ROOT}, stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait(TIMEOUT_S)


def test_a_stopped_client_fills_no_scheduler_and_gets_everything_once(
    cluster: LocalCluster, slow: subprocess.Popen[str]
) -> None:
    scheduler = psutil.Process(cluster.schedulers[0].pid)
    with Client(cluster, timeout_s=TIMEOUT_S) as other:

        def row() -> object:
            return next(
                (row for status in other.query("jobs") for row in status.jobs if row.name == "slow-reader"), None
            )

        before = scheduler.memory_info().rss
        assert slow.stdout is not None
        assert slow.stdout.readline() == "begun\n"
        slow.send_signal(signal.SIGSTOP)
        until(lambda: (found := row()) and not found.launched and found.unplaced)  # its credit is used up
        finished = sum(row().counts)
        assert other.gather(other.map(len, [b"x" * RESULT_BYTES] * 500), timeout_s=TIMEOUT_S) == [RESULT_BYTES] * 500
        assert sum(row().counts) == finished < TASKS
        # The credit, what was under way when it was used up, the other client's 31 MiB, and freed memory that is kept.
        assert scheduler.memory_info().rss - before < CREDIT_BYTES + 144 * MIB < TASKS * RESULT_BYTES
        slow.send_signal(signal.SIGCONT)
        assert slow.stdout.readline() == "complete\n"
        assert slow.wait(TIMEOUT_S) == 0
        assert sum(row().counts) == TASKS  # none of them a second time
