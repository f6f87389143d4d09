"""scheduler start; worker start, list, drain, stop: single roles, as containers and services run them.

Owns: these commands. Must not know: how a role works.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals, Group, pass_globals
from sparrowmq.cli.completion import WorkerSelector
from sparrowmq.cli.values import Address, Duration, Whole

TIMED_OUT = 124
GRACE_S = 30.0
LEAVING_S = 10.0  # how long a drained worker may take beyond its grace
POLL_S = 0.1

Row = dict[str, Any]


@click.group(cls=Group)
def scheduler() -> None:
    """Start a scheduler."""


@scheduler.command("start")
@click.option("--bind-workers", type=Address(), help="Where workers connect, such as tcp://127.0.0.1:7701.")
@click.option("--bind-clients", type=Address(), help="Where clients connect, such as tcp://127.0.0.1:7702.")
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
        },
        role="scheduler",
    )
    from sparrowmq.runtime import health, roles

    options.check_store(loaded)
    health.setup(loaded.health.file)
    return roles.run_scheduler(loaded.scheduler, loaded.store, loaded.log, keys=loaded.security.keys)


@click.group(cls=Group)
def worker() -> None:
    """Start, list, drain, stop workers.

    WORKER is an id or its beginning (with or without `worker-`), or `all`.
    """


@worker.command("start")
@click.option("--slots", type=Whole(0, 4096), help="Tasks at once; 0: as many as the CPU quota or affinity gives.")
@click.option(
    "--preload", metavar="MODULE[:FUNCTION]", multiple=True,
    help="Import a module, or call a function, in each slot before its first task. May be given several times.",
)  # fmt: skip
@pass_globals
def start_worker(options: Globals, slots: int | None, preload: tuple[str, ...]) -> int:
    """Run one worker in the foreground. SIGTERM drains it; a second one ends it at once."""
    loaded = options.load_found({"worker.slots": slots, "worker.preload": list(preload) or None}, role="worker")
    from sparrowmq.runtime import health, roles

    options.check_store(loaded)
    health.setup(loaded.health.file)
    return roles.run_worker(loaded.worker, loaded.store, loaded.log, keys=loaded.security.keys)


def rows(options: Globals) -> list[Row]:
    """Return the workers as the schedulers see them."""
    from sparrowmq.cli import merge

    return merge.workers(options.ask("workers"))


def print_workers(workers: Sequence[Row]) -> None:
    """Print the table of workers, or a sentence where there are none."""
    if not workers:
        click.echo("no workers")
        return
    columns = ["worker", "host", "pid", "slots", "state", "reservations", "launched", "done", "rtt_ms"]
    show.print_table([{"worker": row["id"], **row} for row in workers], columns)


@worker.command("list")
@click.argument("selectors", metavar="[WORKER]...", nargs=-1, type=WorkerSelector())
@pass_globals
def list_workers(options: Globals, selectors: tuple[str, ...]) -> int:
    """List workers as the schedulers see them."""
    from sparrowmq.cli import selection

    found = selection.workers(rows(options), selectors or ("all",))
    show.emit(options, found, lambda: print_workers(found))
    return 0


@worker.command("drain")
@click.argument("selectors", metavar="WORKER...", nargs=-1, required=True, type=WorkerSelector())
@click.option(
    "--grace", "grace_s", type=Duration(), default=GRACE_S, show_default="30s",
    help="Running tasks may go on for so long; then they are started again elsewhere.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Return when the workers are gone.")
@pass_globals
def drain_workers(options: Globals, selectors: tuple[str, ...], grace_s: float, wait: bool) -> int:
    """Take workers out of service: they take no more tasks, finish what runs, and end."""
    return _drain(options, selectors, grace_s, wait)


@worker.command("stop")
@click.argument("selectors", metavar="WORKER...", nargs=-1, required=True, type=WorkerSelector())
@click.option("--wait", is_flag=True, help="Return when the workers are gone.")
@pass_globals
def stop_workers(options: Globals, selectors: tuple[str, ...], wait: bool) -> int:
    """End workers at once: what they run is started again elsewhere. The same as `drain --grace 0`."""
    return _drain(options, selectors, 0.0, wait)


def _drain(options: Globals, selectors: tuple[str, ...], grace_s: float, wait: bool) -> int:
    from sparrowmq.cli import selection

    found = selection.workers(rows(options), selectors)
    told: list[Row] = []
    with options.client() as client:
        for row in found:
            answer = client.drain_worker(row["id"], grace_s)
            told.append({"id": row["id"], "running": row["launched"], "told": answer is not None, "gone": False})
    left = _wait_until_gone(options, {row["id"] for row in told if row["told"]}, grace_s) if wait else set()
    for row in told:
        row["gone"] = not row["told"] or (wait and row["id"] not in left)

    def people() -> None:
        for row in told:
            running = show.count(row["running"], "task")
            going = f"ends when it has finished {running}" if grace_s and row["running"] else "ends"
            click.echo(f"{row['id']}  {'gone' if row['gone'] else going}")
        if not told:
            click.echo("no workers")

    show.emit(options, told, people)
    if left:
        some = ", ".join(sorted(left)[:5])
        raise Ended(TIMED_OUT, "timed_out", f"{show.count(len(left), 'worker')} did not end in time: {some}")
    return 0


def _wait_until_gone(options: Globals, names: set[str], grace_s: float) -> set[str]:
    """Wait until no scheduler knows these workers; return those that are left after the grace and a while."""
    deadline = time.monotonic() + grace_s + LEAVING_S
    while True:
        left = names & {row["id"] for row in rows(options)}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
