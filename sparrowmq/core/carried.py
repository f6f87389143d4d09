"""Signs of life that are no messages: a large one may take longer on its way than a peer may be silent.

Owns: when bytes that a connection has carried count as one. Must not know: how they are counted, or what follows from
silence.

A peer that is asked whether it is there cannot answer before the question has come through behind what was sent
before, nor before what it is sending itself is through. So bytes count, in both directions, but not just any. Those of
a question, an answer, a heartbeat of ZeroMQ's are few: SIGN_BYTES are more, and any link in use carries them in time.
And the system of a frozen process goes on taking in what it is sent until its buffers are full: what has been delivered
counts only while more of it waits at this end, for else the question has been delivered, too. What is in those buffers
is bounded, and so is what a frozen peer gains by it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

SIGN_BYTES: Final = 16 * 1024  # and a system keeps more than that ready while a large message is on its way


class Carried(NamedTuple):
    """Bytes of one connection: ``received`` and ``delivered`` since it was made, ``waiting`` to be delivered now."""

    received: int
    delivered: int
    waiting: int


def near_s(ping_interval_s: float, silent_after_s: float) -> float:
    """Return after how many seconds without a message a connection is looked at: a question was not answered."""
    return min(1.5 * ping_interval_s, 0.5 * silent_after_s)


class Traffic:
    """What has been seen of the connection to one peer since its last message."""

    __slots__ = ("_delivered", "_received", "_since", "moved_at")

    def __init__(self) -> None:
        self.moved_at = 0.0  # when enough had been carried
        self._since = -1.0  # when it was first looked at since the last message
        self._received = self._delivered = 0  # by then, or by the last sign

    def silent_s(self, now: float, heard_at: float) -> float:
        """Return for how long there has been neither a message, the last one at ``heard_at``, nor enough of one."""
        return now - max(heard_at, self.moved_at)

    def look(self, now: float, heard_at: float, carried: Carried) -> None:
        """Take note of what the connection has carried by now."""
        if self._since <= heard_at:
            self._since = now
            self._received, self._delivered, _ = carried
        if carried.waiting < SIGN_BYTES:
            self._delivered = carried.delivered
        if carried.received - self._received + carried.delivered - self._delivered >= SIGN_BYTES:
            self.moved_at = now
            self._received, self._delivered, _ = carried
