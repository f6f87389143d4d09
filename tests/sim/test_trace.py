"""The trace file: what is written is read again, files of others are understood, each broken line is named."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sparrowmq import limits
from sparrowmq.errors import UsageError
from sparrowmq.sim import trace
from sparrowmq.sim.workload import SECONDS_MAX, Job, Workload, jobs

seconds = st.floats(0.0, SECONDS_MAX, allow_nan=False)
metas = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
    st.text(st.characters(codec="utf-8"), max_size=50).map(str.strip).filter(str.isprintable),
    max_size=8,
)
lengths = st.one_of(
    st.lists(seconds, min_size=1, max_size=6), st.builds(lambda d, n: [d] * n, seconds, st.integers(1, 40))
)
traces = st.lists(st.tuples(seconds, lengths), min_size=1, max_size=6).map(
    lambda rows: [Job(at_s, durations_s) for at_s, durations_s in sorted(rows, key=lambda row: row[0])]
)


@given(metas, traces)
def test_what_is_written_is_read_again(meta: dict[str, str], given_jobs: list[Job]) -> None:
    text = "".join(trace.write(meta, given_jobs))
    assert trace.read(io.StringIO(text), "t") == (meta, given_jobs)
    assert trace.read(text.split("\n"), "t") == (meta, given_jobs)  # without line ends, and an empty line last


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    drawn = list(jobs(Workload(duration_law="exponential-task"), random.Random(1), rate_jobs_per_s=8.0, count=50))
    path = tmp_path / "drawn.trace"
    with path.open("w") as file:
        file.writelines(trace.write({"workers": 10, "load": 0.8}, drawn))
    with path.open() as file:
        assert trace.read(file, str(path)) == ({"workers": "10", "load": "0.8"}, drawn)


def test_jobs_of_equal_tasks_share_a_number() -> None:
    (job,) = trace.read(["0 3 1 0.25 0.25 0.25"], "t").jobs
    assert job.durations_s == [0.25] * 3
    assert job.durations_s[0] is job.durations_s[2]


def test_the_lines_of_hawk_and_eagle_are_understood() -> None:
    """The example of their simulator's documentation, and what else their files have: blanks, tabs, odd means."""
    lines = ["10   3   20   10 20 30\r\n", "\n", "12.5\t1\t999.9\t7.\n", "1.3e1 2 0 +1 .5\n"]
    assert trace.read(lines, "YH.tr") == ({}, [Job(10.0, [10.0, 20.0, 30.0]), Job(12.5, [7.0]), Job(13.0, [1.0, 0.5])])


def test_a_header_is_what_stands_between_the_title_and_the_first_job() -> None:
    lines = [
        "# sparrowmq trace 1",
        "# workers: 10",
        "# Not a key: this has blanks",
        "#policy:late-binding",
        "# at: 12:30",
        "# empty:",
        "0 1 1 1",
        "# workers: 20",
    ]
    assert trace.read(lines, "t").meta == {"workers": "10", "policy": "late-binding", "at": "12:30", "empty": ""}
    assert trace.read(lines[1:], "t").meta == {}  # without the title these are comments


JOB = "1.5 2 1 1 1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2", "1 fields"),
        ("2 1", "2 fields"),
        ("2 1 1", "0 durations; expected 1, one a task"),
        ("2 3 1 1 1", "2 durations; expected 3"),
        ("2 2 1 1 1 1", "more than 2 durations; expected 2"),
        ("2 0 1", "'0' tasks; expected a whole number from 1 to 100,000"),
        ("2 -1 1 1", "'-1' tasks"),
        ("2 1.0 1 1", "'1.0' tasks"),
        ("2 ² 1 1 1", "'²' tasks"),
        (f"2 {limits.TASKS_PER_JOB_MAX + 1} 1 1", "'100001' tasks"),
        (f"2 {'9' * 5000} 1 1", "tasks; expected a whole number"),
        ("1.4 1 1 1", "submit time 1.4 is before 1.5"),
        ("soon 1 1 1", "submit time is 'soon'; expected seconds"),
        ("-1 1 1 1", "submit time is '-1'"),
        ("nan 1 1 1", "submit time is 'nan'"),
        ("2e9 1 1 1", "submit time is '2e9'"),
        ("2 1 - 1", "mean is '-'"),
        ("2 1 nan 1", "mean is 'nan'"),
        ("2 2 1 1 x", "duration 2 is 'x'; expected seconds, a number from 0 to 1e+09"),
        ("2 2 1 x x", "duration 1 is 'x'"),
        ("2 2 1 1 -0.1", "duration 2 is '-0.1'"),
        ("2 2 1 nan nan", "duration 1 is 'nan'"),
        ("2 2 1 1 inf", "duration 2 is 'inf'"),
        ("2 2 1 1 1_0", "duration 2 is '1_0'"),
        ("2 2 1 1 1e10", "duration 2 is '1e10'"),
        ("2 1 1 \u0661", "duration 1 is '\u0661'"),
        ("2,1,1,1", "1 fields"),
    ],
)
def test_a_broken_line_is_named_with_its_reason(line: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        trace.read([f"{JOB}\n", "# a comment\n", f"{line}\n", f"{JOB}\n"], "jobs.tr")
    assert str(raised.value).startswith("jobs.tr, line 3: ")
    assert reason in str(raised.value)
    assert "submit_s tasks mean_s d1 d2" in raised.value.hint
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("header", "number", "reason"),
    [
        (["# sparrowmq trace 2"], 1, "version '2'; expected 1"),
        (["# sparrowmq trace 1", "# load: 0.8", "# load: 0.9"], 3, "says 'load' twice"),
        (["# sparrowmq trace 1", f"# note: {'x' * 300}"], 2, "at most 256 printable characters"),
        (["# sparrowmq trace 1", "# note: a\x07b"], 2, "printable"),
        (["# sparrowmq trace 1", f"# {'k' * 300}: 1"], 2, "is no key"),
        (["# sparrowmq trace 1", *(f"# k{k}: 1" for k in range(101))], 102, "more than 100 keys"),
    ],
)
def test_a_broken_header_is_named_with_its_reason(header: list[str], number: int, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        trace.read([*header, JOB], "jobs.tr")
    assert str(raised.value).startswith(f"jobs.tr, line {number}: ")
    assert reason in str(raised.value)


@pytest.mark.parametrize("lines", [[], ["# sparrowmq trace 1\n", "# workers: 3\n"], ["\n", "\n"]])
def test_a_file_without_a_job_is_refused(lines: list[str]) -> None:
    with pytest.raises(UsageError, match=rf"^t, line {len(lines)}: the file ends without a job"):
        trace.read(lines, "t")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "noise"
    path.write_bytes(b"0 1 1 1\n\xff\xfe\x00")
    with path.open(encoding="utf-8") as file, pytest.raises(UsageError, match="no text in UTF-8"):
        trace.read(file, str(path))


words = st.one_of(st.sampled_from(["0", "1", "2", "1.5", "#", "# sparrowmq trace 1", "# a: b", "-", ""]), st.text())


@given(st.lists(st.lists(words, max_size=6).map(" ".join), max_size=5))
def test_any_text_is_read_or_refused_and_what_is_read_can_be_written(lines: list[str]) -> None:
    try:
        read = trace.read(lines, "t")
    except UsageError:
        return
    assert trace.read(trace.write(*read), "t") == read


# Bounds.


def test_a_line_of_the_most_tasks_is_read_and_one_more_is_not() -> None:
    most = limits.TASKS_PER_JOB_MAX
    assert len(trace.read([f"0 {most} 1 {'1 ' * most}"], "t").jobs[0].durations_s) == most
    with pytest.raises(UsageError, match="line 1: more than 100,000 durations"):
        trace.read([f"0 {most} 1 {'1 ' * (most + 1)}"], "t")


def test_a_trace_has_a_bounded_number_of_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "JOBS_MAX", 3)
    assert len(trace.read(["0 1 1 1"] * 3, "t").jobs) == 3
    with pytest.raises(UsageError, match=r"line 4: 4 jobs are too many for a trace; the limit is 3"):
        trace.read(itertools.repeat("0 1 1 1"), "t")  # it is not read any further
    with pytest.raises(UsageError, match="4 jobs are too many"):
        list(trace.write({}, [Job(0.0, [1.0])] * 4))


def test_a_trace_has_a_bounded_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "TASKS_MAX", 5)
    with pytest.raises(UsageError, match="line 2: 6 tasks in all are too many for a trace; the limit is 5"):
        trace.read(["0 3 1 1 1 1"] * 2, "t")
    with pytest.raises(UsageError, match="6 tasks in all"):
        list(trace.write({}, [Job(0.0, [1.0] * 3)] * 2))


@pytest.mark.parametrize(
    ("meta", "given_jobs", "said"),
    [
        ({}, [], "without a job"),
        ({}, [Job(2.0, [1.0]), Job(1.0, [1.0])], "submitted at 1.0 s; expected seconds from 2.0"),
        ({}, [Job(-1.0, [1.0])], "submitted at -1.0"),
        ({}, [Job(float("nan"), [1.0])], "submitted at nan"),
        ({}, [Job(0.0, [])], "0 tasks"),
        ({}, [Job(0.0, [1.0] * (limits.TASKS_PER_JOB_MAX + 1))], "100,001 tasks"),
        ({}, [Job(0.0, [1.0, -1.0])], "lasts -1.0 s"),
        ({}, [Job(0.0, [float("nan")])], "lasts nan s"),
        ({"a b": 1}, [Job(0.0, [1.0])], "is no key"),
        ({"a": "two\nlines"}, [Job(0.0, [1.0])], "printable"),
        ({f"k{k}": k for k in range(101)}, [Job(0.0, [1.0])], "more than 100 keys"),
    ],
)
def test_what_could_not_be_read_is_not_written(meta: dict[str, object], given_jobs: list[Job], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list(trace.write(meta, given_jobs))
