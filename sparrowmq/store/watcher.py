"""The thread that reads the beats of all: canaries out, beats in, with the time at which each arrived.

Owns: what is asked of the stream and when, what counts as a beat, and that a reader that cannot follow is waited for.
Must not know: what is concluded from beats. `timeline` has the arithmetic.

In one round trip it appends a canary and reads on to it: whatever had reached the store when the canary was sent has
then been read, which is all that silence can be judged by. Nothing is gained by reading beats before the next canary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sparrowmq.core.assistant import Arrival
from sparrowmq.core.timeline import EntryId, Timeline, parse
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import beats
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import BEAT, CANARY, Appending, stream_key
from sparrowmq.store.line import Line, Log, pack

READ_MAX: Final = 2000  # entries in one answer
ENTRIES_MAX: Final = 20_000  # in one turn
POSTS_MAX: Final = 4  # that wait for the loop
POST_PATIENCE_S: Final = 1.0

OnHeard = Callable[[float, float, Sequence[Arrival], bool], None]
Entry = tuple[EntryId, Sequence[bytes]]


class Watcher:
    """Tells what is heard, in order, for as long as the process lives.

    ``on_heard(seen_s, lag_s, arrivals, interrupted)`` is called through ``post``, which must be thread-safe
    (`Loop.post`): all that had reached the store by ``seen_s`` has been read, and that is ``lag_s`` ago. It is not
    called while the store does not answer; ``interrupted`` says that this has happened since it was called last.
    ``log`` (level, event, fields) is called in this thread. Times are those of `time.monotonic`.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        id: str,
        interval_s: float,
        entries_max: int,
        post: Callable[[Callable[[], None]], None],
        on_heard: OnHeard,
        log: Log,
    ) -> None:
        self._line = Line(settings, "judgement", log)
        self._canary = Appending(settings, CANARY, entries_max)(id.encode())
        self._key = stream_key(settings)
        self._interval_s = interval_s
        self._post = post
        self._on_heard = on_heard
        self._timeline = Timeline()
        self._interrupted = False  # the store did not answer since something was told last
        self._stopping = threading.Event()
        self._free = threading.Semaphore(POSTS_MAX)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it after the last fork."""
        self._thread.start()

    def stop(self, timeout_s: float = 0.5) -> None:
        """End the thread; waits for at most ``timeout_s``."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            if self._free.acquire(timeout=POST_PATIENCE_S) and not self._turn():
                self._free.release()
            self._stopping.wait(max(self._line.wait_s, began + self._interval_s - time.monotonic()))
        self._line.close()

    def _turn(self) -> bool:
        """Send a canary, read what there is up to it; return whether there was something to post."""
        line, timeline = self._line, self._timeline
        sent_s = time.monotonic()
        if timeline.after is None:
            answer = line.ask(self._canary)
        else:
            answer = line.ask(self._canary + self._read_on(timeline.after), 2)
        if answer is None:
            self._interrupted = True
            return False
        if timeline.appended(parse(answer[0]), sent_s) or len(answer) < 2:
            answer = None  # what was read, if anything, was not read from where it now begins
        arrivals: list[Arrival] = []
        for _ in range(ENTRIES_MAX // READ_MAX):
            if answer is None and timeline.after is not None:
                answer = line.ask(self._read_on(timeline.after))
            if answer is None:
                self._interrupted = True
                break
            entries = _entries(answer[-1])
            answer = None
            arrivals += self._arrivals(entries, time.monotonic())
            if timeline.came_back or len(entries) < READ_MAX:
                break
        if timeline.seen_s is None:
            return False
        self._tell(timeline.seen_s, arrivals)
        return True

    def _read_on(self, after: EntryId) -> bytes:
        return pack("XREAD", "COUNT", READ_MAX, "STREAMS", self._key, bytes(after))

    def _arrivals(self, entries: Sequence[Entry], now: float) -> list[Arrival]:
        """Return the beats among these entries; what is none is counted."""
        found = []
        times = self._timeline.read([id for id, _ in entries], now)
        for at_s, (_, fields) in zip(times, entries, strict=True):
            try:
                beat = _beat(fields)
            except ProtocolError as error:
                self._line.refused(error.code, str(error))
                continue
            if beat is not None:
                found.append(Arrival(at_s, beat))
        return found

    def _tell(self, seen_s: float, arrivals: Sequence[Arrival]) -> None:
        interrupted = self._interrupted and self._timeline.came_back
        self._interrupted = self._interrupted and not interrupted

        def tell() -> None:
            self._free.release()
            self._on_heard(seen_s, max(0.0, time.monotonic() - seen_s), arrivals, interrupted)

        self._post(tell)


def _entries(reply: Any) -> list[Entry]:
    """Return the entries in the reply to XREAD: None, or one pair of the key and [id, fields] of each."""
    return [] if reply is None else [(parse(id), fields or ()) for id, fields in reply[0][1]]


def _beat(fields: Sequence[bytes]) -> beats.Beat | None:
    """Return the beat of an entry, None for a canary. Raises ProtocolError for what is neither."""
    if len(fields) == 2:
        name, value = fields
        if name == BEAT:
            return beats.decode(value)
        if name == CANARY:
            return None
    raise ProtocolError("malformed", f"an entry of the stream of beats with {len(fields) // 2} unknown fields")
