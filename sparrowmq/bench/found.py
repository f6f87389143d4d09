"""What the rounds of one fault have found so far, kept even where a later round fails.

Owns: the counts. Must not know: faults.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparrowmq.bench.shown import Ledger

TOLD = "told_"  # counts that begin so tell something, and are no mistakes


class Found:
    """``times_s``: one a round that has a time. ``counts``: further counts by name; each must be 0 unless told only."""

    def __init__(self) -> None:
        self.rounds = 0
        self.times_s: list[float] = []
        self.lost = 0
        self.duplicated = 0
        self.examples: list[str] = []
        self.counts: dict[str, float] = {}

    @property
    def wrong(self) -> bool:
        """Whether a count that must be 0 is not."""
        return any(count for name, count in self.counts.items() if not name.startswith(TOLD))

    def add(self, time_s: float | None = None) -> None:
        """One more round, and its time, if it has one."""
        self.rounds += 1
        if time_s is not None:
            self.times_s.append(time_s)

    def count(self, **counts: float) -> None:
        """Add to counts; one that was never named is not part of the row."""
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    @contextlib.contextmanager
    def booked(self, ledger: Ledger) -> Iterator[None]:
        """Take over what the ledger says, however the block ends."""
        try:
            yield
        finally:
            ledger.close_books(final=True)
            self.lost += ledger.lost
            self.duplicated += ledger.duplicated
            self.examples += ledger.examples
