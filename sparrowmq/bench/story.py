"""What a cluster's own log tells of its members: when who was missed, and when who was given up.

Owns: reading the lines of a log file as they are written, and their times on this machine's monotonic clock. Must not
know: what is done to the cluster.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

MISSED: Final = ("worker disconnected", "worker is suspect")  # a scheduler's evidence, and the assistant's
GIVEN_UP: Final = ("worker lost",)
_LINES_MAX: Final = 100_000


class Line(NamedTuple):
    """One line: when it was written (CLOCK_MONOTONIC, seconds), by whom, what happened, whom it is about."""

    at_s: float
    by: str
    event: str
    about: str
    why: str


class Story:
    """The lines of the log at ``path``, JSON one a line; others are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._unix_offset_s = time.time() - time.monotonic()
        self._lines: list[Line] = []

    def first(self, events: tuple[str, ...], about: str, since_s: float) -> Line | None:
        """Return the first line of these events about a member, written at ``since_s`` or later, or None."""
        self._read()
        found = [line for line in self._lines if line.event in events and line.about == about and line.at_s >= since_s]
        return min(found, default=None)

    def _read(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for text in data[:whole].splitlines():
            line = self._parse(text)
            if line is not None and len(self._lines) < _LINES_MAX:
                self._lines.append(line)

    def _parse(self, text: bytes) -> Line | None:
        try:
            row: dict[str, Any] = json.loads(text)
            unix_s = datetime.fromisoformat(row["timestamp"]).timestamp()
            about = str(row.get("worker") or row.get("id", ""))  # a scheduler's words, the assistant's
            why = str(row.get("why", ""))
            return Line(unix_s - self._unix_offset_s, str(row.get("role")), row["event"], about, why)
        except (ValueError, KeyError, TypeError):
            return None
