"""How many probes a job sends for its tasks.

Owns: the arithmetic of the probe ratio d. Must not know: which workers are probed.
"""

from __future__ import annotations

import math
from typing import Final

_DECIMALS: Final = 6  # finer than any ratio that people write, coarser than float error up to 10**7 probes


def probes(tasks: int, ratio: float) -> int:
    """Return ceil(``ratio`` x ``tasks``) for a ratio >= 1, taken as the decimal number that it was written as.

    In binary, 1.1 x 10 is a little more than 11; rounding first keeps that from costing a twelfth probe.
    """
    return math.ceil(round(ratio * tasks, _DECIMALS))
