"""Detector "bertier": Chen's expected arrival with a margin that follows the error of the estimate, as TCP's
retransmission time-out follows the round trip (Bertier, Marin and Sens, DSN 2002; Jacobson 1988).

Owns: that margin. Must not know: how arrivals are estimated.

    e = A(k) - EA(k) - delay;  delay += gamma e;  var += gamma (|e| - var)
    alpha = beta delay + phi var;  deadline(k+1) = EA(k+1) + alpha
"""

from __future__ import annotations

import math
from typing import Final

from sparrowmq.detection.arrivals import WINDOW_MAX, Arrivals

GAMMA: Final = 0.1
BETA: Final = 1.0
PHI: Final = 4.0
LATE_INTERVALS_MAX: Final = 10.0  # what one beat can count for


class Bertier:
    """Suspects alpha after the next beat was expected; it never falls below ``margin_s`` (0: as published).

    It begins with a margin of an interval, since one beat says nothing of how much they vary.
    """

    __slots__ = ("_arrivals", "_delay_s", "_error_s", "_interval_s", "_margin_s", "_phi", "deadline_s")

    def __init__(self, interval_s: float, margin_s: float = 0.0, *, phi: float = PHI, window: int = WINDOW_MAX) -> None:
        self.deadline_s = math.inf
        self._arrivals = Arrivals(interval_s, window)
        self._interval_s = interval_s
        self._margin_s = margin_s
        self._phi = phi
        self._delay_s = 0.0
        self._error_s = interval_s / phi  # the "var" of the paper, which is a mean error

    def beat(self, sequence: int, at_s: float) -> None:
        """See `Detector.beat`."""
        late_s = self._arrivals.late_s(sequence, at_s)
        if late_s is not None:
            most_s = LATE_INTERVALS_MAX * self._interval_s
            error_s = max(-most_s, min(most_s, late_s)) - self._delay_s
            self._delay_s += GAMMA * error_s
            self._error_s += GAMMA * (abs(error_s) - self._error_s)
        margin_s = max(self._margin_s, BETA * self._delay_s + self._phi * self._error_s)
        expected_s = self._arrivals.add(sequence, at_s, self._interval_s + margin_s)
        if expected_s is not None:
            self.deadline_s = expected_s + margin_s
