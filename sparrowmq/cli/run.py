"""run: jobs from the command line, their results, and what they cost.

Owns: the command, what its options mean together, and its exit status. Must not know: how a job is waited for
(running.py), how arguments are read (calls.py), how results look (results.py).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.values import Duration, Hedge, KeyValue, Policy, Whole
from sparrowmq.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from sparrowmq.client.client import Client
    from sparrowmq.client.handle import Detached, JobHandle

MONTH_S = 30 * 86_400.0
PART_TASKS = 20_000  # of a file of arguments, one job
STDIN_BYTES_MAX = 64 * 1024 * 1024
COMMAND_ONLY = ("env", "cwd", "stdin")
CALL_ONLY = ("args", "args_file")

EXAMPLES = """\b
Examples:
  sparrowmq run -n 200 -- sleep 0.1
  sparrowmq run --call math:sqrt --args '[2]' --args '[3]'
  sparrowmq run --call jobs:resize --args-file images.jsonl --retries 2
  sparrowmq run --detach --env MODE=fast -- ./nightly.sh

Arguments of a call are JSON: a list is positional, an object is keyword
arguments, or {"args": [...], "kwargs": {...}}. Durations are seconds, or
like 500ms, 14s, 2m, 1.5h."""


@click.command(cls=Command, epilog=EXAMPLES)
@click.argument("command", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
@click.option("-n", "count", type=Whole(1, 10_000_000), default=1, help="Run it so many times.")
@click.option("--call", "function", metavar="MODULE:FUNCTION", help="Call a function that workers can import.")
@click.option("--args", multiple=True, metavar="JSON", help="A call's arguments; one call each.")
@click.option("--args-file", metavar="FILE", type=click.Path(), help="JSON lines, one call each; - reads stdin.")
@click.option("--env", multiple=True, type=KeyValue(), help="Add to the command's environment.")
@click.option("--cwd", metavar="DIR", help="Where on the workers the command runs.")
@click.option("--stdin", metavar="FILE", type=click.Path(), help="What the command reads; - is this stdin.")
@click.option("--name", metavar="TEXT", help="What `sparrowmq job list` shows.")
@click.option("--policy", type=Policy(), help="late-binding (default), assisted, batch, per-task or random.")
@click.option("--ratio", type=click.FloatRange(1.0, 100.0), help="Probes a task.  [default: 2]")
@click.option("--timeout", "timeout_s", type=Duration(positive=True, most_s=MONTH_S), help="Kill a task after so long.")
@click.option("--retries", type=Whole(0, 100), help="Run a task that failed so often again.")
@click.option("--backoff", "backoff_s", type=Duration(), help="Pause before the first retry; doubles with each.")
@click.option("--retry-on", multiple=True, metavar="NAME", help="Only after these: ValueError, module.Class.")
@click.option("--hedge", "hedge_after", type=Hedge(most_s=MONTH_S), help="Give slow tasks a second attempt elsewhere.")
@click.option(
    "--at-most-once", is_flag=True, default=None, help="Never start a task twice; one that may have run is lost."
)
@click.option("--wait", "wait_s", type=Duration(most_s=MONTH_S), help="Give up after so long and end the job.")
@click.option("--follow", is_flag=True, help="Print what tasks print at once (one command does so by itself).")
@click.option("--detach", is_flag=True, help="Return when the job is accepted; it goes on without us.")
@click.option("--durable", is_flag=True, default=None, help="Keep the job in Redis, so that it goes on whoever dies.")
@pass_globals
def run(options: Globals, /, **given: Any) -> int:
    """Run a command, or a function with --call, as the tasks of one job.

    Prints what the tasks print or return, in their order, then a summary. Exit status: 0 if all succeeded, 1 if
    one failed, 124 if time ran out, 5 if the job was rejected. Ctrl-C ends the job.
    """
    plan = make_plan(options, given)
    with options.client() as client:
        if given["detach"]:
            return _detach(options, client, plan)
        from sparrowmq.cli.running import Run

        return Run(options, client, plan).finish()


@dataclass(frozen=True)
class Plan:
    """What is to be run. ``parts`` yields one function a job, which submits it to a client or its detached view."""

    parts: Iterator[Callable[[Any], Any]]
    live: bool  # print what tasks print at once
    marked: bool  # with the number of the task
    captured: bool  # results have what tasks print
    wait_s: float | None


def make_plan(options: Globals, given: dict[str, Any]) -> Plan:
    """Return what the options mean together. Raises UsageError, naming both, for those that contradict each other."""
    function, command = given["function"], given["command"]
    _check(options, given)
    names = ("policy", "name", "timeout_s", "retries", "backoff_s", "hedge_after", "at_most_once", "durable")
    chosen: dict[str, Any] = {name: given[name] for name in names if given[name] is not None}
    if given["ratio"] is not None:
        chosen["probe_ratio"] = given["ratio"]
    if given["retry_on"]:
        chosen["retry_on"] = list(given["retry_on"])
    single = given["count"] == 1
    if function is None:
        more = {"n": given["count"], "env": dict(given["env"]), "cwd": given["cwd"] or "", "stdin": _stdin(given)}

        def submit(target: Client | Detached) -> Any:
            return target.run_commands(command, **more, **chosen)

        live = given["follow"] or (single and options.output == "table")
        return Plan(iter([submit]), live, not single, True, given["wait_s"])
    return Plan(_calls(function, given, chosen), given["follow"], True, False, given["wait_s"])


def _check(options: Globals, given: dict[str, Any]) -> None:
    function, command = given["function"], given["command"]
    shown = " ".join(command)[:40]
    if function is not None and command:
        raise UsageError(f"--call {function} and the command `{shown}` exclude each other: give one of them")
    calls = [_flag(name) for name in CALL_ONLY if given[name]]
    if function is None and calls:
        beside = f"a command after -- (`{shown}`) takes none" if command else "there is no --call"
        raise UsageError(f"{calls[0]} gives arguments to --call, and {beside}", hint="--call math:sqrt --args '[2]'")
    if function is None and not command:
        raise UsageError(
            "give either a command after --, or --call MODULE:FUNCTION with its --args",
            hint="sparrowmq run -n 200 -- sleep 0.1",
        )
    for name in COMMAND_ONLY:
        if function is not None and given[name]:
            raise UsageError(f"{_flag(name)} is for a command after --; --call {function} takes none")
    for one, other in (
        ("args", "args_file"), ("detach", "follow"), ("detach", "wait_s"),
    ):  # fmt: skip
        if given[one] and given[other] not in (None, False):
            raise UsageError(f"{_flag(one)} and {_flag(other)} exclude each other")
    if not given["retries"]:
        for name in ("backoff_s", "retry_on"):
            if given[name]:
                raise UsageError(f"{_flag(name)} without --retries: nothing would be tried again", hint="--retries 3")
    if given["follow"] and options.json:
        raise UsageError(f"--follow prints text, -o {options.output} does not", hint="leave one of them out")
    if function is not None:
        module, colon, attribute = function.partition(":")
        if not (module and colon and attribute):
            raise UsageError(f"--call {function}: expected MODULE:FUNCTION, such as math:sqrt")


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")


def _calls(function: str, given: dict[str, Any], chosen: dict[str, Any]) -> Iterator[Callable[[Any], Any]]:
    """Yield one job's submission after the other; only a file is cut into parts, as it is read."""
    from sparrowmq.cli import calls

    path = given["args_file"]
    rows = calls.from_file(path) if path else iter(calls.from_options(given["args"]))
    source = calls.repeated(rows, given["count"])
    while part := list(itertools.islice(source, PART_TASKS if path else None)):
        yield lambda target, part=part: calls.send(target, function, part, chosen)  # type: ignore[misc]


def _stdin(given: dict[str, Any]) -> bytes:
    path = given["stdin"]
    if path is None:
        return b""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(STDIN_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"--stdin {path}: {error.strerror}") from None
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError(f"--stdin {path}: more than {STDIN_BYTES_MAX:,} bytes", hint="pass large data by a path")
    return data


def _detach(options: Globals, client: Client, plan: Plan) -> int:
    """Submit everything as jobs that go on without us; say how to look at them."""
    handles = [submit(client.detached) for submit in plan.parts]
    sent = [{"id": handle.id} for handle in handles]
    if not sent:
        raise UsageError("there is nothing to run: --args-file has no line")
    first = sent[0]["id"]

    def people() -> None:
        for row in sent:
            click.echo(f"job {row['id']}")
        click.echo(f"look at it: sparrowmq job show {first}   job logs {first} --follow   job wait {first}")
        if _is_kept(handles[0]):
            click.echo(f"its results, from anywhere: sparrowmq job results {first}")
        else:
            click.echo("it is in its scheduler's memory only, and ends with it")

    show.emit(options, sent[0] if len(sent) == 1 else sent, people)
    return 0


def _is_kept(handle: JobHandle) -> bool:
    """Return whether Redis has the job; an outage since it was accepted does not undo that."""
    try:
        return handle.durable
    except Unavailable:
        return True
