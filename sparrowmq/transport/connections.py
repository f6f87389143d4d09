"""The connections of one accepting socket: whose each is, when it is over, and how one is ended from this end.

Owns: descriptors, and what the socket's monitor tells of them. Must not know: what peers say, how much of it is too
much (unfinished.py), or what follows from an end.

An end shows as a monitor event that names a descriptor, while messages name a routing id; a message carries the
descriptor of its connection and ties the two. Descriptors are reused at once, so the tie is made only after every older
event has been read, and between two peers with one descriptor the later routing id (ROUTER counts them up) is the one
that may be alive.

ROUTER has no call to close one connection. So it is ended from below: by shutting down its descriptor, which ZeroMQ
takes for the peer's doing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import zmq

from sparrowmq.core.carried import Carried
from sparrowmq.runtime.loop import Loop, Timer
from sparrowmq.transport import kernel
from sparrowmq.transport.link import LinkOptions, Monitor
from sparrowmq.transport.strangers import Strangers
from sparrowmq.transport.unfinished import LOOK_AGAIN_S, LOOK_EVERY_S, Flow, Unfinished

_FAILED: Final = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_FAILED_AUTH: Final = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_ACCEPTED: Final = int(zmq.EVENT_ACCEPTED)
_DISCONNECTED: Final = int(zmq.EVENT_DISCONNECTED)
_COUNTERS: Final = (
    "accepted",
    "handshake_failed",
    "key_refused",
    "unheard",
    "no_hello_in_time",
    "crowded_out",
    "endless",
    "hoarding",
    "mute",
)
_NO_LINGER: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: on, for no time
_LOOK_AGAIN_S: Final = 0.05  # after strangers were given more time


class Connections:
    """Watches a socket from before it is bound to `close`.

    ``counts_bytes``: its connections are of TCP, whose kernel counts what they bring.
    ``on_end(rid)``: the connection that was tied to this routing id is over, or turned out not to be its own.
    ``on_events()``: events have come and were read. ``read_on()`` reads messages that wait and returns whether there
    may be more.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: Loop,
        sock: zmq.Socket[bytes],
        options: LinkOptions,
        counters: dict[str, int],
        *,
        counts_bytes: bool,
        on_end: Callable[[bytes], object],
        on_events: Callable[[], object],
        read_on: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._counters = counters
        counters.update(dict.fromkeys(_COUNTERS, 0))
        self._on_end = on_end
        self._on_events = on_events
        self._read_on = read_on
        self._descriptors: dict[bytes, int] = {}
        self._owners: dict[int, bytes] = {}
        # Of all connections that are open.
        self._unfinished = Unfinished(options.unread_bytes_max, options.unfinished_bytes_max)
        self._flows: dict[bytes, Flow] = {}  # those that are tied
        self._counts_bytes = counts_bytes
        self._heartbeat_interval_s = options.heartbeat_interval_s
        self._heartbeats_unanswered_max = round(options.heartbeat_timeout_s / options.heartbeat_interval_s)
        self._mutes_due = 0.0
        self._look_timer: Timer | None = None
        self._strangers = Strangers(options.hello_timeout_s, options.strangers_max)
        self._strangers_timer: Timer | None = None
        self._closed = False
        self._monitor = Monitor(context, sock, _ACCEPTED | _DISCONNECTED | _FAILED | _FAILED_AUTH)
        loop.add_socket(self._monitor.socket, self._on_event)

    def __len__(self) -> int:
        return len(self._unfinished)

    @property
    def owners(self) -> dict[int, bytes]:
        """Return the routing ids that are tied to a connection, by its descriptor."""
        return dict(self._owners)

    def close(self) -> None:
        """Watch no more; before the socket is closed."""
        self._closed = True
        if self._strangers_timer is not None:
            self._strangers_timer.cancel()
        if self._look_timer is not None:
            self._look_timer.cancel()
        self._loop.remove(self._monitor.socket)
        self._monitor.close()

    # Whose a connection is.

    def tie(self, rid: bytes, frame: zmq.Frame) -> None:
        """Note that the connection which this frame came over is ``rid``'s.

        Whoever else had it, or comes too late for it, has none any more, which ``on_end`` is told.
        """
        if rid in self._descriptors:
            return
        self.read_events()
        descriptor = _descriptor(frame)
        if descriptor in self._unfinished:
            self._give(descriptor, rid)
        else:
            self._on_end(rid)  # its end was among the events already read

    def _give(self, descriptor: int, rid: bytes) -> None:
        owner = self._owners.get(descriptor)
        if owner is not None and _made_after(owner, rid):
            self._on_end(rid)
            return
        if owner is not None:
            self._on_end(owner)
        self._owners[descriptor] = rid
        self._descriptors[rid] = descriptor
        flow = self._unfinished.get(descriptor)
        if flow is not None:
            self._flows[rid] = flow

    def welcomed(self, rid: bytes) -> None:
        """It has said hello: its connection may stay."""
        descriptor = self._descriptors.get(rid)
        if descriptor is not None:
            self._strangers.gone(descriptor)

    def untie(self, rid: bytes) -> None:
        """Whatever becomes of the connection, ``on_end`` is not told."""
        self._flows.pop(rid, None)
        descriptor = self._descriptors.pop(rid, -1)
        if self._owners.get(descriptor) == rid:
            del self._owners[descriptor]

    # What they bring.

    def carried(self, rid: bytes) -> Carried | None:
        """Return what the connection that is tied to ``rid`` has carried; None where that cannot be known."""
        descriptor = self._descriptors.get(rid)
        return None if descriptor is None else kernel.carried(descriptor)

    def took(self, rid: bytes, size: int, frames: int) -> None:
        """A message of ``size`` bytes in so many frames was taken, or dropped, of what ``rid`` sent."""
        flow = self._flows.get(rid)
        if flow is not None:
            self._unfinished.took(flow, size, frames)

    def exhausted(self) -> None:
        """All messages that had arrived were taken."""
        self._unfinished.rounds += 1

    def _look(self) -> None:
        """End connections that go on and on with one message, some where all have too much begun, and mute ones."""
        self._look_timer = None
        if self._unfinished.suspicious():
            self._read_on()
        if self._closed:
            return
        self.read_events()
        for descriptor in self._unfinished.look(self._is_stranger):
            self._end_unfinished(descriptor, "endless")
        for descriptor in self._unfinished.surplus(self._is_stranger):
            self._end_unfinished(descriptor, "hoarding")
        self._end_mutes(time.monotonic())
        self._watch_flows()

    def _end_mutes(self, now: float) -> None:
        """End connections whose other end does not answer heartbeats, once in each interval of these."""
        if now < self._mutes_due:
            return
        self._mutes_due = now + self._heartbeat_interval_s
        for descriptor in self._unfinished.mute(self._heartbeats_unanswered_max):
            self._end_unfinished(descriptor, "mute")

    def _is_stranger(self, descriptor: int) -> bool:
        return self._strangers.since(descriptor) is not None

    def _end_unfinished(self, descriptor: int, why: str) -> None:
        flow = self._unfinished.get(descriptor)
        if flow is None:
            return
        self._counters[why] += not flow.hung_up
        flow.hung_up = True
        self._shut_down(descriptor, lambda: self._unfinished.get(descriptor) is flow, reset=True)

    def _watch_flows(self) -> None:
        if self._counts_bytes and self._look_timer is None and len(self._unfinished) and not self._closed:
            self._look_timer = self._loop.call_later(
                LOOK_AGAIN_S if self._unfinished.suspicious() else LOOK_EVERY_S, self._look
            )

    # Ends.

    def hang_up(self, rid: bytes) -> None:
        """End the connection that is tied to ``rid``, if it still stands."""
        descriptor = self._descriptors.get(rid, -1)
        if descriptor >= 0:
            self._shut_down(descriptor, lambda: self._owners.get(descriptor) == rid)

    def _shut_down(self, descriptor: int, still_meant: Callable[[], bool], *, reset: bool = False) -> None:
        """End a connection. Its descriptor is ZeroMQ's to close: shut down what it stands for, if it still does.

        ``reset``: tell the other side that what is on the way is lost. Else one whose data finds no room is left to
        wait for minutes.
        """
        if self._closed:
            return
        try:
            copy = os.dup(descriptor)
        except OSError:  # closed: its event is on the way
            return
        with socket.socket(fileno=copy) as connection:
            self.read_events()  # no end was reported until now: the copy is of this connection, not of a later one
            if still_meant():
                with contextlib.suppress(OSError):
                    if reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                    connection.shutdown(socket.SHUT_RDWR)

    def _end_strangers(self) -> None:
        """End connections without a hello: the late ones, and the oldest where there are too many.

        A hello that has arrived and waits to be read is not late. But who keeps this end from reading them all gains
        nothing by it.
        """
        more = self._read_on()
        if self._closed:
            return
        late = self._strangers.overdue(time.monotonic(), factor=2.0 if more else 1.0)
        self._counters["no_hello_in_time"] += len(late)
        for descriptor in late:
            self._end_stranger(descriptor)
        surplus = self._strangers.surplus()
        self._counters["crowded_out"] += len(surplus)
        for descriptor in surplus:
            self._end_stranger(descriptor)
        if self._strangers_timer is not None:
            self._strangers_timer.cancel()
        self._watch_strangers()

    def _end_stranger(self, descriptor: int) -> None:
        since = self._strangers.since(descriptor)
        self._shut_down(descriptor, lambda: self._strangers.since(descriptor) == since)
        self._strangers.gone(descriptor)

    def _watch_strangers(self) -> None:
        due = self._strangers.next_due()
        self._strangers_timer = None
        if due is not None and not self._closed:
            wait_s = max(_LOOK_AGAIN_S, due - time.monotonic())
            self._strangers_timer = self._loop.call_later(wait_s, self._end_strangers)

    # Events.

    def _on_event(self) -> None:
        self.read_events()
        if self._strangers.crowded():
            self._end_strangers()
        if not self._closed:
            self._on_events()

    def read_events(self) -> None:
        """Take note of what has happened to connections so far."""
        now = time.monotonic()
        for event, value in self._monitor.drain():
            if event == _ACCEPTED:
                self._counters["accepted"] += 1
                self._unfinished.arrived(value)
                self._strangers.arrived(value, now)
            elif event == _DISCONNECTED:
                self._unfinished.gone(value)
                self._strangers.gone(value)
                rid = self._owners.pop(value, None)
                if rid is None:
                    self._counters["unheard"] += 1
                else:
                    self._descriptors.pop(rid, None)
                    self._flows.pop(rid, None)
                    self._on_end(rid)
            elif event == _FAILED_AUTH:
                self._counters["key_refused"] += 1
            else:
                self._counters["handshake_failed"] += 1
        if self._strangers_timer is None:
            self._watch_strangers()
        self._watch_flows()


def _descriptor(frame: zmq.Frame) -> int:
    """Return the descriptor of the connection that the frame came over; -1 when it has none any more."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _made_after(first: bytes, second: bytes) -> bool:
    """Return whether ROUTER made the routing id ``first`` after ``second``; their 32-bit count wraps around."""
    ahead = (int.from_bytes(first[1:], "big") - int.from_bytes(second[1:], "big")) & 0xFFFFFFFF
    return 0 < ahead < 0x80000000
