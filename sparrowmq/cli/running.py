"""Waiting for the jobs of `run`: in parts, with live output or a bar, until they end, time ends, or Ctrl-C.

Owns: what is under way, what is printed when, and the exit status. Must not know: what the jobs do.

Two parts are under way at once, and only they are in memory, however many there are.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import results, show, words
from sparrowmq.cli.base import Ended, Globals
from sparrowmq.cli.live import Live
from sparrowmq.errors import UsageError

if TYPE_CHECKING:
    from sparrowmq.cli.run import Plan
    from sparrowmq.client.client import Client
    from sparrowmq.client.job import Job

FAILED = 1
TIMED_OUT = 124
INTERRUPTED = 130
GRACE_S = 2.0  # for running tasks, after Ctrl-C or --wait
PARTS_UNDER_WAY = 2
PROGRESS_INTERVAL_S = 0.1

Wait = Callable[["Job[Any]", float | None], bool]


class Run:
    """One `run`, from its first job to its exit status."""

    def __init__(self, options: Globals, client: Client, plan: Plan) -> None:
        self._options = options
        self._client = client
        self._plan = plan
        self._tally = results.Tally()
        self._under_way: deque[tuple[Job[Any], Live | None]] = deque()
        self._jobs: list[str] = []
        self._ledgers: list[results.Row] = []
        self._rows: list[results.Row] = []  # for -o json only
        self._printed: set[tuple[str, int]] = set()  # results that Ctrl-C has made us print before their job's end
        self._deadline: float | None = None if plan.wait_s is None else time.monotonic() + plan.wait_s

    def finish(self) -> int:
        """Run everything; return 0. Raises Ended for another exit status, and what kept the jobs from running."""
        try:
            with self._progress() as wait:
                over = self._go(wait)
        except KeyboardInterrupt:
            self._interrupted()
        except UsageError:  # a bad line, perhaps far down the file
            self._end_under_way()
            if self._jobs:
                self._report()
            raise
        if not over:
            self._out_of_time()
        self._report()
        return self._status()

    def _go(self, wait: Wait) -> bool:
        self._fill()
        while self._under_way:
            job, live = self._under_way[0]
            left_s = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            if not wait(job, left_s):
                return False
            self._under_way.popleft()
            self._take(job, live)
            self._fill()
        if not self._jobs:
            raise UsageError("there is nothing to run: --args-file has no line")
        return True

    def _fill(self) -> None:
        while len(self._under_way) < PARTS_UNDER_WAY:
            submit = next(self._plan.parts, None)
            if submit is None:
                return
            job: Job[Any] = submit(self._client)
            self._jobs += job.ids
            plan = self._plan
            live = Live(self._client, job, marked=plan.marked, captured=plan.captured) if plan.live else None
            self._under_way.append((job, live))

    def _take(self, job: Job[Any], live: Live | None) -> None:
        """Note and print what a job left behind, as far as it is over."""
        rows = [results.row(future) for future in job]
        refusal = results.refusal(rows)
        if refusal is not None:
            raise refusal
        if live is not None:
            live.finish(job)
        self._ledgers += results.summaries(job, rows)
        self._tally.add(rows, len(self._jobs) > 1)
        if self._options.output == "json":
            self._rows += map(results.plain, rows)
        elif self._options.output == "jsonl":
            for row in rows:
                show.as_json(results.plain(row))
        else:
            self._print_outputs(rows, live)
        sys.stdout.flush()

    def _print_outputs(self, rows: list[results.Row], live: Live | None) -> None:
        fresh = [row for row in rows if (row["job"], row["index"]) not in self._printed]
        results.print_outputs(fresh if live is None else (row for row in fresh if "stdout" not in row))

    def _report(self) -> None:
        options = self._options
        if options.output == "json":
            first = self._jobs[0] if self._jobs else ""
            tasks = self._tally.tasks
            show.as_json({"job": first, "tasks": tasks, "jobs": self._ledgers, "results": self._rows})
        if options.json:
            return
        sys.stdout.flush()
        self._tally.print_failures(self._jobs)
        if options.quiet:
            return
        if len(self._ledgers) > PARTS_UNDER_WAY:
            click.echo(results.total(self._ledgers))
            return
        for ledger in self._ledgers:
            click.echo(words.summary(ledger))

    def _status(self) -> int:
        bad, counts = self._tally.unsuccessful, self._tally.counts
        if not bad:
            return 0
        hint = f"sparrowmq job show {','.join(self._jobs[:5])}"
        said = f"{bad:,} of {show.count(self._tally.tasks, 'task')} did not succeed"
        message = f"{said}: {self._tally.first[0]}" if self._tally.first else said
        if counts["timed_out"] == bad:
            raise Ended(TIMED_OUT, "timed_out", message, hint=hint, said=True)
        raise Ended(FAILED, "task_failed", message, hint=hint, said=True)

    # Ends before the end.

    def _end_under_way(self) -> None:
        """End what is under way, wait for that, and take its results. Again Ctrl-C: at once."""
        jobs = [job for job, _ in self._under_way]
        try:
            self._client.interrupt([future for job in jobs for future in job], GRACE_S)
        except KeyboardInterrupt:
            for job in jobs:
                self._client.kill(job)
            for job in jobs:
                job.wait(GRACE_S)
        except TimeoutError as error:
            click.echo(f"warning: {error}", err=True)
        while self._under_way:
            self._take(*self._under_way.popleft())

    def _interrupted(self) -> None:
        """Print what has finished, then end the rest."""
        ids = ", ".join(job.id for job, _ in self._under_way)
        if not self._options.json:
            for job, live in self._under_way:
                rows = [results.row(future) for future in job if future.done()]
                self._print_outputs(rows, live)
                self._printed.update((row["job"], row["index"]) for row in rows)
            sys.stdout.flush()
        if self._options.output == "table":
            click.echo(
                f"interrupted; ending job {ids}: running tasks have {GRACE_S:g} s (Ctrl-C again: none)", err=True
            )
        self._end_under_way()
        self._report()
        raise Ended(INTERRUPTED, "interrupted", f"interrupted; job {ids} was ended")

    def _out_of_time(self) -> None:
        """Say why, once everything has really ended."""
        from sparrowmq.errors import SparrowError

        wait_s = self._plan.wait_s or 0.0
        job = self._under_way[0][0]
        reason = ""
        if not self._tally.tasks and not job.finished:
            with contextlib.suppress(SparrowError):
                reason = self._why_nothing_ran(job)
        self._end_under_way()
        self._report()
        ended = "the job was ended" if len(self._jobs) == 1 else "the jobs were ended"
        message = f"not over after {show.seconds(wait_s)}; {ended}" + (f": {reason}" if reason else "")
        hint = "start one with `sparrowmq worker start`" if reason.startswith("no worker") else ""
        raise Ended(TIMED_OUT, "timed_out", message, hint=hint)

    def _why_nothing_ran(self, job: Job[Any]) -> str:
        from sparrowmq.cli import merge

        workers = merge.workers(self._client.query("workers"))
        alive = [row for row in workers if row["state"] == "alive"]
        if not alive:
            return "no worker is connected"
        (ledger, *_) = [merge.job_row(row) for row in job.status()] or [{"running": 0}]
        if ledger["running"]:
            return ""
        busy = sum(row["launched"] for row in workers)
        return f"nothing of it has started; {show.count(len(alive), 'worker')} with {show.count(busy, 'task')} running"

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Wait]:
        """Yield a function that waits for a job; on a terminal it draws a bar meanwhile."""
        if self._options.output != "table" or self._plan.live or not sys.stderr.isatty():
            yield lambda job, left_s: job.wait(left_s)
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("", total=None)

            def wait(job: Job[Any], left_s: float | None) -> bool:
                deadline = None if left_s is None else time.monotonic() + left_s
                while not job.wait(PROGRESS_INTERVAL_S):
                    jobs = [other for other, _ in self._under_way]
                    finished = self._tally.tasks + sum(other.finished for other in jobs)
                    progress.update(bar, completed=finished, total=self._tally.tasks + sum(map(len, jobs)))
                    if deadline is not None and time.monotonic() > deadline:
                        return False
                return True

            yield wait
