"""Plots of figures: which lines they have, and how matplotlib draws them.

Owns: charts as plain values, the file's kind, colours. Must not know: how points were run. matplotlib (the extra
`figures`) is imported when there is something to draw, or to find out whether it could be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sparrowmq.errors import UsageError
from sparrowmq.experiments.tables import Record

SUFFIXES: Final = (".png", ".svg")
SIZE_INCHES: Final = (12.0, 8.0)
DPI: Final = 100  # 1200 x 800
# Okabe and Ito's colours: told apart by the colour-blind, too; each line has a marker of its own besides.
_COLOURS: Final = ("#D55E00", "#E69F00", "#009E73", "#0072B2", "#000000", "#CC79A7", "#56B4E9")
_MARKERS: Final = ("v", "s", "^", "o", "D", "P", "X")
_HOLLOW: Final = {"markerfacecolor": "none", "markeredgewidth": 1.8, "markersize": 13, "linestyle": "none"}
_TICKS: Final = (1.0, 2.0, 5.0)  # of each power of ten
_DENSE_TICKS: Final = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


class Series(NamedTuple):
    """One line: points of results, and the paper's, drawn hollow. A point is (x, y); x may be a name."""

    label: str
    points: Sequence[tuple[float | str, float]]
    paper: Sequence[tuple[float | str, float]] = ()


class Chart(NamedTuple):
    """One plot."""

    title: str
    x_label: str
    y_label: str
    series: list[Series]
    log_y: bool = False


def check(path: Path) -> None:
    """Raise UsageError if nothing could be drawn into ``path``, for its kind or for want of matplotlib."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    try:
        _figure()
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'sparrowmq[figures]'"
        ) from None


def draw(chart: Chart, path: Path) -> None:
    """Draw into a file: PNG of 1200 x 800, or SVG, by its suffix. Raises OSError."""
    figure = _figure()
    axes = figure.add_subplot()
    names = [str(x) for series in chart.series for x, _ in series.points if isinstance(x, str)]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    line = "none" if places else "-"  # nothing lies between two names
    for number, series in enumerate(chart.series):
        style = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        xs, ys = _split(series.points, places)
        axes.plot(xs, ys, **style, linestyle=line, linewidth=2, markersize=7, label=series.label)
        xs, ys = _split(series.paper, places)
        axes.plot(xs, ys, **style, **_HOLLOW)
    if any(series.paper for series in chart.series):
        axes.plot([], [], color="#666666", marker="o", **_HOLLOW, label="hollow: the paper")
    _dress(axes, chart, places)
    figure.savefig(path, format=path.suffix.lower().removeprefix("."))


def _figure() -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, nothing global

    return Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")


def _split(points: Sequence[tuple[float | str, float]], places: dict[str, int]) -> tuple[list[float], list[float]]:
    return [places.get(x, 0) if isinstance(x, str) else x for x, _ in points], [y for _, y in points]


def _dress(axes: Any, chart: Chart, places: dict[str, int]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set_title(chart.title, fontsize=15)
    axes.set_xlabel(chart.x_label, fontsize=13)
    axes.set_ylabel(chart.y_label, fontsize=13)
    axes.tick_params(labelsize=12)
    if places:
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlim(-0.5, len(places) - 0.5)
    if chart.log_y:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = _TICKS if high > 20.0 * low else _DENSE_TICKS
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=ticks, numticks=100))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=0.0)
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    if chart.series:
        axes.legend(fontsize=12)


# -- the charts of the figures, from the rows of their tables


def run(rows: Sequence[Record], title: str = "Simulated job response times") -> Chart:
    """Return medians over load, a line for each policy; for one load, over the policies."""
    if len({row["load"] for row in rows}) > 1:
        series = _lines(rows, lambda row: str(row["policy"]), "load", "median_ms", "paper_ms")
        return Chart(title, "load", "median job response (ms)", series, log_y=True)
    series = [Series(name, _points(rows, "policy", f"{name}_ms")) for name in ("median", "p95", "p99")]
    return Chart(title, "policy", "job response (ms)", series, log_y=True)


def fig3(rows: Sequence[Record]) -> Chart:
    """Return Fig 3 with the paper's points."""
    title = "Median job response by placement policy"
    series = _lines(rows, lambda row: str(row["policy"]), "load", "median_ms", "paper_ms")
    return Chart(title, "load", "median job response (ms)", series, log_y=True)


def ratio(rows: Sequence[Record]) -> Chart:
    """Return Fig 14: a line for each load."""

    def label(row: Record) -> str:
        return f"{row['policy']}, load {row['load']:g}"

    series = _lines(rows, label, "probe_ratio", "median_ms", "paper_ms")
    return Chart("Median job response by probe ratio", "probe ratio", "median job response (ms)", series, log_y=True)


def cancel(rows: Sequence[Record]) -> Chart:
    """Return late binding with and without cancellation."""

    def label(row: Record) -> str:
        return f"with{'' if row['cancellation'] else 'out'} cancellation"

    series = _lines(rows, label, "load", "median_ms", "")
    return Chart("Late binding and cancellation", "load", "median job response (ms)", series)


def hetero(rows: Sequence[Record]) -> Chart:
    """Return short jobs' median and 95th percentile in each mixture, and the ideal."""
    several = len({(row["policy"], row["load"]) for row in rows}) > 1

    def mixture(row: Record) -> str:
        return f"{row['slots']} slots\n{row['long_share']:.0%} of {row['long_duration_s']:g} s"

    series = []
    for key in dict.fromkeys((row["policy"], row["load"]) for row in rows):
        own = [row | {"mixture": mixture(row)} for row in rows if (row["policy"], row["load"]) == key]
        of = f", {key[0]} at load {key[1]:g}" if several else ""
        paper = _points(own, "mixture", "paper_p95_ms")
        series.append(Series(f"95th percentile{of}", _points(own, "mixture", "short_p95_ms"), paper))
        series.append(Series(f"median{of}", _points(own, "mixture", "short_median_ms")))
    own = [row | {"mixture": mixture(row)} for row in rows]
    ideal = dict(_points(own, "mixture", "ideal_ms"))
    series.append(Series("ideal", list(ideal.items())))
    return Chart("Short jobs beside long ones", "slots, long jobs", "response of short jobs (ms)", series, log_y=True)


def hints(rows: Sequence[Record]) -> Chart:
    """Return median delays over load, for one load over the interval of beats; a line for each number of schedulers."""
    over_load = len({row["load"] for row in rows}) > 1

    def label(row: Record) -> str:
        beats = f", beats each {row['beats_ms']:g} ms" if over_load and row["beats_ms"] else ""
        return f"{row['policy']}{beats}, schedulers: {row['schedulers']}"

    series = _lines(rows, label, "load" if over_load else "beats_ms", "delay_p50_ms", "")
    x_label = "load" if over_load else "interval of beats (ms; 0: no assistant)"
    return Chart("Load hints", x_label, "median scheduling delay (ms)", series, log_y=True)


def replay(rows: Sequence[Record]) -> Chart:
    """Return the percentiles of a replay beside those of the recording and of the central queue."""
    series = []
    for row in rows:
        points = [(name, row[f"{name}_ms"]) for name in ("median", "p95", "p99") if row[f"{name}_ms"] is not None]
        series.append(Series(f"{row['policy']}, simulated", points))
    for who in ("recorded", "omniscient"):
        first = rows[0] if rows else {}
        values = [(name, first.get(f"{who}_{name}_ms")) for name in ("median", "p95", "p99")]
        if points := [(name, value) for name, value in values if value is not None]:
            series.append(Series(who, points))
    return Chart("Replay of a trace", "of all jobs", "job response (ms)", series, log_y=True)


def _lines(rows: Sequence[Record], label: Callable[[Record], str], x: str, y: str, paper: str) -> list[Series]:
    """Return a series for each label, in the order in which they first come."""
    lines: dict[str, list[Record]] = {}
    for row in rows:
        lines.setdefault(label(row), []).append(row)
    return [Series(name, _points(own, x, y), _points(own, x, paper)) for name, own in lines.items()]


def _points(rows: Sequence[Record], x: str, y: str) -> list[tuple[float | str, float]]:
    """Return (x, y) of the rows that have both."""
    return [(row[x], row[y]) for row in rows if row.get(y) is not None]
