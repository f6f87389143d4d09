"""A Valkey server for a test, threads of the store with what they said, and waiting for what real processes do."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sparrowmq.protocol.beats import Beat
from sparrowmq.store.embedded import EmbeddedServer


def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)


class Said:
    """Log lines, from any thread."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __call__(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self.lines.append((level, event, dict(fields)))

    def count(self, part: str) -> int:
        """How many lines have this in their event or reason."""
        return sum(part in event or part in str(fields.get("reason", "")) for _, event, fields in list(self.lines))


class Posts:
    """A loop of which only `post` is there: it runs what is posted, in one thread, in order."""

    def __init__(self) -> None:
        self.stuck = threading.Lock()  # held: the loop does not turn
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def waiting(self) -> int:
        """How many have not been taken up."""
        return self._posted.qsize()

    def __call__(self, callback: Callable[[], None]) -> None:
        self._posted.put(callback)

    def _run(self) -> None:
        while True:
            callback = self._posted.get()
            with self.stuck:
                callback()


@contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """The server hangs: connections stand, and nothing is answered."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def restart(server: EmbeddedServer) -> None:
    """Kill it and start an empty one at the same place."""
    server.stop()
    server.launch()
    server.wait_ready()


def beat(sequence: int, id: str = "worker-1", **changes: Any) -> Beat:
    """Return a worker's beat."""
    return Beat("worker", id, 7, sequence, 100, **changes)
