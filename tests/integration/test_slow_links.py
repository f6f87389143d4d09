"""Messages that take several times longer than a peer may be silent, over real connections: they get through, once.

And a peer that freezes while one of them is on its way is found all the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrowmq.client.client import Client
from sparrowmq.local import LocalCluster
from sparrowmq.settings import ClientSettings, SchedulerSettings, WorkerSettings
from tests.support.attackers import drip, frame, shake_hands
from tests.support.net import encoded, hello
from tests.support.slow_link import SlowLink

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]
MIB = 1024 * 1024
BOUND, ADVERTISED = "127.0.0.1", "127.0.0.2"  # all of 127/8 is this machine
SILENT_S = 1.0
PING_S = 0.25
BYTES_PER_S = 1.25 * MIB
LARGE_BYTES = 5 * MIB  # takes four times as long as a peer may be silent
TIMEOUT_S = 40.0
FOUND_S = 3 * SILENT_S  # silence, with what lies in the kernels' buffers and a loaded machine


class Slow:
    """A cluster whose worker, and a client that asks for `address`, have links of these speeds to the scheduler."""

    def __init__(self, *, client_bytes_per_s: float = 0.0, worker_bytes_per_s: float = 0.0) -> None:
        self.client_link = SlowLink(ADVERTISED, BOUND, client_bytes_per_s)
        self.worker_link = SlowLink(ADVERTISED, BOUND, worker_bytes_per_s)
        scheduler = SchedulerSettings(
            bind_clients=f"tcp://{BOUND}:{self.client_link.port}",
            bind_workers=f"tcp://{BOUND}:{self.worker_link.port}",
            advertise_host=ADVERTISED,
            silent_after_s=SILENT_S,
            ping_interval_s=PING_S,
        )
        worker = WorkerSettings(silent_after_s=SILENT_S, ping_interval_s=PING_S)
        self.cluster = LocalCluster(workers=1, assistants=0, scheduler=scheduler, worker=worker).start()

    @property
    def address(self) -> str:
        return f"tcp://{ADVERTISED}:{self.client_link.port}"

    def close(self) -> None:
        self.cluster.close()
        self.client_link.close()
        self.worker_link.close()


@pytest.fixture
def slow_client() -> Iterator[Slow]:
    made = Slow(client_bytes_per_s=BYTES_PER_S)
    yield made
    made.close()


@pytest.fixture
def slow_worker() -> Iterator[Slow]:
    made = Slow(worker_bytes_per_s=BYTES_PER_S)
    yield made
    made.close()


def client_of(slow: Slow) -> Client:
    settings = ClientSettings(silent_after_s=SILENT_S, ping_interval_s=PING_S)
    return Client(slow.address, settings=settings, timeout_s=TIMEOUT_S)


def turned_around(data: bytes, path: str) -> bytes:
    """Leave a mark for each time that it runs."""
    with open(path, "a") as file:
        file.write("ran\n")
    return data[::-1]


def answer_comes_once(slow: Slow, path: Path) -> None:
    """A large task and its large result."""
    data = os.urandom(64) * (LARGE_BYTES // 64)
    with client_of(slow) as client:
        assert client.submit(turned_around, data, str(path)).result(TIMEOUT_S) == data[::-1]
    assert path.read_text() == "ran\n"
    assert (slow.client_link.accepted, slow.worker_link.accepted) == (1, 1), "no connection was begun anew"


def test_a_large_submission_and_a_large_outcome_over_a_clients_slow_link(slow_client: Slow, tmp_path: Path) -> None:
    answer_comes_once(slow_client, tmp_path / "marks")


def test_a_large_task_and_a_large_result_over_a_workers_slow_link(slow_worker: Slow, tmp_path: Path) -> None:
    answer_comes_once(slow_worker, tmp_path / "marks")


def test_a_scheduler_that_falls_silent_in_the_midst_of_a_submission_is_left(slow_client: Slow) -> None:
    link = slow_client.client_link
    with client_of(slow_client) as client:
        client.submit(len, bytes(LARGE_BYTES))
        assert link.wait_carried(2 * MIB, TIMEOUT_S)
        link.freeze()
        assert link.wait_accepted(2, FOUND_S)


def test_a_scheduler_that_falls_silent_in_the_midst_of_an_outcome_is_left(slow_client: Slow) -> None:
    link = slow_client.client_link
    with client_of(slow_client) as client:
        client.submit("builtins:bytes", LARGE_BYTES)
        assert link.wait_carried(2 * MIB, TIMEOUT_S)
        link.freeze()
        assert link.wait_accepted(2, FOUND_S)


def test_a_worker_that_freezes_in_the_midst_of_a_task_is_given_up(slow_worker: Slow) -> None:
    with client_of(slow_worker) as client:

        def workers() -> int:
            return sum(len(status.workers) for status in client.query("workers"))

        client.submit(len, bytes(LARGE_BYTES))
        assert slow_worker.worker_link.wait_carried(2 * MIB, TIMEOUT_S)
        (worker,) = slow_worker.cluster.workers
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            late = time.monotonic() + FOUND_S
            while workers():
                assert time.monotonic() < late, "it is still counted in"
        finally:
            os.kill(worker.pid, signal.SIGCONT)


def test_a_worker_that_trickles_is_given_up(slow_worker: Slow) -> None:
    address = f"tcp://{ADVERTISED}:{slow_worker.worker_link.port}"
    with client_of(slow_worker) as client, contextlib.closing(shake_hands(address)) as liar:
        liar.sendall(b"".join(map(frame, encoded(hello("liar")))))
        known = False

        def over() -> bool:
            nonlocal known
            there = any(row.id == "liar" for status in client.query("workers") for row in status.workers)
            known = known or there
            assert time.monotonic() < late, "it lives on"
            return known and not there

        late = time.monotonic() + FOUND_S
        drip([liar], frame(bytes(MIB))[:-1], over, 0.01)
