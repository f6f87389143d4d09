"""sim swarm: a hunt for bugs with random clusters, workloads and faults.

Owns: the options and what is printed. Must not know: how seeds are played (experiments/swarm.py).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.watching import watching

if TYPE_CHECKING:
    from sparrowmq.experiments.swarm import Report

_FAILED: Final = 1
_INTERRUPTED: Final = 130
_FINDING_CHARS_MAX: Final = 600


@click.command(cls=Command)
@click.option("--seeds", type=click.IntRange(1, 10_000_000), default=200, show_default=True, help="How many.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--workers", type=click.IntRange(1, 1000), default=20, show_default=True, help="About so many a cluster.")
@click.option(
    "--duration", type=click.FloatRange(1.0, 3600.0), default=30.0, show_default=True, metavar="SECONDS",
    help="Virtual seconds of workload and faults.",
)  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 256), default=None, help="At a time; default: as many as CPUs.")
@click.option(
    "--resume", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Keep a line a finished seed here, and leave out those that are there.",
)  # fmt: skip
@click.option(
    "--transcripts", type=click.Path(file_okay=False, path_type=Path), default=Path(), metavar="DIRECTORY",
    help="Where the story of a seed that failed goes; default: here.",
)  # fmt: skip
@pass_globals
def swarm(
    options: Globals, /, seeds: int, first: int, workers: int, duration: float, processes: int | None,
    resume: Path | None, transcripts: Path,
) -> int:  # fmt: skip
    """Hunt for bugs: random clusters, jobs and faults, one from each seed.

    Invariants are checked after each event; then faults heal, and all jobs must end with nothing left behind. A seed
    that fails is told in one line that plays it again, and in a file.
    """
    from sparrowmq.experiments import swarm as hunt

    began = time.monotonic()
    report = hunt.run(
        first=first,
        seeds=seeds,
        parameters=hunt.Parameters(workers, duration),
        processes=processes or len(os.sched_getaffinity(0)),
        resume=resume,
        transcripts=transcripts,
        watch=watching,
    )
    took_s = time.monotonic() - began
    if options.json:
        import msgspec

        show.as_json({**msgspec.to_builtins(report), "took_s": round(took_s, 2)})
    else:
        _tell(report, took_s)
    if report.interrupted:
        return _INTERRUPTED
    return _FAILED if report.findings else 0


def _tell(report: Report, took_s: float) -> None:
    for finding in report.findings:
        click.echo(f"{finding.replay}  # {finding.found_by}: {show.one_line(finding.failure, _FINDING_CHARS_MAX)}")
        if finding.transcript:
            click.echo(f"  transcript: {finding.transcript}")
    of = f" of {report.wanted:,}" if report.seeds < report.wanted else ""
    resumed = f" ({report.resumed:,} of them before)" if report.resumed else ""
    click.echo(
        f"{report.seeds:,}{of} seeds{resumed}, {len(report.findings):,} failed; {report.tasks:,} tasks, "
        f"{report.events:,} events (minimum {report.events_min:,} a seed, median {report.events_median:,.0f}), "
        f"{report.virtual_s:,.0f} virtual seconds in {took_s:.1f} s"
    )
