"""Policy "late-binding": batch sampling with late binding (SOSP 2013, section 3.5). The default.

Owns: how many reservations a job leaves, and where. The tasks themselves are handed out later, to whichever
worker asks first. Must not know: who asks, or when.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparrowmq.placement.probe_ratio import probes
from sparrowmq.placement.spread import W, spread


def reserve(rng: random.Random, workers: Sequence[W], tasks: int, ratio: float) -> dict[W, int]:
    """Return the reservations to leave on each worker: ceil(ratio x tasks) in all, none without workers."""
    return spread(rng, workers, probes(tasks, ratio))
