"""The trace file: a workload as text, a line for each job. docs/trace.md has the format.

Owns: the lines, what they say and what is wrong with them. Must not know: where lines come from or go to.

The format is that of the simulators of Hawk (USENIX ATC 2015) and Eagle (SoCC 2016), so that their traces can be
read; comments in front of the jobs carry what is known about a recording.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from sparrowmq import limits
from sparrowmq.errors import UsageError
from sparrowmq.sim.workload import SECONDS_MAX, Job

VERSION: Final = 1
JOBS_MAX: Final = 1_000_000  # of one file, which is read into memory; the largest of Hawk's has half as many
TASKS_MAX: Final = 20_000_000  # of all its jobs: 640 MB of different numbers
META_MAX: Final = 100  # keys of a header
_SHOWN_CHARS_MAX: Final = 32  # of a wrong field
_EXPECTED: Final = "a job is `submit_s tasks mean_s d1 d2 ... dn`, separated by blanks"

_TITLE: Final = re.compile(r"# sparrowmq trace (\S+)\s*$")
_KEY: Final = re.compile(r"[a-z][a-z0-9_]*")
_ENTRY: Final = re.compile(rf"#\s*({_KEY.pattern}):(.*)")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() takes 1_0 and nan, too


class Trace(NamedTuple):
    """``meta``: what the header says, "" for none of it; ``jobs``: at least one, in the order of their arrivals."""

    meta: dict[str, str]
    jobs: list[Job]


def check_size(jobs: int, tasks: int) -> None:
    """Raise UsageError for more jobs, or tasks of all jobs, than a trace may have."""
    if jobs > JOBS_MAX:
        raise UsageError(f"{jobs:,} jobs are too many for a trace; the limit is {JOBS_MAX:,}")
    if tasks > TASKS_MAX:
        raise UsageError(f"{tasks:,} tasks in all are too many for a trace; the limit is {TASKS_MAX:,}")


# Reading.


def read(lines: Iterable[str], name: str) -> Trace:
    """Return what these lines, with or without their line ends, say. ``name`` is the file's, for errors.

    Blank lines and comments between the jobs are skipped. Raises UsageError at the first line that is broken or beyond
    a limit: the file, the number of the line, the reason and what is expected there.
    """
    meta: dict[str, str] = {}
    jobs: list[Job] = []
    in_header = False
    tasks = 0
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.startswith("#"):
                if number == 1:
                    in_header = _is_title(line)
                elif in_header:
                    _add_entry(meta, line)
                continue
            in_header = False
            if line.strip():
                job = _job(line, jobs[-1].at_s if jobs else 0.0)
                tasks += len(job.durations_s)
                jobs.append(job)
                check_size(len(jobs), tasks)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}, behind line {number:,}: no text in UTF-8: {error.reason}", hint=_EXPECTED) from None
    except UsageError as error:
        raise UsageError(f"{name}, line {number:,}: {error}", hint=error.hint or _EXPECTED) from None
    if not jobs:
        raise UsageError(f"{name}, line {number:,}: the file ends without a job; expected at least one", hint=_EXPECTED)
    return Trace(meta, jobs)


def _is_title(line: str) -> bool:
    """Whether the first line begins a header of ours. Raises UsageError for one of another version."""
    title = _TITLE.match(line)
    if title and title[1] != str(VERSION):
        raise UsageError(
            f"the trace has version {_shown(title[1])}; expected {VERSION}",
            hint="it was written by another version of sparrowmq: read it with that one",
        )
    return title is not None


def _add_entry(meta: dict[str, str], line: str) -> None:
    """Add what a line of the header says; one that is not ``# key: value`` is a comment."""
    entry = _ENTRY.match(line)
    if entry is None:
        return
    key, value = entry[1], entry[2].strip()
    if key in meta:
        raise UsageError(f"the header says {_shown(key)} twice; expected each key once", hint="remove one of the lines")
    _check_entry(key, value)
    meta[key] = value
    _check_entries(meta)


def _job(line: str, before_s: float) -> Job:
    fields = line.split(maxsplit=3)
    if len(fields) < 3:
        raise UsageError(f"{len(fields)} fields; expected at least 4")
    at_s = _seconds("submit time", fields[0])
    if at_s < before_s:
        raise UsageError(
            f"submit time {at_s!r} is before {before_s!r}, that of the job above; expected ascending times"
        )
    tasks = _tasks(fields[1])
    _seconds("mean", fields[2])  # of no further use: in the files of others it is an estimate
    given = fields[3].split(maxsplit=tasks) if len(fields) == 4 else []
    if len(given) != tasks:
        found = f"{len(given):,}" if len(given) < tasks else f"more than {tasks:,}"
        raise UsageError(f"{found} durations; expected {tasks:,}, one a task")
    if given.count(given[0]) == tasks:
        return Job(at_s, [_seconds("duration 1", given[0])] * tasks)
    return Job(at_s, [_seconds(f"duration {k:,}", text) for k, text in enumerate(given, 1)])


def _tasks(text: str) -> int:
    digits = len(str(limits.TASKS_PER_JOB_MAX))
    if text.isascii() and text.isdecimal() and len(text) <= digits and 1 <= int(text) <= limits.TASKS_PER_JOB_MAX:
        return int(text)
    raise UsageError(f"{_shown(text)} tasks; expected a whole number from 1 to {limits.TASKS_PER_JOB_MAX:,}")


def _seconds(what: str, text: str) -> float:
    if _NUMBER.fullmatch(text):
        value_s = float(text)
        if 0.0 <= value_s <= SECONDS_MAX:
            return value_s
    raise UsageError(f"{what} is {_shown(text)}; expected seconds, a number from 0 to {SECONDS_MAX:g}")


# Writing.


def write(meta: Mapping[str, object], jobs: Iterable[Job]) -> Iterator[str]:
    """Give the lines of a trace file, each with its line end, such that `read` returns the same numbers.

    Values of ``meta`` are written as text. Raises UsageError, when it comes to it, for what `read` would refuse.
    """
    _check_entries(meta)
    yield f"# sparrowmq trace {VERSION}\n"
    for key, value in meta.items():
        text = str(value).strip()
        _check_entry(key, text)
        yield f"# {key}: {text}\n" if text else f"# {key}:\n"
    count = tasks = 0
    before_s = 0.0
    for job in jobs:
        count, tasks = count + 1, tasks + len(job.durations_s)
        check_size(count, tasks)
        _check_job(job, before_s)
        before_s = job.at_s
        durations_s = [float(value_s) for value_s in job.durations_s]
        mean_s = statistics.fmean(durations_s)
        yield f"{float(job.at_s)!r} {len(durations_s)} {mean_s:.6g} {' '.join(map(repr, durations_s))}\n"
    if not count:
        raise UsageError("a trace without a job cannot be written; expected at least one")


def _check_job(job: Job, before_s: float) -> None:
    if not before_s <= job.at_s <= SECONDS_MAX:
        raise UsageError(f"a job is submitted at {job.at_s!r} s; expected seconds from {before_s!r} to {SECONDS_MAX:g}")
    if not 1 <= len(job.durations_s) <= limits.TASKS_PER_JOB_MAX:
        raise UsageError(f"a job has {len(job.durations_s):,} tasks; expected 1 to {limits.TASKS_PER_JOB_MAX:,}")
    for value_s in job.durations_s:
        if not 0.0 <= value_s <= SECONDS_MAX:
            raise UsageError(f"a task lasts {value_s!r} s; expected seconds from 0 to {SECONDS_MAX:g}")


# Both.


def _check_entries(meta: Mapping[str, object]) -> None:
    if len(meta) > META_MAX:
        raise UsageError(f"more than {META_MAX} keys in the header of a trace", hint="write less into it")


def _check_entry(key: str, value: str) -> None:
    if not _KEY.fullmatch(key) or len(key) > limits.TEXT_CHARS_MAX:
        raise UsageError(f"{_shown(key)} is no key of a trace's header; expected a-z, 0-9 and _, a letter first")
    if len(value) > limits.TEXT_CHARS_MAX or not value.isprintable():
        raise UsageError(
            f"the value of {_shown(key)} in a trace's header is {_shown(value)}; "
            f"expected one line of at most {limits.TEXT_CHARS_MAX} printable characters"
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}...")
