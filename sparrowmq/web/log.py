"""The page's event log: what changed, in words.

Owns: the bound, and that many changes of one kind at once are one line. Must not know: what a change means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

EVENTS_MAX: Final = 80  # of the cluster
JOBS_MAX: Final = 20  # of jobs: where many are short they must not hide all else
TOGETHER: Final = 4  # more of one kind in one reading are counted, not listed


class Log:
    """Events, the newest first."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._jobs: deque[dict[str, Any]] = deque(maxlen=JOBS_MAX)
        self._number = 0

    def add(self, unix_s: float, level: str, text: str, name: str = "") -> None:
        """Note one event: ``text`` is the page's, ``name`` the cluster's. Levels: good, warn, bad, info."""
        self._events.append(self._event(unix_s, level, text, name))

    def add_all(self, unix_s: float, level: str, names: Sequence[str], text: str, many: str) -> None:
        """Note the same of each name; ``many`` is what is said of more than a few at once."""
        if len(names) > TOGETHER:
            self.add(unix_s, level, f"{len(names):,} {many}")
            return
        for name in names:
            self.add(unix_s, level, text, name)

    def jobs_over(self, unix_s: float, names: Sequence[str]) -> None:
        """Note that these jobs are over."""
        if len(names) > 1:
            self._jobs.append(self._event(unix_s, "info", f"{len(names):,} jobs are over", ""))
        elif names:
            self._jobs.append(self._event(unix_s, "info", "job is over", names[0]))

    def _event(self, unix_s: float, level: str, text: str, name: str) -> dict[str, Any]:
        self._number += 1
        return {"n": self._number, "unix_s": round(unix_s, 3), "level": level, "name": name, "text": text}

    def rows(self) -> list[dict[str, Any]]:
        """Return the events, the newest first."""
        return sorted([*self._events, *self._jobs], key=lambda event: -int(event["n"]))
