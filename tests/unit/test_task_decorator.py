"""The decorator `task`: where its functions run, with which options, and how they travel."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Iterator

import cloudpickle
import pytest

from sparrowmq import Client, Unavailable, UsageError, task
from sparrowmq.client import default
from sparrowmq.client.source import STORE_URL_VARIABLE
from sparrowmq.client.tasks import Task
from sparrowmq.protocol import messages as m
from tests.support.fake_scheduler import FakeScheduler

TIMEOUT_S = 10.0


@task
def area(width: int, height: int = 1) -> int:
    """Multiply."""
    return width * height


@task(retries=2, timeout_s=5, name="named")
def careful(value: int) -> int:
    return -value


@task
def factorial(n: int) -> int:
    return 1 if n == 0 else n * factorial(n - 1)


class Namespace:
    @task
    @staticmethod
    def nested(value: int) -> int:
        return value + 1


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.close()


@pytest.fixture
def client(scheduler: FakeScheduler) -> Iterator[Client]:
    with Client(scheduler.address) as client:
        yield client


def test_calling_runs_it_here() -> None:
    assert area(6, 7) == 42
    assert area(6, height=7) == 42
    assert factorial(5) == 120
    assert Namespace.nested(1) == 2


def test_it_looks_like_its_function() -> None:
    assert (area.__name__, area.__qualname__, area.__doc__) == ("area", "area", "Multiply.")  # type: ignore[attr-defined]
    assert area.__module__ == __name__
    assert str(inspect.signature(area)) == "(width: 'int', height: 'int' = 1) -> 'int'"
    assert repr(careful) == f"<Task {__name__}.careful, retries=2, timeout_s=5, name='named'>"


def test_submit_and_map_run_it_on_the_client_of_the_block(client: Client, scheduler: FakeScheduler) -> None:
    future = area.submit(6, height=7)
    assert future.result(TIMEOUT_S) == 42
    job = area.map([1, 2], [3, 4])
    assert [each.result(TIMEOUT_S) for each in job] == [3, 8]
    assert [each.result(TIMEOUT_S) for each in area.starmap([(1,), (2, 5)])] == [1, 10]
    assert [submit.spec.name for submit in scheduler.wait_for(m.Submit, 3)] == ["area"] * 3


def test_a_decorated_function_is_a_function_to_the_client(client: Client) -> None:
    assert client.submit(area, 6, 7).result(TIMEOUT_S) == 42
    assert client.gather(client.map(careful, [1, 2])) == [-1, -2]
    with pytest.raises(UsageError, match="'retries'"):
        client.submit(area, 6, retries=7)  # type: ignore[call-arg]


def test_options_are_those_of_its_jobs(client: Client, scheduler: FakeScheduler) -> None:
    careful.submit(1).result(TIMEOUT_S)
    careful.options(timeout_s=9.0, policy="batch").submit(1).result(TIMEOUT_S)
    careful.map([1]).wait(TIMEOUT_S)
    first, second, third = (submit.spec for submit in scheduler.wait_for(m.Submit, 3))
    assert (first.retries, first.timeout_s, first.name) == (2, 5.0, "named")
    assert (second.retries, second.timeout_s, second.policy) == (2, 9.0, "batch")
    assert first == third  # the original is as it was


def test_bad_options_are_refused_where_they_are_written() -> None:
    with pytest.raises(UsageError, match="unknown option 'retrys'"):
        task(retrys=2)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="timeout_s"):
        area.options(timeout_s=-1)
    with pytest.raises(UsageError, match="cannot be called"):
        task(7)  # type: ignore[call-overload]


def test_on_names_the_client(scheduler: FakeScheduler) -> None:
    with Client(scheduler.address) as inner:
        there = area.on(inner.options(name="view"))
        assert there.submit(2, 3).result(TIMEOUT_S) == 6
        assert there.options(timeout_s=1).submit(2, 3).result(TIMEOUT_S) == 6
    specs = [submit.spec for submit in scheduler.wait_for(m.Submit, 2)]
    assert [(spec.name, spec.timeout_s) for spec in specs] == [("view", 0.0), ("view", 1.0)]


# The default client.


def test_the_innermost_block_counts(scheduler: FakeScheduler) -> None:
    with Client(scheduler.address) as outer:
        assert default.current() is outer
        with Client(scheduler.address) as inner:
            assert default.current() is inner
            with outer:
                assert default.current() is outer
            assert default.current() is inner
        assert default.current() is outer


def test_blocks_of_another_thread_do_not_count(
    client: Client, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_URL_VARIABLE, scheduler.address)
    monkeypatch.setattr(default, "_made", None)
    found: list[Client] = []
    threads = [threading.Thread(target=lambda: found.append(default.current())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert found[0] is found[1]  # made once
    assert found[0] is not client
    found[0].close()


def test_without_any_cluster_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv(STORE_URL_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(default, "_made", None)
    with pytest.raises(Unavailable, match="no target was given") as caught:
        area.submit(1, 2)
    assert "sparrowmq up" in caught.value.hint


# Travelling.


@pytest.mark.parametrize("original", [area, careful, factorial, Namespace.nested], ids=repr)
def test_it_travels_by_name(original: Task[[int], int]) -> None:
    data = pickle.dumps(original)
    assert pickle.loads(data) is original
    assert cloudpickle.loads(cloudpickle.dumps(original)) is original
    assert len(data) < 120
    assert copy.deepcopy(original) is original


def test_a_changed_copy_travels_by_the_name_of_its_original(client: Client) -> None:
    changed = careful.options(retries=7).on(client)
    data = pickle.dumps(changed)
    assert b"careful" in data
    assert b"<locals>" not in data
    loaded = pickle.loads(data)
    assert loaded is not careful
    assert loaded(3) == -3
    assert loaded._options["retries"] == 7
    assert changed.submit(4).result(TIMEOUT_S) == -4


def test_a_local_function_travels_by_value(client: Client) -> None:
    factor = 3

    @task(timeout_s=5)
    def local(value: int) -> int:
        return value * factor

    assert local.submit(2).result(TIMEOUT_S) == 6
    assert [future.result(TIMEOUT_S) for future in local.options(retries=1).map([1, 2])] == [3, 6]
    loaded = cloudpickle.loads(cloudpickle.dumps(local))
    assert (loaded(5), loaded.__name__, loaded._options) == (15, "local", {"timeout_s": 5})


def test_a_local_function_that_calls_itself_travels(client: Client) -> None:
    @task
    def countdown(n: int) -> int:
        return 0 if n == 0 else countdown(n - 1)

    assert countdown.submit(3).result(TIMEOUT_S) == 0
