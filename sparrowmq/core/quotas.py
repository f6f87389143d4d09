"""How fast the owner of a key may have things done: token buckets, one a key.

Owns: what each key has left, and when more of it is there. Must not know: what is counted, or what becomes of those
who have used theirs up.

A bucket holds what comes in within BURST_S. What costs more than is left is allowed as long as there is anything: the
bucket goes into debt and what comes next waits until that is paid, so that no single thing is too large to be had.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

BURST_S: Final = 1.0
KEYS_MAX: Final = 10_000  # beyond, those that have asked for nothing the longest are forgotten, with their debts
_ONE: Final = 1.0 - 1e-6  # sums of fractions


class _Bucket:
    """``left`` tokens at the time ``at``."""

    __slots__ = ("at", "left")

    def __init__(self, left: float, at: float) -> None:
        self.left = left
        self.at = at


class Quota:
    """One rate, for each key by itself. ``rate_per_s`` 0: no limit."""

    def __init__(self, rate_per_s: float) -> None:
        self.rate_per_s = rate_per_s
        self._most = max(1.0, rate_per_s * BURST_S)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, now: float, key: str, count: float = 1.0) -> None:
        """Use up ``count``, whatever is left: what is not there is a debt. Less than nothing gives it back."""
        if self.rate_per_s:
            self._bucket(now, key).left -= count

    def wait_s(self, now: float, key: str) -> float:
        """Return how long it is until this key has anything left; 0.0: it has."""
        if not self.rate_per_s or key not in self._buckets:  # nobody is remembered for having asked
            return 0.0
        left = self._bucket(now, key).left
        return 0.0 if left >= _ONE else (1.0 - left) / self.rate_per_s

    def debt(self, now: float, key: str) -> float:
        """Return how much more this key has used than it had."""
        return max(0.0, -self._bucket(now, key).left) if self.rate_per_s and key in self._buckets else 0.0

    def _bucket(self, now: float, key: str) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= KEYS_MAX:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(self._most, now)
            return bucket
        self._buckets.move_to_end(key)
        if now > bucket.at:
            bucket.left = min(self._most, bucket.left + (now - bucket.at) * self.rate_per_s)
            bucket.at = now
        return bucket
