"""The sign of life of a role's loop: a file that is touched each second, for health checks of containers and services.

Owns: the file, and what its age means. Must not know: who looks at it, or what the loop does.

A port that answers and a process that exists prove nothing (ZeroMQ's own threads answer for a stopped loop); a file
whose age is that of the loop's last timer does, and whoever looks at it needs no connection and no Python.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

from sparrowmq.runtime import logs
from sparrowmq.runtime.loop import Loop

INTERVAL_S: Final = 1.0
STALE_S: Final = (
    5.0  # older than that: the loop hangs, or the process is stopped or gone. docker/Dockerfile says it, too
)

_path = ""
_told = False  # that it cannot be written


def setup(path: str) -> None:
    """Have this process's role show its life at ``path``; "" (the default): nowhere."""
    global _path, _told
    _path, _told = path, False


def show_life(loop: Loop) -> None:
    """Touch the file now and each second from ``loop``, as long as it turns. Say so once where it cannot be written."""
    if not _path:
        return

    def touch() -> None:
        loop.call_later(INTERVAL_S, touch)
        show_turn()

    touch()


def show_turn() -> None:
    """Touch the file now: a loop that is no `Loop` has turned. Say so once where it cannot be written."""
    global _told
    if not _path:
        return
    try:
        _touch(_path)
        _told = False
    except OSError as error:
        if not _told:
            logs.emit("warning", "health file cannot be written", {"file": _path, "error": str(error)})
        _told = True


def hide_life() -> None:
    """Take the file away: the role has ended in order."""
    if _path:
        with contextlib.suppress(OSError):
            os.unlink(_path)


def age_s(path: str) -> float | None:
    """Return the seconds since the loop last turned, by the wall clock; None where no role has shown its life."""
    try:
        return max(0.0, time.time() - os.stat(path).st_mtime)
    except OSError:
        return None


def _touch(path: str) -> None:
    try:
        os.utime(path)
    except FileNotFoundError:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644))
