"""Policy "random": every task to a worker drawn at random, without asking anyone. The baseline.

Owns: that draw. Must not know: loads. The file is not called random.py because every room here needs the
standard library's ``random`` by that name.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from sparrowmq.placement.spread import W


def place(rng: random.Random, workers: Sequence[W], tasks: int) -> dict[W, int]:
    """Return how many of ``tasks`` each worker gets, each task drawn by itself; none without workers."""
    if not workers:
        return {}
    return dict(Counter(rng.choices(workers, k=tasks)))
