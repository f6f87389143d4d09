"""One poll loop a process: sockets, pipes, timers, signals and posts from other threads, in one thread.

Owns: waiting, and the order of a turn. Must not know: messages, machines, or what a callback does.

A turn: wait until something is ready -> its callbacks -> due timers -> posts -> the end-of-turn callbacks,
where the caller flushes what the turn has produced (natural batching: an idle loop flushes after one
message, a busy one after hundreds). There are no periodic ticks: an idle loop sleeps until its next timer.

Why epoll and not zmq.Poller: zmq_poll asks every ZeroMQ socket on every call (25 us for 40 sockets on a
laptop-class core), epoll costs the same for any number. The price is the contract of ZMQ_FD, which is
edge-triggered: whoever reads a ZeroMQ socket reads until EAGAIN or returns True, and whoever sends on it
calls `recheck` afterwards, because a send may take the wake-up of a message that has arrived meanwhile.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

# A callback that returns True has stopped at its bound and is called again in the next turn.
OnReadable = Callable[[], object]
# (name of the callback, its exception, how many alike went unreported since the last report)
OnError = Callable[[str, Exception, int], None]

# How long a loop that is `expecting` looks for events before it sleeps. To be woken from an idle processor costs about
# as much as the work that follows. Only a loop that knows of nothing else to run does it: where processors are busy,
# looking takes them from those who work (measured: a fifth of the throughput of CPU-bound tasks).
LOOK_S = 0.0005
_EVENTS_MAX = 256  # ready descriptors taken in one turn; the rest comes in the next
_WAIT_MAX_S = 3600.0
_TIMERS_CROWD = 1024
_RETRY_S = 0.1  # when the deadline cannot be told
_SAME_ERROR_EVERY_S = 1.0
_ERROR_KINDS_MAX = 64
_events: Any = zmq.backend.Socket.get  # without the enumerations around it, which cost more than the question
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_READ_MASK = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITE_MASK = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Timer:
    """A callback that runs once, unless cancelled before."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Keep the callback from running; does nothing when it has run."""
        self.callback = None


class _Source:
    """What the loop watches under one descriptor."""

    __slots__ = ("on_readable", "on_writable", "socket")

    def __init__(self) -> None:
        self.on_readable: OnReadable | None = None
        self.on_writable: Callable[[], object] | None = None
        self.socket: zmq.Socket[bytes] | None = None

    def mask(self) -> int:
        """Return the epoll interest that the callbacks imply."""
        return (select.EPOLLIN if self.on_readable else 0) | (select.EPOLLOUT if self.on_writable else 0)


class Loop:
    """One thread's event loop. Only `post` may be called from other threads.

    Callbacks may be called without anything to read or write (the descriptor's number was reused, another
    reader was faster): they use non-blocking calls and take "not now" for an answer.
    """

    def __init__(self, on_error: OnError | None = None) -> None:
        self.on_turn: list[Callable[[], object]] = []
        self.deadline: Callable[[], float | None] | None = None
        self.expecting: Callable[[], bool] | None = None  # whether to look for events before sleeping: see LOOK_S
        self.turns = 0  # for beats: a loop that is stuck in a callback shows by it
        self._on_error = on_error or _print_error
        self._epoll = select.epoll()
        self._sources: dict[int, _Source] = {}
        self._descriptors: dict[zmq.Socket[bytes], int] = {}
        self._unsure: set[_Source] = set()  # ZeroMQ sockets that may hold messages without a readable descriptor
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._timers_crowd = _TIMERS_CROWD
        self._posts: deque[Callable[[], object]] = deque()
        self._awake = False
        self._thread = 0  # the one that runs, while it runs: its own posts need no wake-up
        self._stopping = False
        self._closed = False
        self._signals: dict[int, Callable[[], object]] = {}
        self._handlers_before: dict[int, Any] = {}
        self._wakeup_before: int | None = None
        self._reported: dict[tuple[str, type], tuple[float, int]] = {}
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self.add_fd(self._wake_reader.fileno(), self._on_wake)

    now = staticmethod(time.monotonic)

    # Sources.

    def add_socket(self, sock: zmq.Socket[Any], on_readable: OnReadable) -> None:
        """Watch a ZeroMQ socket. ``on_readable`` reads until EAGAIN, or returns True to be called again.

        Call `remove` before the socket is closed, and `recheck` after every send on it.
        """
        source = _Source()
        source.socket = sock
        source.on_readable = on_readable
        descriptor = int(sock.get(zmq.FD))
        self._descriptors[sock] = descriptor
        self._sources[descriptor] = source
        self._epoll.register(descriptor, select.EPOLLIN)
        self._unsure.add(source)

    def recheck(self, sock: zmq.Socket[Any]) -> None:
        """Look for messages on ``sock`` before the next wait: it was sent on, or read without EAGAIN."""
        descriptor = self._descriptors.get(sock)
        if descriptor is not None:
            self._unsure.add(self._sources[descriptor])

    def add_fd(self, fd: int, on_readable: OnReadable) -> None:
        """Watch a plain descriptor, level-triggered; end of file counts as readable."""
        source = self._sources.get(fd) or _Source()
        source.on_readable = on_readable
        self._update(fd, source)

    def set_writable(self, fd: int, on_writable: Callable[[], object] | None) -> None:
        """Call back while ``fd`` takes more bytes; None ends it. Level-triggered: end it when nothing is left."""
        source = self._sources.get(fd)
        if source is None:
            if on_writable is None:
                return
            source = _Source()
        source.on_writable = on_writable
        self._update(fd, source)

    def remove(self, sock_or_fd: zmq.Socket[Any] | int) -> None:
        """Stop watching, before the socket or descriptor is closed. Does nothing when it is not watched."""
        fd = sock_or_fd if isinstance(sock_or_fd, int) else self._descriptors.pop(sock_or_fd, -1)
        source = self._sources.pop(fd, None)
        if source is not None:
            self._unsure.discard(source)
            source.on_readable = source.on_writable = None  # it may be due in this very turn
            with contextlib.suppress(OSError):  # closed too early by its owner: epoll has dropped it by itself
                self._epoll.unregister(fd)

    def _update(self, fd: int, source: _Source) -> None:
        mask = source.mask()
        if fd not in self._sources:
            self._epoll.register(fd, mask)
            self._sources[fd] = source
        elif mask:
            self._epoll.modify(fd, mask)
        else:
            self.remove(fd)

    # Timers, posts, signals.

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Run ``callback`` once, ``delay_s`` seconds from now (epoll's grain: up to 1 ms late)."""
        timer = Timer(time.monotonic() + max(0.0, delay_s), callback)
        self._timer_count += 1
        heapq.heappush(self._timers, (timer.when, self._timer_count, timer))
        if len(self._timers) > self._timers_crowd:  # cancelled timers leave late: bound the heap by the live ones
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._timers_crowd = max(_TIMERS_CROWD, 2 * len(self._timers))
        return timer

    def post(self, callback: Callable[[], object]) -> None:
        """Run ``callback`` soon in the loop's thread; from any thread, in order. Dropped after `close`.

        Callers bound what they post: each has few posts under way at a time.
        """
        self._posts.append(callback)
        if not self._awake and threading.get_ident() != self._thread:
            self._awake = True
            with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody is left to wake
                self._wake_writer.send(b"\0")

    def add_signal(self, signum: int, callback: Callable[[], object]) -> None:
        """Run ``callback`` in the loop's thread, between other callbacks, when the signal arrives.

        Call it in the main thread (Python's rule for signals). `close` restores the former handlers.
        """
        if self._wakeup_before is None:
            self._wakeup_before = signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        before = signal.signal(signum, _ignore)
        self._handlers_before.setdefault(signum, before)
        self._signals[signum] = callback

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for signum in self._wake_reader.recv(4096):
                callback = self._signals.get(signum)
                if callback is not None:
                    self._guarded(callback)
        self._awake = False  # before the posts run: what is posted from now on wakes again

    # Running.

    def run(self) -> None:
        """Turn until `stop`. Exceptions of callbacks are reported; KeyboardInterrupt and SystemExit pass through."""
        self._thread = threading.get_ident()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._thread = 0
            self._stopping = False

    def stop(self) -> None:
        """End `run` after this turn. From another thread: ``loop.post(loop.stop)``."""
        self._stopping = True

    def close(self) -> None:
        """Release the descriptors and restore the signal handlers; call it in the main thread, after `run`."""
        if self._closed:
            return
        self._closed = True
        for signum, handler in self._handlers_before.items():
            signal.signal(signum, handler)
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        self._epoll.close()
        self._wake_reader.close()
        self._wake_writer.close()
        self._sources.clear()
        self._descriptors.clear()
        self._unsure.clear()
        self._posts.clear()

    def _turn(self) -> None:
        self.turns += 1
        ready = self._unread() if self._unsure else []
        events = self._poll(0.0 if ready else self._wait_s())
        for source in ready:
            self._read(source)
        for fd, mask in events:
            source_or_none = self._sources.get(fd)
            if source_or_none is None or source_or_none in ready:
                continue
            if mask & _READ_MASK and source_or_none.on_readable is not None:
                self._read(source_or_none)
            if mask & _WRITE_MASK and source_or_none.on_writable is not None:
                self._guarded(source_or_none.on_writable)
        if self._timers:
            self._run_timers()
        for _ in range(len(self._posts)):  # what a post posts waits for the next turn
            self._guarded(self._posts.popleft())
        for callback in self.on_turn:
            self._guarded(callback)

    def _poll(self, wait_s: float | None) -> list[tuple[int, int]]:
        """Wait for events; while one is expected at once, look for it a little before sleeping."""
        if (wait_s is None or wait_s > LOOK_S) and self.expecting is not None and self.expecting():
            until = time.monotonic() + LOOK_S
            while time.monotonic() < until:
                events = self._epoll.poll(0, _EVENTS_MAX)
                if events:
                    return events
                os.sched_yield()
        return self._epoll.poll(wait_s, _EVENTS_MAX)

    def _unread(self) -> list[_Source]:
        """Return the sources whose sockets hold messages although their descriptors may not say so."""
        unsure, self._unsure = self._unsure, set()
        return [source for source in unsure if source.socket is not None and _has_messages(source.socket)]

    def _read(self, source: _Source) -> None:
        if source.on_readable is None:  # removed by an earlier callback of this turn
            return
        more = self._guarded(source.on_readable)
        if more and source.socket is not None and source.on_readable is not None:
            self._unsure.add(source)

    def _wait_s(self) -> float | None:
        if self._posts or self._stopping:
            return 0.0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        when = self._timers[0][0] if self._timers else None
        if self.deadline is not None:
            try:
                deadline = self.deadline()
            except Exception as error:
                self._report("deadline", error)
                deadline = time.monotonic() + _RETRY_S
            if deadline is not None and (when is None or deadline < when):
                when = deadline
        return None if when is None else min(max(0.0, when - time.monotonic()), _WAIT_MAX_S)

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self._guarded(callback)

    def _guarded(self, callback: Callable[[], object]) -> object:
        """Call back; report an exception and return True, since what the callback left undone is unknown."""
        try:
            return callback()
        except Exception as error:
            self._report(getattr(callback, "__qualname__", repr(callback)), error)
            return True

    def _report(self, name: str, error: Exception) -> None:
        """Report one error of a kind a second, with the number of those left out."""
        kind = (name, type(error))
        now = time.monotonic()
        last, suppressed = self._reported.get(kind, (float("-inf"), 0))
        if now - last < _SAME_ERROR_EVERY_S:
            self._reported[kind] = (last, suppressed + 1)
            return
        if len(self._reported) >= _ERROR_KINDS_MAX:
            self._reported.clear()
        self._reported[kind] = (now, 0)
        try:
            self._on_error(name, error, suppressed)
        except Exception as broken:  # the logger itself fails: say so where it can still be read
            _print_error("on_error", broken, 0)


def _has_messages(sock: zmq.Socket[bytes]) -> bool:
    try:
        return bool(_events(sock, _EVENTS) & _POLLIN)
    except zmq.ZMQError:  # closed without remove(): nothing more will come
        return False


def _ignore(_signum: int, _frame: object) -> None:
    """Stand as the Python-level handler; the wake-up descriptor carries the news to the loop."""


def _print_error(name: str, error: Exception, suppressed: int) -> None:
    print(f"loop: {name} failed ({suppressed} alike before)", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
