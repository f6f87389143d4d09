"""The progress bar: when it is drawn, what it says, when it returns."""

from __future__ import annotations

import concurrent.futures
import io
import subprocess
import sys
import threading
import types
from collections.abc import Iterator

import pytest
from rich.console import Console

from sparrowmq import Client, as_completed, progress
from sparrowmq.client import bar as bar_module
from sparrowmq.protocol import messages as m
from tests.support.fake_scheduler import FakeScheduler

TIMEOUT_S = 10.0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def scheduler() -> Iterator[FakeScheduler]:
    fake = FakeScheduler()
    yield fake
    fake.close()


@pytest.fixture
def client(scheduler: FakeScheduler) -> Iterator[Client]:
    with Client(scheduler.address) as client:
        yield client


def half(n: int) -> float:
    return 1 / (n % 2)


def test_it_returns_when_all_are_over_and_says_so_in_one_line(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    job = client.map(abs, range(1000))
    futures = progress(job)
    assert set(futures) == set(job)
    assert all(future.done() for future in futures)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"job {job.id}: 1,000 done in 0.")
    assert captured.err.count("\n") == 1


def test_it_waits(client: Client, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler.hold = True
    job = client.map(abs, range(3))
    returned = threading.Event()
    waiting = threading.Thread(target=lambda: (progress(job), returned.set()))
    waiting.start()
    scheduler.wait_for(m.Submit)
    assert not returned.is_set()
    scheduler.release(job.id, [2])
    job[2].result(TIMEOUT_S)
    assert not returned.is_set()
    scheduler.release(job.id)
    waiting.join(TIMEOUT_S)
    assert returned.is_set()


def test_it_counts_failures_and_raises_none(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    futures = progress(client.map(half, range(10)), description="halves")
    assert len(futures) == 10
    assert capsys.readouterr().err.startswith("halves: 10 done, 5 failed in ")


def test_futures_of_others_count_too(capsys: pytest.CaptureFixture[str]) -> None:
    futures: list[concurrent.futures.Future[int]] = [concurrent.futures.Future() for _ in range(3)]
    futures[0].set_result(1)
    futures[1].set_exception(OSError())
    futures[2].cancel()
    futures[2].set_running_or_notify_cancel()
    assert set(progress(futures)) == set(futures)  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("3 done, 2 failed in ")


def test_it_is_iterated_over(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    job = client.map(abs, [-1, -2])
    assert sorted(future.result() for future in progress(job)) == [1, 2]


def test_an_iterator_is_passed_on_as_it_goes(
    client: Client, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.hold = True
    job = client.map(abs, [-1, -2])
    scheduler.wait_for(m.Submit)
    shown = progress(as_completed(job, TIMEOUT_S), total=2, description="sums")
    scheduler.release(job.id, [1])
    assert next(shown) is job[1]
    assert capsys.readouterr().err == ""
    scheduler.release(job.id, [0])
    assert list(shown) == [job[0]]
    assert capsys.readouterr().err.startswith("sums: 2 done in ")
    assert list(progress(iter("abc"))) == ["a", "b", "c"]


def test_an_iteration_that_is_left_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    for letter in progress(iter("abc"), total=3):
        if letter == "b":
            break
    del letter
    assert capsys.readouterr().err.startswith("2 of 3 done in ")


def test_nothing_to_wait_for(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert progress(client.map(abs, [])) == []
    assert capsys.readouterr().err.startswith("0 done in ")


def test_time_may_run_out(client: Client, scheduler: FakeScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler.hold = True
    job = client.map(abs, [-1, -2])
    with pytest.raises(TimeoutError):
        progress(job, timeout_s=0.01)
    assert capsys.readouterr().err.startswith(f"job {job.id}: 0 of 2 done in ")


def test_a_terminal_gets_a_bar(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress(client.map(half, range(10)), description="halves")
    text = terminal.getvalue()
    assert "halves" in text
    assert "10/10" in text
    assert "5 failed" in text
    assert "done in" not in text


def test_the_bar_reads_the_count_whenever_it_is_drawn() -> None:
    count = types.SimpleNamespace(description="tasks", total=4, done=0, failed=0)
    file = io.StringIO()
    drawn = bar_module.Bar(count, Console(file=file, width=100))
    for done, failed, expected in ((0, 0, "0/4"), (3, 0, "3/4"), (4, 1, "1 failed")):
        count.done, count.failed = done, failed
        drawn.console.print(drawn.get_renderable())
        assert expected in file.getvalue().splitlines()[-1]


def test_a_notebook_gets_a_bar(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    class ZMQInteractiveShell:
        pass

    kernel = types.ModuleType("IPython")
    kernel.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    asked: list[bool] = []
    real = bar_module.Bar(types.SimpleNamespace(description="", total=1, done=0, failed=0), Console(file=io.StringIO()))
    monkeypatch.setattr(bar_module, "bar", lambda count, *, in_notebook: asked.append(in_notebook) or real)
    progress(client.map(abs, [1]))
    assert asked == [True]


@pytest.mark.parametrize(
    "code",
    [
        "import sparrowmq",
        "from sparrowmq import Client, Executor, task, progress, as_completed",
        "from sparrowmq.cli.main import main; main(['--help'])",
    ],
)
def test_nothing_heavy_is_loaded_for_it(code: str) -> None:
    heavy = ["asyncio", "rich", "joblib", "numpy", "IPython"]
    check = f"{code}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=30, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
