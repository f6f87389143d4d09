"""up, down, status: a cluster on this machine, and what any cluster looks like.

Owns: these commands. Must not know: how processes are started (local.py) or messages are sent (client).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

import click

from sparrowmq.cli import show, web as page
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.values import Duration, Whole
from sparrowmq.errors import Unavailable

if TYPE_CHECKING:
    from sparrowmq.local import LocalCluster

DRAIN_S = 10.0
WATCH_INTERVAL_S = 1.0


@click.command(cls=Command)
@click.option("--workers", type=Whole(0, 1024), default=4, show_default=True, help="Number of workers.")
@click.option("--slots", type=Whole(0, 4096), default=1, show_default=True, help="Tasks at once a worker.")
@click.option("--schedulers", type=Whole(1, 1024), default=2, show_default=True, help="Number of schedulers.")
@click.option("--assistants", type=Whole(0, 64), default=1, show_default=True, help="Number of assistants.")
@click.option("--detach", is_flag=True, help="Return when the cluster is ready; `sparrowmq down` ends it.")
@click.option("--no-page", is_flag=True, help="Serve no live page (extra `web`).")
@pass_globals
def up(
    options: Globals, workers: int, slots: int, schedulers: int, assistants: int, detach: bool, no_page: bool
) -> int:
    """Start schedulers, workers, assistants and (without --redis) a Valkey server on this machine.

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
    listener = None if no_page else page.listen_for_up()
    words = [] if options.config is None else ["--config", os.path.abspath(options.config)]
    cluster = local.LocalCluster(
        workers,
        slots,
        schedulers,
        assistants=assistants,
        scheduler=loaded.scheduler,
        worker=loaded.worker,
        assistant=loaded.assistant,
        store=loaded.store,
        security=loaded.security,
        log=log,
        log_path=path.with_name("cluster.log") if detach else local.STANDARD_ERROR,
        restart=True,
        detached=detach,
        state_path=path,
        page=None if listener is None else page.on_connect(listener, words),
    )
    if not detach:
        signal.signal(signal.SIGTERM, _interrupt)
    with contextlib.closing(listener) if listener is not None else contextlib.nullcontext():
        cluster.start()
        address = "" if listener is None else f"http://{page.HOST}:{listener.getsockname()[1]}"
    _say_ready(options, cluster, not loaded.store.url, slots, time.monotonic() - begin, detach, address)
    return 0 if detach else _stay(options, cluster)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_ready(
    options: Globals, cluster: LocalCluster, embedded: bool, slots: int, took_s: float, detach: bool, address: str
) -> None:
    from sparrowmq.store.connection import describe

    url = describe(cluster.url)
    schedulers = [member._asdict() for member in cluster.schedulers]
    workers = [member._asdict() for member in cluster.workers]
    assistants = [member._asdict() for member in cluster.assistants]

    def people() -> None:
        mark = show.tick()
        store = "valkey (embedded)" if embedded else f"redis {url}"
        each = f" x {slots} slots" if slots > 1 else ""
        counts = f"{mark} {show.count(len(schedulers), 'scheduler')}  {mark} {show.count(len(workers), 'worker')}{each}"
        if assistants:
            counts += f"  {mark} {show.count(len(assistants), 'assistant')}"
        click.echo(f"{mark} {store}  {counts}   {took_s:.2f} s")
        stop = "sparrowmq down" if detach else f"Ctrl-C (running tasks get {DRAIN_S:g} s; again: at once)"
        seen = f"page {address}   " if address else ""
        click.echo(f"{seen}stop: {stop}   try: sparrowmq run -n 200 -- sleep 0.1")

    result: dict[str, object] = {"url": url, "pid": cluster.pid, "ready_s": round(took_s, 3), "page": address or None}
    result |= {"schedulers": schedulers, "workers": workers, "assistants": assistants}
    show.emit(options, result, people, quiet=lambda row: row["url"])
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
    said = "no local cluster runs"
    if found is not None:
        said = "stopped" if clean else "it did not stop in time and was killed"
    result = {"was_running": found is not None, "clean": clean}
    if not options.quiet:
        show.emit(options, result, lambda: click.echo(said))
    return 0


@click.command(cls=Command)
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", "interval_s", type=Duration(least_s=0.1), default=WATCH_INTERVAL_S, show_default="1s",
              help="How often.")  # fmt: skip
@pass_globals
def status(options: Globals, watch: bool, interval_s: float) -> int:
    """Show schedulers and workers, with what each has to do."""
    if not watch:
        _show_status(options)
        return 0
    try:
        while True:
            _show_status(options, clear=sys.stdout.isatty() and options.output == "table")
            sys.stdout.flush()
            time.sleep(interval_s)
    except KeyboardInterrupt:  # the way to end it
        return 0


def _show_status(options: Globals, clear: bool = False) -> None:
    from sparrowmq.cli import merge
    from sparrowmq.cli.role import print_workers

    answers = options.ask("summary")
    schedulers, workers = merge.schedulers(answers), merge.workers(answers)
    if clear:
        click.clear()

    def people() -> None:
        columns = {
            "workers": "workers_now", "clients": "clients_now", "jobs": "jobs_now", "unplaced": "unplaced_now",
            "launched": "launched_now",
        }  # fmt: skip
        rows = [row | {"scheduler": row["id"]} | {name: row.get(key, 0) for name, key in columns.items()}
                for row in schedulers]  # fmt: skip
        show.print_table(rows, ["scheduler", "host", "pid", *columns])
        click.echo()
        print_workers(workers)

    if options.quiet:
        for row in (*schedulers, *workers):
            click.echo(row["id"])
    else:
        show.emit(options, {"schedulers": schedulers, "workers": workers}, people)
