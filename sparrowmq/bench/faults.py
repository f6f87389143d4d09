"""What a fault costs: how long until lost work runs again, and that nothing is lost or shown twice.

Owns: which faults there are, how often each is done, the rows that tell of them. Must not know: how a fault is done
(`fault_kills`, `fault_stops`, `fault_services`, `starvation`), or how rows are printed.

Every fault is done to a cluster of its own, of real processes on this machine. A cluster that does not recover is a row
with an error: everything that is waited for has a deadline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sparrowmq.bench import fault_kills, fault_services, fault_stops, figures, report, starvation
from sparrowmq.bench.found import Found
from sparrowmq.errors import SparrowError, UsageError


class Fault(NamedTuple):
    """One fault. ``share``: of ``n``, how often it is done, once at least; ``aim``: what is to be reached, in words."""

    name: str
    run: Callable[[Found, int, random.Random], None]
    share: float
    aim: str


def _starve(seconds: float) -> Callable[[Found, int, random.Random], None]:
    return lambda found, _rounds, rng: starvation.run(found, seconds, rng)


def table(seconds: float = 60.0) -> list[Fault]:
    """Return all faults; ``seconds`` is how long the machine is starved."""
    return [
        Fault("kill-worker", fault_kills.kill_worker, 1.0, "p50 20 ms, p99 80 ms"),
        Fault("kill-scheduler", fault_kills.kill_scheduler, 1.0, "p99 80 ms, none rerun"),
        Fault("half", fault_kills.half, 0.1, "nothing lost"),
        Fault("stop-monitor-short", fault_stops.monitor_short, 0.2, "none relaunched"),
        Fault("stop-tree-short", fault_stops.tree_short, 0.2, "none relaunched"),
        Fault("stop-monitor", fault_stops.monitor_long, 0.2, "p99 600 ms"),
        Fault("stop-tree", fault_stops.tree_long, 0.2, "p99 600 ms"),
        Fault("kill-assistant", fault_services.kill_assistant, 0.1, "max 1000 ms"),
        Fault("kill-store", fault_services.kill_store, 0.02, "no false death"),
        Fault("starve", _starve(seconds), 0.0, "no false death"),
    ]


NAMES: Final = tuple(fault.name for fault in table())


def run(
    *,
    n: int = 100,
    faults: Sequence[str] = NAMES,
    seconds: float = 60.0,
    seed: int = 1,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, Any]:
    """Do each of ``faults`` and return a row for each: fault, n, p50_ms, p99_ms, max_ms, lost, duplicated.

    ``n``: how often a process is killed; slower faults are done a fixed share of it. ``seconds``: how long the machine
    is starved. A time is null where nothing is timed. Further counts of a row must be 0 for it to be ``ok``, but for
    those that begin with "told_". ``say`` hears what goes on. Raises UsageError for an unknown fault.
    """
    if not faults:
        raise UsageError("no fault is named", hint=f"the faults are {', '.join(NAMES)}")
    unknown = sorted(set(faults) - set(NAMES))
    if unknown:
        raise UsageError(f"unknown fault {unknown[0]!r}", hint=f"the faults are {', '.join(NAMES)}")
    rows = []
    for fault in table(seconds):
        if fault.name in faults:
            rounds = max(1, round(n * fault.share))
            say(f"{fault.name}: {rounds} times" if fault.share else f"{fault.name}: {seconds:g} s")
            rows.append(measure(fault, rounds, random.Random(f"{seed} {fault.name}")))
    return {"bench": "faults", "n": n, "seed": seed, "rows": rows, "environment": report.environment()}


def measure(fault: Fault, rounds: int, rng: random.Random) -> dict[str, Any]:
    """Do one fault ``rounds`` times and return its row; see `run`."""
    found = Found()
    error = ""
    try:
        fault.run(found, rounds, rng)
    except SparrowError as failure:
        error = str(failure)
    times_s = found.times_s
    row: dict[str, Any] = {"fault": fault.name, "n": found.rounds}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)):
        row[name] = figures.ms(figures.percentile(times_s, share)) if times_s else None
    row |= {"lost": found.lost, "duplicated": found.duplicated, **found.counts}
    row |= {"aim": fault.aim, "error": "; ".join(filter(None, [error, *found.examples]))}
    return row | {"ok": not row["error"] and not found.lost and not found.duplicated and not found.wrong}
