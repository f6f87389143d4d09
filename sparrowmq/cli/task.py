"""task show: what happened to single tasks.

Owns: the command. Must not know: how a selector or a sentence is made.
"""

from __future__ import annotations

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.cli.completion import JobSelector, TaskSelector
from sparrowmq.errors import UsageError


@click.group(cls=Group)
def task() -> None:
    """Show what happened to single tasks."""


@task.command("show")
@click.argument("selector", metavar="JOB", type=JobSelector())
@click.argument("tasks", metavar="TASKS", type=TaskSelector())
@pass_globals
def show_task(options: Globals, selector: str, tasks: str) -> int:
    """Show the history of tasks: when each was launched, where, how it ended, and why it failed.

    JOB is as in `sparrowmq job`, TASKS is a number, a range, or several: 7 or 0-9,12 or all.
    """
    from sparrowmq.cli import selection, words
    from sparrowmq.cli.job import chosen, tasks_of

    found = chosen(options, selector)
    if len(found) != 1:
        raise UsageError(f"{selector} means {show.count(len(found), 'job')}; tasks are shown of one")
    row = found[0]
    wanted = selection.tasks(tasks, row["tasks"])
    known = tasks_of(options, "tasks", row, wanted)
    if not known:
        raise UsageError(
            f"the history of these tasks of job {row['id']} is not kept any more",
            hint="`sparrowmq job show` has the job's ledger",
        )

    def people() -> None:
        for status in known:
            click.echo("\n".join(words.task(status)))

    show.emit(options, known, people, quiet=lambda status: f"{status['index']} {status['state']}")
    return 0
