"""Connections that have not said hello yet: since when, and which of them have been here too long.

Owns: their order and their number's bound. Must not know: sockets, or how a connection is ended.

Whoever connects and says nothing costs a descriptor and memory, and needs no key for that. So the time is bounded,
and the number: where there are more than that, those that have been silent longest go first, and one that says hello at
once is never among them for long.
"""

from __future__ import annotations

import resource


class Strangers:
    """By descriptor, oldest first. ``patience_s``: how long one may stay. ``most``: how many may be there."""

    def __init__(self, patience_s: float, most: int) -> None:
        self.patience_s = patience_s
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Where a process has few descriptors, most of them are for those who have said hello.
        self._most = most if soft == resource.RLIM_INFINITY else max(1, min(most, soft // 4))
        self._since: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def arrived(self, descriptor: int, now: float) -> None:
        """A connection was accepted; an older one with this descriptor is over."""
        self._since.pop(descriptor, None)
        self._since[descriptor] = now

    def gone(self, descriptor: int) -> None:
        """It has said hello, or is over."""
        self._since.pop(descriptor, None)

    def since(self, descriptor: int) -> float | None:
        """Return when this stranger arrived; None where it is none."""
        return self._since.get(descriptor)

    def crowded(self) -> bool:
        """Whether there are more than may be."""
        return len(self._since) > self._most

    def surplus(self) -> list[int]:
        """Return those that are too many, the oldest."""
        return list(self._since)[: max(0, len(self._since) - self._most)]

    def overdue(self, now: float, *, factor: float = 1.0) -> list[int]:
        """Return those that have been here longer than ``factor`` times the patience."""
        late = now - factor * self.patience_s
        found: list[int] = []
        for descriptor, since in self._since.items():
            if since > late:
                break
            found.append(descriptor)
        return found

    def next_due(self) -> float | None:
        """Return when the oldest will have been here too long; None where there is nobody."""
        return next(iter(self._since.values())) + self.patience_s if self._since else None
