"""What clients are promised, on real clusters: streams, retries, interrupts, detached jobs, large objects."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import os
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq import Client, LocalCluster, TooLarge
from sparrowmq.client import ledger

TIMEOUT_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
STREAMED = 200_000  # enough for parts of full size: a million takes no more


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


def identity(value: object) -> object:
    return value


def fails_until(path: str, attempts: int) -> int:
    """Count the attempts in a file; raise until there were so many."""
    with open(path, "a+b") as file:
        file.write(b".")
        file.flush()
        made = file.tell()
    if made < attempts:
        raise ConnectionError(f"attempt {made}")
    return made


def touch_and_sleep(path: str, seconds: float) -> None:
    Path(path).touch()
    time.sleep(seconds)


def touch_and_clean_up(path: str) -> str:
    Path(path).touch()
    try:
        time.sleep(TIMEOUT_S)
    except KeyboardInterrupt:
        return "cleaned up"
    return "not interrupted"


def spin(path: str) -> None:
    """Does not care about interrupts."""
    Path(path).touch()
    while True:
        try:
            time.sleep(TIMEOUT_S)
        except KeyboardInterrupt:
            continue


# Streams.


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_gives_every_result(client: Client, ordered: bool) -> None:
    found = list(client.imap(identity, range(5000), ordered=ordered))
    assert (found if ordered else sorted(found)) == list(range(5000))  # type: ignore[type-var]


def test_imap_of_an_endless_iterable_can_be_closed(client: Client) -> None:
    with client.imap(identity, itertools.count()) as results:
        assert list(itertools.islice(results, 1000)) == list(range(1000))
    eventually(lambda: client._connection._sinks == {})
    assert client.submit(identity, "after").result(TIMEOUT_S) == "after"


def test_hundreds_of_thousands_of_no_ops_stream_through_little_memory(cluster: LocalCluster) -> None:
    code = f"""
        import resource
        from sparrowmq import Client

        def peak_mib():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        with Client({cluster.url!r}) as client:
            client.submit(abs, 1).result()
            before = peak_mib()
            assert sum(client.imap(abs, range(-{STREAMED}, 0))) == {STREAMED} * ({STREAMED} + 1) // 2
            print(peak_mib() - before)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=True, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment,
    )  # fmt: skip
    assert float(run.stdout) < 100.0


# Retries.


def test_a_task_is_tried_again_until_it_succeeds(client: Client, tmp_path: Path) -> None:
    view = client.options(retries=3, retry_on=ConnectionError, backoff_s=0.01)
    future = view.submit(fails_until, str(tmp_path / "a"), 3)
    assert future.result(TIMEOUT_S) == 3
    kinds = [event.kind for event in future.history()]
    assert kinds[0] == "submitted"
    assert kinds[-1] == "succeeded"
    assert kinds.count("launched") >= 1


def test_other_failures_and_too_many_are_final(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="attempt 1"):
        client.options(retries=5, retry_on=KeyError).submit(fails_until, str(tmp_path / "a"), 3).result(TIMEOUT_S)
    with pytest.raises(ConnectionError, match="attempt 3"):
        client.options(retries=2).submit(fails_until, str(tmp_path / "b"), 9).result(TIMEOUT_S)
    assert len((tmp_path / "b").read_bytes()) == 3


# Ends from outside.


def test_interrupts_and_their_verdicts(client: Client, tmp_path: Path) -> None:
    done = client.submit(identity, 1)
    done.result(TIMEOUT_S)
    sleeping = client.submit(touch_and_sleep, str(tmp_path / "a"), TIMEOUT_S)
    stubborn = client.submit(spin, str(tmp_path / "b"))
    eventually(lambda: len(list(tmp_path.iterdir())) == 2)
    waiting = client.submit(identity, 2)  # both slots are busy
    assert client.interrupt([done, sleeping, stubborn, waiting], grace_s=0.3) == [
        "too late", "interrupted", "killed", "dequeued",
    ]  # fmt: skip
    assert [future.cancellation for future in (done, sleeping, stubborn, waiting)] == [
        "", "interrupted", "killed", "dequeued",
    ]  # fmt: skip
    assert client.submit(identity, 3).result(TIMEOUT_S) == 3


def test_a_task_may_clean_up_and_return_when_it_is_interrupted(client: Client, tmp_path: Path) -> None:
    future = client.submit(touch_and_clean_up, str(tmp_path / "a"))
    eventually((tmp_path / "a").exists)
    assert future.running()
    assert future.interrupt(TIMEOUT_S) == "too late"
    assert future.result() == "cleaned up"
    assert not future.running()


# Jobs without their client.


def test_a_detached_job_outlives_its_client(cluster: LocalCluster, client: Client, tmp_path: Path) -> None:
    with Client(cluster) as other:
        handle = other.detached.map(touch_and_sleep, [str(tmp_path / name) for name in "abcd"], [0.2] * 4, name="left")
    found = client.job(handle.id[:-1])
    assert found.wait(TIMEOUT_S)
    status = found.status()
    assert status is not None
    assert (status.name, status.state, status.counts[0], status.detached) == ("left", "done", 4, True)
    assert len(list(tmp_path.iterdir())) == 4
    assert handle.id in [row.id for row in client.jobs()]
    assert [row.state for row in found.tasks(range(4))] == ["succeeded"] * 4


def test_a_detached_job_is_cancelled_by_anybody(cluster: LocalCluster, client: Client) -> None:
    handle = client.detached.sleep([TIMEOUT_S] * 5)
    with Client(cluster) as other:
        assert other.job(handle.id).cancel(grace_s=0.2)
    assert handle.wait(TIMEOUT_S)
    status = handle.status()
    assert status is not None
    assert status.counts[3] == 5
    assert status.state in ledger.OVER


def test_logs_of_a_job(client: Client) -> None:
    job = client.map(print, ["one", "two"], name="loud")
    assert job.wait(TIMEOUT_S)
    eventually(lambda: sorted(chunk.data for chunk in client.job(job.id).logs()) == [b"one\n", b"two\n"])
    assert sorted(chunk.data for chunk in client.job(job.id).logs(follow=True)) == [b"one\n", b"two\n"]


def test_failures_of_a_job(client: Client) -> None:
    job = client.map("math:sqrt", [4, -1, -2])
    assert job.wait(TIMEOUT_S)
    assert [(row.index, row.state) for row in client.job(job.id).failures()] == [(1, "failed"), (2, "failed")]


# Large objects.


def test_arrays_are_writable_on_both_sides(client: Client) -> None:
    np = pytest.importorskip("numpy")

    def double(array: object) -> object:
        array *= 2  # type: ignore[operator]
        return array

    for size in (10, 1_000_000):
        array = np.arange(size)
        found = client.submit(double, array).result(TIMEOUT_S)
        found += 1  # type: ignore[operator]
        assert (found == array * 2 + 1).all()  # type: ignore[attr-defined]


def test_64_mib_go_there_and_back_and_more_is_refused_clearly(client: Client) -> None:
    data = bytearray(os.urandom(1024)) * (64 * 1024)
    assert client.submit(identity, data).result(TIMEOUT_S) == data
    with pytest.raises(TooLarge, match=r"arguments: 73,40.* the limit of 67,112,960 bytes"):
        client.submit(identity, bytes(70 * 1024 * 1024))
    with pytest.raises(TooLarge, match=r"result: 73,40.* the limit of 67,112,960 bytes"):
        client.submit(bytes, 70 * 1024 * 1024).result(TIMEOUT_S)


# Workers.


def test_a_drained_worker_finishes_what_runs_and_ends() -> None:
    with LocalCluster(workers=2, slots=1) as cluster, Client(cluster) as client:
        running = [client.submit(time.sleep, 0.5) for _ in range(2)]
        eventually(lambda: sum(row.launched for row in client.workers()) == 2)
        gone, stays = [row.id for row in client.workers()]
        row = client.drain_worker(gone, grace_s=TIMEOUT_S)
        assert row is not None
        assert row.id == gone
        later = client.map(identity, range(20))
        assert client.gather(later, timeout_s=TIMEOUT_S) == list(range(20))
        assert client.gather(running, timeout_s=TIMEOUT_S) == [None, None]
        eventually(lambda: [row.id for row in client.workers() if row.state == "alive"] == [stays])


# Separate calls.


def test_thousands_of_separate_calls_come_back_each(client: Client) -> None:
    began_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    futures = [client.submit(identity, number) for number in range(5000)]
    assert client.gather(futures, timeout_s=TIMEOUT_S) == list(range(5000))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began_s < 2.5
    done, not_done = client.wait([*futures, client.submit(identity, "x")], TIMEOUT_S)
    assert (len(done), not_done) == (5001, set())
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: client.submit(identity, n).result(TIMEOUT_S), range(200))) == list(range(200))


def straggle(number: int, path: str) -> int:
    """The last one hangs, but only the first time."""
    if number == 19:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            time.sleep(60)
    time.sleep(0.01)
    return number


def test_a_straggler_gets_a_second_attempt_and_the_first_result_counts(client: Client, tmp_path: Path) -> None:
    job = client.map(straggle, range(20), [str(tmp_path / "first")] * 20, hedge_after="p95")
    assert client.gather(job, timeout_s=TIMEOUT_S) == list(range(20))
    kinds = [event.kind for event in job[19].history() if event.kind != "returned"]
    assert kinds[-2:] == ["hedged", "succeeded"]
    assert job.status()[0].hedges >= 1
