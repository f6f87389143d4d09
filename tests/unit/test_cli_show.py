"""What people and machines are shown: rows, tables, sentences, output of tasks."""

from __future__ import annotations

import io
import json
from collections import Counter
from concurrent.futures import CancelledError
from types import SimpleNamespace

import msgspec
import pytest

from sparrowmq.cli import cancelling, live, merge, output, results, show, words
from sparrowmq.cli.base import Globals
from sparrowmq.client.outcomes import CommandResult
from sparrowmq.errors import CommandFailed, TaskCrashed, TaskLost, TaskTimedOut, Unavailable
from sparrowmq.protocol import messages as m


def worker(name: str, **changes) -> m.WorkerStatus:
    given = {
        "id": name, "host": "h", "pid": 1, "slots": 2, "state": "alive", "reservations": 1, "launched": 2, "done": 3,
        "rtt_ms": 0.5, "package": "p", "python": "3.11",
    }  # fmt: skip
    return m.WorkerStatus(**(given | changes))


def job(name: str = "j1", counts=(5, 0, 0, 0, 0), **changes) -> m.JobStatus:
    given = {
        "id": name, "name": "n", "policy": "batch", "state": "done", "tasks": 5, "unplaced": 0, "launched": 0,
        "counts": list(counts), "epoch": 0, "client": "client-1", "submitted_unix_s": 1.0, "response_s": 2.0,
        "queueing_p50_ms": 3.0, "queueing_p99_ms": 4.0, "service_p50_ms": 5.0, "probes": 6, "no_ops": 1, "cancels": 0,
        "relaunches": 0,
    }  # fmt: skip
    return m.JobStatus(**(given | changes))


def row(**changes) -> dict:
    return merge.job_row(job(**changes)) | {"scheduler": "scheduler-1"}


def options(kind: str) -> Globals:
    made = Globals()
    made.output = kind
    return made


# Rows.


def test_a_worker_is_the_sum_of_what_its_schedulers_see():
    statuses = [
        m.Status(1, "a", workers=[worker("w2"), worker("w1", state="lost", rtt_ms=2.0)]),
        m.Status(1, "b", workers=[worker("w1")]),
    ]
    first, second = merge.workers(statuses)
    assert (first["id"], first["state"], first["launched"], first["rtt_ms"]) == ("w1", "alive", 4, 2.0)
    assert (first["schedulers"], second["schedulers"], second["done"]) == (2, 1, 3)


def test_a_job_is_that_of_its_latest_epoch():
    statuses = [
        m.Status(1, "a", jobs=[job("j2", (0, 0, 0, 0, 0), state="running"), job("j1")]),
        m.Status(1, "b", jobs=[job("j2", epoch=1)]),
    ]
    rows = merge.jobs(statuses)
    assert [(row["id"], row["state"], row["scheduler"]) for row in rows] == [("j1", "done", "a"), ("j2", "done", "b")]


@pytest.mark.parametrize(
    ("state", "counts", "expected"),
    [
        ("done", (5, 0, 0, 0, 0), "done"),
        ("done", (0, 5, 0, 0, 0), "failed"),
        ("done", (4, 1, 0, 0, 0), "failed"),
        ("done", (4, 0, 1, 0, 0), "failed"),
        ("done", (4, 0, 0, 0, 1), "failed"),
        ("done", (4, 0, 0, 1, 0), "cancelled"),
        ("cancelled", (0, 0, 0, 5, 0), "cancelled"),
        ("cancelled", (0, 1, 0, 4, 0), "failed"),
        ("running", (0, 3, 0, 0, 0), "running"),
        ("waiting", (0, 0, 0, 0, 0), "waiting"),
    ],
)
def test_a_job_is_done_only_where_all_succeeded(state, counts, expected):
    found = row(state=state, counts=counts)
    assert (found["state"], merge.is_over(found)) == (expected, state in ("done", "cancelled"))
    assert merge.unsuccessful(found) == sum(counts[1:])


def test_waiting_tasks_are_those_that_rest_too():
    found = row(state="running", counts=(1, 0, 0, 0, 0), launched=2, unplaced=1, resting=1)
    assert (found["running"], found["waiting"]) == (2, 2)


def test_the_one_who_asks_is_not_counted():
    status = m.Status(1, "s", counters={"clients_now": 3, "jobs_now": 1}, host="h", pid=7, package="0.1.0")
    assert merge.schedulers([status]) == [
        {"id": "s", "host": "h", "pid": 7, "package": "0.1.0", "clients_now": 2, "jobs_now": 1}
    ]
    assert merge.schedulers([m.Status(1, "s", counters={"clients_now": 0})])[0]["clients_now"] == 0


# Printing.


def test_each_output_prints_rows_its_way(capsys):
    rows = [{"id": "a", "n": 1}, {"id": "b", "n": 2}]
    said = {}
    for kind in ("table", "json", "jsonl", "quiet"):
        show.emit(options(kind), rows, lambda: print("for people"))
        said[kind] = capsys.readouterr().out
    assert said["table"] == "for people\n"
    assert json.loads(said["json"]) == rows
    assert [json.loads(line) for line in said["jsonl"].splitlines()] == rows
    assert said["quiet"] == "a\nb\n"
    show.emit(options("quiet"), rows[0], lambda: None, quiet=lambda row: row["n"])
    assert capsys.readouterr().out == "1\n"


def test_tables_align_texts_left_and_numbers_right():
    text = show.table([{"name": "a", "big_n": 1234567}, {"name": "bcd", "big_n": 5}], ["name", "big_n"])
    assert text == "name      big n\na     1,234,567\nbcd           5"


def test_a_terminal_gets_colours_unless_it_wants_none(monkeypatch):
    rows = [{"worker": "worker-1", "state": "alive", "pid": 12345}]
    printed = {}
    for no_color in ("", "1"):
        screen = io.StringIO()
        screen.isatty = lambda: True
        monkeypatch.setattr("sys.stdout", screen)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("NO_COLOR", no_color)
        show.print_table(rows, ["worker", "state", "pid"])
        assert show.wants_colour() is not bool(no_color)
        printed[no_color] = screen.getvalue()
    assert "\x1b[32m" in printed[""]
    assert "\x1b[3" not in printed["1"]
    assert all("worker-1" in text and "12345" in text for text in printed.values())


def test_a_pipe_gets_plain_text(capsys):
    show.print_table([{"state": "alive"}], ["state"])
    assert capsys.readouterr().out == "state\nalive\n"


def test_numbers_and_times_in_words():
    assert [show.count(n, "worker") for n in (0, 1, 2000)] == ["0 workers", "1 worker", "2,000 workers"]
    assert [show.seconds(n) for n in (0.0061, 1.32, 100.0, 720.0, 7200.0, 200_000.0)] == [
        "6.1 ms", "1.32 s", "100.00 s", "12 min", "2 h", "2 d",
    ]  # fmt: skip
    assert show.one_line("  first\nsecond") == "first"
    assert show.one_line("x" * 20, 10) == "xxxxxxx..."


# Sentences.


def test_the_summary_of_a_job_counts_in_grammar():
    said = words.summary(row(counts=(4, 1, 0, 0, 0), retries=1, hedges=2, relaunches=1))
    for part in ("job j1  4/5", "1 failed", "6 probes", "1 no-op ", "0 cancels", "1 relaunch ", "1 retry ", "2 hedges"):
        assert part in f"{said} "
    assert "no-op" not in said.replace("1 no-op ", "")


def failed_task(**changes) -> dict:
    payload = msgspec.msgpack.encode({"type": "ValueError", "message": "no\nsuch", "traceback": "T", "pickle": b"x"})
    events = [m.Event(10.0, "submitted"), m.Event(10.5, "launched", 1, "worker-1"), m.Event(11.0, "failed", 1)]
    given = {"job": "j1", "index": 3, "state": "failed", "attempts": 2, "worker": "worker-1", "service_us": 500_000}
    return words.task_row(m.TaskStatus(**given, events=events, failure=changes.pop("failure", payload)))


def test_a_job_is_shown_with_its_first_failures():
    lines = list(words.job(row(counts=(2, 3, 0, 0, 0), detail="", output_bytes=1), [failed_task()]))
    assert lines[0] == "job j1  failed  n"
    assert any("5: 2 succeeded, 3 failed" in line for line in lines)
    assert any("1 byte kept: sparrowmq job logs j1" in line for line in lines)
    assert "  task 3 failed on worker-1, 2 attempts: ValueError: no" in lines
    assert "  and 2 more: sparrowmq task show j1 all" in lines


def test_the_history_of_a_task():
    lines = list(words.task(failed_task()))
    assert lines[0] == "task 3  failed  2 attempts  worker-1  ran 500 ms"
    assert [line.split()[1:] for line in lines[1:4]] == [
        ["+0", "ms", "submitted"],
        ["+500", "ms", "launched", "attempt", "1", "worker-1"],
        ["+1.00", "s", "failed", "attempt", "1"],
    ]
    assert lines[4] == "  error: ValueError: no"


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93", b"\x01", b"\x81\xa4type\x01"])
def test_a_failure_that_cannot_be_read_is_no_failure_here(payload):
    assert failed_task(failure=payload)["error"] == {}


# Results of `run`.


class Outcome:
    job, index, cancellation = "j1", 0, ""

    def __init__(self, result: object = None, done: bool = True) -> None:
        self._result, self._done = result, done

    def done(self) -> bool:
        return self._done

    def cancelled(self) -> bool:
        return isinstance(self._result, CancelledError)

    def exception(self) -> object:
        return self._result if isinstance(self._result, Exception) else None

    def result(self) -> object:
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


FAILED_COMMAND = CommandFailed("'false': exit status 1", status=1, stdout=b"o", stderr=b"e\xff")


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(5), {"status": "succeeded", "value": 5}),
        (Outcome(CommandResult(0, b"o", b"")), {"status": "succeeded", "exit": 0, "stdout": "o", "stderr": ""}),
        (
            Outcome(FAILED_COMMAND),
            {"status": "failed", "exit": 1, "stdout": "o", "stderr": "e\ufffd", "message": "'false': exit status 1"},
        ),
        (Outcome(KeyError("k")), {"status": "failed", "message": "'k'"}),
        (Outcome(ValueError()), {"status": "failed", "message": "ValueError"}),
        (Outcome(TaskTimedOut("late")), {"status": "timed_out", "message": "late"}),
        (Outcome(TaskLost("gone")), {"status": "lost", "message": "gone"}),
        (Outcome(TaskCrashed("died")), {"status": "failed", "message": "died"}),
        (Outcome(CancelledError()), {"status": "cancelled", "message": "cancelled"}),
        (Outcome(done=False), {"status": "unfinished", "message": "unfinished"}),
    ],
)
def test_a_result_for_machines(outcome, expected):
    found = results.plain(results.row(outcome))
    assert found == {"job": "j1", "index": 0} | expected
    json.dumps(found)


def test_output_of_commands_is_printed_byte_for_byte(capfdbinary):
    rows = [results.row(Outcome(CommandResult(0, b"\xff\n", b"e"))), results.row(Outcome(FAILED_COMMAND))]
    results.print_outputs([*rows, results.row(Outcome({"x": "ü"})), results.row(Outcome(None))])
    said = capfdbinary.readouterr()
    assert (said.out, said.err) == (b"\xff\no" + '{"x": "ü"}\n'.encode(), b"ee\xff")


def test_a_tally_keeps_the_first_failures_only(capsys):
    tally = results.Tally()
    rows = [results.row(Outcome(ValueError(str(n)))) for n in range(10)]
    tally.add([*rows, results.row(Outcome(1)), results.row(Outcome(CancelledError()))], several_jobs=False)
    assert (tally.tasks, tally.unsuccessful, len(tally.first)) == (12, 11, 3)
    tally.print_failures(["j1"])
    said = capsys.readouterr().err
    assert said.startswith("task 0 failed: ValueError: 0\n")
    assert said.endswith("and 7 more: sparrowmq job show j1\n")


def test_what_kept_a_job_from_running_is_an_error_of_its_own():
    error = Unavailable("no worker")
    assert results.refusal([results.row(Outcome(1)), results.row(Outcome(error))]) is error
    assert results.refusal([results.row(Outcome(ValueError()))]) is None


# Output of tasks.


def chunk(data: bytes, index: int = 0, stream: int = 1, **more) -> m.Output:
    return m.Output("j1", 0, index, more.pop("attempt", 1), stream, data, **more)


def test_lines_of_several_tasks_never_mix(capsys):
    lines = output.Lines(marked=True)
    for data, index in ((b"one ", 0), (b"other\nand", 1), (b"line\n", 0), (b" more", 1)):
        lines.write(chunk(data, index))
    assert capsys.readouterr().out == "[1] other\n[0] one line\n"
    lines.end()
    assert capsys.readouterr().out == "[1] and more\n"


def test_one_task_is_printed_byte_for_byte_as_it_comes(capfdbinary):
    lines = output.Lines(marked=False)
    lines.write(chunk(b"gr\xc3"))  # in the middle of a character
    lines.write(chunk(b"\xbcn \xff"))
    lines.write(chunk(b"trouble\n", stream=2, dropped=1))
    said = capfdbinary.readouterr()
    assert (said.out, said.err) == (b"gr\xc3\xbcn \xff", b"[... 1 byte left out ...]\ntrouble\n")


def test_a_line_without_end_is_printed_in_pieces(capsys, monkeypatch):
    monkeypatch.setattr(output, "LINE_CHARS_MAX", 4)
    lines = output.Lines(marked=True, mark="j1 ")
    lines.write(chunk(b"abcdef"))
    assert capsys.readouterr().out == "j1 [0] abcdef\n"


def test_output_for_machines_and_by_choice(capsys):
    chunks = [chunk(b"a"), chunk(b"b", 1), chunk(b"c", 1, stream=2)]
    output.write(options("json"), chunks, tasks={1}, stream=None, marked=True)
    assert [row["text"] for row in json.loads(capsys.readouterr().out)] == ["b", "c"]
    output.write(options("jsonl"), chunks, tasks=None, stream="stderr", marked=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "job": "j1", "task": 1, "attempt": 1, "stream": "stderr", "text": "c", "dropped": 0,
    }  # fmt: skip
    output.write(options("quiet"), chunks, tasks=None, stream="stdout", marked=True)
    assert capsys.readouterr().out == "ab"


class Followed:
    """A client and a job of one task whose output comes from a list."""

    def __init__(self, outputs: list[m.Output], result: object) -> None:
        self.ids, self.accepted_workers, self._outputs = ["j1"], 1, outputs
        self._futures = [Outcome(result)]

    def __iter__(self):
        return iter(self._futures)

    def wait(self, timeout_s: float | None = None) -> bool:
        return True

    def job(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(logs=lambda follow: iter(self._outputs))


@pytest.mark.parametrize(
    ("outputs", "printed"),
    [
        ([], "abcdef"),
        ([chunk(b"abc")], "abcdef"),
        ([chunk(b"abcdef")], "abcdef"),
        ([chunk(b"ab"), chunk(b"c\n[... output beyond 3 bytes is left out ...]\n")], "abcdef"),
        ([chunk(b"abc\n[... out"), chunk(b"put beyond 3 by"), chunk(b"tes is left out ...]\n")], "abcdef"),
        ([chunk(b"first", attempt=1), chunk(b"ab", attempt=2)], "firstabcdef"),
    ],
)
def test_live_output_is_completed_by_the_result_and_never_repeated(outputs, printed, capsys):
    job = Followed(outputs, CommandResult(0, b"abcdef", b""))
    live.Live(job, job, marked=False, captured=True).finish(job)
    assert capsys.readouterr().out == printed


def test_what_looks_like_the_note_is_printed_in_the_end(capsys):
    job = Followed([chunk(b"ab\n[... "), chunk(b"x")], CommandResult(0, b"ab\n[... x\n", b""))
    live.Live(job, job, marked=False, captured=True).finish(job)
    assert capsys.readouterr().out == "ab\n[... x\n"


def test_live_output_that_no_result_has_is_printed_as_it_is(capsys):
    job = Followed([chunk(b"ab\n[... output beyond 3 bytes is left out ...]\n")], None)
    live.Live(job, job, marked=False, captured=False).finish(job)
    assert capsys.readouterr().out == "ab\n[... output beyond 3 bytes is left out ...]\n"


def test_live_output_with_gaps_is_left_as_it_is(capsys):
    job = Followed([chunk(b"ab"), chunk(b"f", dropped=3)], CommandResult(0, b"abcdef", b"E"))
    live.Live(job, job, marked=False, captured=True).finish(job)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("abf", "[... 3 bytes left out ...]\nE")


# Cancelling.


def test_verdicts_in_words():
    verdict = {"id": "j1", "was_over": False, "over": True, "dequeued": 2, "interrupted": 1, "killed": 0, "too_late": 3}
    assert cancelling.sentence(verdict) == "job j1 cancelled: 2 dequeued, 1 interrupted, 3 too late"
    assert "over already" in cancelling.sentence(verdict | {"was_over": True})
    assert "have not ended yet" in cancelling.sentence(verdict | {"over": False})


@pytest.mark.parametrize(("grace_s", "expected"), [(0.0, "killed"), (0.5, "killed"), (1.0, "interrupted")])
def test_verdicts_are_read_from_the_rows_of_the_tasks(grace_s, expected):
    def task(state: str, detail: str = "", service_us: int = 7) -> dict:
        events = [{"unix_s": 90.0, "detail": ""}, {"unix_s": 100.6, "detail": detail}]
        return {"state": state, "service_us": service_us, "events": events}

    told = [task("cancelled", "interrupted"), task("cancelled", "killed"), task("cancelled", service_us=0)]
    assert cancelling.tell([*told, task("failed", "x")], 100.0, grace_s) == Counter(interrupted=1, killed=1)
    assert cancelling.tell([task("cancelled")], 100.0, grace_s) == Counter({expected: 1})
