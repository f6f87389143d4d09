"""What happened in a simulation, in order: a digest of all of it, and the last of it in words.

Owns: how an event is written down. Must not know: what it means.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Final

_CHARS_MAX: Final = 400  # of one line that is kept


class Journal:
    """The digest of a run, and its last ``keep`` events as lines."""

    def __init__(self, keep: int = 0) -> None:
        self.events = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._kept: deque[tuple[float, str, str, object]] = deque(maxlen=keep)

    def add(self, now: float, node: str, what: str, detail: object = "") -> None:
        """Write down that something happened to a node. ``detail`` must look the same in every process."""
        self.events += 1
        self._digest.update(f"{now!r} {node} {what} {detail!r}\n".encode())
        self._kept.append((now, node, what, detail))

    def digest(self) -> str:
        """Return 32 hexadecimal digits over everything so far: equal for two runs only if all events were equal."""
        return self._digest.hexdigest()

    def lines(self, last: int = 0) -> list[str]:
        """Return what is kept, or the last so many lines of it."""
        kept = list(self._kept)[-last:] if last else self._kept
        return [f"{now:12.6f} {node:14} {what:9} {_text(detail)}" for now, node, what, detail in kept]


def _text(detail: object) -> str:
    text = detail if isinstance(detail, str) else repr(detail)
    return text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}..."
