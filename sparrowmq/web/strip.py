"""The heartbeats of the last seconds, worker by worker: what lets a missing beat be seen.

Owns: the window, and which beats are kept. Must not know: who is alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.store.listener import Heard

WINDOW_S: Final = 10.0
BEATS_MAX: Final = 256  # of a worker
WORKERS_MAX: Final = 2000
KEEP_S: Final = 90.0  # of silence: longer than an assistant remembers the dead


class Pulse:
    """One worker's beats: its last one, and when those in the window had reached the store (the page's clock)."""

    __slots__ = ("at_s", "beat")

    def __init__(self, beat: Beat) -> None:
        self.beat = beat
        self.at_s: deque[float] = deque(maxlen=BEATS_MAX)

    @property
    def last_s(self) -> float:
        """When the last beat had reached the store."""
        return self.at_s[-1]


class Strip:
    """The pulses of all workers, bounded by WORKERS_MAX."""

    def __init__(self) -> None:
        self.pulses: dict[str, Pulse] = {}
        self.seen_s: float | None = None  # all that had come by then has been read

    def hear(self, now: float, heard: Iterable[Heard]) -> None:
        """These beats were read: all that had come by now."""
        self.seen_s = now
        for age_s, beat in heard:
            if beat.kind != m.WORKER:
                continue
            pulse = self.pulses.get(beat.id)
            if beat.leaving:
                self.pulses.pop(beat.id, None)
                continue
            if pulse is None:
                if len(self.pulses) >= WORKERS_MAX:
                    continue
                pulse = self.pulses[beat.id] = Pulse(beat)
            elif beat.incarnation < pulse.beat.incarnation:
                continue
            pulse.beat = beat
            at_s = now - age_s
            pulse.at_s.append(max(at_s, pulse.last_s) if pulse.at_s else at_s)
        for id in [id for id, pulse in self.pulses.items() if now - pulse.last_s > KEEP_S]:
            del self.pulses[id]

    def ticks_ms(self, id: str, now: float) -> list[int]:
        """Return how long ago the beats in the window came, the latest first."""
        pulse = self.pulses.get(id)
        if pulse is None:
            return []
        return [round((now - at_s) * 1e3) for at_s in reversed(pulse.at_s) if 0.0 <= now - at_s <= WINDOW_S]

    def silent_ms(self, id: str) -> int | None:
        """Return for how long nothing had come when it was last looked; None where that is not known."""
        pulse = self.pulses.get(id)
        if pulse is None or self.seen_s is None:
            return None
        return round(max(0.0, self.seen_s - pulse.last_s) * 1e3)

    def clear(self) -> None:
        """Forget all: nobody has read for a while."""
        self.pulses.clear()
        self.seen_s = None
