"""run: one job from the command line, its results, and what it cost.

Owns: the command, what its options mean, and its exit status. Must not know: how tasks travel.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.errors import (
    CommandFailed,
    Rejected,
    SparrowError,
    TaskError,
    TaskLost,
    TaskTimedOut,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from sparrowmq.client.client import Client
    from sparrowmq.client.job import Job

FAILED = 1
TIMED_OUT = 124
FAILURES_SHOWN = 3
PROGRESS_INTERVAL_S = 0.1
TEXT_CHARS_SHOWN = 500

EXAMPLES = """\b
Examples:
  sparrowmq run -n 200 -- sleep 0.1
  sparrowmq run --call math:sqrt --args '[2]' --args '[3]'"""


@click.command(cls=Command, epilog=EXAMPLES, context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]")
@click.option("-n", "count", type=click.IntRange(1, 10_000_000), default=1, help="Run it so many times.")
@click.option("--call", "function", metavar="MODULE:FUNCTION", help="Call a function that workers can import.")
@click.option("--args", "rows", multiple=True, metavar="JSON", help="A call's arguments, a list; one call each.")
@click.option("--policy", metavar="NAME", help="late-binding (default), batch, per-task or random.")
@click.option("--ratio", type=click.FloatRange(1.0, 100.0), help="Probes a task.  [default: 2]")
@click.option("--timeout", type=click.FloatRange(0.0, min_open=True), metavar="S", help="Kill a task after S seconds.")
@click.option("--wait", "wait_s", type=click.FloatRange(0.0), metavar="S", help="Give up after S seconds, end the job.")
@click.option("--name", metavar="TEXT", help="What `sparrowmq job list` shows.")
@pass_globals
def run(
    options: Globals,
    command: tuple[str, ...],
    count: int,
    function: str | None,
    rows: tuple[str, ...],
    policy: str | None,
    ratio: float | None,
    timeout: float | None,
    wait_s: float | None,
    name: str | None,
) -> int:
    """Run a command, or a function with --call, as the tasks of one job.

    Prints what the tasks print or return, in their order, then a summary. Exit status: 0 if all succeeded, 1 if
    one failed, 124 if time ran out, 5 if the job was rejected.
    """
    calls = _calls(function, rows, count) if function is not None else []
    if bool(command) == (function is not None) or (rows and function is None):
        raise UsageError(
            "give either a command after --, or --call MODULE:FUNCTION with its --args",
            hint="sparrowmq run -n 200 -- sleep 0.1",
        )
    given = {"policy": policy, "probe_ratio": ratio, "timeout_s": timeout, "name": name}
    chosen: Any = {key: value for key, value in given.items() if value is not None}
    with options.client() as client:
        job: Job[Any]
        if function is not None:
            job = client.starmap(function, calls, **chosen)
        else:
            job = client.run_commands(command, n=count, **chosen)
        return _finish(options, client, job, wait_s)


def _calls(function: str, rows: tuple[str, ...], count: int) -> list[tuple[Any, ...]]:
    module, colon, attribute = function.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"--call {function}: expected MODULE:FUNCTION, such as math:sqrt")
    calls: list[tuple[Any, ...]] = []
    for text in rows or ("[]",):
        try:
            arguments = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--args {text}: no JSON: {error}", hint="--args '[1, \"two\"]'") from None
        if not isinstance(arguments, list):
            raise UsageError(f"--args {text}: expected a list of arguments", hint=f"--args '[{text}]'")
        calls += [tuple(arguments)] * count
    return calls


def _finish(options: Globals, client: Client, job: Job[Any], wait_s: float | None) -> int:
    try:
        with _progress(options, job) as watch:
            over = watch(wait_s)
    except KeyboardInterrupt:
        client.kill(job)
        raise
    if not over:
        client.kill(job)
    results = [_result(future) for future in job] if over else [_unfinished(future) for future in job]
    _raise_if_none_ran(results)
    summaries = _summaries(job, results)
    if options.json:
        plain = [{key: value for key, value in result.items() if key != "error"} for result in results]
        show.as_json({"job": job.id, "tasks": len(job), "jobs": summaries, "results": plain})
    else:
        _print(results, summaries)
    if not over:
        click.echo(f"error: not over after {wait_s:g} s; the job was ended", err=True)
    errors = [result["error"] for result in results if result["error"] is not None]
    if not over or (errors and all(isinstance(error, TaskTimedOut) for error in errors)):
        return TIMED_OUT
    return FAILED if errors else 0


@contextlib.contextmanager
def _progress(options: Globals, job: Job[Any]) -> Iterator[Any]:
    """Yield a function that waits for the job; on a terminal it draws a bar meanwhile."""
    if options.json or not sys.stderr.isatty():
        yield job.wait
        return
    import time

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(job))

        def watch(wait_s: float | None) -> bool:
            deadline = None if wait_s is None else time.monotonic() + wait_s
            while not job.wait(PROGRESS_INTERVAL_S):
                progress.update(bar, completed=job.finished)
                if deadline is not None and time.monotonic() > deadline:
                    return False
            return True

        yield watch


def _result(future: Any) -> dict[str, Any]:
    from concurrent.futures import CancelledError

    from sparrowmq.client.outcomes import CommandResult

    row: dict[str, Any] = {"index": future.index, "status": "succeeded", "error": None}
    try:
        value = future.result()
    except CancelledError:
        return row | {"status": "cancelled", "error": SparrowError("cancelled")}
    except CommandFailed as error:
        captured = {"exit": error.status, "stdout": _text(error.stdout), "stderr": _text(error.stderr)}
        return row | captured | {"status": "failed", "error": error}
    except Exception as error:  # whatever a task raised
        status = "timed_out" if isinstance(error, TaskTimedOut) else "lost" if isinstance(error, TaskLost) else "failed"
        return row | {"status": status, "error": error, "message": str(error) or type(error).__name__}
    if isinstance(value, CommandResult):
        return row | {"exit": value.status, "stdout": _text(value.stdout), "stderr": _text(value.stderr)}
    return row | {"value": value}


def _said(error: BaseException) -> str:
    """Return what went wrong in one line; a remote traceback is for programs and `-o json`."""
    text = str(error.args[0]) if isinstance(error, TaskError) and error.args else f"{type(error).__name__}: {error}"
    return text.strip().partition("\n")[0][:TEXT_CHARS_SHOWN]


def _unfinished(future: Any) -> dict[str, Any]:
    if future.done():
        return _result(future)
    return {"index": future.index, "status": "cancelled", "error": SparrowError("cancelled")}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _raise_if_none_ran(results: list[dict[str, Any]]) -> None:
    """A job that a scheduler refused, or that lost its last scheduler, is an error of its own."""
    for result in results:
        if isinstance(result["error"], Rejected | Unavailable):
            raise result["error"]


def _summaries(job: Job[Any], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the schedulers' ledgers. After a fail-over that is the last scheduler's part; the counts are ours."""
    from sparrowmq.cli import merge
    from sparrowmq.protocol import messages as m

    rows = [merge.job_row(row) for row in job.status()]
    if len(rows) == 1 and rows[0]["epoch"]:
        counts = Counter(result["status"] for result in results)
        rows[0] |= {"tasks": len(results), **{name: counts[name] for name in m.STATUS_NAMES}}
    return rows


def _print(results: list[dict[str, Any]], summaries: list[dict[str, Any]]) -> None:
    from sparrowmq.cli.job import summary

    for result in results:
        if "stdout" in result:
            click.echo(result["stdout"], nl=False)
            click.echo(result["stderr"], nl=False, err=True)
        elif result.get("value") is not None:
            click.echo(json.dumps(result["value"], ensure_ascii=False, default=repr))
    failed = [result for result in results if result["error"] is not None and result["status"] != "cancelled"]
    for result in failed[:FAILURES_SHOWN]:
        click.echo(f"task {result['index']} {result['status']}: {_said(result['error'])}", err=True)
    if len(failed) > FAILURES_SHOWN:
        click.echo(f"and {len(failed) - FAILURES_SHOWN:,} more", err=True)
    for row in summaries:
        click.echo(summary(row))
