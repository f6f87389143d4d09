"""Policy "per-task": the power of two choices, for each task by itself (SOSP 2013, section 3.2).

Owns: which workers are asked for a task, and which of those gets it. Must not know: how loads are asked for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from sparrowmq.placement.load import added_wait
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.placement.spread import W


def choose(rng: random.Random, workers: Sequence[W], tasks: int, ratio: float) -> list[tuple[W, ...]]:
    """Return the distinct workers to ask for each task, in random order.

    A ratio between two integers gives some tasks one choice more than others, evenly along the job, so that
    there are ceil(ratio x tasks) in all, or fewer if that is more than all workers for a task.
    """
    total = probes(tasks, ratio)
    n = len(workers)
    choices: list[tuple[W, ...]] = []
    for task in range(tasks):
        width = min(n, (task + 1) * total // tasks - task * total // tasks)
        if width == 2:
            choices.append(_two(rng, workers))
        else:
            choices.append(tuple(rng.sample(workers, width)))
    return choices


def _two(rng: random.Random, workers: Sequence[W]) -> tuple[W, W]:
    """Two distinct workers: the usual case, several times faster than ``rng.sample`` for large jobs."""
    first = int(rng.random() * len(workers))
    second = int(rng.random() * (len(workers) - 1))
    return workers[first], workers[second + (second >= first)]


def place(
    rng: random.Random,
    choices: Sequence[Sequence[W]],
    loads: Mapping[W, float],
    *,
    slots: Mapping[W, int] | None = None,
) -> list[W | None]:
    """Return the worker of each task: the least loaded of its own choices, ties at random.

    ``loads`` are as from `load.expected_wait`. A worker without a load was lost meanwhile and is skipped; a
    task none of whose choices has one gets None, and is for the caller to place anew. Tasks are placed in turn
    and each adds 1 / ``slots`` (1 where not given) to the load of its worker: in a cluster much larger than the
    job that hardly ever matters, in a small one it keeps the whole job from going to the one idle worker.
    """
    expected = dict(loads)
    placed: list[W | None] = []
    for options in choices:
        best: W | None = None
        least = 0.0
        ties = 0
        for worker in options:
            load = expected.get(worker)
            if load is None:
                continue
            if best is None or load < least:
                best, least, ties = worker, load, 1
            elif load == least:
                ties += 1
                if rng.random() * ties < 1.0:
                    best = worker
        if best is not None:
            expected[best] = least + added_wait(best, slots)
        placed.append(best)
    return placed
