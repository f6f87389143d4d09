"""Reservations over workers, as evenly as they go.

Owns: the unconstrained placer of SOSP 2013, sections 3.3 and 3.5. Must not know: what a reservation is for.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import TypeVar

W = TypeVar("W", bound=Hashable)


def spread(rng: random.Random, workers: Sequence[W], count: int) -> dict[W, int]:
    """Return how many of ``count`` reservations each chosen worker gets, in random order.

    Up to one a worker, on ``count`` distinct workers; where there are fewer workers than reservations, each
    gets the same number and random ones get one more, so that any two differ by 1 at the most. ``workers`` are
    distinct; with none of them the answer is empty. The cost is that of ``rng.sample``, not of a full shuffle.
    """
    n = len(workers)
    if count == 2 and n >= 2:  # a job of one task: several times faster than ``rng.sample``
        first = int(rng.random() * n)
        second = int(rng.random() * (n - 1))
        return {workers[first]: 1, workers[second + (second >= first)]: 1}
    chosen = rng.sample(workers, min(count, n))
    if not chosen:
        return {}
    each, more = divmod(count, len(chosen))
    return {worker: each + (position < more) for position, worker in enumerate(chosen)}
