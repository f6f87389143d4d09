"""Tasks that say when they start, and where: how a measurement sees a lost task run again.

Owns: the task `hold`, the mailbox that hears it. Must not know: who kills what, or what is made of the times.

A stamp is one datagram over a Unix socket: the cluster under test neither sees nor delays it, and all processes of one
machine share CLOCK_MONOTONIC. Workers import this room, so it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

_STAMP_BYTES_MAX: Final = 256
_LOOK_EVERY_S: Final = 0.2  # whether it is closed


class Stamp(NamedTuple):
    """A task has started: when (CLOCK_MONOTONIC, seconds), in which process, below which worker's process."""

    at_s: float
    pid: int
    worker_pid: int


def hold(path: str, key: int, seconds: float) -> int:
    """Say at the mailbox ``path`` that task ``key`` has started, stay for ``seconds``, return ``key``."""
    at_s = time.monotonic()
    stamp = f"{key} {at_s!r} {os.getpid()} {_parent(os.getppid())}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(stamp.encode(), path)  # where nobody listens any more, nobody needs to know
    time.sleep(max(0.0, at_s + seconds - time.monotonic()))
    return key


def spin(path: str, key: int, seconds: float) -> int:
    """As `hold`, and keep a processor busy meanwhile."""
    until_s = time.monotonic() + seconds
    hold(path, key, 0.0)
    while time.monotonic() < until_s:
        pass
    return key


def _parent(pid: int) -> int:
    """Return the parent of ``pid``: a slot's parent is the zygote, whose parent is the worker."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has just been killed
        return 0


class Mailbox:
    """Hears stamps at a socket in ``directory``, in a thread of its own, until `close`."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "stamps")
        self._stamps: dict[int, list[Stamp]] = {}
        self._heard = threading.Condition()
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(_LOOK_EVERY_S)
        self._thread = threading.Thread(target=self._listen, name="stamps", daemon=True)
        self._thread.start()

    def of(self, key: int) -> list[Stamp]:
        """Return the starts of task ``key`` so far, in the order of their times."""
        with self._heard:
            return sorted(self._stamps.get(key, ()))

    def repeated(self) -> int:
        """Return how many starts there were beyond the first of each task."""
        with self._heard:
            return sum(len(stamps) - 1 for stamps in self._stamps.values())

    def wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Look at ``condition`` after each stamp until it holds, or ``timeout_s`` are over; tell whether it does."""
        with self._heard:
            return self._heard.wait_for(condition, timeout_s)

    def forget(self) -> None:
        """Forget all stamps; those of tasks that still run may follow."""
        with self._heard:
            self._stamps.clear()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._closed:
            try:
                data = self._socket.recv(_STAMP_BYTES_MAX)
            except TimeoutError:
                continue
            key, at_s, pid, worker_pid = data.split()
            with self._heard:
                self._stamps.setdefault(int(key), []).append(Stamp(float(at_s), int(pid), int(worker_pid)))
                self._heard.notify_all()
