"""Points over processes: the largest first, each in a process of its own, results in the order asked.

Owns: the processes and their ends, what each has said, what is kept when. Must not know: what a point measures, how
results look.

A process a point gives its memory back, and one that dies (of memory, most likely) takes no other with it. Ctrl-C
reaches this process only: it ends the children, and what is finished is returned.
"""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sparrowmq.errors import SparrowError
from sparrowmq.executor import linux
from sparrowmq.experiments import children
from sparrowmq.sim.setup import OMNISCIENT, Setup, rate_jobs_per_s
from sparrowmq.sim.workload import Job, mean_tasks

if TYPE_CHECKING:
    from sparrowmq.experiments.cache import Cache
    from sparrowmq.sim.point import Row

RunPoint = Callable[[Setup, Sequence[Job] | None, Callable[[int], None]], "Row"]
Watch = Callable[["Count"], AbstractContextManager[object]]

_OMNISCIENT_WEIGHT: Final = 0.05  # it has no messages
_KILLED: Final = -int(signal.SIGKILL)


@dataclass
class Report:
    """What has become of the points. ``rows`` are in the order asked, None where there is none."""

    rows: list[Row | None]
    failures: dict[int, str] = field(default_factory=dict)  # why, by the point's position
    cached: int = 0  # points that were there already
    interrupted: bool = False

    @property
    def finished(self) -> int:
        """Return how many points have a row."""
        return sum(row is not None for row in self.rows)


class Count:
    """How far a sweep is, in jobs of the points that have to be run: what a bar reads whenever it is drawn."""

    def __init__(self, description: str, jobs: int) -> None:
        self.description = description
        self.total: int | None = jobs
        self.done = 0
        self.failed = 0  # points


class _Child:
    """One point under way."""

    def __init__(self, position: int, setup: Setup, process: SpawnProcess) -> None:
        self.position = position
        self.setup = setup
        self.process = process
        self.counted = setup.jobs / (setup.jobs + rate_jobs_per_s(setup) * setup.warm_up_s)  # share of all its jobs
        self.done = 0
        self.over = False


def run(
    setups: Sequence[Setup],
    *,
    trace: Sequence[Job] | None = None,
    processes: int = 1,
    cache: Cache | None = None,
    watch: Watch = contextlib.nullcontext,
    run_point: RunPoint | None = None,
) -> Report:
    """Run all points (checked ones), ``processes`` at a time; keep each in ``cache`` as soon as it is finished.

    ``watch`` returns what shows the count while points are run. ``run_point`` is a function of a module (that of
    sim/point.py by default), since it is called in other processes. Ctrl-C ends the children at once and returns what
    is finished.
    """
    sweep = _Sweep(setups, trace, cache, run_point)
    try:
        sweep.look_up()
        if sweep.report.finished < len(setups):
            with watch(sweep.count):
                sweep.go(max(1, processes))
    except KeyboardInterrupt:
        sweep.report.interrupted = True
    finally:
        sweep.end()
    return sweep.report


class _Sweep:
    def __init__(
        self,
        setups: Sequence[Setup],
        trace: Sequence[Job] | None,
        cache: Cache | None,
        run_point: RunPoint | None,
    ) -> None:
        self.report = Report([None] * len(setups))
        self._setups = setups
        self._trace = trace
        self._cache = cache
        self.count = Count("", 0)
        self._run_point = run_point
        self._pending: list[int] = []  # positions; the largest point is the last
        self._children: dict[Connection, _Child] = {}

    def look_up(self) -> None:
        """Take what is kept, and line up the rest."""
        for position, setup in enumerate(self._setups):
            row = self._cache.get(setup) if self._cache is not None else None
            self.report.rows[position] = row
            if row is None:
                self._pending.append(position)
        self.report.cached = self.report.finished
        jobs = sum(self._setups[position].jobs for position in self._pending)
        self.count = Count(f"{len(self._pending)} point{'s' if len(self._pending) > 1 else ''}", jobs)
        self._pending.sort(key=lambda position: (effort(self._setups[position]), -position))

    def go(self, processes: int) -> None:
        while self._pending or self._children:
            while self._pending and len(self._children) < processes:
                self._start(self._pending.pop())
            for connection in children.heard(self._children):
                self._hear(connection)

    def end(self) -> None:
        """End what still runs."""
        children.end({connection: child.process for connection, child in self._children.items()})
        self._children.clear()

    def _start(self, position: int) -> None:
        setup = self._setups[position]
        try:
            connection, process = children.start(_work, self._run_point, setup, self._trace)
        except OSError as error:
            self._fail(position, f"it cannot be started: {error.strerror or error}")
            return
        self._children[connection] = _Child(position, setup, process)

    def _hear(self, connection: Connection) -> None:
        child = self._children[connection]
        try:
            what, value = connection.recv()
        except (EOFError, ConnectionError):
            del self._children[connection]
            children.gone(connection, child.process)
            if not child.over:
                self._fail(child.position, _end(child.process.exitcode or 0))
            return
        if what == "done":
            self._advance(child, min(child.setup.jobs, int(value * child.counted)))
        elif what == "row":
            child.over = True
            self._advance(child, child.setup.jobs)
            self.report.rows[child.position] = value
            if self._cache is not None and not self._cache.problem:
                self._cache.put(child.setup, value)
        else:
            child.over = True
            self._fail(child.position, value)

    def _advance(self, child: _Child, jobs: int) -> None:
        self.count.done += max(0, jobs - child.done)
        child.done = max(jobs, child.done)

    def _fail(self, position: int, reason: str) -> None:
        self.report.failures[position] = reason
        self.count.failed += 1


def effort(setup: Setup) -> float:
    """Return about how long a point takes, in messages: it is only compared with others."""
    jobs = setup.jobs + rate_jobs_per_s(setup) * setup.warm_up_s
    if setup.horizon_s:
        jobs = min(jobs, rate_jobs_per_s(setup) * setup.horizon_s)
    weight = 2.0 if setup.policy == "random" else 2.0 + 2.0 * setup.probe_ratio
    return jobs * mean_tasks(setup.workload) * (_OMNISCIENT_WEIGHT if setup.policy == OMNISCIENT else weight)


def name(setup: Setup) -> str:
    """Return how a point is called in a sentence."""
    return f"{setup.policy} at load {setup.load:g}, {setup.workers:,} workers x {setup.slots:,} slots"


def _end(exit_code: int) -> str:
    if exit_code == _KILLED:
        return "killed by signal 9 (SIGKILL), most likely for want of memory; --processes 1 takes less at a time"
    return f"its process ended: {linux.explain_exit(-exit_code if exit_code < 0 else exit_code << 8)}"


# -- in the child


def _work(
    connection: Connection, parent: int, run_point: RunPoint | None, setup: Setup, trace: Sequence[Job] | None
) -> None:
    linux.die_with_parent(parent)
    if run_point is None:
        from sparrowmq.sim import point

        run_point = point.run_point
    try:
        row = run_point(setup, trace, lambda done: connection.send(("done", done)))
    except MemoryError:
        connection.send(("failed", "it ran out of memory"))
    except SparrowError as error:
        connection.send(("failed", str(error)))
    except Exception as error:  # a bug; the other points may be well
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        connection.send(("failed", f"{type(error).__name__}: {error} ({place})"))
    else:
        connection.send(("row", row))
