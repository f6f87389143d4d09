"""A steady load for a cluster that is being hurt: jobs of short naps, arriving at random whatever happens.

Owns: the arrivals. Must not know: what is done to the cluster.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Final

from sparrowmq.bench.arena import Arena

TASKS: Final = 4  # a job
NAP_S: Final = 0.1  # the mean of Exp


class Load:
    """Submits from `start` to `stop`, for a ``share`` of the cluster's ``slots``; an error ends it, and is kept."""

    def __init__(self, arena: Arena, slots: int, share: float, rng: random.Random) -> None:
        self._arena = arena
        self._pause_s = TASKS * NAP_S / (slots * share)  # the mean between arrivals
        self._rng = rng
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.error: Exception | None = None

    def start(self) -> None:
        """Begin to submit."""
        self._thread.start()

    def stop(self) -> None:
        """Submit no more. Raises what has ended it before, if something has."""
        self._stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        due_s = time.monotonic()
        try:
            while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
                self._arena.hold(TASKS, self._rng.expovariate(1.0 / NAP_S))
                due_s += self._rng.expovariate(1.0 / self._pause_s)
        except Exception as error:
            self.error = error
