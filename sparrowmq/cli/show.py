"""How results look: tables for people, JSON for machines, bare ids and values for shells.

Owns: formats of numbers, times and tables, and what each ``--output`` prints. Must not know: where the rows come from.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sparrowmq.cli.base import Globals

Row = Mapping[str, Any]

# Control characters, and those that turn the direction of text.
_OBEYED = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd")
_COLOURS = {
    "alive": "green", "done": "green", "succeeded": "green", "ok": "green",
    "failed": "red", "lost": "red", "dead": "red", "timed_out": "red", "fail": "red",
    "draining": "yellow", "suspect": "yellow", "cancelled": "yellow", "waiting": "yellow", "warn": "yellow",
    "running": "cyan", "launched": "cyan",
}  # fmt: skip


def emit(
    options: Globals,
    value: Row | Sequence[Row],
    people: Callable[[], object],
    *,
    quiet: Callable[[Row], object] = lambda row: row["id"],
) -> None:
    """Print a result as ``--output`` wants it.

    ``value`` is a row or a list of rows; ``people`` prints it for them; ``quiet`` returns the id or value of a row.
    """
    rows = [value] if isinstance(value, Mapping) else value
    if options.output == "json":
        as_json(value)
    elif options.output == "jsonl":
        for row in rows:
            as_json(row)
    elif options.output == "quiet":
        for row in rows:
            click.echo(quiet(row))
    else:
        people()


def as_json(value: object) -> None:
    """Print one JSON document on one line."""
    click.echo(to_json(value))


def to_json(value: object) -> str:
    """Return one JSON document on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Print ``rows``: with colours on a terminal, as plain aligned text elsewhere."""
    if sys.stdout.isatty():
        _print_rich(rows, columns)
    else:
        click.echo(table(rows, columns))


def wants_colour() -> bool:
    """Return whether standard output is a terminal that may have colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _print_rich(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, right in zip(columns, _right(rows, columns), strict=True):
        drawn.add_column(_head(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        cells = [_cell(column, row.get(column, "")) for column in columns]
        drawn.add_row(*(Text(text, style=_COLOURS.get(text.replace(" ", "_"), "")) for text in cells))
    Console(highlight=False).print(drawn)  # rich looks at NO_COLOR itself


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return ``rows`` below their headers, numbers to the right; a column is named by its key."""
    cells = [[_cell(column, row.get(column, "")) for column in columns] for row in rows]
    heads = [_head(column) for column in columns]
    widths = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(heads)]
    right = _right(rows, columns)

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), *(line(row) for row in cells)])


def _head(column: str) -> str:
    return column.replace("_", " ")


def _right(rows: Sequence[Row], columns: Sequence[str]) -> list[bool]:
    return [bool(rows) and all(isinstance(row.get(column), int | float) for row in rows) for column in columns]


def _cell(column: str, value: object) -> str:
    return str(value) if column == "pid" else cell(value)  # to be pasted into `kill`


def cell(value: object) -> str:
    """Return one value as people read it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return plain(str(value))


def plain(text: str) -> str:
    """Return ``text``, which others have chosen, with nothing in it that a terminal obeys instead of showing it."""
    return text.translate(_OBEYED)


def count(number: int, noun: str) -> str:
    """Return "1 worker" or "2,000 workers"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(parts: Iterable[str]) -> str:
    """Return the parts that are not empty, joined by commas."""
    return ", ".join(part for part in parts if part)


def milliseconds(value_ms: float) -> str:
    """Return "6.1 ms" or "1.32 s"."""
    return f"{value_ms / 1e3:.2f} s" if value_ms >= 1000 else f"{value_ms:.3g} ms"


def seconds(value_s: float) -> str:
    """Return "6.1 ms", "1.32 s" or "12 min"."""
    if value_s < 120:
        return milliseconds(value_s * 1e3)
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if value_s >= 2 * size_s:
            return f"{value_s / size_s:.0f} {unit}"
    return f"{value_s / 60:.0f} min"


def ago(unix_s: float) -> str:
    """Return how long ago a moment was, such as "12 s"."""
    passed_s = max(0.0, time.time() - unix_s)
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if passed_s >= size_s:
            return f"{passed_s / size_s:.0f} {unit}"
    return f"{passed_s:.0f} s"


def moment(unix_s: float) -> str:
    """Return a moment in local time, such as "2026-11-22 12:04:05"."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def clock(unix_s: float) -> str:
    """Return the time of day of a moment, to the millisecond."""
    whole = int(unix_s)
    return f"{time.strftime('%H:%M:%S', time.localtime(whole))}.{int((unix_s - whole) * 1000):03d}"


def one_line(text: str, most: int = 500) -> str:
    """Return the first line of ``text``, cut to ``most`` characters."""
    first = plain(text.strip().partition("\n")[0].rstrip())
    return first if len(first) <= most else first[: most - 3] + "..."


def tick(good: bool = True) -> str:
    """Return a mark, as far as standard output can print it."""
    mark = "✓" if good else "✗"
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok" if good else "failed"
    return mark
