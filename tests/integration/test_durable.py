"""Durable jobs with real schedulers, workers and servers that are killed: what survives, and who has a job then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sparrowmq
from sparrowmq.client.client import Client
from sparrowmq.errors import Rejected, Unavailable, UsageError
from sparrowmq.local import LocalCluster
from sparrowmq.settings import StoreSettings
from sparrowmq.store.jobs import JobReader
from tests.support.valkey import Server

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])
TIMEOUT_S = 30.0


def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.01)


def note_and_sleep(path: str, index: int, seconds: float) -> int:
    with open(path, "a") as file:
        file.write(f"{index}\n")
    time.sleep(seconds)
    return index * index


def started(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(*, aof: bool) -> Server:
        servers.append(Server(tmp_path_factory.mktemp("v"), aof=aof))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()


def test_a_killed_scheduler_s_job_is_adopted_and_nothing_that_runs_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=3, schedulers=2) as cluster:
        with Client(cluster) as client:
            handle = client.detached.map(note_and_sleep, [str(path)] * 12, range(12), [0.4] * 12)
            assert handle.durable
            reader = JobReader(StoreSettings(url=cluster.url))
            until(lambda: len(started(path)) >= 9)  # three more run, and have just begun
            until(lambda: sum(reader.find(handle.id).counts) >= 6)  # type: ignore[union-attr]
            (home,) = [s.scheduler for s in client.query("jobs") if any(row.id == handle.id for row in s.jobs)]
            cluster.kill_scheduler([member.id for member in cluster.schedulers].index(home), signal.SIGKILL)
        with sparrowmq.attach(handle.id, cluster) as job:
            assert job.results(TIMEOUT_S) == [index * index for index in range(12)]
            assert job.status().epoch == 1
        assert sorted(started(path)) == list(range(12))  # each once: those that ran were adopted
        with Client(cluster) as other:
            (row,) = [row for row in other.jobs() if row.id == handle.id]
            assert (row.state, row.epoch) == ("done", 1)
            assert other.job(handle.id).wait(TIMEOUT_S)
        reader.close()


def test_the_command_line_finds_cancels_and_prints_jobs_of_killed_schedulers(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2, schedulers=2) as cluster:

        def said(*words: str, status: int = 0) -> str:
            command = [sys.executable, "-m", "sparrowmq.cli.main", "--redis", cluster.url, *words]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
            assert done.returncode == status, done.stderr
            return done.stdout + done.stderr

        short = said("-o", "quiet", "run", "--detach", "-n", "3", "--", "echo", "hi").strip()
        assert said("job", "results", short) == "hi\n" * 3
        with Client(cluster) as client:
            handle = client.detached.map(note_and_sleep, [str(path)] * 20, range(20), [5.0] * 20)
            until(lambda: len(started(path)) == 2)
            (home,) = [s.scheduler for s in client.query("jobs") if any(row.id == handle.id for row in s.jobs)]
        cluster.kill_scheduler([member.id for member in cluster.schedulers].index(home), signal.SIGKILL)
        said("job", "cancel", handle.id, "--grace", "100ms")
        assert "20 of 20 tasks did not succeed" in said("job", "results", handle.id, status=1)
        assert len(started(path)) == 2
        listed = said("-o", "json", "job", "list")
        assert listed.count(short) == listed.count(handle.id) == 1  # no job stands there twice


def test_a_durable_job_survives_its_client(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2) as cluster:
        program = (
            "import sys, time; from sparrowmq import Client\n"
            "from tests.integration.test_durable import note_and_sleep\n"
            "client = Client(sys.argv[1])\n"
            "job = client.map(note_and_sleep, [sys.argv[2]] * 6, range(6), [0.2] * 6, durable=True)\n"
            "while job.accepted_workers is None: time.sleep(0.001)\n"
            "job[0].result(); print(job.id, flush=True); time.sleep(60)"
        )
        words = [sys.executable, "-c", program, cluster.url, str(path)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT})
        assert child.stdout is not None
        id = child.stdout.readline().strip()
        child.kill()
        child.wait()
        with sparrowmq.attach(id, cluster) as job:
            assert job.results(TIMEOUT_S) == [index * index for index in range(6)]
        assert sorted(started(path)) == list(range(6))


def test_a_frozen_scheduler_that_thaws_launches_nothing_and_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2, schedulers=2) as cluster, Client(cluster) as client:
        handle = client.detached.map(note_and_sleep, [str(path)] * 10, range(10), [0.4] * 10)
        until(lambda: len(started(path)) >= 4)
        (home,) = [s.scheduler for s in client.query("jobs") if any(row.id == handle.id for row in s.jobs)]
        (frozen,) = [member.pid for member in cluster.schedulers if member.id == home]
        os.kill(frozen, signal.SIGSTOP)
        try:
            with sparrowmq.attach(handle.id, cluster) as job:
                until(lambda: job.status().epoch == 1)
                os.kill(frozen, signal.SIGCONT)
                assert job.results(TIMEOUT_S) == [index * index for index in range(10)]
        finally:
            os.kill(frozen, signal.SIGCONT)
        until(lambda: any(s.scheduler == home and s.counters.get("fenced") for s in client.query("summary")))
        assert sorted(started(path)) == list(range(10))


def test_a_drained_scheduler_hands_its_durable_jobs_over(tmp_path: Path) -> None:
    path = tmp_path / "starts"
    with LocalCluster(workers=2, schedulers=2) as cluster, Client(cluster) as client:
        handle = client.detached.map(note_and_sleep, [str(path)] * 4, range(4), [60.0] * 4)
        until(lambda: len(started(path)) == 2)
        (home,) = [s.scheduler for s in client.query("jobs") if any(row.id == handle.id for row in s.jobs)]
        member = cluster.kill_scheduler([m.id for m in cluster.schedulers].index(home), signal.SIGTERM)
        until(lambda: member not in cluster.schedulers)  # long before the job is over
        with client.attach(handle.id) as job:
            assert (job.status().epoch, job.wait(0.0)) == (1, False)
            assert client.job(handle.id).cancel(grace_s=0.1)
            assert job.wait(TIMEOUT_S)
            assert job.status().counts == [0, 0, 0, 4, 0]
        assert len(started(path)) == 2


def test_with_an_append_only_file_nothing_accepted_is_lost(serve: Callable[..., Server], tmp_path: Path) -> None:
    path, server = tmp_path / "starts", serve(aof=True)
    with LocalCluster(workers=2, redis_url=server.url) as cluster, Client(cluster) as client:
        before = client.map(pow, range(5), [2] * 5, durable=True)
        assert client.gather(before, TIMEOUT_S) == [0, 1, 4, 9, 16]
        handle = client.detached.map(note_and_sleep, [str(path)] * 8, range(8), [0.3] * 8)
        shown = client.map(note_and_sleep, [str(path)] * 2, [8, 9], [0.2] * 2, durable=True)
        until(lambda: len(started(path)) >= 4)
        server.kill()
        began = time.monotonic()
        with pytest.raises(Rejected) as refused:
            client.options(durable=True).submit(abs, -1).result(TIMEOUT_S)
        assert refused.value.code == "store_unavailable"
        assert time.monotonic() - began <= 1.0
        until(lambda: len(started(path)) == 10)  # what had been accepted goes on meanwhile
        server.start()
        assert client.gather(shown, TIMEOUT_S) == [64, 81]
        assert client.attach(handle.id).results(TIMEOUT_S) == [index * index for index in range(8)]
        assert client.attach(before.id).results() == [0, 1, 4, 9, 16]
        assert sorted(started(path)) == list(range(10))
        assert client.options(durable=True).submit(abs, -1).result(TIMEOUT_S) == 1


def test_without_persistence_unfinished_jobs_survive_the_server_and_earlier_results_do_not(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    path, server = tmp_path / "starts", serve(aof=False)
    with LocalCluster(workers=1, redis_url=server.url) as cluster, Client(cluster) as client:
        ended = client.detached.map(abs, [-1])
        assert ended.attach().results(TIMEOUT_S) == [1]
        handle = client.detached.map(note_and_sleep, [str(path)] * 4, range(4), [0.3] * 4)
        reader = JobReader(StoreSettings(url=server.url))
        until(lambda: sum(reader.find(handle.id).counts) >= 1)  # type: ignore[union-attr]
        server.kill()
        server.start()
        until(lambda: reader.find(handle.id) is not None)
        job = client.attach(handle.id)
        assert job.wait(TIMEOUT_S)
        assert job.result(3) == 9
        with pytest.raises(Unavailable, match="Redis has no result of task 0"):
            job.result(0)
        assert sorted(started(path)) == list(range(4))
        with pytest.raises(UsageError, match="no durable job"):
            client.attach(ended.id)
        reader.close()


def test_a_store_that_hangs_refuses_in_time_and_keeps_nothing_of_what_was_refused(serve: Callable[..., Server]) -> None:
    server = serve(aof=True)
    with LocalCluster(workers=1, redis_url=server.url) as cluster, Client(cluster) as client:
        assert client.options(durable=True).submit(abs, -1).result(TIMEOUT_S) == 1
        server.signal(signal.SIGSTOP)
        began = time.monotonic()
        refused = client.options(durable=True).submit(abs, -2)
        with pytest.raises(Rejected, match="does not answer"):
            refused.result(TIMEOUT_S)
        assert time.monotonic() - began <= 1.0
        server.signal(signal.SIGCONT)
        reader = JobReader(StoreSettings(url=server.url))
        assert client.options(durable=True).submit(abs, -3).result(TIMEOUT_S) == 3
        until(lambda: reader.find(refused.job) is None)
        reader.close()
