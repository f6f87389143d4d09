"""A machine without a processor to spare: whoever is late there is late for everybody, and dead is nobody.

Owns: the burners, the tasks that spin, the count of deaths. Must not know: how deaths are declared.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from sparrowmq.bench.arena import Arena
from sparrowmq.bench.fault_kills import SLOTS, WORKERS
from sparrowmq.bench.found import Found
from sparrowmq.bench.stamps import spin
from sparrowmq.executor import linux

_SPIN_S: Final = 1.0
_TURNS_MAX: Final = 5  # of one job
_JOB_PATIENCE_S: Final = 60.0  # for tasks of one second, each of which has a small share of a processor
_BURN: Final = "while True: pass"


def run(found: Found, seconds: float, rng: random.Random) -> None:
    """Starve a cluster for so long. ``false_deaths``: nobody dies here, so whatever is declared dead is one.

    ``told_fixed_timeout_deaths``: what a fixed timeout of the same detection time would have declared on these beats.
    """
    with Arena("starve", rng, workers=WORKERS, slots=SLOTS, assistants=1) as arena, found.booked(arena.ledger):
        arena.whole()
        with _burners():
            ends_s = time.monotonic() + seconds
            while time.monotonic() < ends_s:
                turns = math.ceil(min(_TURNS_MAX, (ends_s - time.monotonic()) / _SPIN_S))
                arena.hold(max(1, turns) * WORKERS * SLOTS, _SPIN_S, spin)  # no slot idles meanwhile
                arena.wait(_JOB_PATIENCE_S)
                found.count(relaunched=arena.stamps.repeated())
                arena.finish(_JOB_PATIENCE_S)
            found.add()
            _count_deaths(arena, found)


def _count_deaths(arena: Arena, found: Found) -> None:
    reports = arena.reports()
    counters = [status.counters for status in arena.client.query("summary", timeout_s=_JOB_PATIENCE_S)]
    by_connection = sum(each.get("workers_lost", 0) - each.get("declared_dead", 0) for each in counters)
    found.count(
        false_deaths=sum(report.deaths for report in reports) + by_connection,
        told_suspicions=sum(node.suspicions for report in reports for node in report.nodes),
        told_fixed_timeout_deaths=sum(report.baseline_deaths for report in reports),
        told_lag_ms=max((round(report.lag_ms, 1) for report in reports), default=0.0),
    )


@contextlib.contextmanager
def _burners() -> Iterator[None]:
    """Keep every processor busy until the end of the block."""
    with contextlib.ExitStack() as stack:
        for _ in range(len(os.sched_getaffinity(0))):
            burner = subprocess.Popen(
                [sys.executable, "-c", _BURN],
                start_new_session=True,  # Ctrl-C is this process's to handle
                preexec_fn=functools.partial(linux.die_with_parent, os.getpid()),
            )
            stack.callback(burner.wait)
            stack.callback(burner.kill)
        yield
