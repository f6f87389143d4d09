"""Detector "phi-accrual": how unlikely such a silence is (Hayashibara, Défago, Yared and Katayama, SRDS 2004).

Owns: φ, and when it reaches the threshold. Must not know: sequence numbers, but to ignore old beats.

    φ(Δ) = -log10 P(a gap between two beats is longer than Δ)

with the normal law of mean and deviation of the last gaps. Many systems compute a logistic approximation of that law;
this is the law itself. The threshold asks for so many deviations beyond the mean, always the same number: it is
computed once, and a beat costs no more than a mean.
"""

from __future__ import annotations

import math
from array import array
from functools import lru_cache
from typing import Final

THRESHOLD: Final = 8.0  # the default of Akka and Cassandra: one mistake in 10^8 beats, were gaps normal
WINDOW: Final = 100  # gaps
GAP_INTERVALS_MAX: Final = 10.0  # a longer gap counts as one of these: after a pause of an hour the next is no rule
FIRST_DEVIATION: Final = 0.25  # in intervals: what is assumed before anything has been measured
_DEVIATIONS_MAX: Final = 200.0


def phi(elapsed_s: float, mean_s: float, deviation_s: float) -> float:
    """Return φ after ``elapsed_s`` of silence, gaps having this mean and standard deviation (above 0)."""
    return _phi((elapsed_s - mean_s) / deviation_s)


def _phi(deviations: float) -> float:
    later = 0.5 * math.erfc(deviations / math.sqrt(2.0))
    if later > 1e-300:
        return -math.log10(later)
    square = deviations * deviations  # beyond what a float holds: the first term of the tail's expansion
    return (0.5 * square + 0.5 * math.log(2.0 * math.pi) + math.log(deviations)) / math.log(10.0)


@lru_cache(maxsize=256)
def deviations_at(threshold: float) -> float:
    """Return how many deviations beyond the mean φ reaches ``threshold``: the inverse of φ, by bisection."""
    low, high = -_DEVIATIONS_MAX, _DEVIATIONS_MAX
    for _ in range(64):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _phi(middle) < threshold else (low, middle)
    return high


class PhiAccrual:
    """Suspects when φ reaches ``threshold``, but no sooner than the mean gap and ``margin_s`` after the last beat."""

    __slots__ = (
        "_at_s", "_deviations", "_gaps", "_interval_s", "_margin_s", "_next", "_sequence", "_squares", "_sum_s",
        "_window", "deadline_s",
    )  # fmt: skip

    def __init__(
        self, interval_s: float, margin_s: float = 0.0, *, threshold: float = THRESHOLD, window: int = WINDOW
    ) -> None:
        self.deadline_s = math.inf
        self._interval_s = interval_s
        self._margin_s = margin_s
        self._deviations = deviations_at(threshold)
        self._window = window
        first_s = FIRST_DEVIATION * interval_s
        self._gaps = array("d", (-first_s, first_s))  # less an interval, so that their squares keep their digits
        self._next = 0
        self._sum_s = 0.0
        self._squares = 2.0 * first_s * first_s
        self._sequence = -1
        self._at_s = -math.inf

    def beat(self, sequence: int, at_s: float) -> None:
        """See `Detector.beat`."""
        if sequence <= self._sequence:
            return
        if self._sequence >= 0:
            at_s = max(at_s, self._at_s)
            self._add(min(at_s - self._at_s, GAP_INTERVALS_MAX * self._interval_s) - self._interval_s)
        self._sequence, self._at_s = sequence, at_s
        count = len(self._gaps)
        mean_s = self._sum_s / count
        deviation_s = math.sqrt(max(0.0, self._squares / count - mean_s * mean_s))
        margin_s = max(self._margin_s, self._deviations * deviation_s)
        self.deadline_s = at_s + max(0.0, self._interval_s + mean_s) + margin_s

    def _add(self, gap_s: float) -> None:
        gaps = self._gaps
        self._sum_s += gap_s
        self._squares += gap_s * gap_s
        if len(gaps) < self._window:
            gaps.append(gap_s)
            return
        old_s = gaps[self._next]
        self._sum_s -= old_s
        self._squares -= old_s * old_s
        gaps[self._next] = gap_s
        self._next = (self._next + 1) % self._window
