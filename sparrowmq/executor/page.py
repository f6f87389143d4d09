"""The page of memory that a slot shares with its node monitor: what has started, and what must not start.

Owns: its words, and the reclaim protocol that both sides follow. Must not know: tasks, processes.

Reclaim. The node monitor wants tasks back that the slot holds and has not started, without asking the slot,
which may be busy for minutes. Each task has a sequence number; the slot runs them in order.

- The slot, before task n: writes started = n, then reads stop. stop < n: it runs n.
- The node monitor writes stop = S, the last number it handed, and lets SETTLE_S pass, so that its write has
  reached the slot, or the slot's has reached it. It then reads started: that is the verdict, ``after``. It
  writes after, then settled = S.
- A slot that reads stop >= n waits for settled = stop, and then runs n only if n <= after; it skips
  everything up to stop.

Both sides thus act on one value of started, read once; whatever moment the slot is stopped at, a task either
runs (n <= after) or never does. A skipped claim leaves started in (after, settled]; `started_seq` knows that.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Final

BYTES: Final = 4096
SETTLE_S: Final = 0.002

# Word numbers; the two writers are a cache line apart.
STARTED: Final = 0  # the slot: the highest sequence number it has claimed
STARTED_NS: Final = 1  # the slot: when, on the monotonic clock, which all processes of a machine share
STOP: Final = 8  # the node monitor: from started on up to here, nothing may start
SETTLED: Final = 9  # the node monitor: the stop that `AFTER` belongs to
AFTER: Final = 10  # the node monitor: the last number that had started when it looked
INTERRUPT: Final = 11  # the node monitor: the task that a SIGINT is meant for (see interrupts)

_WAIT_S: Final = 0.0001


class Page:
    """One shared page. ``words`` are unsigned 64-bit integers; each is written by one side only."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, BYTES)
        self.words = memoryview(self._map).cast("Q")

    # The node monitor's side.

    def stop(self, seq: int) -> None:
        """Begin a reclaim up to ``seq``; `settle` follows, at least SETTLE_S later."""
        self.words[STOP] = seq

    def settle(self) -> int:
        """End the reclaim: return the number after which nothing up to the stop will start."""
        words = self.words
        stop = words[STOP]
        after = min(self.started_seq(), stop)
        words[AFTER] = after
        words[SETTLED] = stop
        return after

    def interrupt(self, seq: int) -> None:
        """Say that ``seq`` is the task that the signal, sent after this, is meant for."""
        self.words[INTERRUPT] = seq

    def started_seq(self) -> int:
        """Return the highest number that has started."""
        words = self.words
        started, after = words[STARTED], words[AFTER]
        return after if after < started <= words[SETTLED] else started

    def started_s(self) -> float:
        """Return when the newest claim was made, in seconds of time.monotonic."""
        return self.words[STARTED_NS] / 1e9

    # The slot's side.

    def resume_at(self, seq: int) -> int:
        """Decide about ``seq``, claimed before, where stop >= seq was read: return the next number to run."""
        words = self.words
        while True:
            stop = words[STOP]
            settled = words[SETTLED]
            time.sleep(_WAIT_S)  # AFTER is written before SETTLED, but some processors show it later
            after = words[AFTER]
            if settled == stop == words[STOP]:
                return seq if seq <= after else stop + 1

    def close(self) -> None:
        """Unmap the page."""
        self.words.release()
        self._map.close()


def create() -> tuple[Page, int]:
    """Return a new page of zeros and the descriptor to pass to the slot; the caller closes that."""
    fd = os.memfd_create("sparrowmq-page", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, BYTES)
        return Page(fd), fd
    except BaseException:
        os.close(fd)
        raise
