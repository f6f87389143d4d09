"""What can be computed instead of measured: the quality of Chen's detector (IEEE ToC 51(5), 2002).

Owns: the formulas. Must not know: the detectors' code (tests hold both against each other).

The model: beats each η, each lost with probability p_L by itself, otherwise delayed by D, independently of all others.
Beat l + j holds the suspicion off at the freshness point of beat l, unless it is lost, or late by more than
x_j = alpha - j η beyond the mean delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Tail = Callable[[float], float]  # P(D - E(D) > x) of a delay


def recurrence_s_least(interval_s: float, margin_s: float, variance_s2: float, loss: float) -> float:
    """Return what E(T_MR) is at least, of the delay knowing its variance only: η/β,

    β = Π (V + p_L x_j²) / (V + x_j²) over j >= 0 as long as x_j > 0.
    """
    beta = 1.0
    for late_s in _lateness(interval_s, margin_s, 0.0):
        square = late_s * late_s
        if late_s > 0.0:
            beta *= (variance_s2 + loss * square) / (variance_s2 + square)
    return interval_s / beta if beta else math.inf


def recurrence_s(interval_s: float, margin_s: float, later: Tail, loss: float) -> float:
    """Return E(T_MR) where the law of the delay is known: η / (q_0 u(0)).

    A mistake begins at a freshness point where none of the beats that could hold it off is there, and the last of the
    period before was.
    """
    came = (1.0 - loss) * (1.0 - later(margin_s + interval_s))
    begins = came * suspected(interval_s, margin_s, later, loss, 0.0)
    return interval_s / begins if begins else math.inf


def accuracy(interval_s: float, margin_s: float, later: Tail, loss: float, *, steps: int = 1000) -> float:
    """Return P_A = 1 - 1/η ∫ u(x) dx over one interval by the midpoint rule."""
    wrong = sum(
        suspected(interval_s, margin_s, later, loss, (step + 0.5) / steps * interval_s) for step in range(steps)
    )
    return 1.0 - wrong / steps


def suspected(interval_s: float, margin_s: float, later: Tail, loss: float, after_s: float) -> float:
    """Return u(x): the probability that a node which is up is suspected ``after_s`` after a freshness point."""
    probability = 1.0
    for late_s in _lateness(interval_s, margin_s, after_s):
        probability *= loss + (1.0 - loss) * later(late_s)
    return probability


def _lateness(interval_s: float, margin_s: float, after_s: float) -> list[float]:
    """By how much beyond the mean each beat is late that could hold a suspicion off, the oldest first."""
    return [margin_s + after_s - beat * interval_s for beat in range(math.ceil(margin_s / interval_s) + 1)]
