"""Reads what beats into the store's stream, and leaves no trace there: for those who look on.

Owns: what is asked of the stream, and when each beat arrived by the reader's wall clock. Must not know: what is
concluded from beats. `watcher` is for those who judge: it has to prove what it has read, and so writes canaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sparrowmq.core.timeline import HISTORY_MS, EntryId, parse
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import beats
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import BEAT, stream_key
from sparrowmq.store.line import Line, Log, pack

READ_MAX: Final = 2000  # entries in one answer; a reader that falls behind by more goes on from the newest
_BEHIND_MS: Final = 2000


class Heard(NamedTuple):
    """A beat, and how long before it was read it had reached the store."""

    age_s: float
    beat: Beat


class Listener:
    """Asks when it is told to; belongs to one thread. ``log`` (level, event, fields) is called in it."""

    def __init__(self, settings: StoreSettings, log: Log) -> None:
        self._line = Line(settings, "heartbeats", log)
        self._key = stream_key(settings)
        self._after: EntryId | None = None

    @property
    def wait_s(self) -> float:
        """How long to wait before it is worth asking again, after an outage."""
        return self._line.wait_s

    @property
    def down(self) -> bool:
        """Whether the store did not answer the last question. It may have answered, and refused."""
        return self._line.down

    def read(self) -> list[Heard] | None:
        """Return the beats since the last call, those of ten seconds at first; None where the store gives none."""
        if self._after is None:
            answer = self._line.ask(pack("TIME"))
            if answer is None:
                return None
            self._after = EntryId(max(0, _unix_ms(answer[0]) - HISTORY_MS), 0)
        question = pack("XREAD", "COUNT", READ_MAX, "STREAMS", self._key, bytes(self._after))
        answer = self._line.ask(question + pack("TIME"), 2)
        if answer is None:
            return None
        entries, now_ms = answer[0], _unix_ms(answer[1])
        if entries is None:
            if self._after.ms > now_ms:  # the store's clock has gone back, or it is another store
                self._after = None
            return []
        return self._take(entries[0][1], now_ms)

    def _take(self, entries: Sequence[Any], now_ms: int) -> list[Heard]:
        found = []
        for id, fields in entries:
            self._after = parse(id)
            if len(fields or ()) == 2 and fields[0] == BEAT:
                try:
                    beat = beats.decode(fields[1])
                except ProtocolError as error:
                    self._line.refused(error.code, str(error))
                    continue
                found.append(Heard(max(0.0, (now_ms - self._after.ms) * 1e-3), beat))
        if len(entries) >= READ_MAX and self._after is not None and now_ms - self._after.ms > _BEHIND_MS:
            self._after = EntryId(now_ms, 0)
        return found

    def close(self) -> None:
        """End the connection."""
        self._line.close()


def _unix_ms(reply: Any) -> int:
    """Return the milliseconds of the answer to TIME."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000
