"""What a fixed timeout would have declared on the same beats: the naive detector, beside the one that counts.

Owns: that comparison. Must not know: what is done with verdicts: nobody acts on these.

It is as anybody writes it first: a node is dead once nothing of it has been read for so long.
"""

from __future__ import annotations

from collections.abc import Hashable

from sparrowmq.core.timers import Timers


class Baseline:
    """Counts deaths that a timeout of ``timeout_s`` declares, and those that were refuted by a later beat.

    Bounded by whoever calls `forget`.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.deaths = 0
        self.refuted = 0
        self.declared_s: dict[Hashable, float] = {}  # who is dead by it, and since when
        self._read_s: dict[Hashable, float] = {}
        self._due: Timers[Hashable] = Timers()

    def read(self, key: Hashable, now: float) -> None:
        """A beat of this node was read."""
        if self.declared_s.pop(key, None) is not None:
            self.refuted += 1
        elif key in self._read_s:
            self._read_s[key] = now
            return
        self._read_s[key] = now
        self._due.add(now + self.timeout_s, key)

    def look(self, now: float) -> None:
        """Declare who has been silent for too long."""
        for key in self._due.due(now):
            read_s = self._read_s.get(key)
            if read_s is None or key in self.declared_s:
                continue
            if read_s + self.timeout_s > now:
                self._due.add(read_s + self.timeout_s, key)
            else:
                self.deaths += 1
                self.declared_s[key] = now

    def forget(self, key: Hashable) -> None:
        """This node is not watched any more."""
        self._read_s.pop(key, None)
        self.declared_s.pop(key, None)
