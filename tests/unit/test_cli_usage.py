"""The command line without a cluster: help, mistakes, exit statuses, and how mistakes are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from sparrowmq.cli import main as entry

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
    *[(name,) for name in ("up", "down", "status", "run", "job", "task", "scheduler", "worker", "config", "bench")],
    *[("job", name) for name in ("list", "show", "wait", "cancel", "logs")],
    *[("worker", name) for name in ("start", "list", "drain", "stop")],
    *[("config", name) for name in ("show", "check", "paths")],
    *[("task", "show"), ("scheduler", "start"), ("doctor",), ("completion",)],
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


MISTAKES = [
    (["runn"], ["No such command 'runn'", "Did you mean 'run'?", "see `sparrowmq --help`"]),
    (["worker", "lst"], ["Did you mean 'list'?", "see `sparrowmq worker --help`"]),
    (["up", "--wrokers", "3"], ["No such option", "--workers", "see `sparrowmq up --help`"]),
    (["up", "--workers", "-1"], ["-1 is out of range: expected 0 to 1,024"]),
    (["up", "--workers", "many"], ["'many' is no whole number: expected 0 to 1,024"]),
    (["-o", "xml", "status"], ["xml", "json", "quiet"]),
    (["run"], ["a command after --"]),
    (["run", "--call", "math:sqrt", "--", "ls", "-l"], ["--call math:sqrt and the command `ls -l` exclude each other"]),
    (["run", "--args", "[1]", "--", "ls"], ["--args gives arguments to --call", "`ls`"]),
    (["run", "--args-file", "x", "--", "ls"], ["--args-file gives arguments to --call"]),
    (["run", "--args", "[1]"], ["--args gives arguments to --call", "no --call"]),
    (["run", "--call", "m:f", "--env", "A=1"], ["--env", "--call m:f"]),
    (["run", "--call", "m:f", "--cwd", "/"], ["--cwd", "--call m:f"]),
    (["run", "--call", "m:f", "--args", "[1]", "--args-file", "x"], ["--args and --args-file exclude each other"]),
    (["run", "--detach", "--wait", "3", "--", "ls"], ["--detach and --wait exclude each other"]),
    (["run", "--detach", "--follow", "--", "ls"], ["--detach and --follow exclude each other"]),
    (["run", "--backoff", "3", "--", "ls"], ["--backoff without --retries"]),
    (["run", "--retry-on", "ValueError", "--", "ls"], ["--retry-on without --retries"]),
    (["run", "--call", "math.sqrt"], ["MODULE:FUNCTION"]),
    (["run", "-n", "0", "--", "ls"], ["0 is out of range: expected 1 to 10,000,000"]),
    (["run", "-n", "x", "--", "ls"], ["'-n'", "'x' is no whole number"]),
    (["run", "--timeout", "soon", "--", "ls"], ["'soon' is no duration", "500ms, 14s, 2m, 1.5h"]),
    (["run", "--timeout", "0", "--", "ls"], ["more than 0 seconds"]),
    (["run", "--wait", "-1s", "--", "ls"], ["'-1s' is no duration"]),
    (["run", "--hedge", "p100", "--", "ls"], ["'p100' is no quantile", "p95"]),
    (["run", "--hedge", "q", "--", "ls"], ["'q' is no duration"]),
    (["run", "--env", "A", "--", "ls"], ["'A': expected KEY=VALUE, such as A=fast"]),
    (["run", "--stdin", "/no/such", "--", "cat"], ["--stdin /no/such: No such file"]),
    (["worker", "start", "--slots", "abc"], ["'--slots'", "'abc' is no whole number: expected 0 to 4,096"]),
    (["scheduler", "start", "--bind-workers", "0.0.0.0"], ["is no address", "such as tcp://127.0.0.1:7701"]),
    (["scheduler", "start", "--bind-clients", "tcp://h:70000"], ["'70000' is no port"]),
    (["worker", "drain"], ["WORKER"]),
    (["worker", "drain", "all", "--grace", "x"], ["'x' is no duration"]),
    (["task", "show", "last", "3-1"], ["'3-1' names no tasks", "0-9,12"]),
    (["job", "logs", "--task", "one"], ["'one' names no tasks"]),
    (["job", "logs", "--stream", "both"], ["both", "stdout"]),
    (["completion", "tcsh"], ["tcsh", "bash"]),
    (["bench", "sleep", "LIFO", "1", "1", "1"], ["LIFO"]),
    (["bench", "sleep", "batch", "1", "1", "1", "wide"], ["wide", "float"]),
]


@pytest.mark.parametrize(("words", "expected"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_is_a_line_and_a_hint(words, expected):
    status, said = run(*words)
    assert status == 2
    assert len(said.strip().splitlines()) <= 2
    assert said.startswith("error: ")
    assert "regex" not in said
    for part in expected:
        assert part in said


@pytest.mark.parametrize("words", [words for words, _ in MISTAKES if "xml" not in words], ids=" ".join)
@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_a_mistake_is_one_json_object_for_machines(words, output):
    status, said = run("-o", output, *words)
    report = json.loads(said)
    assert (status, report["exit_code"]) == (2, 2)
    assert set(report) == {"code", "message", "hint", "exit_code"}
    assert (report["code"], bool(report["message"])) == ("usage", True)


def test_a_missing_command_is_help_or_an_error():
    assert "Usage: sparrowmq job" in run("job")[1]
    status, said = run("-o", "json", "job")
    assert (status, json.loads(said)["message"]) == (2, "a command is missing")


@pytest.mark.parametrize("words", [["--output=json"], ["-ojson"], ["-o", "table", "-o", "jsonl"]])
def test_the_output_is_found_in_a_line_that_cannot_be_read(words):
    assert json.loads(run(*words, "stauts")[1])["code"] == "usage"
    assert run("stauts", "--", "-o", "json")[1].startswith("error: ")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("foo", "foo is not a Redis URL"),
        ("tcp://h:1", "tcp://... is not a Redis URL"),
        ("http://bob:hunter2@h", "http://... is not a Redis URL"),
        ("bob:hunter2@h", "is not a Redis URL"),
        ("redis://h:70000/0", "Port out of range"),
        ("redis://h:x/0", "not a Redis URL"),
        ("redis:///0", "there is no host"),
        ("redis://h/zero", "'zero' is no database number"),
        ("unix://", "no path"),
        ("redis://127.0.0.1:1/0?bogus=1", "bogus"),
    ],
)
def test_a_bad_redis_url_is_a_usage_error_everywhere(url, reason, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for words in (["status"], ["run", "--", "ls"], ["worker", "start"], ["scheduler", "start"], ["job", "list"]):
        status, said = run("--redis", url, *words)
        assert (status, reason in said, "--redis" in said) == (2, True, True), said
        assert "hunter2" not in said


def test_a_bad_redis_url_of_a_file_or_variable_is_bad_configuration(sparrowmq, tmp_path):
    (tmp_path / "bad.toml").write_text("[store]\nurl = 'foo'\n")
    for result in (sparrowmq("-c", "bad.toml", "status"), sparrowmq("status", SPARROWMQ_STORE_URL="foo")):
        assert result.returncode == 4
        assert "foo is not a Redis URL" in result.stderr
    assert "bad.toml:2: store.url" in sparrowmq("-c", "bad.toml", "worker", "start").stderr


def test_a_redis_that_refuses_is_told_soon(sparrowmq):
    for words in (["status"], ["run", "--", "ls"], ["job", "list"], ["worker", "list"]):
        begin = time.monotonic()
        result = sparrowmq("-o", "json", "--redis", "redis://127.0.0.1:1/0", *words)
        assert time.monotonic() - begin < 2.5  # of which 0.5 s are patience
        report = json.loads(result.stderr)
        assert (report["code"], report["exit_code"], result.returncode) == ("unavailable", 3, 3)
        assert "127.0.0.1:1" in report["message"]
        assert "is it running" in report["hint"]


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


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry.root, "main", interrupted)
    status, said = run("status")
    assert (status, said) == (130, "error: interrupted\n")
    assert json.loads(run("status", "-o", "json")[1]) == {
        "code": "interrupted", "message": "interrupted", "hint": "", "exit_code": 130,
    }  # fmt: skip


def test_help_is_fast(sparrowmq):
    took_s = []
    for _ in range(3):
        begin = time.monotonic()
        assert sparrowmq("--help").returncode == 0
        took_s.append(time.monotonic() - begin)
    assert min(took_s) < 0.4  # 60 ms on an idle machine; the aim is 150


def test_a_file_that_may_not_be_written_is_a_line(sparrowmq, tmp_path):
    (tmp_path / "file").write_text("")
    result = sparrowmq("up", "--detach", XDG_STATE_HOME=str(tmp_path / "file"))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "Not a directory" in result.stderr


# config: settings and files.


def test_settings_are_shown_with_their_sources(sparrowmq, tmp_path):
    (tmp_path / "my.toml").write_text("[worker]\nslots = 3\n")
    more = {"SPARROWMQ_STORE_URL": "redis://bob:hunter2@h:1/0", "SPARROWMQ_WORKER_WINDOW_S": "5ms"}
    done = sparrowmq("-c", "my.toml", "-o", "json", "config", "show", "--sources", **more)
    rows = {row["key"]: row for row in json.loads(done.stdout)}
    assert (rows["worker.slots"]["value"], rows["worker.slots"]["source"]) == (3, "my.toml:2")
    assert rows["worker.window_s"]["value"] == 0.005
    assert rows["worker.window_s"]["source"] == "environment variable SPARROWMQ_WORKER_WINDOW_S"
    assert rows["store.url"]["value"] == "redis://bob@h:1/0"
    assert "hunter2" not in done.stdout
    people = sparrowmq("-c", "my.toml", "config", "show").stdout.splitlines()
    assert len(people) == len(rows) + 1
    assert "worker.slots=3" in sparrowmq("-c", "my.toml", "-o", "quiet", "config", "show").stdout.splitlines()


def test_files_are_checked_each_by_itself(sparrowmq, tmp_path):
    (tmp_path / "good.toml").write_text("[worker]\nslots = 3\n")
    (tmp_path / "bad.toml").write_text("[worker]\nslotz = 3\n")
    good = sparrowmq("config", "check", "good.toml", SPARROWMQ_WORKER_SLOTZ="1")  # the environment is none of it
    assert (good.returncode, good.stdout) == (0, "good.toml: ok, 1 setting\n")
    both = sparrowmq("-o", "json", "config", "check", "good.toml", "bad.toml", "absent.toml")
    rows = json.loads(both.stdout)
    assert [row["ok"] for row in rows] == [True, False, False]
    assert "bad.toml:2" in rows[1]["message"]
    assert rows[1]["hint"] == "did you mean worker.slots?"
    report = json.loads(both.stderr)
    assert (report["code"], report["exit_code"], both.returncode) == ("config", 4, 4)
    people = sparrowmq("config", "check", "bad.toml")
    assert (people.returncode, "did you mean worker.slots?" in people.stdout) == (4, True)


def test_paths_of_files(sparrowmq, tmp_path):
    (tmp_path / "my.toml").write_text("")
    rows = json.loads(sparrowmq("-c", "my.toml", "-o", "json", "config", "paths").stdout)
    assert [(row["what"], row["exists"]) for row in rows] == [
        ("configuration", True), ("local cluster", False), ("its log", False),
    ]  # fmt: skip


def test_quiet_is_quiet(sparrowmq):
    done = sparrowmq("-o", "quiet", "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
