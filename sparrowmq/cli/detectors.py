"""sim detectors: failure detectors on the same beats.

Owns: the options and what is printed. Must not know: how beats are made or counted (experiments/).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from sparrowmq.cli import show
from sparrowmq.cli.base import Command, Globals, pass_globals
from sparrowmq.cli.values import Duration, ParamType
from sparrowmq.cli.watching import watching

SECONDS_MIN: Final = 60.0
SECONDS_MAX: Final = 864_000.0
_STAGES: Final = (
    "scenario", "detector", "false_suspects_per_h", "suspect_ms", "suspect_p99_ms",
    "false_deaths", "dead_ms", "dead_p99_ms", "dead_max_ms",
)  # fmt: skip


class _Names(ParamType):
    """Several of some names, separated by commas; the names are known to a function, called when they are needed."""

    name = "NAME,..."

    def __init__(self, known: str) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return them in the order given, each once."""
        if isinstance(value, tuple):
            return value
        known = _known(self._known)
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in known:
                self.fail(f"{name!r} is none of them: expected {', '.join(known)}", param, ctx)
        return names


def _known(what: str) -> tuple[str, ...]:
    if what == "detectors":
        from sparrowmq import detection

        return detection.NAMES
    from sparrowmq.experiments.beats import SCENARIOS

    return tuple(scenario.name for scenario in SCENARIOS)


@click.command(cls=Command)
@click.option("--detectors", "names", type=_Names("detectors"), help="Which.  [default: all]")
@click.option("--scenarios", type=_Names("scenarios"), help="What happens to the beats.  [default: all]")
@click.option(
    "--seconds", type=Duration(least_s=SECONDS_MIN, most_s=SECONDS_MAX), default=7200.0, show_default=True,
    help="Of beats in each scenario, ten a second.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The same seed, the same beats.")
@click.option("--detection-beats", type=click.FloatRange(0.0, 100.0), help="The margin.  [default: the assistant's]")
@click.option("--confirm-beats", type=click.FloatRange(0.0, 100.0), help="Until dead.  [default: the assistant's]")
@pass_globals
def detectors(
    options: Globals,
    /,
    names: tuple[str, ...] | None,
    scenarios: tuple[str, ...] | None,
    seconds: float,
    seed: int,
    detection_beats: float | None,
    confirm_beats: float | None,
) -> int:
    """Failure detectors on the same beats: how soon they notice a crash, how often they are wrong.

    Beats of one node each 100 ms, made up from the seed. The first table compares detectors where they are wrong
    equally often, the second what the assistant makes of them: suspect first, dead later. Rows for machines (-o json)
    hold the whole curves of T_D against T_MR.
    """
    from msgspec.structs import replace

    from sparrowmq.experiments import detectors as experiment
    from sparrowmq.settings import AssistantSettings

    given = {"detection_beats": detection_beats, "confirm_beats": confirm_beats}
    settings = replace(AssistantSettings(), **{field: value for field, value in given.items() if value is not None})
    rows = experiment.run(
        names=names or _known("detectors"),
        scenarios=scenarios or _known("scenarios"),
        seconds=seconds,
        seed=seed,
        settings=settings,
        watch=watching,
    )

    def people() -> None:
        click.echo("T_D at the same number of mistakes an hour (60, 6), and its difference from the fixed timeout's\n")
        _print(experiment.compared(rows))
        click.echo(
            f"\nSuspect {settings.detection_beats:g} intervals after a beat was due, dead {settings.confirm_beats:g} "
            "later: times from a crash until the assistant says so\n"
        )
        _print([{column: row[column] for column in _STAGES} for row in experiment.two_stage(rows, settings)])

    show.emit(options, rows, people, quiet=lambda row: row["t_d_ms"])
    return 0


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(rows[0])
    cells = [{column: _text(column, row[column]) for column in columns} for row in rows]
    for column in columns[2:]:
        width = max(len(column), *(len(row[column]) for row in cells))
        for row in cells:
            row[column] = row[column].rjust(width)
    show.print_table(cells, columns)


def _text(column: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:+.1f}" if column.endswith("_percent") else f"{value:,.1f}"
    return show.cell(value)
