"""scheduler start, worker start, worker list: single roles, as containers and services run them.

Owns: these commands. Must not know: how a role works.
"""

from __future__ import annotations

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals


@click.group(cls=Group)
def scheduler() -> None:
    """Start a scheduler."""


@scheduler.command("start")
@click.option("--bind-workers", metavar="ADDRESS", help="Where workers connect, such as tcp://127.0.0.1:7701.")
@click.option("--bind-clients", metavar="ADDRESS", help="Where clients connect, such as tcp://127.0.0.1:7702.")
@click.option("--advertise-host", metavar="HOST", help="The host that others are told to connect to.")
@pass_globals
def start_scheduler(
    options: Globals, bind_workers: str | None, bind_clients: str | None, advertise_host: str | None
) -> int:
    """Run one scheduler in the foreground. SIGTERM drains it; a second one ends it at once."""
    loaded = options.load_found(
        {
            "scheduler.bind_workers": bind_workers,
            "scheduler.bind_clients": bind_clients,
            "scheduler.advertise_host": advertise_host,
        }
    )
    from sparrowmq.runtime import roles

    return roles.run_scheduler(loaded.scheduler, loaded.store, loaded.log)


@click.group(cls=Group)
def worker() -> None:
    """Start a worker, list workers."""


@worker.command("start")
@click.option("--slots", metavar="N", help="Tasks at once; 0: as many as the CPU quota or affinity gives.")
@pass_globals
def start_worker(options: Globals, slots: str | None) -> int:
    """Run one worker in the foreground. SIGTERM drains it; a second one ends it at once."""
    loaded = options.load_found({"worker.slots": slots})
    from sparrowmq.runtime import roles

    return roles.run_worker(loaded.worker, loaded.store, loaded.log)


@worker.command("list")
@pass_globals
def list_workers(options: Globals) -> int:
    """List the workers as the schedulers see them."""
    from sparrowmq.cli import merge
    from sparrowmq.cli.cluster import show_workers

    with options.client() as client:
        rows = merge.workers(client.query("workers"))
    if options.json:
        show.as_json(rows)
    else:
        click.echo(show_workers(rows))
    return 0
