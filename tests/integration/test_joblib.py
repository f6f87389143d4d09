"""The joblib backend gives what loky gives, on a real cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

joblib = pytest.importorskip("joblib")
np = pytest.importorskip("numpy")
from joblib import Parallel, delayed, parallel_config  # noqa: E402

from sparrowmq import Client, LocalCluster, NotSerializable, RemoteError, Unavailable, register_joblib  # noqa: E402
from sparrowmq.client.joblib_backend import SparrowBackend  # noqa: E402

pytestmark = pytest.mark.timeout(180)
SLOTS = 3
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    register_joblib()
    with LocalCluster(workers=1, slots=SLOTS) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(params=["sparrowmq", "loky"])
def backend(request: pytest.FixtureRequest, client: Client) -> Iterator[str]:
    """Both backends, so that what is expected of ours is what loky does."""
    if request.param == "sparrowmq":
        with parallel_config(backend="sparrowmq", client=client):
            yield "sparrowmq"
    else:
        with parallel_config(backend="loky", n_jobs=2):
            yield "loky"


def square(n: int) -> int:
    return n * n


def fail_at(n: int, bad: int) -> int:
    if n == bad:
        raise ValueError(f"not {n}")
    return n


def total(array: Any, factor: float) -> float:
    return float(array.sum() * factor)


def nested(n: int) -> list[int]:
    found: list[int] = Parallel(n_jobs=2)(delayed(square)(n + k) for k in range(3))
    return found


def nested_backend() -> tuple[str, int]:
    inner, _ = joblib.parallel.get_active_backend()
    return type(inner).__name__, joblib.effective_n_jobs(2)


def slow(seconds: float, path: Path | None = None) -> None:
    time.sleep(seconds)
    if path is not None:
        path.touch()


def test_results_are_lokys(backend: str) -> None:
    assert Parallel()(delayed(square)(n) for n in range(100)) == [n * n for n in range(100)]
    assert Parallel()([]) == []
    factor = 3
    assert Parallel()(delayed(lambda n: n * factor)(n) for n in range(5)) == [0, 3, 6, 9, 12]
    array = np.arange(1000.0)
    assert Parallel()(delayed(total)(array * k, factor=2.0) for k in range(4)) == [999000.0 * k for k in range(4)]


@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2*n_jobs", "all", 1])
def test_batches_of_any_size(backend: str, batch_size: Any, pre_dispatch: Any) -> None:
    run = Parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert run(delayed(square)(n) for n in range(60)) == [n * n for n in range(60)]
    assert run(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_nested_calls_are_lokys(backend: str) -> None:
    assert Parallel()(delayed(nested)(n) for n in range(4)) == [[n**2, (n + 1) ** 2, (n + 2) ** 2] for n in range(4)]
    assert Parallel()(delayed(nested_backend)() for _ in range(2)) == [("ThreadingBackend", 2)] * 2


def test_an_exception_is_the_tasks_own(backend: str) -> None:
    with pytest.raises(ValueError, match=r"^not 7$") as caught:
        Parallel()(delayed(fail_at)(n, 7) for n in range(50))
    if backend == "sparrowmq":
        assert isinstance(caught.value.__cause__, RemoteError)
        assert "in fail_at" in str(caught.value.__cause__)
    assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_an_exception_of_the_iterable(backend: str) -> None:
    def calls() -> Iterator[Any]:
        for n in range(40):
            if n == 30:
                raise OSError("the disk is gone")
            yield delayed(square)(n)

    with pytest.raises(OSError, match="the disk is gone"):
        Parallel()(calls())


@pytest.mark.parametrize("position", [0, 30])
def test_what_cannot_be_pickled_raises(backend: str, position: int) -> None:
    things: list[Any] = list(range(40))
    things[position] = threading.Lock()
    with pytest.raises(Exception, match="pickle") as caught:
        Parallel(batch_size=1)(delayed(id)(thing) for thing in things)
    assert isinstance(caught.value, NotSerializable) or backend == "loky"


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(backend: str, return_as: str) -> None:
    results = Parallel(return_as=return_as)(delayed(square)(n) for n in range(50))
    found = list(results)
    assert (found if return_as == "generator" else sorted(found)) == [n * n for n in range(50)]


def test_a_generator_gives_results_before_all_are_there(backend: str) -> None:
    taken: list[int] = []

    def calls() -> Iterator[Any]:
        for n in range(1000):
            taken.append(n)
            yield delayed(slow)(0.001)

    results = Parallel(return_as="generator", batch_size=1)(calls())
    assert next(results) is None
    assert len(taken) < 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that results are thrown away
        del results
    assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_a_timeout_ends_the_call(backend: str) -> None:
    began = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011  # multiprocessing's own
        Parallel(timeout=0.3, batch_size=1)(delayed(slow)(seconds) for seconds in (0.0, 20.0))
    assert type(caught.value).__name__ == "TimeoutError"
    assert time.monotonic() - began < 10.0
    assert Parallel(timeout=TIMEOUT_S)(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_an_error_ends_what_runs(client: Client, tmp_path: Path) -> None:
    late = tmp_path / "late"
    with parallel_config(backend="sparrowmq", client=client), pytest.raises(ValueError, match="not 1"):
        Parallel(batch_size=1, n_jobs=2)([delayed(slow)(1.0, late), delayed(fail_at)(1, 1)])
    assert Parallel(backend=SparrowBackend(client))(delayed(square)(n) for n in range(30))[-1] == 841
    time.sleep(1.2)  # longer than it would have taken
    assert not late.exists()


def test_a_call_may_be_repeated_within_a_block(backend: str) -> None:
    with Parallel() as parallel:
        for _ in range(3):
            assert parallel(delayed(square)(n) for n in range(10)) == [n * n for n in range(10)]


def test_how_many_run_at_once(client: Client) -> None:
    with parallel_config(backend="sparrowmq", client=client):
        assert joblib.effective_n_jobs() == SLOTS
        assert joblib.effective_n_jobs(-1) == SLOTS
        assert joblib.effective_n_jobs(-2) == SLOTS - 1
        assert joblib.effective_n_jobs(-99) == 1
        assert joblib.effective_n_jobs(50) == 50
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)(delayed(square)(n) for n in range(2))
        assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
        pids = Parallel(n_jobs=SLOTS, batch_size=1)(delayed(slow_pid)() for _ in range(12))
        assert len(set(pids)) == SLOTS
        assert os.getpid() not in pids


def slow_pid() -> int:
    time.sleep(0.05)
    return os.getpid()


def test_n_jobs_bounds_what_runs_at_once(client: Client, tmp_path: Path) -> None:
    with parallel_config(backend="sparrowmq", client=client):
        most = Parallel(n_jobs=2, batch_size=1, pre_dispatch="all")(delayed(alone)(tmp_path, n) for n in range(12))
    assert max(most) <= 2


def alone(directory: Path, n: int) -> int:
    mine = directory / f"running-{n}"
    mine.touch()
    time.sleep(0.02)
    count = len(list(directory.glob("running-*")))
    mine.unlink()
    return count


def test_small_calls_are_batched(client: Client) -> None:
    backend = SparrowBackend(client)
    sizes: list[int] = []
    real = backend.batch_completed

    def watched(batch_size: int, duration: float) -> None:
        sizes.append(batch_size)
        real(batch_size, duration)

    backend.batch_completed = watched
    assert Parallel(backend=backend)(delayed(square)(n) for n in range(3000)) == [n * n for n in range(3000)]
    assert sum(sizes) == 3000
    assert max(sizes) > 8
    assert len(sizes) < 300


def test_options_and_names_of_jobs(client: Client) -> None:
    with parallel_config(backend="sparrowmq", client=client, policy="batch"):
        Parallel(n_jobs=2)(delayed(square)(n) for n in range(4))
    newest = client.jobs()[-1]
    assert (newest.name, newest.policy) == ("square", "batch")


def test_the_client_of_the_block_is_the_default(client: Client) -> None:
    before = len(client.jobs())
    with Client(next(iter(client.schedulers.values()))) as inner, parallel_config(backend="sparrowmq"):
        assert Parallel(n_jobs=2)(delayed(square)(n) for n in range(4)) == [0, 1, 4, 9]
        mine = [row for row in inner.jobs() if row.client == inner.id]
    assert mine
    assert len(client.jobs()) > before


def test_a_cluster_without_workers_says_so() -> None:
    register_joblib()
    with (
        LocalCluster(workers=0) as empty,
        Client(empty) as client,
        parallel_config(backend="sparrowmq", client=client),
        pytest.raises(Unavailable, match="no worker"),
    ):
        Parallel()(delayed(square)(n) for n in range(2))


def test_it_is_unknown_until_it_is_registered() -> None:
    code = """
import joblib, sparrowmq
try:
    joblib.parallel_config(backend="sparrowmq")
except ValueError as error:
    print(error)
sparrowmq.register_joblib()
print("sparrowmq" in joblib.parallel.BACKENDS)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    first, second = ended.stdout.splitlines()
    assert "Invalid backend: sparrowmq" in first
    assert second == "True"
