"""job list, show, wait, results, cancel, logs: what schedulers and Redis know about jobs, unfinished and recent ones.

Owns: these commands and their exit statuses. Must not know: how a selector or a sentence is made.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals, Group, pass_globals
from sparrowmq.cli.completion import JobSelector, TaskSelector
from sparrowmq.cli.values import Duration
from sparrowmq.errors import Unavailable

if TYPE_CHECKING:
    from sparrowmq.client.client import Client

FAILED = 1
TIMED_OUT = 124
GRACE_S = 1.0
POLL_S_MIN = 0.02
POLL_S_MAX = 0.5
VANISHED_AFTER_S = 2.0  # no scheduler has known the job for so long
ENDING_S = 10.0  # how long `cancel` waits beyond the grace for the job's end
NAME_CHARS_SHOWN = 24

Row = dict[str, Any]


@click.group(cls=Group)
def job() -> None:
    """List, show, wait for, cancel jobs; print their output, and the results of durable ones.

    JOB is an id or its beginning, `last`, `all`, `running`, or a number: 1 is the newest job, 1-3 the three newest.
    Several are joined by commas.
    """


def rows(options: Globals) -> list[Row]:
    """Return the jobs that schedulers or Redis know, oldest first."""
    from sparrowmq.cli import kept

    loaded = options.load_found()
    options.check_store(loaded)
    return kept.rows(loaded.store, credentials=options.credentials(loaded))


def chosen(options: Globals, selector: str) -> list[Row]:
    """Return the jobs that ``selector`` means. Raises UsageError where it means none."""
    from sparrowmq.cli import selection

    return selection.jobs(rows(options), selector)


def tasks_of(options: Globals, what: str, row: Row, indices: Sequence[int] = ()) -> list[Row]:
    """Return rows of the job's tasks: its first "failures", or the "tasks" of these ``indices``, as far as known."""
    from sparrowmq import limits
    from sparrowmq.cli import words
    from sparrowmq.client import ledger

    found: list[Row] = []
    for start in range(0, max(1, len(indices)), limits.TASK_ROWS_MAX):
        answers = options.ask(what, row["id"], indices[start : start + limits.TASK_ROWS_MAX])
        found += [words.task_row(task) for task in ledger.tasks(answers, row["id"])]
    return found


@job.command("list")
@click.argument("selector", metavar="[JOB]", default="all", type=JobSelector())
@pass_globals
def list_jobs(options: Globals, selector: str) -> int:
    """List unfinished and recent jobs, oldest first; # is the number that selects one."""
    known = rows(options)
    from sparrowmq.cli import selection

    numbers = {row["id"]: len(known) - position for position, row in enumerate(known)}
    found = selection.jobs(known, selector)

    def people() -> None:
        if not found:
            click.echo("no jobs")
            return
        shown = [
            row
            | {
                "#": numbers[row["id"]],
                "job": row["id"],
                "name": show.one_line(row["name"], NAME_CHARS_SHOWN),
                "submitted": show.ago(row["submitted_unix_s"]) + " ago",
                "response": show.seconds(row["response_s"]) if row["response_s"] else "",
            }
            for row in found
        ]
        columns = ["#", "job", "name", "state", "tasks", "succeeded", "failed", "timed_out", "cancelled", "lost"]
        show.print_table(shown, [*columns, "running", "waiting", "retries", "submitted", "response"])

    show.emit(options, found, people)
    return 0


@job.command("show")
@click.argument("selector", metavar="JOB", type=JobSelector())
@pass_globals
def show_job(options: Globals, selector: str) -> int:
    """Show a job: its ledger, its times, and the first tasks that failed, with the reasons.

    -o json has everything that is known; it is a list where JOB may mean several.
    """
    from sparrowmq.cli import merge, selection, words

    found = chosen(options, selector)
    details: list[Row] = []
    for row in found:
        failures: list[Row] = []
        if any(row[name] for name in merge.UNSUCCESSFUL):
            failures = tasks_of(options, "failures", row)
        details.append(row | {"failures": failures})

    def people() -> None:
        for position, row in enumerate(details):
            click.echo(("\n" if position else "") + "\n".join(words.job(row, row["failures"])))
        if not details:
            click.echo("no jobs")

    show.emit(options, details if selection.is_plural(selector) else details[0], people)
    return 0


@job.command("wait")
@click.argument("selector", metavar="JOB", default="last", type=JobSelector())
@click.option("--timeout", "timeout_s", type=Duration(most_s=30 * 86_400.0), help="Give up after so long (exit 124).")
@pass_globals
def wait_for_job(options: Globals, selector: str, timeout_s: float | None) -> int:
    """Wait until a job is over. Exit status: 0 if all tasks succeeded, 1 if not, 124 if time ran out.

    Ctrl-C ends the waiting only; the job goes on.
    """
    try:
        from sparrowmq.cli import merge, selection, words

        found, over = wait_until_over(options, chosen(options, selector), timeout_s)
    except KeyboardInterrupt:
        raise Ended(130, "interrupted", "interrupted; the job goes on", hint="`sparrowmq job cancel` ends it") from None

    def people() -> None:
        for row in found:
            click.echo(words.summary(row))

    show.emit(options, found if selection.is_plural(selector) else found[0], people)
    if not over:
        left = sum(not merge.is_over(row) for row in found)
        raise Ended(
            TIMED_OUT, "timed_out", f"{show.count(left, 'job')} not over after {show.seconds(timeout_s or 0.0)}"
        )
    bad = sum(map(merge.unsuccessful, found))
    if bad:
        total = sum(row["tasks"] for row in found)
        raise Ended(
            FAILED, "task_failed", f"{bad:,} of {show.count(total, 'task')} did not succeed",
            hint="`sparrowmq job show` tells why",
        )  # fmt: skip
    return 0


def wait_until_over(options: Globals, found: Sequence[Row], timeout_s: float | None) -> tuple[list[Row], bool]:
    """Ask until all of these jobs are over or time is; return their rows and which of both it was.

    Raises Unavailable when one is not known any more: its scheduler has ended, and its client has not moved it.
    """
    from sparrowmq.cli import kept, merge

    begin = time.monotonic()
    latest = {row["id"]: row for row in found}
    seen = dict.fromkeys(latest, begin)
    loaded, pause_s = options.load_found(), POLL_S_MIN
    credentials = options.credentials(loaded)
    while not all(map(merge.is_over, latest.values())):
        now = time.monotonic()
        if timeout_s is not None and now - begin >= timeout_s:
            return list(latest.values()), False
        left_s = POLL_S_MAX if timeout_s is None else timeout_s - (now - begin)
        time.sleep(max(0.0, min(pause_s, left_s)))
        pause_s = min(POLL_S_MAX, pause_s * 1.3)
        for row in kept.rows(loaded.store, "" if len(latest) > 1 else next(iter(latest)), credentials):
            if row["id"] in latest:
                latest[row["id"]], seen[row["id"]] = row, now
        gone = [name for name, row in latest.items() if now - seen[name] > VANISHED_AFTER_S and not merge.is_over(row)]
        if gone:
            raise Unavailable(
                f"no scheduler knows job {gone[0]} any more", hint="its scheduler has ended: see `sparrowmq status`"
            )
    return list(latest.values()), True


@job.command("results")
@click.argument("selector", metavar="JOB", default="last", type=JobSelector())
@click.option("--timeout", "timeout_s", type=Duration(most_s=30 * 86_400.0), help="Give up after so long (exit 124).")
@pass_globals
def job_results(options: Globals, selector: str, timeout_s: float | None) -> int:
    """Wait until a durable job is over, and print what its tasks printed or returned, in their order.

    Durable are detached jobs and those with --durable, for as long as Redis keeps them. Exit status: as of `job wait`.
    """
    from sparrowmq.cli import kept, results
    from sparrowmq.client.attached import AttachedJob

    found = chosen(options, selector)
    loaded = options.load_found()
    owner = kept.owner(options.credentials(loaded))
    tally, printed, left = results.Tally(), list[Row](), 0
    for row in found:
        with AttachedJob(loaded.store, row["id"], owner) as attached:
            left += not attached.wait(timeout_s)
            ended = [results.row(future) for future in attached.futures()]
        tally.add(ended, len(found) > 1)
        printed += map(results.plain, ended)
        if not options.json:
            results.print_outputs(ended)
    if options.json:
        show.emit(options, printed, lambda: None)
    if left:
        what = f"{show.count(left, 'job')} not over after {show.seconds(timeout_s or 0.0)}"
        raise Ended(TIMED_OUT, "timed_out", what)
    if tally.unsuccessful:
        tally.print_failures([row["id"] for row in found])
        what = f"{tally.unsuccessful:,} of {show.count(tally.tasks, 'task')} did not succeed"
        raise Ended(FAILED, "task_failed", what)
    return 0


@job.command("cancel")
@click.argument("selector", metavar="JOB", type=JobSelector())
@click.option(
    "--grace", "grace_s", type=Duration(), default=GRACE_S, show_default="1s",
    help="Running tasks are interrupted and have so long; then they are killed.",
)  # fmt: skip
@pass_globals
def cancel_job(options: Globals, selector: str, grace_s: float) -> int:
    """End a job: what waits does not start, what runs is interrupted and, after the grace, killed.

    Tells how many tasks were dequeued (never started), interrupted, killed, or had ended before (too late).
    """
    from sparrowmq.cli import cancelling, selection

    found = chosen(options, selector)
    verdicts: list[Row] = []
    if found:
        with options.client() as client:
            verdicts = [cancelling.cancel(options, client, row, grace_s) for row in found]

    def people() -> None:
        for verdict in verdicts:
            click.echo(cancelling.sentence(verdict))
        if not verdicts:
            click.echo("no jobs")

    show.emit(options, verdicts if selection.is_plural(selector) else verdicts[0], people)
    return 0


@job.command("logs")
@click.argument("selector", metavar="JOB", default="last", type=JobSelector())
@click.option("--follow", is_flag=True, help="Go on until the job is over.")
@click.option("--task", "tasks", metavar="TASKS", type=TaskSelector(), help="Only these: 7, or 0-9,12.")
@click.option("--stream", type=click.Choice(["stdout", "stderr"]), help="Only this one.")
@pass_globals
def job_logs(options: Globals, selector: str, follow: bool, tasks: str | None, stream: str | None) -> int:
    """Print what a job's tasks have printed, as far as it is kept (1 MiB a job, the latest).

    What came from standard error goes there. Lines are marked with their task where the job has several.
    """
    from sparrowmq.cli import output, selection

    found = chosen(options, selector)
    several = len(found) > 1
    with options.client() as client:
        for row in found:
            wanted = set(selection.tasks(tasks, row["tasks"])) if tasks is not None else None
            chunks = _following(client, row["id"], follow)
            mark = f"{row['id']} " if several else ""
            output.write(options, chunks, tasks=wanted, stream=stream, mark=mark, marked=several or row["tasks"] > 1)
    return 0


def _following(client: Client, job_id: str, follow: bool) -> Iterable[Any]:
    return client.job(job_id).logs(follow=follow)
