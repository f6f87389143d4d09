"""Policy "assisted": late binding that probes by load hints first, and fills up at random.

Owns: which workers get a job's reservations, given what is expected of each. Must not know: where expectations come
from, who asks, or when. As with late binding the tasks themselves go to whichever worker asks first.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

from sparrowmq.placement.spread import W

LOOKS: Final = 4  # workers that are looked at for each that is wanted
LOOKS_MIN: Final = 32

Wait = Callable[[W], float]


def choose(rng: random.Random, share: Sequence[W], others: Sequence[W], count: int, wait: Wait[W]) -> dict[W, int]:
    """Return how many of ``count`` reservations each chosen worker gets, none without workers.

    ``share`` are the workers to try first, ``others`` the rest; all are distinct. ``wait`` is what a task is expected
    to wait at a worker, as from `load.expected_wait`: up to 0 it starts at once, and the lower the better.

    First those of the share where nothing waits, the least loaded before others; then as many of the rest where nothing
    waits, at random; then wherever the wait is shortest. Where there are fewer workers than reservations, all get the
    same number, and the first of that order one more. Not all workers are looked at, but LOOKS for each that is wanted
    (of either kind, LOOKS_MIN at least), at random.
    """
    n = len(share) + len(others)
    if not n:
        return {}
    each, wanted = divmod(count, n)
    counts = {worker: each for some in (share, others) for worker in some} if each else {}
    for worker in _best(rng, share, others, wanted, wait) if wanted else ():
        counts[worker] = each + 1
    return counts


def free(rng: random.Random, share: Sequence[W], count: int, wait: Wait[W]) -> list[W]:
    """Return up to ``count`` workers of the share where a task would start at once, the least loaded first."""
    looked = [(wait(worker), place, worker) for place, worker in enumerate(_some(rng, share, count))]
    return [worker for expected, _, worker in sorted(looked)[:count] if expected <= 0.0]


def _best(rng: random.Random, share: Sequence[W], others: Sequence[W], count: int, wait: Wait[W]) -> list[W]:
    # A worker's place among those looked at decides between equals, and stands before the worker, which has no order.
    looked = [(wait(worker), place, worker) for place, worker in enumerate(_some(rng, share, count))]
    looked.sort()
    if len(looked) >= count and looked[count - 1][0] <= 0.0:
        return [worker for _, _, worker in looked[:count]]
    chosen = [worker for expected, _, worker in looked if expected <= 0.0]
    waiting = looked[len(chosen) :]
    for worker in _some(rng, others, count):
        if len(chosen) == count:
            return chosen
        expected = wait(worker)
        if expected <= 0.0:
            chosen.append(worker)
        else:
            waiting.append((expected, len(looked) + len(waiting), worker))
    waiting.sort()
    return chosen + [worker for _, _, worker in waiting[: count - len(chosen)]]


def _some(rng: random.Random, workers: Sequence[W], count: int) -> Sequence[W]:
    """Return the workers to look at: as many as that takes, from a random one on, at a random distance.

    Not in a row: the workers of a long job would stay neighbours, and whole neighbourhoods be full.
    """
    n = len(workers)
    if not n:
        return ()
    at, step = int(rng.random() * n), 1 + int(rng.random() * (n - 1))
    while math.gcd(step, n) != 1:
        step += 1
    return [workers[(at + k * step) % n] for k in range(min(n, max(LOOKS_MIN, LOOKS * count)))]
