"""What the tasks of `run` left behind: rows for machines, lines for people.

Owns: the keys of a result's row, and how failures are said. Must not know: how long anybody waited for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show, words
from sparrowmq.errors import CommandFailed, Rejected, SparrowError, TaskError, TaskLost, TaskTimedOut, Unavailable

if TYPE_CHECKING:
    from sparrowmq.client.future import Future
    from sparrowmq.client.job import Job

FAILURES_SHOWN = 3
Row = dict[str, Any]


def row(future: Future[Any]) -> Row:
    """Return a task's outcome. Not for machines: ``error``, the exception or None, and ``raw``, a command's output."""
    from concurrent.futures import CancelledError

    from sparrowmq.client.outcomes import CommandResult

    result: Row = {"job": future.job, "index": future.index, "status": "succeeded", "error": None}
    if not future.done():
        return result | {"status": "unfinished", "error": SparrowError("unfinished"), "message": "unfinished"}
    try:
        value = future.result()
    except CancelledError:
        how = future.cancellation or "cancelled"
        return result | {"status": "cancelled", "error": SparrowError(how), "message": how}
    except CommandFailed as error:
        captured = _captured(error.status, error.stdout, error.stderr)
        return result | captured | {"status": "failed", "error": error, "message": said(error)}
    except Exception as error:  # whatever a task raised
        status = "timed_out" if isinstance(error, TaskTimedOut) else "lost" if isinstance(error, TaskLost) else "failed"
        return result | {"status": status, "error": error, "message": str(error) or type(error).__name__}
    if isinstance(value, CommandResult):
        return result | _captured(*value)
    return result | {"value": value}


def said(error: BaseException) -> str:
    """Return what went wrong in one line; a remote traceback is for programs and `-o json`."""
    text = str(error.args[0]) if isinstance(error, TaskError) and error.args else f"{type(error).__name__}: {error}"
    return show.one_line(text)


def _captured(status: int, stdout: bytes, stderr: bytes) -> Row:
    texts = {"stdout": stdout.decode(errors="replace"), "stderr": stderr.decode(errors="replace")}
    return {"exit": status, **texts, "raw": (stdout, stderr)}


def plain(result: Mapping[str, Any]) -> Row:
    """Return a row as machines get it."""
    return {key: value for key, value in result.items() if key not in ("error", "raw")}


def refusal(results: Iterable[Mapping[str, Any]]) -> SparrowError | None:
    """Return why nothing ran: a job that a scheduler refused, or that lost its last scheduler."""
    for result in results:
        if isinstance(result["error"], Rejected | Unavailable):
            return result["error"]
    return None


def print_outputs(results: Iterable[Mapping[str, Any]]) -> None:
    """Print what the tasks printed or returned, each stream to its own."""
    for result in results:
        if "raw" in result:  # byte for byte: it may be no text, and go to a file
            click.echo(result["raw"][0], nl=False)
            click.echo(result["raw"][1], nl=False, err=True)
        elif result.get("value") is not None:
            click.echo(json.dumps(result["value"], ensure_ascii=False, default=repr))


class Tally:
    """How the tasks of a run ended, and the first failures, however many there are."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.first: list[str] = []
        self._failed = 0

    def add(self, results: Sequence[Mapping[str, Any]], several_jobs: bool) -> None:
        """Count these results."""
        for result in results:
            self.counts[result["status"]] += 1
            if result["error"] is None or result["status"] in ("cancelled", "unfinished"):
                continue
            self._failed += 1
            if len(self.first) < FAILURES_SHOWN:
                where = f"job {result['job']} task" if several_jobs else "task"
                line = f"{where} {result['index']} {result['status'].replace('_', ' ')}: {said(result['error'])}"
                self.first.append(line)

    @property
    def tasks(self) -> int:
        """How many tasks there were."""
        return self.counts.total()

    @property
    def unsuccessful(self) -> int:
        """How many of them did not succeed."""
        return self.tasks - self.counts["succeeded"]

    def print_failures(self, jobs: Sequence[str]) -> None:
        """Print the first failures, and how many more there are."""
        for line in self.first:
            click.echo(line, err=True)
        more = self._failed - len(self.first)
        if more > 0:
            click.echo(f"and {more:,} more: sparrowmq job show {','.join(jobs[:5])}", err=True)


def summaries(job: Job[Any], results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the schedulers' ledgers. After a fail-over that is the last scheduler's part; the counts are ours."""
    from sparrowmq.cli import merge

    rows = [merge.job_row(status) for status in job.status()]
    for ledger in rows:
        if ledger["epoch"]:
            counts = Counter(result["status"] for result in results if result["job"] == ledger["id"])
            ledger |= {"tasks": counts.total(), **{name: counts[name] for name in words.ENDS}}
    return rows


def total(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the ledgers of several jobs in one line."""
    tasks, good = (sum(ledger[name] for ledger in rows) for name in ("tasks", "succeeded"))
    ends = {name: sum(ledger[name] for ledger in rows) for name in words.ENDS}
    others = words.counts(ends, words.ENDS[1:])
    together = f"{show.count(len(rows), 'job')}  {good:,}/{tasks:,} {show.tick(good == tasks)}"
    return together + (f"  {others}" if others else "")
