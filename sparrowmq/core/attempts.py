"""Attempts of tasks, and what a message of results does to them: records that a job hands out.

Owns: their fields. Must not know: the task table (job.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Attempt(NamedTuple):
    """A live attempt: its worker, its number, and when it was launched (monotonic seconds)."""

    worker: str
    number: int
    at: float


@dataclass(slots=True)
class Settled:
    """What a worker's results have changed."""

    over: list[int] = field(default_factory=list)  # positions within the message of tasks that ended
    statuses: bytearray = field(default_factory=bytearray)  # how these ended
    places: list[str] = field(default_factory=list)  # where attempts are over, one entry each
    losers: list[tuple[str, int]] = field(default_factory=list)  # (worker, task): attempts that are in vain now
    failed: list[tuple[int, int, str]] = field(default_factory=list)  # (task, attempt, worker): to be tried again
    ignored: int = 0
