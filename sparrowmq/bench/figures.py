"""The few statistics that are reported, in the units in which they are reported.

Owns: percentiles and rounding. Must not know: what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_DIGITS = 3


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of unsorted ``values``, at least one; ``share`` is from 0 to 1."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """Return the nearest-rank median of unsorted ``values``, at least one."""
    return percentile(values, 0.5)


def ms(value_s: float) -> float:
    """Return seconds as milliseconds, to the microsecond."""
    return round(value_s * 1e3, _DIGITS)
