"""Detector "self-tuning": Chen's with a margin that seeks a wanted quality (SFD; Xiong et al., IPDPS 2012).

Owns: how the margin is tuned. Must not know: how arrivals are estimated.

After each period the quality of that period is held against what is wanted. The margin grows by a step where mistakes
are too many or too long and detection is fast enough, shrinks where it is the other way round, and stays where all is
well. Where both fail, no margin can give what is wanted: `feasible` says so.
"""

from __future__ import annotations

import math
from typing import Final

from sparrowmq.detection.arrivals import Arrivals
from sparrowmq.detection.chen import WINDOW

PERIOD_BEATS: Final = 100
STEP_INTERVALS: Final = 0.1
RECURRENCE_S: Final = 600.0  # T_MR, at least
ACCURACY: Final = 0.999  # P_A, at least
MARGIN_GROWTH: Final = 2.0


class SelfTuning:
    """Suspects the margin of the day after the next beat was expected; that begins with ``margin_s``.

    Wanted: a mistake each ``recurrence_s`` at the most, to be right for the share ``accuracy`` of the time, and to
    suspect ``detection_s`` after a crash, transmission aside (default: an interval and twice the first margin).
    """

    __slots__ = (
        "_accuracy", "_arrivals", "_beats", "_began_s", "_detection_s", "_interval_s", "_mistakes", "_recurrence_s",
        "_wrong_s", "deadline_s", "feasible", "margin_s",
    )  # fmt: skip

    def __init__(
        self,
        interval_s: float,
        margin_s: float,
        *,
        recurrence_s: float = RECURRENCE_S,
        accuracy: float = ACCURACY,
        detection_s: float | None = None,
        window: int = WINDOW,
    ) -> None:
        self.deadline_s = math.inf
        self.margin_s = margin_s
        self.feasible = True
        self._arrivals = Arrivals(interval_s, window)
        self._interval_s = interval_s
        self._recurrence_s = recurrence_s
        self._accuracy = accuracy
        self._detection_s = interval_s + MARGIN_GROWTH * margin_s if detection_s is None else detection_s
        self._beats = 0  # of this period, as are the next three
        self._began_s = 0.0
        self._mistakes = 0
        self._wrong_s = 0.0

    def beat(self, sequence: int, at_s: float) -> None:
        """See `Detector.beat`."""
        expected_s = self._arrivals.add(sequence, at_s, self._interval_s + self.margin_s)
        if expected_s is None:
            return
        at_s = self._arrivals.at_s
        if at_s > self.deadline_s:
            self._mistakes += 1
            self._wrong_s += at_s - self.deadline_s
        self.deadline_s = expected_s + self.margin_s
        if self._beats == 0:
            self._began_s = at_s
        self._beats += 1
        if self._beats > PERIOD_BEATS:
            self._tune(at_s - self._began_s)
            self._beats, self._began_s, self._mistakes, self._wrong_s = 1, at_s, 0, 0.0

    def _tune(self, elapsed_s: float) -> None:
        accurate = self._mistakes * self._recurrence_s <= elapsed_s
        accurate &= self._wrong_s <= (1.0 - self._accuracy) * elapsed_s
        fast = self._interval_s + self.margin_s <= self._detection_s
        self.feasible = accurate or fast
        if accurate != fast:
            step_s = STEP_INTERVALS * self._interval_s
            self.margin_s = max(0.0, self.margin_s + (step_s if fast else -step_s))
