"""What the commands of `sim` share: options, checks before the run, the bar, and what is printed and saved at the end.

Owns: the flow of one command. Must not know: any single figure, how points are run or tables are made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Ended, Globals
from sparrowmq.cli.values import ParamType, Whole
from sparrowmq.cli.watching import watching
from sparrowmq.errors import UsageError

if TYPE_CHECKING:
    from sparrowmq.experiments.cache import Cache
    from sparrowmq.experiments.plot import Chart
    from sparrowmq.experiments.sweep import Report
    from sparrowmq.experiments.tables import Done, Record, Table
    from sparrowmq.sim.setup import Setup
    from sparrowmq.sim.workload import Job

FAILED: Final = 1
INTERRUPTED: Final = 130
LIST_MAX: Final = 100  # items of a comma list
PROCESSES_MAX: Final = 256
FAILURES_SHOWN: Final = 5


class Study(NamedTuple):
    """What one command is to run, and how its results are shown. ``names``: what people call a Setup's fields."""

    setups: Sequence[Setup]
    tabulate: Callable[[Done], Table]
    chart: Callable[[Sequence[Record]], Chart]
    names: Mapping[str, str]
    trace: Sequence[Job] | None = None


class Files(NamedTuple):
    """Where results go, and how they come about: the options of `common`."""

    csv: Path | None
    plot: Path | None
    processes: int | None
    cache: bool


# -- options


class Field(ParamType):
    """The value of one field of a Setup; what is expected is asked there."""

    def __init__(self, field: str) -> None:
        self.field = field
        self.name = "NAME" if field == "policy" else "SECONDS" if field.endswith("_s") else "VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as the field has it."""
        from sparrowmq.sim import setup

        if self.field == "policy":
            try:
                return setup.policy_name(str(value))
            except UsageError as error:
                self.fail(f"{error}. {error.hint}", param, ctx)
        converted = value
        if isinstance(value, str):
            converted = _seconds(value) if self.field.endswith("_s") else setup.number(self.field, value)
        if reason := setup.wrong(self.field, converted):
            self.fail(reason, param, ctx)
        return converted


def _seconds(text: str) -> float | str:
    """Return the duration that a text is, or the text if it is none."""
    from sparrowmq.config import duration_s

    try:
        return duration_s(text)
    except ValueError:
        return text


class Fields(ParamType):
    """Several values of one field, separated by commas; each counts once."""

    def __init__(self, field: str) -> None:
        self._one = Field(field)
        self.name = f"{self._one.name},..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Return them in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts):
            self.fail(f"{value!r}: expected values separated by commas, and found an empty one", param, ctx)
        if len(parts) > LIST_MAX:
            self.fail(f"{len(parts):,} values; expected {LIST_MAX} at the most", param, ctx)
        return tuple(dict.fromkeys(self._one.convert(part, param, ctx) for part in parts))


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def field_option(flag: str, field: str, help: str) -> Decorator:
    """Return an option for one field of a Setup, passed by the field's name; None where it is not given."""
    return click.option(flag, field.rpartition(".")[2], type=Field(field), help=help)


def loads_option(default: str) -> Decorator:
    """Return --loads; ``default`` is for the help text."""
    help = f"Shares of all slots that are kept busy.  [default: {default}]"
    return click.option("--loads", "--load", "loads", type=Fields("load"), help=help)


def policies_option(default: str) -> Decorator:
    """Return --policies; ``default`` is for the help text."""
    help = f"random, per-task, batch, late-binding, assisted, omniscient.  [default: {default}]"
    return click.option("--policies", "--policy", "policies", type=Fields("policy"), help=help)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that every command has: they are passed as ``files``, ``jobs`` and ``seed``."""

    def called(
        *arguments: Any, csv: Path | None, plot: Path | None, processes: int | None, no_cache: bool, **given: Any
    ) -> Any:
        return command(*arguments, files=Files(csv, plot, processes, not no_cache), **given)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    path = click.Path(path_type=Path)
    for option in (
        click.option("--no-cache", is_flag=True, help="Run all points, and keep none for the next time."),
        click.option("--plot", type=path, metavar="FILE", help="Draw into a .png or .svg file; needs matplotlib."),
        click.option("--csv", type=path, metavar="FILE", help="Save all columns of the results."),
        click.option(
            "--processes", type=Whole(1, PROCESSES_MAX), help="Points at a time.  [default: the CPUs that may be used]"
        ),
        click.option(
            "--seed", type=Field("seed"), default=1, show_default=True, help="The same seed, the same figures."
        ),
        click.option("--job-count", "jobs", type=Field("jobs"), help="Jobs that count at each point."),
    ):
        called = option(called)
    return called


NAMES: Final[Mapping[str, str]] = {  # of the flags that many commands have
    "policy": "--policies",
    "load": "--loads",
    "jobs": "--job-count",
    "seed": "--seed",
    "workers": "--workers",
    "slots": "--slots",
    "schedulers": "--schedulers",
}


# -- one command, from the checks to the exit status


def carry_out(options: Globals, study: Study, files: Files) -> int:
    """Check everything, run what is not known yet, print and save; return 0.

    Raises UsageError before anything is run, and Ended at the end when points are missing.
    """
    from sparrowmq.executor.cpus import available_slots
    from sparrowmq.experiments import sweep
    from sparrowmq.experiments.cache import Cache, default_directory
    from sparrowmq.sim import setup as setups

    for setup in study.setups:
        setups.check(setup, study.names, drawn=study.trace is None)
    _check_files(files)
    cache = Cache(default_directory(), study.trace) if files.cache else None
    report = sweep.run(
        study.setups,
        trace=study.trace,
        processes=files.processes or available_slots(),
        cache=cache,
        watch=watching,
    )
    done = [(setup, row) for setup, row in zip(study.setups, report.rows, strict=True) if row is not None]
    table = study.tabulate(done)
    show.emit(options, table.rows, lambda: _print(table, report), quiet=lambda row: row["median_ms"])
    if done:
        _save(study, table, files)
    if cache is not None and cache.problem:
        click.echo(f"warning: {cache.problem}", err=True)
    _raise_if_incomplete(study, report, cache)
    return 0


def _check_files(files: Files) -> None:
    """Raise UsageError for what could not be written in the end."""
    from sparrowmq.experiments import plot

    for flag, path in (("--csv", files.csv), ("--plot", files.plot)):
        if path is None:
            continue
        if path.is_dir():
            raise UsageError(f"{flag} {path}: expected a file, and this is a directory")
        if not path.parent.is_dir():
            raise UsageError(f"{flag} {path}: there is no directory {path.parent}", hint="make it first")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise UsageError(f"{flag} {path}: you may not write there")
    if files.csv is not None and files.csv == files.plot:
        raise UsageError(f"--csv and --plot name the same file {files.csv}")
    if files.plot is not None:
        plot.check(files.plot)


def _print(table: Table, report: Report) -> None:
    from sparrowmq.experiments import tables

    if table.rows:
        show.print_table(tables.for_people(table), table.columns)
        if table.note:
            click.echo(f"\n{table.note}")
    if report.cached:
        kept = f"{report.cached} of {show.count(len(report.rows), 'point')}"
        click.echo(f"{kept} kept from an earlier run; --no-cache runs all anew", err=True)


def _save(study: Study, table: Table, files: Files) -> None:
    from sparrowmq.experiments import plot, tables

    if files.csv is not None:
        files.csv.write_text(tables.as_csv(table), encoding="utf-8")
    if files.plot is not None:
        plot.draw(study.chart(table.rows), files.plot)


def _raise_if_incomplete(study: Study, report: Report, cache: Cache | None) -> None:
    from sparrowmq.experiments import sweep

    points = show.count(len(report.rows), "point")
    if report.interrupted:
        kept = cache is not None and not cache.problem
        hint = "the same command goes on from there" if kept else "nothing is kept for the next time"
        raise Ended(INTERRUPTED, "interrupted", f"interrupted; {report.finished} of {points} are finished", hint=hint)
    if report.failures:
        reasons = [f"{sweep.name(study.setups[at])}: {why}" for at, why in sorted(report.failures.items())]
        more = len(reasons) - FAILURES_SHOWN
        said = "; ".join(reasons[:FAILURES_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise Ended(FAILED, "point_failed", f"{len(reasons)} of {points} failed: {said}")
