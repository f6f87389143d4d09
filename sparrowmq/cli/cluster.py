"""up, down, status: a cluster on this machine, and what any cluster looks like.

Owns: these commands. Must not know: how processes are started (local.py) or messages are sent (client).
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.errors import Unavailable

if TYPE_CHECKING:
    from sparrowmq.local import LocalCluster
    from sparrowmq.protocol import messages as m

DRAIN_S = 10.0
WATCH_INTERVAL_S = 1.0


@click.command(cls=Command)
@click.option("--workers", type=click.IntRange(0, 1024), default=4, show_default=True, help="Number of workers.")
@click.option("--slots", type=click.IntRange(0, 4096), default=1, show_default=True, help="Tasks at once a worker.")
@click.option("--schedulers", type=click.IntRange(1, 1024), default=2, show_default=True, help="Number of schedulers.")
@click.option("--detach", is_flag=True, help="Return when the cluster is ready; `sparrowmq down` ends it.")
@pass_globals
def up(options: Globals, workers: int, slots: int, schedulers: int, detach: bool) -> int:
    """Start schedulers, workers and (without --redis) a Valkey server on this machine.

    In the foreground it runs until Ctrl-C. The other commands find it by themselves.
    """
    import msgspec

    from sparrowmq import local
    from sparrowmq.runtime import state

    loaded = options.load()
    path = state.state_path()
    if state.read(path) is not None:
        raise state.already_running(path)
    log = loaded.log
    if not detach and sys.stderr.isatty() and loaded.sources["log.level"] == "default":
        log = msgspec.structs.replace(log, level="warning")  # this terminal is for people: no line for each connection
    begin = time.monotonic()
    cluster = local.LocalCluster(
        workers,
        slots,
        schedulers,
        scheduler=loaded.scheduler,
        worker=loaded.worker,
        store=loaded.store,
        security=loaded.security,
        log=log,
        log_path=path.with_name("cluster.log") if detach else local.STANDARD_ERROR,
        restart=True,
        detached=detach,
        state_path=path,
    )
    if not detach:
        signal.signal(signal.SIGTERM, _interrupt)
    cluster.start()
    _say_ready(options, cluster, not loaded.store.url, slots, time.monotonic() - begin, detach)
    return 0 if detach else _stay(options, cluster)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_ready(
    options: Globals, cluster: LocalCluster, embedded: bool, slots: int, took_s: float, detach: bool
) -> None:
    from sparrowmq.store.connection import describe

    if options.json:
        members = {
            "schedulers": [member._asdict() for member in cluster.schedulers],
            "workers": [member._asdict() for member in cluster.workers],
        }
        show.as_json({"url": describe(cluster.url), "pid": cluster.pid, "ready_s": round(took_s, 3), **members})
        return
    mark = show.tick()
    store = "valkey (embedded)" if embedded else f"redis {describe(cluster.url)}"
    each = f" x {slots} slots" if slots > 1 else ""
    counts = f"{mark} {len(cluster.schedulers)} schedulers  {mark} {len(cluster.workers)} workers{each}"
    click.echo(f"{mark} {store}  {counts}   {took_s:.2f} s")
    stop = "sparrowmq down" if detach else f"Ctrl-C (running tasks get {DRAIN_S:g} s; again: at once)"
    click.echo(f"stop: {stop}   try: sparrowmq run -n 200 -- sleep 0.1")
    sys.stdout.flush()


def _stay(options: Globals, cluster: LocalCluster) -> int:
    """Wait for Ctrl-C, then end the cluster; a second Ctrl-C ends it at once."""
    try:
        cluster.wait()
    except KeyboardInterrupt:
        if not options.json:
            click.echo("stopping", err=True)
        cluster.close(drain_s=DRAIN_S)
        return 0
    cluster.close()
    raise Unavailable("the local cluster ended by itself", hint="the lines above tell why")


@click.command(cls=Command)
@click.option("--force", is_flag=True, help="Give running tasks no time to end.")
@pass_globals
def down(options: Globals, force: bool) -> int:
    """End the cluster that `sparrowmq up` started. Does nothing where none runs."""
    from sparrowmq import local

    found = local.detached()
    clean = found is None or local.take_down(found, timeout_s=DRAIN_S + 5.0, force=force)
    if options.json:
        show.as_json({"was_running": found is not None, "clean": clean})
    elif found is None:
        click.echo("no local cluster runs")
    else:
        click.echo("stopped" if clean else "it did not stop in time and was killed")
    return 0


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@pass_globals
def status(options: Globals, watch: bool) -> int:
    """Show schedulers and workers, with what each has to do."""
    with options.client() as client:
        while True:
            answers = client.query("summary")
            if not answers:
                raise Unavailable("no scheduler answered in time")
            if watch and not options.json:
                click.clear()
            _show_status(options, answers)
            if not watch:
                return 0
            sys.stdout.flush()
            time.sleep(WATCH_INTERVAL_S)


def _show_status(options: Globals, answers: list[m.Status]) -> None:
    from sparrowmq.cli import merge

    workers = merge.workers(answers)
    schedulers: list[dict[str, Any]] = [
        {"id": answer.scheduler, **answer.counters} for answer in sorted(answers, key=lambda answer: answer.scheduler)
    ]
    if options.json:
        show.as_json({"schedulers": schedulers, "workers": workers})
        return
    columns = {
        "workers": "workers_now", "clients": "clients_now", "jobs": "jobs_now", "unplaced": "unplaced_now",
        "launched": "launched_now",
    }  # fmt: skip
    rows = [{"scheduler": row["id"]} | {name: row.get(key, 0) for name, key in columns.items()} for row in schedulers]
    click.echo(show.table(rows, ["scheduler", *columns]))
    click.echo()
    click.echo(show_workers(workers))


def show_workers(workers: list[dict[str, Any]]) -> str:
    """Return the table of workers, or a sentence where there are none."""
    if not workers:
        return "no workers"
    columns = ["worker", "host", "pid", "slots", "state", "reservations", "launched", "done", "rtt_ms"]
    return show.table([{"worker": row["id"], **row} for row in workers], columns)
