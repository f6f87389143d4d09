"""Deadlines of a machine, in one heap.

Owns: which deadline is next. Must not know: what a deadline means. A machine re-checks its own state when one
is due, so nothing needs to be cancelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

Kind = TypeVar("Kind")


class Timers(Generic[Kind]):
    """A heap of (when, what); ``what`` is any value, handed back once it is due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Kind]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, what: Kind) -> None:
        """Hand ``what`` back at ``when`` (monotonic seconds)."""
        heappush(self._heap, (when, next(self._order), what))

    def next(self) -> float | None:
        """Return the earliest deadline, or None."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Kind]:
        """Yield, earliest first, what is due; what is added meanwhile counts too unless it lies after ``now``."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            yield heappop(heap)[2]
