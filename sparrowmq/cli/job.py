"""job list, job show: what the schedulers know about jobs, unfinished and recent ones.

Owns: these commands and the summary line of a job. Must not know: how answers are got.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.errors import UsageError


@click.group(cls=Group)
def job() -> None:
    """List jobs, show one."""


def _rows(options: Globals) -> list[dict[str, Any]]:
    from sparrowmq.cli import merge

    with options.client() as client:
        return merge.jobs(client.query("jobs"))


@job.command("list")
@pass_globals
def list_jobs(options: Globals) -> int:
    """List unfinished and recent jobs, oldest first."""
    rows = _rows(options)
    if options.json:
        show.as_json(rows)
    elif not rows:
        click.echo("no jobs")
    else:
        shown = [
            row
            | {
                "job": row["id"],
                "name": row["name"][:30],
                "submitted": show.ago(row["submitted_unix_s"]) + " ago",
                "response": show.milliseconds(row["response_s"] * 1e3) if row["response_s"] else "",
            }
            for row in rows
        ]
        columns = ["job", "name", "policy", "state", "tasks", "succeeded", "failed", "submitted", "response"]
        click.echo(show.table(shown, columns))
    return 0


@job.command("show")
@click.argument("identity", metavar="JOB")
@pass_globals
def show_job(options: Globals, identity: str) -> int:
    """Show one job: its id, the beginning of its id, or "last"."""
    rows = _rows(options)
    found = rows[-1:] if identity == "last" else [row for row in rows if row["id"].startswith(identity)]
    if not found:
        raise UsageError(f"no scheduler knows a job {identity}", hint="`sparrowmq job list` lists them")
    if len(found) > 1:
        some = ", ".join(row["id"] for row in found[:5])
        raise UsageError(f"{len(found)} jobs begin with {identity}: {some}", hint="give more of the id")
    if options.json:
        show.as_json(found[0])
        return 0
    click.echo(summary(found[0]))
    width = max(map(len, found[0]))
    for name, value in found[0].items():
        click.echo(f"  {name.replace('_', ' '):{width}}  {value:.3f}" if isinstance(value, float) else
                   f"  {name.replace('_', ' '):{width}}  {value}")  # fmt: skip
    return 0


def summary(row: dict[str, Any]) -> str:
    """Return a job's ledger in one line."""
    over = row["response_s"] > 0
    parts = [
        f"job {row['id']}",
        f"{row['succeeded']:,}/{row['tasks']:,} {show.tick(row['succeeded'] == row['tasks'])}",
        *(f"{row[name]:,} {name.replace('_', ' ')}" for name in _ends(row)),
        f"response {show.milliseconds(row['response_s'] * 1e3)}" if over else str(row["state"]),
        f"queueing p50 {show.milliseconds(row['queueing_p50_ms'])} p99 {show.milliseconds(row['queueing_p99_ms'])}",
        f"probes {row['probes']:,}  no-ops {row['no_ops']:,}  cancels {row['cancels']:,}",
    ]
    if row["relaunches"]:
        parts.append(f"relaunches {row['relaunches']:,}")
    return "  ".join(parts)


def _ends(row: dict[str, Any]) -> Sequence[str]:
    return [name for name in ("failed", "timed_out", "cancelled", "lost") if row[name]]
