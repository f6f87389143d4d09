"""The Redis of a simulated cluster: beats, the records of schedulers, a lease, jobs, and what may happen to it.

Owns: what is stored, in which order, and when an answer comes: at once, as an error (down), or when it goes on (hung).
Must not know: what a beat means, who leads, or what is concluded when no answer comes.

Ids of stream entries are milliseconds of the store's own wall clock, which may jump; they never fall as long as the
stream is not emptied, as in Redis. A lease expires by that clock, too.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from sparrowmq.protocol import beats
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.kept import KeptJobs

UP: Final = "up"
DOWN: Final = "down"  # errors at once
HUNG: Final = "hung"  # what it is asked waits until it goes on

UNIX_S: Final = 1_700_000_000.0  # the wall clock when virtual time is 0
STREAM_MAX: Final = 100_000  # entries; as MAXLEN

Answer = Callable[[bool, object], None]


class Canary(NamedTuple):
    """What an assistant writes into the stream to see when it comes back."""

    assistant: str
    incarnation: int
    number: int


class Entry(NamedTuple):
    """An entry of the stream."""

    id: tuple[int, int]  # milliseconds, and a number among those of the same
    what: beats.Beat | bytes | Canary  # bytes where beats are encoded


class Record(NamedTuple):
    """A scheduler. ``dead``: an assistant has declared this incarnation dead."""

    address: str
    incarnation: int
    dead: bool = False


class Line:
    """What one process has with the store for its beats: one on its way, and the newest that waits for its turn."""

    __slots__ = ("free_at", "newest", "waiting")

    def __init__(self) -> None:
        self.free_at = 0.0  # when the one on its way is answered; infinite where that is not known
        self.newest: beats.Beat | None = None
        self.waiting = False  # for `free_at`, to send the newest


class SimStore:
    """The store. ``delay_s``: of an operation there and back, on average. Everything random comes from ``rng``."""

    def __init__(self, engine: Engine, rng: random.Random, delay_s: float, *, encode: bool = True) -> None:
        self.state = UP
        self.records: dict[str, Record] = {}  # schedulers, by id
        self.skew_s = 0.0  # of its wall clock
        self.terms: list[tuple[float, str, int]] = []  # when a lease was given, to whom, under which term
        self.jobs = KeptJobs()
        self.deposited = 0
        self._engine = engine
        self._rng = rng
        self._delay_s = delay_s
        self._encode = encode
        self._held: list[tuple[Callable[[], None], Callable[[], None]]] = []  # while it hangs: what to do, or on error
        self._stream: deque[Entry] = deque(maxlen=STREAM_MAX)
        self._last_id = (0, 0)
        self._holder: tuple[str, int] | None = None  # of the lease: id and incarnation
        self._expires_s = 0.0  # by its wall clock
        self._term = 0

    @property
    def unix_s(self) -> float:
        """Its wall clock."""
        return UNIX_S + self._engine.now + self.skew_s

    # -- what becomes of it

    def turn(self, state: str) -> None:
        """It goes on, down, or hangs."""
        self.state = state
        if state == HUNG:
            return
        held, self._held = self._held, []
        for act, fail in held:
            (act if state == UP else fail)()

    def empty(self) -> None:
        """Everything in it is lost."""
        self.records.clear()
        self.jobs.empty()
        self._stream.clear()
        self._last_id = (0, 0)
        self._holder, self._term = None, 0

    # -- operations

    def call(self, act: Callable[[], object], answer: Answer) -> None:
        """Have the store do something; ``answer`` gets whether it did, and what came of it."""
        there_s, back_s = (self._draw() / 2 for _ in range(2))

        def arrive() -> None:
            if self.state == HUNG:
                self._held.append((do, fail))
            else:
                (do if self.state == UP else fail)()

        def do() -> None:
            self._engine.later(back_s, answer, True, act())

        def fail() -> None:
            self._engine.later(back_s, answer, False, None)

        self._engine.later(there_s, arrive)

    def _draw(self) -> float:
        return self._delay_s * self._rng.uniform(0.5, 1.5)

    def deposit(self, line: Line, beat: beats.Beat) -> None:
        """Append a beat, unless a newer one of this process comes before it is this one's turn."""
        now = self._engine.now
        if line.free_at <= now:
            delay_s = self._draw()
            line.free_at = now + delay_s
            self._engine.later(delay_s / 2, self._arrive, line, beat)
            return
        line.newest = beat
        if not line.waiting and line.free_at < float("inf"):
            line.waiting = True
            self._engine.at(line.free_at, self._flush, (line,))

    def _flush(self, line: Line) -> None:
        line.waiting = False
        beat, line.newest = line.newest, None
        if beat is not None:
            self.deposit(line, beat)

    def _arrive(self, line: Line, beat: beats.Beat) -> None:
        if self.state == UP:
            self.append(beats.encode(beat) if self._encode else beat)
            self.deposited += 1
        elif self.state == HUNG:
            line.free_at = float("inf")

            def fail() -> None:
                line.free_at = self._engine.now
                self._flush(line)

            def act() -> None:
                self._arrive(line, beat)
                fail()

            self._held.append((act, fail))

    def append(self, what: beats.Beat | bytes | Canary) -> Entry:
        """XADD: the id is the time, or the next one after the last."""
        id = (int(self.unix_s * 1e3), 0)
        if id <= self._last_id:
            id = (self._last_id[0], self._last_id[1] + 1)
        self._last_id = id
        entry = Entry(id, what)
        self._stream.append(entry)
        return entry

    def read(self, after: tuple[int, int]) -> list[Entry]:
        """XREAD: the entries with later ids, in order."""
        found: list[Entry] = []
        for entry in reversed(self._stream):
            if entry.id <= after:
                break
            found.append(entry)
        return found[::-1]

    def lease(self, holder: tuple[str, int], lease_s: float, unix_s: float) -> int:
        """Take or renew the lease; return its term, 0 if somebody else has it. A new one is above all before."""
        now_s = self.unix_s
        if self._holder is None or self._expires_s <= now_s:
            self._holder = holder
            self._term = max(self._term + 1, int(unix_s * 1e3))
            self.terms.append((self._engine.now, holder[0], self._term))
        elif self._holder != holder:
            return 0
        self._expires_s = now_s + lease_s
        return self._term
