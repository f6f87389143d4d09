"""What was said and must be said again until it is acknowledged (DESIGN rule 1).

Owns: sequence numbers, the messages that wait for an acknowledgement, their size. Must not know: what the
messages mean, or when to resend; used by schedulers for outcomes and by node monitors for results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Message = TypeVar("Message")


class Outbox(Generic[Message]):
    """Messages in order of their sequence numbers, which start at 1; acknowledgements are cumulative."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Message, int]] = deque()
        self._seq = 0
        self._acknowledged = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Message]:
        return (message for _, message, _ in self._waiting)

    @property
    def next_seq(self) -> int:
        """The number that the next message must carry."""
        return self._seq + 1

    def put(self, message: Message, size: int) -> Message:
        """Keep ``message``, which carries `next_seq`; ``size`` is what it weighs in bytes."""
        self._seq += 1
        self._waiting.append((self._seq, message, size))
        self.bytes += size
        return message

    def take(self, wanted: Callable[[Message], bool]) -> list[Message]:
        """Remove the messages that are ``wanted``, acknowledged or not, and return them in order."""
        taken = [entry for entry in self._waiting if wanted(entry[1])]
        if taken:
            self._waiting = deque(entry for entry in self._waiting if not wanted(entry[1]))
            self.bytes -= sum(size for _, _, size in taken)
        return [message for _, message, _ in taken]

    def acknowledge(self, seq: int) -> bool:
        """Drop everything up to ``seq``; return whether that is news of what was ever put here."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= seq:
            self.bytes -= waiting.popleft()[2]
        news = self._acknowledged < seq <= self._seq
        if news:
            self._acknowledged = seq
        return news
