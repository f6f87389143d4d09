"""What a figure's results look like as rows: for machines, for people, as CSV.

Owns: the columns, what stands beside a result (the paper's point, a share of another row). Must not know: how points
are run, how rows reach the screen.

A row for machines begins with policy, load, jobs, median_ms, p95_ms, p99_ms, delay_p50_ms; None where there is no
number.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sparrowmq.sim import figures
from sparrowmq.sim.point import Row
from sparrowmq.sim.setup import OMNISCIENT, Setup
from sparrowmq.sim.workload import Job

FIRST: Final = ("policy", "load", "jobs", "median_ms", "p95_ms", "p99_ms", "delay_p50_ms")
PERCENTILES: Final = ("median", "p95", "p99")

Done = Sequence[tuple[Setup, Row]]  # the finished points, in the order asked
Record = dict[str, Any]


class Table(NamedTuple):
    """The rows, the columns that people see, and what is to be said below them."""

    rows: list[Record]
    columns: tuple[str, ...]
    note: str = ""


def plain(setup: Setup, row: Row) -> Record:
    """Return what every figure has of a point: its results, and the cluster they are of."""
    values = msgspec.structs.asdict(row)
    record = {name: _finite(values.pop(name)) for name in FIRST}
    record |= {name: _finite(value) for name, value in values.items()}
    cluster = ("workers", "slots", "schedulers", "seed")
    return record | {name: getattr(setup, name) for name in cluster}


def run(done: Done) -> Table:
    """Return the table of any set-ups."""
    return Table([plain(*point) for point in done], (*FIRST, "messages_per_task", "unfinished"))


def fig3(done: Done) -> Table:
    """Return Fig 3: beside each median the paper's, and how far it is from that."""
    rows = []
    for setup, row in done:
        record = plain(setup, row)
        paper_ms = figures.FIG3_MEDIAN_MS.get((setup.policy, setup.load))
        above_ms = figures.FIG3_ABOVE_MS.get((setup.policy, setup.load))
        rows.append(record | {"paper_ms": paper_ms, "deviation_percent": _change(record["median_ms"], paper_ms)})
        rows[-1]["paper_above_ms"] = above_ms
    paper = figures.FIG3
    note = ""
    if any((setup.workers, setup.slots) != (paper.workers, paper.slots) for setup, _ in done):
        note = f"the paper's points are those of {paper.workers:,} workers x {paper.slots} slots"
    columns = ("policy", "load", "jobs", "median_ms", "paper_ms", "deviation_percent", *FIRST[4:])
    return Table(rows, columns, note)


def ratio(done: Done) -> Table:
    """Return Fig 14: how many times better each median is than that of ratio 1 at the same load."""
    alone = {(setup.policy, setup.load): row.median_ms for setup, row in done if setup.probe_ratio == 1.0}
    rows = []
    for setup, row in done:
        record = plain(setup, row)
        record["paper_ms"] = figures.RATIO_MEDIAN_MS.get((setup.load, setup.probe_ratio))
        record["better_than_1"] = _times(alone.get((setup.policy, setup.load)), row.median_ms)
        rows.append(record)
    columns = (
        "policy",
        "load",
        "probe_ratio",
        *FIRST[2:4],
        "better_than_1",
        "paper_ms",
        *FIRST[4:],
        "messages_per_task",
    )
    return Table(rows, columns, figures.RATIO_SAYS)


def cancel(done: Done) -> Table:
    """Return late binding with and without cancellation: what it takes off the median, and what it costs."""
    without = {setup.load: row for setup, row in done if not setup.cancellation}
    rows = []
    for setup, row in done:
        record = plain(setup, row)
        base = without.get(setup.load) if setup.cancellation else None
        record["median_change_percent"] = _change(row.median_ms, base.median_ms if base else None)
        record["messages_change_percent"] = _change(row.messages_per_task, base.messages_per_task if base else None)
        rows.append(record)
    changes = ("median_change_percent", "messages_per_task", "messages_change_percent")
    return Table(rows, ("load", "cancellation", *FIRST[2:], *changes), figures.CANCEL_SAYS)


def hetero(done: Done) -> Table:
    """Return the heterogeneous workload: short jobs against the ideal, which is how long one of their tasks takes."""
    rows = []
    for setup, row in done:
        record, workload = plain(setup, row), setup.workload
        ideal_ms = workload.duration_s * 1e3
        paper = (setup.slots, workload.long_share, workload.long_duration_s)
        rows.append(
            record
            | {"long_share": workload.long_share, "long_duration_s": workload.long_duration_s, "ideal_ms": ideal_ms}
            | {"above_ideal_percent": _change(record["short_median_ms"], ideal_ms)}
            | {"paper_p95_ms": figures.HETERO_P95_MS.get(paper) if setup.policy == "late-binding" else None}
        )
    parts = ("slots", "long_duration_s", "long_share", "jobs")
    columns = ("short_median_ms", "ideal_ms", "above_ideal_percent", "short_p95_ms", "paper_p95_ms")
    return Table(rows, ("policy", "load", *parts, *columns), figures.HETERO_SAYS)


def hints(done: Done) -> Table:
    """Return the delays of "assisted" beside those of late binding with the same load and number of schedulers."""
    native = {(s.load, s.schedulers): row for s, row in done if s.policy == "late-binding"}
    rows = []
    for setup, row in done:
        record, base = plain(setup, row), native.get((setup.load, setup.schedulers))
        record |= {"beats_ms": round(setup.beats_s * 1e3, 3), "eager": setup.eager}
        record["native_p50_ms"], record["native_p95_ms"] = base and base.delay_p50_ms, base and base.delay_p95_ms
        record["times_better"] = _times(base.delay_p50_ms if base else None, row.delay_p50_ms)
        rows.append(record)
    delays = ("delay_p50_ms", "native_p50_ms", "times_better", "delay_p95_ms", "native_p95_ms")
    return Table(
        rows, ("policy", "load", "schedulers", "beats_ms", "jobs", *delays, "messages_per_task"), figures.HINTS_SAYS
    )


def replay(done: Done, *, load: float | None, meta: Mapping[str, str]) -> Table:
    """Return a trace's results beside those of the recording and of the central queue on the same trace.

    ``load`` is that of `asked_load`; ``meta`` is its header.
    """
    ideal = next((row for setup, row in done if setup.policy == OMNISCIENT), None)
    recorded = recorded_ms(meta)
    rows = []
    for setup, row in done:
        record = plain(setup, row) | {"load": load}
        record |= {f"recorded_{name}_ms": recorded.get(name) for name in PERCENTILES}
        record |= {f"omniscient_{name}_ms": ideal and getattr(ideal, f"{name}_ms") for name in PERCENTILES}
        rows.append(record | {"recorded": dict(meta)})
    if len(rows) > 1:
        rows = [row for row in rows if row["policy"] != OMNISCIENT]  # it stands beside each of the others
    columns = [f"{who}{name}_ms" for name in PERCENTILES for who in ("", "recorded_", "omniscient_")]
    return Table(rows, ("policy", "load", "workers", "slots", "jobs", *columns))


def asked_load(trace: Sequence[Job], slots: int) -> float | None:
    """Return which share of ``slots`` a trace keeps busy from its first submission to its last; None for a moment."""
    span_s = trace[-1].at_s - trace[0].at_s
    return sum(map(math.fsum, (job.durations_s for job in trace))) / (slots * span_s) if span_s else None


def recorded_ms(meta: Mapping[str, str]) -> dict[str, float]:
    """Return the response times that a trace's header has, by PERCENTILES."""
    found = {}
    for name in PERCENTILES:
        text = meta.get(f"response_{'p50' if name == 'median' else name}_ms", "")
        try:
            found[name] = float(text)
        except ValueError:  # nothing was recorded, or no number
            continue
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _change(value: float | None, base: float | None) -> float | None:
    """Return by how many percent ``value`` is above ``base``."""
    return None if value is None or not base else round(100.0 * (value / base - 1.0), 2)


def _times(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else round(value / base, 3)


# -- as text


_SHOWN: Final[Mapping[str, Callable[[Any], str]]] = {
    "load": lambda value: f"{value:.3g}",
    "probe_ratio": lambda value: f"{value:g}",
    "better_than_1": lambda value: f"{value:.2f}",
    "times_better": lambda value: f"{value:.2f}",
    "messages_per_task": lambda value: f"{value:.2f}",
    "cancellation": lambda value: "yes" if value else "no",
}


def for_people(table: Table) -> list[Record]:
    """Return the rows with their columns as texts that stand below each other, numbers to the right."""
    shown = [{column: _text(row, column) for column in table.columns} for row in table.rows]
    for column in table.columns:
        if column not in ("policy", "cancellation"):
            width = max((len(row[column]) for row in shown), default=0)
            width = max(width, len(column)) if column else width
            for row in shown:
                row[column] = row[column].rjust(width)
    return shown


def _text(row: Record, column: str) -> str:
    value = row[column]
    if column == "paper_ms" and value is None and row.get("paper_above_ms") is not None:
        return f">{row['paper_above_ms']:g}"
    if value is None:
        return ""
    if column in _SHOWN:
        return _SHOWN[column](value)
    if column.endswith("_percent"):
        return f"{value:+.1f}"
    if column.endswith("_ms"):
        return f"{value:,.1f}"
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def as_csv(table: Table) -> str:
    """Return all rows as CSV, with their names in the first line; a cell is empty where there is no number."""
    out = io.StringIO()
    names = [name for name in table.rows[0] if name != "recorded"] if table.rows else list(table.columns)
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return out.getvalue()
