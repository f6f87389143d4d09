"""bench: the measurements of docs/performance.md as commands.

Owns: their options. Must not know: how anything is measured (bench/).
"""

from __future__ import annotations

from typing import Any

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Globals, Group, pass_globals

_COUNT = click.IntRange(1, 10_000_000)


@click.group(cls=Group)
def bench() -> None:
    """Measure throughput, latency, placement.

    Each starts a cluster of its own, or uses the one that --redis names.
    """


def _target(options: Globals) -> str:
    """Return the Redis URL to measure against; "": a cluster of its own."""
    return options.load().store.url


def _print(options: Globals, result: dict[str, Any]) -> int:
    if options.json:
        show.as_json(result)
        return 0
    width = max(map(len, result))
    for name, value in result.items():
        items = value if isinstance(value, list) else [value]
        click.echo(f"{name.replace('_', ' '):{width}}  {'  '.join(map(show.cell, items))}")
    return 0


@bench.command()
@click.option("--tasks", type=_COUNT, default=10_000, show_default=True, help="No-ops of one map.")
@click.option("--workers", type=click.IntRange(1, 1024), default=2, show_default=True)
@click.option("--slots", type=click.IntRange(1, 4096), default=1, show_default=True, help="Slots a worker.")
@click.option("--runs", type=click.IntRange(1, 1000), default=5, show_default=True, help="The median is reported.")
@pass_globals
def throughput(options: Globals, tasks: int, workers: int, slots: int, runs: int) -> int:
    """No-ops a second, from submitting to the last result."""
    from sparrowmq.bench import throughput as measured

    return _print(options, measured.run(tasks=tasks, workers=workers, slots=slots, runs=runs, url=_target(options)))


@bench.command()
@click.option("--trips", type=_COUNT, default=1000, show_default=True, help="Sequential round trips.")
@click.option("--workers", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--runs", type=click.IntRange(1, 1000), default=5, show_default=True, help="The median is reported.")
@pass_globals
def latency(options: Globals, trips: int, workers: int, runs: int) -> int:
    """Round trips of single tasks on an idle cluster, and the bare ZeroMQ round trip over as many hops."""
    from sparrowmq.bench import latency as measured

    return _print(options, measured.run(trips=trips, workers=workers, runs=runs, url=_target(options)))


@bench.command()
@click.argument("method")
@click.argument("jobs", type=_COUNT)
@click.argument("tasks", type=click.IntRange(1, 100_000))
@click.argument("duration_s", type=click.FloatRange(0.0, 3600.0), metavar="DURATION")
@click.argument("spread", type=click.FloatRange(0.0, 1.0), default=0.0)
@click.option("--dist", type=click.Choice(["exp", "constant"]), default="exp", show_default=True)
@click.option("--workers", type=click.IntRange(1, 1024), default=10, show_default=True, help="Single-slot workers.")
@click.option("--schedulers", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--load", type=click.FloatRange(0.01, 10.0), default=0.8, show_default=True, help="Share of the slots.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed draws the same jobs.")
@pass_globals
def sleep(options: Globals, /, **given: Any) -> int:
    """Response times of JOBS jobs of TASKS sleeps against an ideal central queue.

    METHOD: a policy (late-binding, batch, per-task, random, or BATCH+LATE_BINDING, BATCH, CHOOSE_TWO, RANDOM).
    DURATION: mean of a task, in seconds. SPREAD: how far the means of jobs may differ from it, as a share from 0
    to 1. Within a job, tasks are drawn from an exponential distribution, or all alike (--dist constant).
    """
    from sparrowmq.bench import sleep as measured

    return _print(options, measured.run(**given, url=_target(options)))
