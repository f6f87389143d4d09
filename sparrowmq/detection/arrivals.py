"""When the next beat is expected: the estimate of Chen, Toueg and Aguilera (IEEE ToC 51(5), 2002).

Owns: the estimate, and when it is given up. Must not know: margins, deadlines.

    EA(l+1) = 1/n Σ (A(i) - η i) + (l+1) η      over the last n beats i that have come; l is the last of them

Neither clock has to be known: the sum holds their difference and the mean delay. Beats that were lost are simply not in
it. Here the A(i) - η i are kept as deviations from the first beat's, small numbers whose digits do not get lost.

The formula trusts that beat i is sent at i η for ever. A machine that was suspended, a clock that was set or a forged
sequence number breaks that; then the mean would be wrong until the whole window is filled anew. So the estimate starts
anew with a beat that is hopelessly late or a whole interval early by it.
"""

from __future__ import annotations

import math
from array import array

WINDOW_MAX = 100  # 800 bytes a node


class Arrivals:
    """The last ``window`` beats of one node. ``at_s``: when the last of them came."""

    __slots__ = ("_deviations", "_first", "_first_s", "_interval_s", "_next", "_sequence", "_sum_s", "_window", "at_s")

    def __init__(self, interval_s: float, window: int) -> None:
        self.at_s = -math.inf
        self._interval_s = interval_s
        self._window = min(window, WINDOW_MAX)
        self._deviations = array("d")
        self._next = 0  # where in the ring the oldest is replaced
        self._sum_s = 0.0
        self._sequence = -1
        self._first = 0
        self._first_s = 0.0

    def late_s(self, sequence: int, at_s: float) -> float | None:
        """Return how much later than expected a beat comes, before it is added; None: nothing was expected, or it is
        not newer than the last.
        """
        if sequence <= self._sequence or not self._deviations:
            return None
        deviation_s = max(at_s, self.at_s) - self._first_s - self._interval_s * (sequence - self._first)
        return deviation_s - self._sum_s / len(self._deviations)

    def add(self, sequence: int, at_s: float, late_s_max: float) -> float | None:
        """Add a beat; return when the next one is expected, None if it is not newer than the last.

        The estimate starts anew if by it this beat is ``late_s_max`` late or more, or an interval early. So the result
        is more than ``at_s`` + interval - ``late_s_max``, and less than ``at_s`` + 2 intervals.
        """
        if sequence <= self._sequence:
            return None
        if at_s < self.at_s:
            at_s = self.at_s
        self._sequence = sequence
        self.at_s = at_s
        deviations, interval_s = self._deviations, self._interval_s
        deviation_s = at_s - self._first_s - interval_s * (sequence - self._first)
        if len(deviations) < self._window:
            deviations.append(deviation_s)
            self._sum_s += deviation_s
        else:
            place = self._next
            self._sum_s += deviation_s - deviations[place]
            deviations[place] = deviation_s
            self._next = place + 1 if place + 1 < self._window else 0
        late_s = deviation_s - self._sum_s / len(deviations)
        if len(deviations) == 1 or not -interval_s < late_s < late_s_max:
            self._restart()
            late_s = 0.0
        return at_s - late_s + interval_s

    def _restart(self) -> None:
        self._first, self._first_s = self._sequence, self.at_s
        self._deviations = array("d", (0.0,))
        self._next = 0
        self._sum_s = 0.0
