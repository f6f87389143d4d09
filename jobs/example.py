"""Functions that any client can call by name, for every worker that has this directory on its PYTHONPATH.

    sparrowmq run --call example:count_words ...

Arguments and results are plain data (numbers, texts, bytes, lists, maps), so no pickle is involved.
"""

from __future__ import annotations

import time
from collections import Counter
from random import Random


def count_words(text: str) -> dict[str, int]:
    """How often each word occurs, upper and lower case alike."""
    return dict(Counter(text.lower().split()))


def estimate_pi(points: int, seed: int = 0) -> float:
    """Monte Carlo: four times the share of random points that fall into the quarter circle."""
    rng = Random(seed)
    inside = sum(rng.random() ** 2 + rng.random() ** 2 <= 1.0 for _ in range(points))
    return 4.0 * inside / points


def nap(duration_s: float, number: int) -> list[float]:
    """Sleep, then tell which nap it was and when it began (seconds since 1970): for seeing tasks lost and found."""
    began_unix_s = time.time()
    time.sleep(duration_s)
    return [number, began_unix_s]
