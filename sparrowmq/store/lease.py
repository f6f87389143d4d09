"""Which of several assistants leads: a lease in Redis that one of them holds, and the fencing token that goes with it.

Owns: the keys, taking, renewing and giving back, and that a holder which cannot renew in time stops by its own clock.
Must not know: what a leader does.

Keys, below the prefix: ``lease`` holds ``<term>:<holder>`` and expires; ``term`` is the last token that was given, and
stays. A new token is above the last one and above all that the taker has ever seen, and no less than the unix
milliseconds of Redis' clock: it grows even where Redis has lost everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from sparrowmq import limits
from sparrowmq.settings import StoreSettings
from sparrowmq.store.connection import connect, explained
from sparrowmq.store.line import Line, Log, pack

ATTEMPTS: Final = 3  # in the time of a lease
STOP_S: Final = 0.5

# A lease that is none of ours, or that would never expire, is nobody's. Answers {term of this holder or 0, last term,
# milliseconds until another may try}.
_TAKE: Final = """\
local term, holder = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):(.+)$')
local left_ms = redis.call('PTTL', KEYS[1])
if holder and tonumber(term) >= tonumber(ARGV[4]) then holder = nil end
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {tonumber(term), tonumber(term), 0}
end
local last = tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if not (last >= 0 and last < tonumber(ARGV[4])) then last = 0 end
last = math.max(last, tonumber(ARGV[3]))
if holder and left_ms > 0 then return {0, last, left_ms} end
local time = redis.call('TIME')
local fresh = math.max(last + 1, time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('SET', KEYS[2], string.format('%.0f', fresh))
redis.call('SET', KEYS[1], string.format('%.0f:%s', fresh, ARGV[1]), 'PX', ARGV[2])
return {fresh, fresh, 0}
"""
_GIVE_BACK: Final = """\
local term, holder = string.match(redis.call('GET', KEYS[1]) or '', '^(%d+):(.+)$')
if holder == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


def leader(settings: StoreSettings) -> tuple[str, int]:
    """Return who holds the lease, and its term; ("", 0) if nobody does. Raises Unavailable or Refused."""
    client = connect(settings)
    try:
        with explained(settings):
            term, colon, holder = (client.get(f"{settings.prefix}lease") or b"").decode(errors="replace").partition(":")
        return (holder, int(term)) if colon and term.isdecimal() else ("", 0)
    finally:
        client.close()


class Tenure:
    """What a holder may believe of its lease: arithmetic only. Seconds are of its own monotonic clock.

    A lease that was granted to a request sent at ``asked_s`` lasts, for its holder, until ``lease_s`` after that; in
    Redis it lasts longer, by as much as the request was under way.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._held = (0, float("-inf"))  # term and end, always replaced together
        self.last = 0  # the highest term known, of anybody

    def granted(self, term: int, asked_s: float) -> None:
        """Redis has given or renewed it."""
        self._held = (term, asked_s + self._lease_s)
        self.last = max(self.last, term)

    def gone(self) -> None:
        """It is somebody else's, or was given back."""
        self._held = (0, float("-inf"))

    @property
    def until_s(self) -> float:
        """When it ends, unless it is renewed before."""
        return self._held[1]

    def term(self, now: float) -> int:
        """Return the fencing token while the lease is held, else 0."""
        term, until_s = self._held
        return term if now < until_s else 0


class Lease:
    """Tries for the lease in a thread of its own, three times in each ``lease_s``, and keeps it once it is held.

    ``on_change`` is called through ``post``, which must be thread-safe (`Loop.post`), after each change; whoever acts
    as a leader asks `term` first, which answers from memory. ``log`` (level, event, fields) is called in the thread.
    """

    def __init__(
        self,
        settings: StoreSettings,
        *,
        holder: str,
        lease_s: float,
        post: Callable[[Callable[[], None]], None],
        on_change: Callable[[], None],
        log: Log,
    ) -> None:
        self.tenure = Tenure(lease_s)
        self._line = Line(settings, "lease", log, timeout_s=lease_s / ATTEMPTS)
        self._keys = (f"{settings.prefix}lease", f"{settings.prefix}term")
        self._holder = holder
        self._lease_s = lease_s
        self._post = post
        self._on_change = on_change
        self._told = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it after the last fork."""
        self._thread.start()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Give the lease back, so that another can take it at once, and end; waits for at most ``timeout_s``."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def term(self, now: float) -> int:
        """Return the fencing token while the lease is surely held, else 0. Thread-safe."""
        return self.tenure.term(now)

    def _run(self) -> None:
        while not self._stopping.is_set():
            wait_s = self._try(time.monotonic())
            term = self.tenure.term(time.monotonic())
            if term != self._told:
                self._told = term
                self._post(self._on_change)
            self._stopping.wait(wait_s)
        if self.tenure.term(time.monotonic()):
            self.tenure.gone()
            self._line.ask(pack("EVAL", _GIVE_BACK, 1, self._keys[0], self._holder))
        self._line.close()

    def _try(self, now: float) -> float:
        """Take or renew the lease; return how long to wait."""
        pause_s = self._lease_s / ATTEMPTS
        command = (self._holder, max(1, round(self._lease_s * 1000)), self.tenure.last, limits.INT_MAX)
        answer = self._line.ask(pack("EVAL", _TAKE, 2, *self._keys, *command))
        if answer is None:
            return max(self._line.wait_s, now + pause_s - time.monotonic())
        term, last, left_ms = _numbers(answer[0])
        if term:
            self.tenure.granted(term, now)
            return max(0.0, now + pause_s - time.monotonic())
        self.tenure.gone()
        self.tenure.last = max(self.tenure.last, last)
        return min(pause_s, left_ms / 1000 + 0.001)


def _numbers(reply: Any) -> tuple[int, int, int]:
    """Return the answer of the script that takes the lease."""
    term, last, left_ms = (int(number) for number in reply)
    return term, last, left_ms
