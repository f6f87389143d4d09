"""How results look: aligned columns for people, JSON for machines.

Owns: formats of numbers and tables. Must not know: where the rows come from.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click


def as_json(value: object) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return ``rows`` below their headers, numbers to the right; a column is named by its key."""
    cells = [[_cell(column, row.get(column, "")) for column in columns] for row in rows]
    heads = [column.replace("_", " ") for column in columns]
    widths = [max([len(head), *(len(row[i]) for row in cells)]) for i, head in enumerate(heads)]
    right = [all(isinstance(row.get(column), int | float) for row in rows) and bool(rows) for column in columns]

    def line(values: Sequence[str]) -> str:
        padded = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([line(heads), *(line(row) for row in cells)])


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
    return str(value)


def milliseconds(value_ms: float) -> str:
    """Return "6.1 ms" or "1.32 s"."""
    return f"{value_ms / 1e3:.2f} s" if value_ms >= 1000 else f"{value_ms:.3g} ms"


def ago(unix_s: float) -> str:
    """Return how long ago a moment was, such as "12 s"."""
    seconds = max(0.0, time.time() - unix_s)
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def tick(good: bool = True) -> str:
    """Return a mark, as far as standard output can print it."""
    mark = "✓" if good else "✗"
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "ok" if good else "failed"
    return mark
