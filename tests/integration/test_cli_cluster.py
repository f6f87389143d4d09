"""The command line on a real cluster: jobs, tasks, workers, output, and ends before the end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparrowmq.local import LocalCluster

pytestmark = pytest.mark.timeout(120)
ROOT = str(Path(__file__).resolve().parents[2])
TIMEOUT_S = 30.0

Done = subprocess.CompletedProcess


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.02)


class Cli:
    """The command, for one cluster."""

    def __init__(self, cluster: LocalCluster, state: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
        more = {"PYTHONPATH": ROOT, "XDG_STATE_HOME": str(state), "SPARROWMQ_STORE_URL": cluster.url}
        self.environ = {**clean, **more}
        self.cluster = cluster

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "sparrowmq.cli.main", *words]

    def __call__(self, *words: str, input: str | None = None) -> Done[str]:
        return subprocess.run(
            self.words(*words), env=self.environ, capture_output=True, text=True, timeout=60, input=input
        )

    def json(self, *words: str) -> object:
        done = self("-o", "json", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*words), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def detach(self, *words: str) -> str:
        done = self("-o", "quiet", "run", "--detach", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def row(self, job: str) -> dict[str, object]:
        (row,) = self.json("job", "list", f"{job},{job}")
        return row


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    with LocalCluster(workers=2, schedulers=2) as cluster:
        made = Cli(cluster, tmp_path_factory.mktemp("state"))
        until(lambda: len(made.json("worker", "list")) == 2)
        yield made


# status and worker list.


def test_status_names_the_schedulers_and_does_not_count_itself(cli):
    rows = cli.json("status")["schedulers"]
    assert {(row["id"], row["pid"]) for row in rows} == set(cli.cluster.schedulers)
    assert all(row["host"] and row["clients_now"] == 0 for row in rows)
    people = cli("status").stdout
    assert all(f" {member.pid} " in people for member in cli.cluster.schedulers)
    names = {member.id for member in (*cli.cluster.schedulers, *cli.cluster.workers)}
    assert set(cli("status", "-o", "quiet").stdout.split()) == names


def test_ctrl_c_ends_a_watched_status_quietly(cli):
    process = cli.start("-o", "jsonl", "status", "--watch", "--interval", "100ms")
    assert [len(json.loads(process.stdout.readline())["workers"]) for _ in range(2)] == [2, 2]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, said) == (0, "")


def test_the_doctor_finds_everything_well(cli):
    done = cli("doctor", "-o", "json")
    checks = {row["name"]: row for row in json.loads(done.stdout)}
    for member in (*cli.cluster.schedulers, *cli.cluster.workers):
        assert checks[member.id]["state"] == "ok", checks[member.id]
        assert f"pid {member.pid}" in checks[member.id]["message"]
    assert {"redis", "redis clock"} <= set(checks)
    assert done.returncode == 0


def test_completion_offers_what_there_is(cli):
    def offered(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_SPARROWMQ_COMPLETE": "bash_complete"}
        done = subprocess.run(cli.words(), env={**cli.environ, **words}, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
        return [item.removeprefix("plain,") for item in done.stdout.split()]

    job = cli.detach("--name", "offered", "--", "true")
    assert offered("sparrowmq job show ")[:4] == ["last", "all", "running", job]
    assert offered(f"sparrowmq job cancel last,{job[:12]}") == [f"last,{job}"]
    assert set(offered("sparrowmq worker drain ")) == {"all", *(member.id for member in cli.cluster.workers)}


# run.


def test_a_command_gets_environment_directory_and_input(cli, tmp_path):
    script = 'echo "$A $B"; pwd; cat'
    words = [
        "run",
        "--env",
        "A=1",
        "--env",
        "B=two=2",
        "--cwd",
        str(tmp_path),
        "--stdin",
        "-",
        "--",
        "sh",
        "-c",
        script,
    ]
    done = cli(*words, input="from here\n")
    assert done.stdout.splitlines()[:3] == ["1 two=2", str(tmp_path), "from here"]
    file = tmp_path / "input"
    file.write_text("from a file")
    done = cli("-o", "quiet", "run", "--stdin", str(file), "--", "cat")
    assert (done.stdout, done.stderr) == ("from a file", "")


def test_a_single_command_prints_as_it_goes(cli, tmp_path):
    gate = tmp_path / "gate"
    process = cli.start("run", "--", "sh", "-c", f"echo first; until [ -e {gate} ]; do sleep 0.02; done; echo last")
    assert process.stdout.readline() == "first\n"  # while it runs: the gate is still shut
    gate.touch()
    rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert rest.startswith("last\njob ")


def test_follow_marks_each_line_with_its_task(cli):
    done = cli("run", "-n", "3", "--follow", "--", "sh", "-c", "echo out $SPARROWMQ_TASK; echo err >&2")
    *lines, _ = done.stdout.splitlines()
    assert sorted(lines) == [f"[{n}] out {n}" for n in range(3)]
    assert sorted(done.stderr.splitlines()) == [f"[{n}] err" for n in range(3)]


def test_a_failed_command_says_so_for_machines(cli):
    done = cli("-o", "json", "run", "--", "false")
    (result,) = json.loads(done.stdout)["results"]
    assert (result["status"], result["exit"], result["message"]) == ("failed", 1, "'false': exit status 1")
    report = json.loads(done.stderr)
    assert (report["code"], report["exit_code"], done.returncode) == ("task_failed", 1, 1)
    assert "'false': exit status 1" in report["message"]


def test_keyword_arguments_and_files_of_lines(cli, tmp_path):
    file = tmp_path / "args.jsonl"
    file.write_text('["ff", 16]\n\n{"args": ["11"], "kwargs": {"base": 2}}\n["7"]\n')
    done = cli("-o", "quiet", "run", "--call", "builtins:int", "--args-file", str(file))
    assert done.stdout.split() == ["255", "3", "7"]
    words = ["run", "-o", "jsonl", "--call", "fractions:Fraction.from_float", "--args", '{"f": 0.5}', "-n", "2"]
    assert [json.loads(line)["status"] for line in cli(*words).stdout.splitlines()] == ["failed", "failed"]
    done = cli("-o", "quiet", "run", "--call", "textwrap:shorten", "--args", '{"text": "a b c", "width": 99}')
    assert done.stdout == '"a b c"\n'


def test_a_file_is_sent_in_parts_and_read_from_standard_input(cli):
    lines = "".join(f"[{n}]\n" for n in range(45_000))
    done = cli("-o", "quiet", "run", "--call", "math:fabs", "--args-file", "-", input=lines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"{n}.0" for n in range(45_000)]
    summary = cli("run", "--call", "math:sin", "--args-file", "-", input=lines).stdout.splitlines()[-1]
    assert summary.startswith("3 jobs  45,000/45,000")


def test_a_bad_line_stops_the_run_where_it_stands(cli, tmp_path):
    file = tmp_path / "args.jsonl"
    file.write_text("[1]\n2\n")
    done = cli("-o", "json", "run", "--call", "math:fabs", "--args-file", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file}:2: expected a list or an object of arguments, got a number: 2" in json.loads(done.stderr)["message"]
    file.write_text("[1]\n" * 20_000 + "nonsense\n")
    done = cli("run", "--call", "math:fabs", "--args-file", str(file))
    assert done.returncode == 2
    assert f"{file}:20001: no JSON" in done.stderr
    assert "job " in done.stdout.splitlines()[-1]
    file.write_text("\n")
    assert "no line" in cli("run", "--call", "math:fabs", "--args-file", str(file)).stderr


def test_a_failing_task_is_tried_again(cli, tmp_path):
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) -ge 3 ]"
    done = cli("run", "--retries", "5", "--backoff", "10ms", "--retry-on", "CommandFailed", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "2 retries" in done.stdout
    job = done.stdout.split()[1]
    (row,) = cli.json("task", "show", job, "0")
    kinds = [event["kind"] for event in row["events"]]
    assert (row["state"], row["attempts"], kinds.count("failed"), kinds[-1]) == ("succeeded", 3, 2, "succeeded")
    other = cli(
        "-o", "json", "run", "--retries", "5", "--retry-on", "KeyError", "--call", "math:sqrt", "--args", "[-1]"
    )
    assert json.loads(other.stdout)["jobs"][0]["retries"] == 0


def test_hedges_and_other_options_are_taken(cli):
    words = [
        "run",
        "--hedge",
        "p95",
        "--timeout",
        "1m",
        "--ratio",
        "1.5",
        "--policy",
        "batch",
        "--name",
        "n",
        "--",
        "true",
    ]
    assert cli(*words).returncode == 0
    assert cli("run", "--hedge", "20s", "--", "true").returncode == 0
    assert cli("run", "--retries", "1", "--retry-on", "Valueerror", "--", "true").returncode == 2


def test_ctrl_c_prints_what_has_finished_and_ends_the_rest(cli, tmp_path):
    script = (
        f"case $SPARROWMQ_TASK in 0|1) echo done $SPARROWMQ_TASK;; *) touch {tmp_path}/$SPARROWMQ_TASK; sleep 30;; esac"
    )
    process = cli.start("run", "-n", "6", "--name", "interrupted", "--", "sh", "-c", script)
    until(lambda: len(os.listdir(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    *lines, summary = out.splitlines()
    assert sorted(lines) == ["done 0", "done 1"]
    (job,) = re.findall(r"interrupted; ending job (\w+): running tasks have 2 s", said)
    assert said.splitlines()[-1].startswith("error: interrupted")
    assert summary.startswith(f"job {job}  2/6 ")
    assert "4 cancelled" in summary
    row = cli.row(job)
    assert (row["succeeded"], row["cancelled"], row["running"]) == (2, 4, 0)


def test_a_run_that_is_out_of_time_tells_its_true_end(cli):
    done = cli("-o", "json", "run", "-n", "4", "--wait", "500ms", "--", "sleep", "30")
    report = json.loads(done.stdout)
    assert [result["status"] for result in report["results"]] == ["cancelled"] * 4
    assert {result["message"] for result in report["results"]} == {"dequeued", "interrupted"}
    assert (report["jobs"][0]["state"], report["jobs"][0]["cancelled"]) == ("cancelled", 4)
    assert (json.loads(done.stderr)["code"], done.returncode) == ("timed_out", 124)


# Detached jobs, and jobs by their ids.


def test_a_detached_job_outlives_its_run(cli, tmp_path):
    done = cli("run", "--detach", "--name", "night", "-n", "2", "--", "sh", "-c", f"sleep 0.2; touch {tmp_path}/x")
    job = done.stdout.split()[1]
    assert f"job show {job}" in done.stdout
    waited = cli("job", "wait", job)
    assert (waited.returncode, waited.stdout.split()[:3]) == (0, ["job", job, "2/2"])
    assert (tmp_path / "x").exists()
    assert cli.json("job", "show", job)["detached"] is True
    assert cli.json("job", "show", "last")["id"] == job
    assert cli("-o", "quiet", "job", "list", "1").stdout == f"{job}\n"


def test_a_job_all_of_whose_tasks_failed_is_not_done(cli):
    job = cli.detach("-n", "3", "--name", "bad", "--", "sh", "-c", "exit 3")
    waited = cli("job", "wait", job)
    assert waited.returncode == 1
    assert "3 of 3 tasks did not succeed" in waited.stderr
    row = cli.row(job)
    assert (row["state"], row["failed"]) == ("failed", 3)
    (line,) = [line for line in cli("job", "list").stdout.splitlines() if job in line]
    assert line.split()[2:6] == ["bad", "failed", "3", "0"]
    shown = cli("job", "show", job).stdout
    assert re.search(
        r"task \d on worker-\w+, 1 attempt: CommandFailed: 'sh': exit status 3".replace(
            "task \\d on", "task \\d failed on"
        ),
        shown,
    )
    failures = cli.json("job", "show", job)["failures"]
    assert [(failure["state"], failure["error"]["type"]) for failure in failures] == [("failed", "CommandFailed")] * 3


def test_waiting_ends_in_time_or_with_ctrl_c_and_leaves_the_job_alone(cli):
    job = cli.detach("--name", "long", "--", "sleep", "30")
    done = cli("-o", "json", "job", "wait", job, "--timeout", "200ms")
    assert (done.returncode, json.loads(done.stderr)["exit_code"], json.loads(done.stdout)["id"]) == (124, 124, job)
    process = cli.start("job", "wait", job)
    until(lambda: Path(f"/proc/{process.pid}/wchan").exists() and _sleeps(process.pid))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, "the job goes on" in said) == (130, True)
    assert cli.row(job)["state"] == "running"
    verdict = cli.json("job", "cancel", job, "--grace", "5s")
    assert (verdict["interrupted"], verdict["killed"], verdict["dequeued"]) == (1, 0, 0)


def _sleeps(pid: int) -> bool:
    """Whether the process has loaded what it needs to ask schedulers, and so waits for the job."""
    try:
        return "zmq" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


def test_cancel_tells_what_became_of_the_tasks(cli, tmp_path):
    script = f'trap "" TERM; touch {tmp_path}/$SPARROWMQ_TASK; while :; do sleep 0.1; done'
    job = cli.detach("-n", "5", "--name", "stubborn", "--", "sh", "-c", script)
    until(lambda: len(os.listdir(tmp_path)) == 2)
    done = cli("job", "cancel", job, "--grace", "300ms")
    assert done.stdout == f"job {job} cancelled: 3 dequeued, 2 killed\n"
    assert cli.row(job)["state"] == "cancelled"
    assert cli("job", "cancel", job).stdout == f"job {job} was over already\n"
    assert cli.json("job", "cancel", "running") == []
    again = cli("job", "wait", job)
    assert again.returncode == 1


def test_logs_of_a_job_by_task_and_stream(cli):
    script = "echo out $SPARROWMQ_TASK; echo err $SPARROWMQ_TASK >&2"
    job = cli.detach("-n", "3", "--", "sh", "-c", script)
    assert cli("job", "wait", job).returncode == 0
    done = cli("job", "logs", job)
    assert sorted(done.stdout.splitlines()) == [f"[{n}] out {n}" for n in range(3)]
    assert sorted(done.stderr.splitlines()) == [f"[{n}] err {n}" for n in range(3)]
    some = cli("job", "logs", job, "--task", "1-2", "--stream", "stderr", "-o", "json")
    rows = json.loads(some.stdout)
    assert sorted((row["task"], row["stream"], row["text"]) for row in rows) == [
        (1, "stderr", "err 1\n"),
        (2, "stderr", "err 2\n"),
    ]
    assert cli("job", "logs", job, "--task", "3").returncode == 2


def test_logs_are_followed_while_the_job_runs(cli, tmp_path):
    gate = tmp_path / "gate"
    job = cli.detach("--", "sh", "-c", f"echo first; until [ -e {gate} ]; do sleep 0.02; done; echo last")
    process = cli.start("job", "logs", job, "--follow")
    assert process.stdout.readline() == "first\n"
    gate.touch()
    rest, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, rest, said) == (0, "last\n", "")


def test_the_history_of_tasks(cli):
    job = cli.detach("-n", "12", "--", "sh", "-c", "[ $SPARROWMQ_TASK != 7 ]")
    assert cli("job", "wait", job).returncode == 1
    rows = cli.json("task", "show", job, "0-2,7")
    assert [(row["index"], row["state"]) for row in rows] == [
        (0, "succeeded"),
        (1, "succeeded"),
        (2, "succeeded"),
        (7, "failed"),
    ]
    for row in rows:
        assert row["worker"] in {member.id for member in cli.cluster.workers}
        assert [event["kind"] for event in row["events"]] == ["submitted", "launched", row["state"]]
    people = cli("task", "show", job, "7").stdout
    assert "error: CommandFailed: 'sh': exit status 1" in people
    assert cli("task", "show", job, "12").returncode == 2
    assert cli("task", "show", "all", "0").returncode == 2


def test_what_selects_no_job_is_a_mistake(cli):
    for words in (
        ("job", "show", "zzz"),
        ("job", "wait", "99999"),
        ("job", "cancel", "zzz"),
        ("task", "show", "zzz", "0"),
    ):
        done = cli("-o", "json", *words)
        assert (done.returncode, json.loads(done.stderr)["code"]) == (2, "usage")
    assert isinstance(cli.json("job", "show", "all"), list)


# Workers, in clusters of their own: they end.


def test_workers_are_drained_and_stopped(tmp_path):
    with LocalCluster(workers=3, schedulers=2) as cluster:
        own = Cli(cluster, tmp_path / "state")
        until(lambda: len(own.json("worker", "list")) == 3)
        first, second, third = sorted(member.id for member in cluster.workers)
        marks = tmp_path / "marks"
        marks.mkdir()
        job = own.detach("-n", "3", "--", "sh", "-c", f"echo x > {marks}/$SPARROWMQ_TASK; sleep 1")
        until(lambda: len(os.listdir(marks)) == 3)
        done = own("worker", "drain", first, "--grace", "10s", "--wait")
        assert (done.returncode, done.stdout) == (0, f"{first}  gone\n")
        assert own.row(job)["succeeded"] >= 1  # what ran there was finished there
        assert {row["id"] for row in own.json("worker", "list")} == {second, third}
        until(lambda: {member.id for member in cluster.workers} == {second, third})  # it was not started again
        (told,) = own.json("worker", "stop", second.removeprefix("worker-")[:6], "--wait")
        assert (told["id"], told["told"], told["gone"]) == (second, True, True)
        assert own("worker", "drain", "zzz").returncode == 2
        assert own("job", "wait", job).returncode == 0


def test_without_a_worker_a_run_says_why_nothing_ran(tmp_path):
    with LocalCluster(workers=0) as cluster:
        own = Cli(cluster, tmp_path)
        assert own("worker", "list").stdout == "no workers\n"
        done = own("run", "--wait", "300ms", "--", "true")
        assert done.returncode == 124
        assert "no worker is connected" in done.stderr
        assert "sparrowmq worker start" in done.stderr
        assert "1 cancelled" in done.stdout
