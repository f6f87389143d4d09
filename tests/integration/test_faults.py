"""Faults done to real clusters, small: nothing is lost or shown twice. Times are measured elsewhere, not asserted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from sparrowmq.bench import chaos, faults
from sparrowmq.bench.arena import Arena
from sparrowmq.bench.found import Found
from sparrowmq.bench.shown import Ledger, Shown
from sparrowmq.bench.stamps import Mailbox, hold
from sparrowmq.bench.story import GIVEN_UP, MISSED, Story
from sparrowmq.cli import bench as bench_commands
from sparrowmq.cli.main import main, root
from sparrowmq.errors import Unavailable, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.settings import AssistantSettings

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("name", "rounds"),
    [
        ("kill-worker", 3),
        ("kill-scheduler", 1),
        ("half", 1),
        ("stop-monitor-short", 1),
        ("stop-tree", 1),
        ("stop-monitor", 1),
        ("kill-assistant", 1),
    ],
)
def test_nothing_is_lost_or_shown_twice(name: str, rounds: int) -> None:
    (fault,) = [fault for fault in faults.table() if fault.name == name]
    row = faults.measure(fault, rounds, random.Random(1))
    assert row["error"] == ""
    assert (row["n"], row["lost"], row["duplicated"]) == (rounds, 0, 0)
    assert row.get("rerun", 0) == row.get("relaunched", 0) == 0
    assert row["ok"]
    if "short" not in name:
        assert 0.0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    json.dumps(row)


def test_what_is_stopped_goes_on_and_nothing_is_left_when_a_round_is_interrupted() -> None:
    processes: list[psutil.Process] = []
    with contextlib.suppress(KeyboardInterrupt), Arena("test", random.Random(1), workers=1, slots=1) as arena:
        tree = arena.tree(arena.cluster.workers[0].pid)
        processes += [psutil.Process(pid) for pid in (arena.cluster.pid, *tree)]
        directory = Path(arena.stamps.path).parent
        with arena.stopped(tree):
            os.kill(os.getpid(), signal.SIGINT)
            arena.until("never", lambda: False)
    assert len(processes) == 4
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    assert not directory.exists()


def test_no_process_is_left_when_it_is_killed_while_a_worker_is_stopped(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    code = (
        "import random,time\nfrom sparrowmq.bench.arena import Arena\n"
        "with Arena('test', random.Random(1), workers=1, slots=1) as arena:\n"
        "    tree = arena.tree(arena.cluster.workers[0].pid)\n"
        "    with arena.stopped(tree):\n"
        "        print(arena.cluster.pid, *tree, flush=True)\n"
        "        time.sleep(60)\n"
    )
    root_path, temporary = str(Path(__file__).resolve().parents[2]), str(tmp_path_factory.mktemp("t"))
    environ = {**os.environ, "PYTHONPATH": root_path, "TMPDIR": temporary}
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ)
    assert owner.stdout is not None
    processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
    assert len(processes) == 4
    owner.kill()
    owner.communicate()
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert alive == []


def test_a_cluster_that_does_not_recover_is_an_error_and_not_a_hang() -> None:
    def never(found: Found, rounds: int, rng: random.Random) -> None:
        with Arena("never", rng, workers=1, slots=1) as arena, found.booked(arena.ledger):
            arena.hold(1, 30.0)
            found.add(0.001)
            arena.wait(0.2)

    row = faults.measure(faults.Fault("never", never, 1.0, ""), 1, random.Random(1))
    assert row["error"].startswith("never: the end of all jobs has not happened within 0.2 s; task 0 of job")
    assert (row["n"], row["max_ms"], row["lost"], row["ok"]) == (1, 1.0, 1, False)


# The ledger, the mailbox and the log, without a cluster.


class _Link:
    """Stands for the connection of a client: keeps what is submitted."""

    def __init__(self) -> None:
        self.batches: list[Shown] = []

    def new_id(self) -> str:
        return "job"

    def submit(self, jobs: list[tuple[m.Submit, Shown]]) -> None:
        self.batches += [batch for _, batch in jobs]

    def check_process(self) -> None:
        return None


@pytest.fixture
def ledger() -> tuple[Ledger, _Link]:
    link = _Link()
    client: Any = SimpleNamespace(_connection=link)
    return Ledger(client), link


def _settle(batch: Shown, index: int, number: int) -> None:
    import pickle

    batch.settle([index], bytes([m.SUCCEEDED]), [pickle.dumps(number)])


def test_the_ledger_is_clean_where_each_outcome_is_shown_once(ledger: tuple[Ledger, _Link]) -> None:
    books, link = ledger
    batch, futures = books.send(hold, [("x", 7, 0.0), ("x", 8, 0.0)], [7, 8])
    assert (link.batches, books.unfinished, books.wait(0.0)) == ([batch], [batch], False)
    _settle(batch, 0, 7)
    _settle(batch, 1, 8)
    assert books.wait(0.0)
    books.close_books()
    assert [future.result() for future in futures] == [7, 8]
    assert (books.tasks, books.lost, books.duplicated, books.unfinished) == (2, 0, 0, [])


def test_the_ledger_finds_what_is_lost_wrong_or_shown_twice(ledger: tuple[Ledger, _Link]) -> None:
    books, _ = ledger
    batch, _ = books.send(hold, [("x", n, 0.0) for n in range(5)], range(5))
    _settle(batch, 0, 0)
    _settle(batch, 0, 0)  # twice
    _settle(batch, 1, 99)  # another value
    batch.settle([2], bytes([m.CANCELLED]), [b""])
    batch.settle([3], bytes([m.LOST]), [b"\x80"])
    books.close_books()
    assert (books.lost, books.duplicated) == (0, 0)  # the job is not over
    books.close_books(final=True)
    assert (books.lost, books.duplicated) == (4, 1)
    said = "\n".join(books.examples)
    for text in (
        "task 1 of job job: returned 99, not 1",
        "task 2 of job job: cancelled",
        "task 4 of job job: no outcome",
    ):
        assert text in said


def test_a_callback_that_comes_twice_is_a_double(ledger: tuple[Ledger, _Link]) -> None:
    books, _ = ledger
    batch, (future,) = books.send(hold, [("x", 0, 0.0)], [0])
    _settle(batch, 0, 0)
    batch.called_back(future)
    batch.called_back(future)
    books.close_books(final=True)
    assert books.duplicated >= 1


def test_stamps_tell_who_started_what_and_how_often(tmp_path: Path) -> None:
    mailbox = Mailbox(str(tmp_path))
    assert [hold(mailbox.path, key, 0.0) for key in (1, 2, 1)] == [1, 2, 1]
    assert mailbox.wait(lambda: len(mailbox.of(1)) == 2 and len(mailbox.of(2)) == 1, 10.0)
    first, second = mailbox.of(1)
    assert first.at_s < second.at_s
    assert first.pid == os.getpid()
    assert mailbox.repeated() == 1
    assert not mailbox.wait(lambda: bool(mailbox.of(3)), 0.01)
    mailbox.forget()
    assert mailbox.repeated() == 0
    mailbox.close()
    assert hold(mailbox.path, 1, 0.0) == 1  # nobody listens


def test_the_story_is_read_from_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(
        '{"role": "scheduler", "id": "s", "worker": "w1", "event": "worker lost", "why": "gone", '
        '"timestamp": "2030-01-01T00:00:01Z"}\n'
        "Traceback: none of ours\n"
        '{"role": "assistant", "id": "w1", "event": "worker is suspect", "timestamp": "2030-01-01T00:00:00.5Z"}\n'
        '{"event": "half a'
    )
    story = Story(path)
    given_up, missed = story.first(GIVEN_UP, "w1", 0.0), story.first(MISSED, "w1", 0.0)
    assert given_up is not None
    assert missed is not None
    assert (given_up.by, given_up.why, given_up.at_s - missed.at_s) == ("scheduler", "gone", pytest.approx(0.5))
    assert story.first(GIVEN_UP, "w1", given_up.at_s + 0.1) is None
    assert story.first(GIVEN_UP, "w2", 0.0) is None


# The commands.


def test_the_commands_name_all_faults_and_demonstrations() -> None:
    assert bench_commands._FAULTS == faults.NAMES
    for kind in chaos.KINDS:
        assert CliRunner().invoke(root, ["demo", kind, "--help"]).exit_code == 0
    with pytest.raises(UsageError, match=r"unknown fault 'melt'"):
        faults.run(faults=["kill-worker", "melt"])
    with pytest.raises(UsageError, match="no fault"):
        faults.run(faults=[])
    with pytest.raises(UsageError, match=r"unknown demonstration 'melt'"):
        chaos.run("melt")


def test_a_fault_that_was_not_survived_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loses(found: Found, rounds: int, rng: random.Random) -> None:
        found.add(0.25)
        found.lost = 1
        raise Unavailable("it is gone")

    monkeypatch.setattr(faults, "table", lambda _seconds=0.0: [faults.Fault("kill-worker", loses, 1.0, "none")])
    assert main(["-o", "json", "bench", "faults", "--faults", "kill-worker", "--n", "1"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["lost"], row["max_ms"], row["error"], row["ok"]) == (1, 250.0, "it is gone", False)
    assert main(["bench", "faults", "--faults", "kill-worker", "--n", "1"]) == 1
    assert "it is gone" in capsys.readouterr().out


@pytest.mark.parametrize("kind", chaos.KINDS)
def test_a_demonstration_ends_with_a_clean_ledger(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-o", "json", "demo", kind, "--times", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ok"]
    assert result["ledger"]["tasks"] > 0
    assert (result["ledger"]["incomplete"], result["ledger"]["duplicated"]) == (0, 0)
    assert result["incidents"][0]["declared_ms"] > 0.0
    assert [row["detector"].partition(" ")[0] for row in result["detectors"]] == [AssistantSettings().detector, "fixed"]
    assert "Ledger: tasks" in "\n".join(chaos.verdict(result))
