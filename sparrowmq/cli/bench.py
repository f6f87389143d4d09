"""bench: the measurements of docs/performance.md as commands.

Owns: their options, and how results look. Must not know: how anything is measured (bench/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals, Group, pass_globals

_COUNT: Final = click.IntRange(1, 10_000_000)
_WORKERS: Final = click.IntRange(1, 1024)
# In the order of `compare.NAMES`, which is not imported for a help text; a test keeps them equal.
_SYSTEMS: Final = ("sparrowmq", "dask", "ray", "celery", "process-pool")
# In the order of `faults.NAMES`, likewise.
_FAULTS: Final = (
    "kill-worker", "kill-scheduler", "half", "stop-monitor-short", "stop-tree-short", "stop-monitor", "stop-tree",
    "kill-assistant", "kill-store", "starve",
)  # fmt: skip
_FAULT_COLUMNS: Final = ("fault", "n", "p50_ms", "p99_ms", "max_ms", "lost", "duplicated", "aim", "found")

# In the order of `flood.NAMES`, likewise.
_FLOODS: Final = ("garbage", "null", "pings", "queries", "submits", "comebacks")
_FLOOD_COLUMNS: Final = (
    "flood",
    "phase",
    "calls",
    "p50_ms",
    "p99_ms",
    "p99_of_quiet",
    "p99_ms_each",
    "frames",
    "counted",
)

_workers = click.option("--workers", type=_WORKERS, default=2, show_default=True)
_slots = click.option("--slots", type=click.IntRange(1, 4096), default=1, show_default=True, help="Slots a worker.")
_runs = click.option(
    "--runs", type=click.IntRange(1, 1000), default=5, show_default=True, help="The median is reported."
)
_tcp = click.option("--tcp", is_flag=True, help="Its processes speak over loopback TCP, not Unix sockets.")
_curve = click.option("--curve", is_flag=True, help="... encrypted, by keys made for it.")


@click.group(cls=Group)
def bench() -> None:
    """Measure throughput, latency, placement, memory; compare with other systems.

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
        click.echo(f"{name.replace('_', ' '):{width}}  {_text(value)}")
    return 0


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "  ".join(map(_text, value))
    return "-" if value is None else show.cell(value)


@bench.command()
@click.option("--tasks", type=_COUNT, default=10_000, show_default=True, help="No-ops of one call.")
@click.option(
    "--call",
    type=click.Choice(["map", "imap"]),
    default="map",
    show_default=True,
    help="imap streams: its memory does not grow with the tasks.",
)
@_workers
@_slots
@_runs
@_tcp
@_curve
@pass_globals
def throughput(options: Globals, /, **given: Any) -> int:
    """No-ops a second by one call, from submitting to the last result, and the memory it takes."""
    from sparrowmq.bench import throughput as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--tasks", type=_COUNT, default=10_000, show_default=True, help="Calls of client.submit.")
@_workers
@_slots
@_runs
@pass_globals
def submit(options: Globals, /, **given: Any) -> int:
    """No-ops a second by a call each, from the first one to the last result."""
    from sparrowmq.bench import submit as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--trips", type=_COUNT, default=1000, show_default=True, help="Sequential round trips.")
@click.option("--workers", type=_WORKERS, default=1, show_default=True)
@_runs
@_tcp
@_curve
@pass_globals
def latency(options: Globals, /, **given: Any) -> int:
    """Round trips of single tasks on an idle cluster, beside bare ZeroMQ over as many hops."""
    from sparrowmq.bench import latency as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--tasks", type=_COUNT, default=200, show_default=True, help="Arguments, then results, of one map.")
@click.option(
    "--size",
    "size_bytes",
    type=click.IntRange(8, 64 * 2**20 - 4096),
    default=2**20,
    show_default=True,
    metavar="BYTES",
    help="Of each.",
)
@_workers
@_slots
@_runs
@_tcp
@_curve
@pass_globals
def payload(options: Globals, /, **given: Any) -> int:
    """MB/s of large arguments, and of large results, through one scheduler."""
    from sparrowmq.bench import payload as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--tasks", type=_COUNT, default=2000, show_default=True, help="Runs of the command.")
@_workers
@_slots
@_runs
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
@pass_globals
def commands(options: Globals, /, argv: tuple[str, ...], **given: Any) -> int:
    """Commands a second: ARGV, or `true` if there is none."""
    from sparrowmq.bench import commands as measured

    return _print(options, measured.run(argv=argv or ("true",), **given, url=_target(options)))


@bench.command()
@click.option("--workers", type=_WORKERS, default=10, show_default=True, help="Single-slot workers.")
@click.option("--schedulers", type=_WORKERS, default=1, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600.0), default=10.0, show_default=True, help="To watch it idle, in all."
)
@_runs
@pass_globals
def footprint(options: Globals, /, **given: Any) -> int:
    """What an idle cluster takes of processor and memory, and how long `up` takes."""
    from sparrowmq.bench import footprint as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--tasks", type=_COUNT, default=100_000, show_default=True, help="No-ops queued behind busy slots.")
@_runs
@pass_globals
def memory(options: Globals, tasks: int, runs: int) -> int:
    """Bytes of memory that a queued task costs its scheduler, beyond its arguments."""
    from sparrowmq.bench import memory as measured

    return _print(options, measured.run(tasks=tasks, runs=runs, url=_target(options)))


@bench.command()
@click.argument("method")
@click.argument("jobs", type=_COUNT)
@click.argument("tasks", type=click.IntRange(1, 100_000))
@click.argument("duration_s", type=click.FloatRange(0.0, 3600.0), metavar="DURATION")
@click.argument("spread", type=click.FloatRange(0.0, 1.0), default=0.0)
@click.option("--dist", type=click.Choice(["exp", "constant"]), default="exp", show_default=True)
@click.option("--workers", type=_WORKERS, default=10, show_default=True, help="Single-slot workers.")
@click.option("--schedulers", type=_WORKERS, default=1, show_default=True)
@click.option("--load", type=click.FloatRange(0.01, 10.0), default=0.8, show_default=True, help="Share of the slots.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed draws the same jobs.")
@click.option(
    "--record",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write what was played for `sparrowmq sim replay`.",
)
@pass_globals
def sleep(options: Globals, /, **given: Any) -> int:
    """Response times of JOBS jobs of TASKS sleeps against an ideal central queue.

    METHOD: a policy (late-binding, assisted, batch, per-task, random, or BATCH+LATE_BINDING, BATCH, CHOOSE_TWO,
    RANDOM). DURATION: mean of a task, in seconds. SPREAD: how far the means of jobs may differ from it, as a share
    from 0 to 1. Within a job, tasks are drawn from an exponential distribution, or all alike (--dist constant).
    """
    from sparrowmq.bench import sleep as measured

    return _print(options, measured.run(**given, url=_target(options)))


@bench.command()
@click.option("--n", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Kills of a process.")
@click.option(
    "--faults",
    "chosen",
    metavar="LIST",
    default=",".join(_FAULTS),
    help=f"Which, separated by commas; all by default: {', '.join(_FAULTS)}.",
)
@click.option("--seconds", type=click.FloatRange(1.0, 86_400.0), default=60.0, show_default=True, help="Of starvation.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed chooses the same victims.")
@pass_globals
def faults(options: Globals, /, chosen: str, **given: Any) -> int:
    """How long until lost work runs again, and that nothing is lost or shown twice.

    Each fault is done to a cluster of its own on this machine, whatever --redis says: slower ones a fixed share of
    --n times. The exit status is 1 where something was lost, shown twice, or did not recover.
    """
    from sparrowmq.bench import faults as measured

    names = [name.strip() for name in chosen.split(",") if name.strip()]
    result = measured.run(faults=names, say=lambda text: click.echo(text, err=True), **given)
    _show(options, result, fault_row, _FAULT_COLUMNS)
    if not all(row["ok"] for row in result["rows"]):
        raise Ended(1, "faults", "not all faults are survived", said=True)
    return 0


def _show(
    options: Globals,
    result: dict[str, Any],
    as_read: Callable[[dict[str, Any]], dict[str, Any]],
    columns: Sequence[str],
) -> None:
    """Print a result and its rows as asked for; ``as_read`` makes of a row what stands in the table for people."""
    rows = result["rows"]
    if options.output == "jsonl":
        for row in rows:
            show.as_json(row)
    elif options.json:
        show.as_json(result)
    else:
        show.print_table([as_read(row) for row in rows], columns)


def fault_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `faults` as people read it: further counts, and what went wrong, in one column."""
    known = {"fault", "n", "p50_ms", "p99_ms", "max_ms", "lost", "duplicated", "aim", "error", "ok"}
    more = [
        f"{_text(value)} {name.removeprefix('told_').replace('_', ' ')}"
        for name, value in row.items()
        if name not in known
    ]
    told = show.listed([*more, show.one_line(row["error"])])
    return {name: "-" if row[name] is None else row[name] for name in _FAULT_COLUMNS if name in row} | {"found": told}


@bench.command()
@click.option("--jobs", type=_COUNT, default=1000, show_default=True, help="Single-task jobs a round.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of both policies in turn.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0.001, 3600.0),
    default=0.1,
    show_default=True,
    help="Mean of a task, in seconds.",
)
@click.option("--workers", type=_WORKERS, default=10, show_default=True, help="Single-slot workers.")
@click.option("--schedulers", type=_WORKERS, default=1, show_default=True)
@click.option("--load", type=click.FloatRange(0.01, 10.0), default=0.9, show_default=True, help="Share of the slots.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed draws the same jobs.")
@pass_globals
def hints(options: Globals, /, **given: Any) -> int:
    """How long tasks queue by load hints (policy assisted), beside late binding on the same cluster.

    Jobs of one task and of ten, with eager launches (`scheduler.eager`) and without, as in the paper. Always on
    clusters of its own.
    """
    from sparrowmq.bench import hints as measured

    result = measured.run(**given)
    if options.json:
        return _print(options, result)
    click.echo(show.table(result["rows"], list(result["rows"][0])))
    return 0


@bench.command()
@click.argument("systems", nargs=-1, type=click.Choice(_SYSTEMS))
@click.option("--slots", type=click.IntRange(1, 1024), default=2, show_default=True, help="Processes of each.")
@click.option("--tasks", type=_COUNT, default=10_000, show_default=True, help="No-ops by one map, and by submits.")
@click.option("--trips", type=_COUNT, default=1000, show_default=True, help="Sequential round trips.")
@click.option("--payloads", type=_COUNT, default=200, show_default=True, help="Arguments and results of 1 MiB.")
@click.option("--naps", type=_COUNT, default=1000, show_default=True, help="Sleeps of 10 ms.")
@_runs
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1.0), default=300.0, show_default=True, help="Seconds a system."
)
@click.option(
    "--cache", type=click.Path(file_okay=False, path_type=Path), help="Where to keep the other systems' installations."
)
@click.option("--markdown", is_flag=True, help="Print a table for docs/performance.md.")
@pass_globals
def compare(options: Globals, /, systems: tuple[str, ...], markdown: bool, **given: Any) -> int:
    """The same work on other systems: dask, Ray, Celery, a process pool.

    SYSTEMS: which; all by default. All run on this machine, one after the other, whatever --redis says. What is
    not installed is installed first, from the package index, below ~/.cache/sparrowmq. It takes several minutes.
    """
    from sparrowmq.bench import compare as measured, side_by_side

    result = measured.run(names=systems or _SYSTEMS, say=lambda text: click.echo(text, err=True), **given)
    if options.json:
        return _print(options, result)
    if markdown:
        click.echo(side_by_side.markdown(result))
        return 0
    rows = side_by_side.rows(result)
    click.echo(show.table(rows, list(rows[0])))
    for failure in side_by_side.failures(result):
        click.echo(f"\nfailed: {failure}")
    return 0


@bench.command()
@click.option("--frames", type=_COUNT, default=100_000, show_default=True, help="Of each flood.")
@click.option(
    "--floods",
    "chosen",
    metavar="LIST",
    default=",".join(_FLOODS),
    help=f"Which, separated by commas; all by default: {', '.join(_FLOODS)}.",
)
@click.option("--seconds", type=click.FloatRange(0.5, 3600.0), default=5.0, show_default=True, help="Of each flood.")
@click.option("--rounds", type=_COUNT, default=1, show_default=True, help="Of each flood, with quiet times between.")
@click.option(
    "--submits-per-s",
    type=click.FloatRange(0.0, 1e9),
    default=500.0,
    show_default=True,
    help="scheduler.limits.submits_per_s; 0: no limit.",
)
@pass_globals
def flood(options: Globals, /, chosen: str, **given: Any) -> int:
    """What an honest client notices of floods: its latency while nothing else goes on, and during each.

    By strangers: garbage, and peers without keys (null). By a client in order: pings, queries, submits, and submits of
    one that connects again whenever it is sent away (comebacks). On a cluster of its own, with keys and over TCP,
    whatever --redis says. The honest client makes up to 200 calls a second: it has to go by --submits-per-s, too.
    """
    from sparrowmq.bench import flood as measured

    names = [name.strip() for name in chosen.split(",") if name.strip()]
    result = measured.run(floods=names, say=lambda text: click.echo(text, err=True), **given)
    _show(options, result, _flood_row, _FLOOD_COLUMNS)
    return 0


def _flood_row(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"counted": _text(row.get("counted", {})), "frames": row.get("frames", "-")}
