"""Detector "chen": NFD-E of Chen, Toueg and Aguilera (IEEE ToC 51(5), 2002). The default.

Owns: its deadline. Must not know: how arrivals are estimated.

A timeout that runs from the last beat lets a late beat excuse the next one, and takes an early one amiss. Here each
beat has its own freshness point, a constant margin after the moment at which it is expected: EA(l+1) + alpha.
"""

from __future__ import annotations

import math
from typing import Final

from sparrowmq.detection.arrivals import Arrivals

WINDOW: Final = 32  # beats: fewer let jitter in, more follow a change late (decision 18)


class Chen:
    """Suspects ``margin_s`` (alpha) after the next beat was expected by the last ``window`` ones."""

    __slots__ = ("_arrivals", "_late_s_max", "_margin_s", "deadline_s")

    def __init__(self, interval_s: float, margin_s: float, *, window: int = WINDOW) -> None:
        self.deadline_s = math.inf
        self._arrivals = Arrivals(interval_s, window)
        self._margin_s = margin_s
        self._late_s_max = interval_s + margin_s  # a beat later than that would be suspected as it comes

    def beat(self, sequence: int, at_s: float) -> None:
        """See `Detector.beat`."""
        expected_s = self._arrivals.add(sequence, at_s, self._late_s_max)
        if expected_s is not None:
            self.deadline_s = expected_s + self._margin_s
