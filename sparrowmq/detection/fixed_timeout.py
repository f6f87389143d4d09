"""Detector "fixed": suspicion when nothing has come for a fixed time. The baseline.

Owns: that rule. Must not know: when beats should come.
"""

from __future__ import annotations

import math


class FixedTimeout:
    """Suspects ``interval_s`` + ``margin_s`` after the last beat."""

    __slots__ = ("_at_s", "_sequence", "_timeout_s", "deadline_s")

    def __init__(self, interval_s: float, margin_s: float) -> None:
        self.deadline_s = math.inf
        self._timeout_s = interval_s + margin_s
        self._sequence = -1
        self._at_s = -math.inf

    def beat(self, sequence: int, at_s: float) -> None:
        """See `Detector.beat`."""
        if sequence <= self._sequence:
            return
        self._sequence = sequence
        self._at_s = max(self._at_s, at_s)
        self.deadline_s = self._at_s + self._timeout_s
