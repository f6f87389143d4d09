"""Where the processor time of a task goes: to which of the processes that it passes.

Owns: the roles, and the sums. Must not know: what is measured meanwhile.
"""

from __future__ import annotations

import os

from sparrowmq.bench import usage
from sparrowmq.bench.target import Target


class Meter:
    """Adds up what each role does between `start` and `stop`. The client is this process."""

    def __init__(self, cluster: Target) -> None:
        workers = list(cluster.worker_pids)
        zygotes = [child for pid in workers for child in usage.children(pid)]
        slots = [child for pid in zygotes for child in usage.children(pid)]
        here = bool(workers and cluster.scheduler_pids)
        known = {"schedulers": list(cluster.scheduler_pids), "node_monitors": workers, "slots": slots} if here else {}
        self._roles: dict[str, list[int]] = {"client": [os.getpid()], **known}
        self._before: dict[str, float] = {}
        self._spent_s = dict.fromkeys(self._roles, 0.0)

    def start(self) -> None:
        """Begin to count."""
        self._before = self._read_s()

    def stop(self) -> None:
        """Count no further."""
        for role, cpu_s in self._read_s().items():
            self._spent_s[role] += cpu_s - self._before[role]

    def us_per(self, tasks: int) -> dict[str, float]:
        """Return microseconds of processor time a task by role; only the client's where the cluster is elsewhere."""
        return {role: round(spent_s / tasks * 1e6, 1) for role, spent_s in self._spent_s.items()}

    def _read_s(self) -> dict[str, float]:
        return {role: usage.work(pids).cpu_s for role, pids in self._roles.items()}
