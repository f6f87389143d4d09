"""The figures of a comparison as a table: for a terminal, or in Markdown to paste into docs/performance.md.

Owns: which figures stand in which column, and how they are written. Must not know: how they came about.
"""

from __future__ import annotations

from typing import Any, Final

NONE: Final = "-"
FAILED: Final = "failed"
# Column: the work, and the figures in it.
_COLUMNS: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "map, tasks/s": ("map", ("tasks_per_s",), ",.0f"),
    "map in chunks, tasks/s": ("map_chunked", ("tasks_per_s",), ",.0f"),
    "submits, tasks/s": ("submit", ("tasks_per_s",), ",.0f"),
    "round trip p50 / p99, ms": ("latency", ("p50_ms", "p99_ms"), ".2f"),
    "arguments / results, MB/s": ("payload", ("arguments_mb_per_s", "results_mb_per_s"), ",.0f"),
    "naps, of ideal": ("naps", ("efficiency",), ".1%"),
}


def rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """Return a row for each system, by column."""
    table = []
    for system in result["systems"]:
        row = {"system": " ".join(filter(None, [system["name"], _version(system)]))}
        for column, (work, figures, form) in _COLUMNS.items():
            row[column] = _cell(system, work, figures, form)
        start_s = system.get("start_s")
        table.append(row | {"start, s": FAILED if start_s is None else f"{start_s:.2f}"})
    return table


def failures(result: dict[str, Any]) -> list[str]:
    """Return a sentence for whatever failed."""
    told = []
    for system in result["systems"]:
        told += [
            f"{system['name']}, {work}: {figures['error']}"
            for work, figures in system.get("works", {}).items()
            if "error" in figures
        ]
        if system["error"]:
            told.append(f"{system['name']}: {system['error']}")
    return told


def markdown(result: dict[str, Any]) -> str:
    """Return the table, what was done, how each system was set up, and what failed."""
    table = rows(result)
    columns = list(table[0]) if table else []
    works, machine = result["works"], result["environment"]
    lines = [
        f"{works['tasks']:,} no-ops by one map and by separate submits; {works['trips']:,} sequential round trips; "
        f"{works['payloads']:,} arguments and results of {works['payload_bytes'] / 2**20:g} MiB; {works['naps']:,} "
        f"sleeps of {works['nap_s'] * 1e3:g} ms. {works['slots']} processes each, on {machine['cpus']} CPUs "
        f"({machine['processor']}), Python {machine['python']}; medians of up to {works['runs']} runs.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(f"| {' | '.join(row.values())} |" for row in table),
        "",
        f"{NONE}: it has no such call.",
        "",
    ]
    for system in result["systems"]:
        told = "; ".join(f"{name}: {value}" for name, value in system.get("settings", {}).items())
        lines.append(f"- **{system['name']}** {_versions(system)}. {told}".rstrip())
    lines += [f"- failed: {' '.join(failure.split())}" for failure in failures(result)]
    return "\n".join(lines)


def _cell(system: dict[str, Any], work: str, figures: tuple[str, ...], form: str) -> str:
    done = system.get("works", {})
    if work not in done:
        # Of a system that came to its end, what is missing it cannot do.
        return FAILED if system["error"] else NONE
    if "error" in done[work]:
        return FAILED
    return " / ".join(format(done[work][figure], form) for figure in figures)


def _version(system: dict[str, Any]) -> str:
    """Return the version of the package that has the system's name, if there is one."""
    version: str = system.get("versions", {}).get(system["name"], "")
    return version


def _versions(system: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in system.get("versions", {}).items())
