"""Virtual time: what happens when, and nothing else.

Owns: the clock and the order of events; what is due at the same moment happens in the order in which it was asked for.
Must not know: what an event is.

Most events of a large simulation are messages that all take equally long. Those need no heap: each asks for a later
time than the one before, so a queue for each such delay has them in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

BEGIN_S: Final = 1000.0  # no machine may take the beginning of time for "never"
LANES_MAX: Final = 4  # delays that have a queue of their own; the first ones do

Event = tuple[float, int, Callable[..., None], tuple[Any, ...]]  # when, its number, what

_NEVER: Final[Event] = (float("inf"), 0, lambda: None, ())


class Engine:
    """The clock of one simulation. ``now`` is in virtual seconds, ``events`` counts what has happened."""

    def __init__(self) -> None:
        self.now = BEGIN_S
        self.events = 0
        self._order = 0
        self._heap: list[Event] = []
        self._lanes: dict[float, deque[Event]] = {}

    def later(self, delay_s: float, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in ``delay_s`` of virtual time."""
        self._order += 1
        heappush(self._heap, (self.now + delay_s, self._order, function, arguments))

    def at(self, when: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call a function at this time, which is not over."""
        self._order += 1
        heappush(self._heap, (when, self._order, function, arguments))

    def after(self, delay_s: float, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Call a function in ``delay_s``, as `later`: faster where many have the same delay."""
        lane = self._lanes.get(delay_s)
        self._order += 1
        if lane is not None:
            lane.append((self.now + delay_s, self._order, function, arguments))
        elif len(self._lanes) < LANES_MAX:
            self._lanes[delay_s] = deque([(self.now + delay_s, self._order, function, arguments)])
        else:
            heappush(self._heap, (self.now + delay_s, self._order, function, arguments))

    def run(self, for_s: float = 60.0, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long at the most, or until a condition holds; return whether it does (without one: True)."""
        end, heap, lanes = self.now + for_s, self._heap, self._lanes
        while True:
            event, source = (heap[0] if heap else _NEVER), None
            for lane in lanes.values():
                if lane and lane[0] < event:
                    event, source = lane[0], lane
            if event[0] > end:
                break
            if until is not None and until():
                return True
            if source is None:
                heappop(heap)
            else:
                source.popleft()
            self.now, _, function, arguments = event
            self.events += 1
            function(*arguments)
        self.now = end
        return until is None or until()
