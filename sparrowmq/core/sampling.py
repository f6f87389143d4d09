"""Early binding: one round of load probes and the placement that follows (SOSP 2013, 3.2-3.3).

Owns: whose loads are awaited, and which worker each task goes to once they are in. Must not know: messages,
connections, or the job's task table.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from sparrowmq.placement import Policy, batch, per_task
from sparrowmq.placement.probe_ratio import probes


class Sampling:
    """One round: `asked` are the workers to probe; `assign` places the tasks on those that answered."""

    def __init__(
        self, rng: random.Random, policy: Policy, workers: Sequence[str], tasks: int, ratio: float, round: int
    ) -> None:
        self._rng = rng
        self._tasks = tasks
        self._most = 1  # tasks of the job that batch sampling places on one worker
        self.round = round
        self._choices: list[tuple[str, ...]] | None = None
        if policy.name == "per-task":
            self._choices = per_task.choose(rng, workers, tasks, ratio)
            self.asked = list(dict.fromkeys(worker for choice in self._choices for worker in choice))
        else:
            self.asked = list(batch.choose(rng, workers, tasks, ratio))
            self._most = -(-probes(tasks, ratio) // len(self.asked))
        self.loads: dict[str, float] = {}
        self.waiting = set(self.asked)

    def answer(self, worker: str, load: float | None) -> bool:
        """Note a load (None: the worker is gone); return whether this was the last one awaited."""
        if worker not in self.waiting:
            return False
        self.waiting.discard(worker)
        if load is not None:
            self.loads[worker] = load
        return not self.waiting

    def assign(self, slots: Mapping[str, int]) -> dict[str, int]:
        """Return how many tasks go to each worker; fewer than all when choices did not answer.

        ``slots`` names the workers that may get any: some have left since they answered.
        """
        loads = {worker: load for worker, load in self.loads.items() if worker in slots}
        if self._choices is None:
            return batch.place(self._rng, loads, self._tasks, most=self._most, slots=slots)
        placed = per_task.place(self._rng, self._choices, loads, slots=slots)
        return dict(Counter(worker for worker in placed if worker is not None))
