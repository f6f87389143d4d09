"""Load over time: a ring of points, one a reading.

Owns: rates from counters, and that a time nobody read in is a gap and no figure. Must not know: where the counters are
from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

POINTS_MAX: Final = 240  # two minutes
GAP_S: Final = 3.0  # readings further apart have a gap between them
RATE_S: Final = 2.0  # the rate that the header tells is that of so long

Point = tuple[float, float | None, int | None, int | None]


class Load:
    """When, tasks a second, tasks that run, tasks that wait; None in a gap."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=POINTS_MAX)
        self._ended: Mapping[str, int] = {}
        self._at_s: float | None = None

    def read(self, now: float, ended: Mapping[str, int], running: int, waiting: int) -> None:
        """Take in a reading. A scheduler that is new begins to count with it."""
        before_s, self._at_s = self._at_s, now
        fresh = sum(max(0, count - self._ended.get(id, count)) for id, count in ended.items())
        self._ended = dict(ended)
        if before_s is None or now <= before_s:
            return
        if now - before_s > GAP_S:
            self._points.append((before_s, None, None, None))
        self._points.append((now, round(fresh / (now - before_s), 1), running, waiting))

    def rate(self) -> float | None:
        """Return the tasks a second of late; None where that is not known."""
        if not self._points or self._points[-1][1] is None:
            return None
        since_s = self._points[-1][0] - RATE_S
        rates = [rate for at_s, rate, _, _ in self._points if at_s > since_s and rate is not None]
        return round(sum(rates) / len(rates), 1)

    def rows(self, now: float) -> dict[str, list[Any]]:
        """Return the columns; times are seconds ago."""
        points = list(self._points)
        return {
            "ago_s": [round(now - point[0], 1) for point in points],
            "tasks_per_s": [point[1] for point in points],
            "running": [point[2] for point in points],
            "waiting": [point[3] for point in points],
        }
