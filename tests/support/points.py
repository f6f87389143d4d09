"""Stand-ins for `run_point`: functions of a module, since points are run in other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence

from sparrowmq.sim.point import Row
from sparrowmq.sim.setup import Setup
from sparrowmq.sim.workload import Job

SLOW_LOAD = 0.9  # which `slow` never finishes


def row(setup: Setup, **changes: float) -> Row:
    """A row whose median tells which set-up it is of."""
    values = {
        "policy": setup.policy, "load": setup.load, "jobs": setup.jobs, "median_ms": 1e3 * setup.load + setup.workers,
        "p95_ms": 200.0, "p99_ms": 300.0, "delay_p50_ms": 2.0, "probe_ratio": setup.probe_ratio,
        "cancellation": setup.cancellation, "short_median_ms": 110.0, "short_p95_ms": 200.0, "messages_per_task": 4.0,
        "tasks": 100, "unfinished": 0, "virtual_s": 1.0, "events": 1000,
    }  # fmt: skip
    return Row(**(values | changes))


def quick(setup: Setup, trace: Sequence[Job] | None, progress: Callable[[int], None]) -> Row:
    """Finish at once."""
    progress(setup.jobs // 2)
    return row(setup, jobs=setup.jobs if trace is None else len(trace))


def mortal(setup: Setup, trace: Sequence[Job] | None, progress: Callable[[int], None]) -> Row:
    """End as the policy says: one is killed, one raises, one exits, the others are well."""
    if setup.policy == "random":
        os.kill(os.getpid(), signal.SIGKILL)
    if setup.policy == "per-task":
        raise AssertionError("the queue has a hole")
    if setup.policy == "batch":
        os._exit(7)
    return quick(setup, trace, progress)


def slow(setup: Setup, trace: Sequence[Job] | None, progress: Callable[[int], None]) -> Row:
    """Finish at once, but for the points of one load."""
    if setup.load == SLOW_LOAD:
        progress(setup.jobs // 2)
        time.sleep(600.0)
    return quick(setup, trace, progress)


def forbidden(setup: Setup, trace: Sequence[Job] | None, progress: Callable[[int], None]) -> Row:
    """Be a point that must not be run."""
    raise AssertionError(f"{setup} was run again")
