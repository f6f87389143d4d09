"""How good a detector is: the measures of Chen, Toueg and Aguilera (IEEE ToC 51(5), 2002).

Owns: T_D, T_MR, T_M and P_A of a history. Must not know: detectors.

    T_D   from a crash to the suspicion that stays
    T_MR  from one mistake to the next: suspicions of a node that is up
    T_M   how long a mistake lasts
    P_A   the share of the time that a node is up and trusted, of the time that it is up
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Quality(NamedTuple):
    """What has been measured. Means; infinity where there was no mistake to take one of, or no crash."""

    up_s: float  # observed, the node being up
    mistakes: int
    recurrence_s: float  # E(T_MR), as time up over mistakes
    duration_s: float  # E(T_M); 0 without mistakes
    accuracy: float  # P_A
    crashes: int  # that were observed to their end
    missed: int  # of these, not suspected in the end
    detection_s: float  # E(T_D) of those that were found
    detection_s_max: float


class History:
    """What one detector said of one node, and what was true. Moments do not go back; all are of one clock.

    A node is up and trusted at ``begin_s``. Saying what is so already changes nothing.
    """

    def __init__(self, begin_s: float) -> None:
        self._now_s = begin_s
        self._up = True
        self._suspected_s: float | None = None  # since when
        self._crashed_s = 0.0
        self._up_s = 0.0
        self._wrong_s = 0.0
        self._mistakes = 0
        self._crashes = 0
        self._missed = 0
        self._detection_s = 0.0
        self._detection_s_max = 0.0

    def suspect(self, at_s: float) -> None:
        """The node is suspected from now on."""
        self._pass(at_s)
        if self._suspected_s is None:
            self._suspected_s = at_s
            self._mistakes += self._up

    def trust(self, at_s: float) -> None:
        """The node is trusted from now on."""
        self._pass(at_s)
        self._suspected_s = None

    def crash(self, at_s: float) -> None:
        """The node is down from now on; what it had sent may still arrive."""
        self._pass(at_s)
        if self._up:
            self._up, self._crashed_s = False, at_s

    def restart(self, at_s: float) -> float:
        """The node is up again, and trusted; return T_D of its crash (infinity: never found out, or no crash)."""
        self._pass(at_s)
        if self._up:
            return math.inf
        found_s = math.inf if self._suspected_s is None else max(0.0, self._suspected_s - self._crashed_s)
        self._crashes += 1
        if found_s == math.inf:
            self._missed += 1
        else:
            self._detection_s += found_s
            self._detection_s_max = max(self._detection_s_max, found_s)
        self._up, self._suspected_s = True, None
        return found_s

    def quality(self, end_s: float) -> Quality:
        """Return what was measured up to ``end_s``. A crash that has not ended by a restart does not count yet."""
        self._pass(end_s)
        mistakes, found = self._mistakes, self._crashes - self._missed
        return Quality(
            self._up_s,
            mistakes,
            self._up_s / mistakes if mistakes else math.inf,
            self._wrong_s / mistakes if mistakes else 0.0,
            1.0 - self._wrong_s / self._up_s if self._up_s else 1.0,
            self._crashes,
            self._missed,
            self._detection_s / found if found else math.inf,
            self._detection_s_max if found else math.inf,
        )

    def _pass(self, at_s: float) -> None:
        passed_s = max(0.0, at_s - self._now_s)
        self._now_s += passed_s
        if self._up:
            self._up_s += passed_s
            if self._suspected_s is not None:
                self._wrong_s += passed_s
