"""The command line without a cluster: help, mistakes, exit statuses, and how answers are put together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sparrowmq.cli import main as entry
from sparrowmq.cli import merge, show
from sparrowmq.protocol import messages as m

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    return {**clean, "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def sparrowmq(environ, tmp_path):
    root = str(Path(__file__).resolve().parents[2])

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sparrowmq.cli.main", *words],
            env={**environ, "PYTHONPATH": root, **more},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )

    return call


def run(*words: str) -> tuple[int, str]:
    """Call main in this process; return its status and what it printed on both streams."""
    runner = CliRunner()
    with runner.isolation() as (stdout, stderr, _):
        status = entry.main(list(words))
        return status, stdout.getvalue().decode() + stderr.getvalue().decode()


COMMANDS = [
    (),
    *[(name,) for name in ("up", "down", "status", "run", "job", "scheduler", "worker", "bench")],
    *[("job", "list"), ("job", "show"), ("scheduler", "start"), ("worker", "start"), ("worker", "list")],
    *[("bench", "throughput"), ("bench", "latency"), ("bench", "sleep")],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words):
    status, said = run(*words, "--help")
    assert status == 0
    assert "Usage: sparrowmq" in said
    assert "--output" in said


def test_help_lists_all_commands_and_exit_statuses():
    _, said = run("--help")
    for name in entry._COMMANDS:
        assert f"  {name} " in said
    for number in ("0 ok", "1 a task failed", "124 timed out", "130 interrupted"):
        assert number in said


@pytest.mark.parametrize("text", [text for _, text in entry._COMMANDS.values()])
def test_short_help_is_one_sentence(text):
    assert text.endswith(".")
    assert len(text) <= 60


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["runn"], ["No such command 'runn'", "Did you mean 'run'?", "see `sparrowmq --help`"]),
        (["worker", "lst"], ["Did you mean 'list'?", "see `sparrowmq worker --help`"]),
        (["up", "--wrokers", "3"], ["No such option", "--workers", "see `sparrowmq up --help`"]),
        (["up", "--workers", "-1"], ["-1"]),
        (["up", "--workers", "many"], ["many"]),
        (["-o", "xml", "status"], ["xml", "json"]),
        (["run"], ["a command after --"]),
        (["run", "--call", "math:sqrt", "--", "ls"], ["a command after --"]),
        (["run", "--args", "[1]", "--", "ls"], ["a command after --"]),
        (["run", "--call", "math.sqrt"], ["MODULE:FUNCTION"]),
        (["run", "--call", "math:sqrt", "--args", "{"], ["no JSON"]),
        (["run", "--call", "math:sqrt", "--args", "2"], ["expected a list", "'[2]'"]),
        (["run", "-n", "0", "--", "ls"], ["0"]),
        (["bench", "sleep", "LIFO", "1", "1", "1"], ["LIFO"]),
        (["bench", "sleep", "batch", "1", "1", "1", "wide"], ["wide", "float"]),
    ],
)
def test_a_mistake_is_a_line_and_a_hint(words, expected):
    status, said = run(*words)
    assert status == 2
    assert len(said.strip().splitlines()) <= 2
    assert said.startswith("error: ")
    for part in expected:
        assert part in said


def test_exit_statuses_of_a_real_process(sparrowmq, tmp_path):
    assert sparrowmq("--version").stdout.startswith("sparrowmq, version ")
    usage = sparrowmq("stauts")
    assert (usage.returncode, usage.stdout) == (2, "")
    nobody = sparrowmq("status")
    assert nobody.returncode == 3
    assert "sparrowmq up --detach" in nobody.stderr
    gone = sparrowmq("--redis", "redis://bob:hunter2@127.0.0.1:1/0", "status")
    assert gone.returncode == 3
    assert "127.0.0.1:1" in gone.stderr
    (tmp_path / "bad.toml").write_text("[worker]\nslots = 'x'\n")
    bad = sparrowmq("-c", "bad.toml", "worker", "start")
    assert bad.returncode == 4
    assert "bad.toml:2: worker.slots" in bad.stderr
    for result in (usage, nobody, gone, bad):
        assert "Traceback" not in result.stderr
        assert "hunter2" not in result.stderr


def test_environment_reaches_the_settings(sparrowmq):
    result = sparrowmq("worker", "start", SPARROWMQ_WORKER_SLOTZ="1")
    assert result.returncode == 4
    assert "SPARROWMQ_WORKER_SLOTS" in result.stderr


def test_binding_beyond_loopback_is_refused(sparrowmq):
    result = sparrowmq("--redis", "redis://127.0.0.1:1", "scheduler", "start", "--bind-clients", "tcp://0.0.0.0:0")
    assert result.returncode == 4
    assert "--insecure" in result.stderr


def test_down_without_a_cluster_is_no_error(sparrowmq):
    result = sparrowmq("down", "-o", "json")
    assert (result.returncode, json.loads(result.stdout)["was_running"]) == (0, False)


def test_help_loads_nothing_heavy(sparrowmq, environ):
    code = "import sys; from sparrowmq.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    root = str(Path(__file__).resolve().parents[2])
    loaded = subprocess.run(
        [sys.executable, "-c", code], env={**environ, "PYTHONPATH": root}, capture_output=True, text=True, timeout=30
    ).stderr.split()
    assert "click" in loaded
    assert not {"msgspec", "zmq", "redis", "rich", "structlog", "psutil"} & set(loaded)


def test_global_options_stand_before_or_after_the_command(sparrowmq):
    before, after = sparrowmq("-o", "json", "down"), sparrowmq("down", "-o", "json")
    assert before.stdout == after.stdout
    assert json.loads(after.stdout)


def worker(name: str, **changes) -> m.WorkerStatus:
    given = {
        "id": name, "host": "h", "pid": 1, "slots": 2, "state": "alive", "reservations": 1, "launched": 2, "done": 3,
        "rtt_ms": 0.5, "package": "p", "python": "3.11",
    }  # fmt: skip
    return m.WorkerStatus(**(given | changes))


def job_status(name: str, epoch: int, state: str) -> m.JobStatus:
    return m.JobStatus(
        name, "n", "batch", state, 5, 0, 0, [1, 2, 0, 1, 1], epoch, "c", 1.0, 2.0, 3.0, 4.0, 5.0, 6, 7, 8, 9
    )


def test_a_worker_is_the_sum_of_what_its_schedulers_see():
    statuses = [
        m.Status(1, "a", workers=[worker("w2"), worker("w1", state="lost", rtt_ms=2.0)]),
        m.Status(1, "b", workers=[worker("w1")]),
    ]
    first, second = merge.workers(statuses)
    assert (first["id"], first["state"], first["launched"], first["rtt_ms"]) == ("w1", "alive", 4, 2.0)
    assert (first["schedulers"], second["schedulers"], second["done"]) == (2, 1, 3)


def test_a_job_is_that_of_its_latest_epoch():
    rows = merge.jobs(
        [
            m.Status(1, "a", jobs=[job_status("j2", 0, "running"), job_status("j1", 0, "done")]),
            m.Status(1, "b", jobs=[job_status("j2", 1, "done")]),
        ]
    )
    assert [(row["id"], row["state"], row["scheduler"]) for row in rows] == [("j1", "done", "a"), ("j2", "done", "b")]
    assert (rows[0]["succeeded"], rows[0]["failed"], rows[0]["cancelled"], rows[0]["lost"]) == (1, 2, 1, 1)


def test_tables_align_texts_left_and_numbers_right():
    text = show.table([{"name": "a", "big_n": 1234567}, {"name": "bcd", "big_n": 5}], ["name", "big_n"])
    assert text == "name      big n\na     1,234,567\nbcd           5"


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.root, "main", interrupted)
    status, said = run("status")
    assert (status, said) == (130, "error: interrupted\n")
