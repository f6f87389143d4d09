"""When the entries of the store's stream arrived, on the clock of the process that reads them. Arithmetic only.

Owns: what a canary proves. Must not know: Redis, threads, clocks, beats.

Entries bear the milliseconds of the store's wall clock, which is nobody else's and may jump. What ties them to the
reader's monotonic clock is a canary: an entry of its own, appended at a known moment. An entry that follows it arrived
as much later as its milliseconds are, but never before the entry before it, and never after it was read. So a reader
that is late still learns when beats arrived, and a jump of the store's clock does harm for one canary's interval.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

HISTORY_MS: Final = 10_000  # a reader that begins, or begins again, reads entries of so long ago


class EntryId(NamedTuple):
    """The id of an entry: milliseconds of the store's wall clock, and a number among those of the same."""

    ms: int
    number: int

    def __bytes__(self) -> bytes:
        return b"%d-%d" % self


def parse(text: bytes) -> EntryId:
    """Return the id in Redis' notation."""
    ms, _, number = text.partition(b"-")
    return EntryId(int(ms), int(number or 0))


class Timeline:
    """What one reader knows of the stream. All seconds are of its own monotonic clock.

    ``seen_s``: whatever had reached the store by then has been read; None before the first canary has come back.
    ``after``: the last entry that was read; read on from there.
    """

    def __init__(self) -> None:
        self.seen_s: float | None = None
        self.after: EntryId | None = None
        self._canary: EntryId | None = None  # the last one that was appended
        self._sent_s = 0.0
        self._anchor_s = 0.0  # when the last canary that was read had been sent
        self._anchor_ms = 0
        self._arrived_s = float("-inf")  # the last entry

    def appended(self, canary: EntryId, sent_s: float) -> bool:
        """A canary that was sent then has got this id; return whether to read from `after` anew.

        That is so at first, and where ids have gone back: the stream was emptied, and the store's clock is behind.
        """
        began = self.after is None or canary <= self.after
        if began:
            self.after = EntryId(max(0, canary.ms - HISTORY_MS), 0)
            self._anchor_s, self._anchor_ms = sent_s, canary.ms
        self._canary, self._sent_s = canary, sent_s
        return began

    def read(self, ids: Iterable[EntryId], now: float) -> list[float]:
        """These entries were read, in their order; return when each arrived, ``now`` at the latest."""
        arrived = self._arrived_s
        found = []
        for entry in ids:
            if entry == self._canary:
                self._anchor_s, self._anchor_ms = self._sent_s, entry.ms
                self.seen_s = self._sent_s if self.seen_s is None else max(self.seen_s, self._sent_s)
            arrived = min(now, max(arrived, self._anchor_s + (entry.ms - self._anchor_ms) * 1e-3))
            found.append(arrived)
            self.after = entry
        self._arrived_s = arrived
        return found

    @property
    def came_back(self) -> bool:
        """Whether the last canary has been read."""
        return self._canary is not None and self.after is not None and self.after >= self._canary
