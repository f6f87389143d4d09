"""Policy "batch": a job's tasks share their probes (SOSP 2013, section 3.3).

Owns: which workers are asked for a job, and how many of its tasks each of them gets. Must not know: how loads
are asked for.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence

from sparrowmq.limits import TASKS_PER_JOB_MAX
from sparrowmq.placement.load import added_wait
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.placement.spread import W


def choose(rng: random.Random, workers: Sequence[W], tasks: int, ratio: float) -> list[W]:
    """Return the distinct workers to ask, in random order: ceil(ratio x tasks) of them, or all."""
    return rng.sample(workers, min(probes(tasks, ratio), len(workers)))


def place(
    rng: random.Random,
    loads: Mapping[W, float],
    tasks: int,
    *,
    most: int = TASKS_PER_JOB_MAX,
    slots: Mapping[W, int] | None = None,
) -> dict[W, int]:
    """Return how many of ``tasks`` each worker gets, ``most`` at the most; none without loads.

    Each task in turn goes where the load, with what this job has already placed there, is least; ties at
    random. ``loads`` are as from `load.expected_wait`, of the workers that answered; a placed task adds
    1 / ``slots`` (1 where not given). No other placement has a shorter longest wait. O(n + tasks x log n).

    ``most`` is raised where the workers that answered are too few. With 1 these are the m least loaded workers of the
    paper. Without a bound the tasks of a long job would fill all slots of a worker, and whatever comes to wait
    there would wait for all of that job.
    """
    workers = list(loads)
    if not workers:
        return {}
    most = max(most, -(-tasks // len(workers)))
    rng.shuffle(workers)
    heap = [(loads[worker], position) for position, worker in enumerate(workers)]
    heapq.heapify(heap)
    counts = [0] * len(workers)
    steps = [added_wait(worker, slots) for worker in workers]
    for _ in range(tasks):
        position = heap[0][1]
        counts[position] += 1
        if counts[position] < most:
            load = loads[workers[position]] + counts[position] * steps[position]
            heapq.heapreplace(heap, (load, position))
        else:
            heapq.heappop(heap)
    return {worker: count for worker, count in zip(workers, counts, strict=True) if count}
