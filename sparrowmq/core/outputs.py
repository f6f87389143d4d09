"""What the tasks of one worker print, on its way to their schedulers.

Owns: putting together what is at hand, and the bound on bytes a second. Must not know: slots, connections.

Best effort: nothing is kept here. Tasks have a cap each (`WorkerSettings.output_bytes`), but many short ones that print
all they may would fill every process on the way; beyond the bound their output is left out, and counted.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sparrowmq import limits
from sparrowmq.core.effects import AnyEffect, Send
from sparrowmq.protocol import messages as m

BYTES_PER_S: Final = 16 * 1024 * 1024  # of one worker


class Outputs:
    """Forwards output within a bound. ``effects`` is where the sends go."""

    def __init__(self, effects: list[AnyEffect]) -> None:
        self._effects = effects
        self._second = -1
        self._left = 0
        # (slot, sequence number, stream) -> to whom, and how much was left out of a task that still runs
        self._dropped: dict[tuple[int, int, int], tuple[int, m.Output]] = {}

    def __len__(self) -> int:
        return len(self._dropped)

    def forward(self, now: float, peer: int, slot: int, seq: int, output: m.Output) -> None:
        """Send to ``peer`` what task ``seq`` of this slot wrote, joined to what it wrote before; or leave it out."""
        if int(now) != self._second:
            self._second, self._left = int(now), BYTES_PER_S
        source = (slot, seq, output.stream)
        dropped = output.dropped + (self._dropped.pop(source)[1].dropped if source in self._dropped else 0)
        if len(output.data) > self._left:
            dropped += len(output.data)
            self._dropped[source] = peer, msgspec.structs.replace(output, data=b"", dropped=dropped)
            return
        self._left -= len(output.data)
        last = self._effects[-1] if self._effects else None
        if not dropped and isinstance(last, Send) and last.peer == peer and isinstance(last.message, m.Output):
            joined = _joined(last.message, output)
            if joined is not None:
                self._effects[-1] = Send(peer, joined)
                return
        self._effects.append(Send(peer, msgspec.structs.replace(output, dropped=dropped) if dropped else output))

    def ended(self, slot: int, up_to_seq: int) -> None:
        """The tasks of this slot up to this one have ended: tell what was left out of them."""
        for source in [source for source in self._dropped if source[0] == slot and source[1] <= up_to_seq]:
            self._effects.append(Send(*self._dropped.pop(source)))


def _joined(first: m.Output, second: m.Output) -> m.Output | None:
    """Return both as one, None where they are not of one stream or too large together."""
    same = first.index == second.index and first.stream == second.stream and first.attempt == second.attempt
    if not same or (first.job, first.epoch) != (second.job, second.epoch):
        return None
    if len(first.data) + len(second.data) > limits.OUTPUT_BYTES_MAX:
        return None
    return msgspec.structs.replace(first, data=first.data + second.data)
