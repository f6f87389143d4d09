"""The jobs and what they add up to: ledgers, probes, queueing delays, rates.

Owns: sums that only grow although schedulers forget jobs and die. Must not know: workers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sparrowmq.client import ledger
from sparrowmq.protocol import messages as m

ROWS_MAX: Final = 12
RECENT_S: Final = 60.0  # whose queueing delays are told: jobs that run, or have ended within so long
GONE_MAX: Final = 64  # schedulers that are gone whose counters still count
_SUMS: Final = ("sent", "bound", "no_ops", "cancelled")
_FAILED: Final = (m.FAILED, m.TIMED_OUT, m.LOST)


class Relaunch(NamedTuple):
    """Tasks of a job had to be placed again. ``placed``: the most tasks that had a worker before."""

    job: str
    placed: int
    tasks: int


class Jobs:
    """The jobs of the last reading, and sums since the first one."""

    def __init__(self) -> None:
        self.rows: list[m.JobStatus] = []  # oldest first
        self.probes = dict.fromkeys(_SUMS, 0)
        self._counted: dict[str, dict[str, int]] = {}  # what of each job is in the sums
        self._placed: dict[str, int] = {}
        self._relaunched: dict[str, int] = {}
        self._now: dict[str, Mapping[str, int]] = {}  # counters of the schedulers that answer
        self._gone: OrderedDict[str, Mapping[str, int]] = OrderedDict()
        self._looked = False

    def read(self, statuses: Sequence[m.Status]) -> list[Relaunch]:
        """Take in what the schedulers say; return which jobs have lost tasks since."""
        self._read_counters(statuses)
        self.rows = ledger.jobs(statuses)
        found = []
        for row in self.rows:
            self._add_probes(row)
            placed = row.tasks - row.unplaced - row.resting
            before = self._relaunched.get(row.id, 0 if self._looked else row.relaunches)
            if row.relaunches > before:
                most = max(placed, self._placed.get(row.id, placed))
                found.append(Relaunch(row.id, most, row.tasks))
        known = {row.id: row for row in self.rows}
        self._relaunched = {id: row.relaunches for id, row in known.items()}
        self._placed = {
            id: max(self._placed.get(id, 0), row.tasks - row.unplaced - row.resting) for id, row in known.items()
        }
        self._counted = {id: counted for id, counted in self._counted.items() if id in known}
        self._looked = True
        return found

    def _read_counters(self, statuses: Sequence[m.Status]) -> None:
        for id, counters in self._now.items():
            self._gone[id] = counters
        self._now = {status.scheduler: status.counters for status in statuses}
        for id in self._now:
            self._gone.pop(id, None)
        while len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)

    def _add_probes(self, row: m.JobStatus) -> None:
        cancelled = row.counts[m.CANCELLED]
        bound = row.tasks - row.unplaced - row.resting - cancelled + row.relaunches + row.retries + row.hedges
        fresh = {"sent": row.probes, "bound": bound, "no_ops": row.no_ops, "cancelled": row.cancels}
        counted = self._counted.setdefault(row.id, dict.fromkeys(_SUMS, 0))
        for name, count in fresh.items():
            self.probes[name] += max(0, count - counted[name])
            counted[name] = max(count, counted[name])

    # -- sums

    def ended(self) -> Mapping[str, int]:
        """Return how many tasks have ended at each scheduler that answers: rates are made of differences."""
        return {id: counters.get("outcomes", 0) for id, counters in self._now.items()}

    def header(self) -> dict[str, int]:
        """Return how many jobs and tasks are over, and are not. Schedulers that are gone still count for what is."""
        here, all_of = list(self._now.values()), [*self._now.values(), *self._gone.values()]
        return {
            "jobs_running": _sum(here, "jobs_now"),
            "jobs_done": _sum(all_of, "jobs") - _sum(all_of, "jobs_now"),
            "tasks_done": _sum(all_of, "outcomes"),
            "tasks_incomplete": sum(_sum(here, name) for name in ("unplaced_now", "launched_now", "resting_now")),
        }

    def running(self) -> int:
        """Return how many tasks have a worker and no result."""
        return _sum(self._now.values(), "launched_now")

    def waiting(self) -> int:
        """Return how many tasks have no worker yet."""
        return sum(_sum(self._now.values(), name) for name in ("unplaced_now", "resting_now"))

    def queueing_ms(self, now: float) -> tuple[float, float] | None:
        """Return the median of the recent jobs' medians, each as heavy as its tasks, and their worst p99."""
        ran = [row for row in self.rows if row.queueing_p99_ms > 0.0]
        recent = [row for row in ran if row.state not in ledger.OVER or _ended_s(row) > now - RECENT_S] or ran[-1:]
        if not recent:
            return None
        half = sum(_done(row) for row in recent) / 2
        for row in sorted(recent, key=lambda row: row.queueing_p50_ms):
            half -= _done(row)
            if half <= 0:
                break
        return row.queueing_p50_ms, max(row.queueing_p99_ms for row in recent)

    def shown(self) -> list[dict[str, Any]]:
        """Return the ledgers of the newest jobs, those that run first."""
        newest = list(reversed(self.rows))
        ordered = [row for row in newest if row.state not in ledger.OVER]
        ordered += [row for row in newest if row.state in ledger.OVER]
        return [_ledger(row) for row in ordered[:ROWS_MAX]]


def _ledger(row: m.JobStatus) -> dict[str, Any]:
    failed = sum(row.counts[status] for status in _FAILED)
    waiting = row.unplaced + row.resting
    state = row.state
    if state in ledger.OVER and failed:
        state = "failed"
    return {
        "id": row.id,
        "name": row.name,
        "policy": row.policy,
        "state": state,
        "tasks": row.tasks,
        "succeeded": row.counts[m.SUCCEEDED],
        "failed": failed,
        "cancelled": row.counts[m.CANCELLED],
        "running": row.launched,
        "waiting": waiting,
        "relaunches": row.relaunches,
        "balanced": row.tasks == sum(row.counts) + row.launched + waiting,
        "response_s": round(row.response_s, 3),
        "queueing_p50_ms": round(row.queueing_p50_ms, 2),
        "queueing_p99_ms": round(row.queueing_p99_ms, 2),
    }


def _sum(counters: Iterable[Mapping[str, int]], name: str) -> int:
    return sum(row.get(name, 0) for row in counters)


def _done(row: m.JobStatus) -> int:
    return max(1, row.counts[m.SUCCEEDED])


def _ended_s(row: m.JobStatus) -> float:
    return row.submitted_unix_s + row.response_s
