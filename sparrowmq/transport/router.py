"""The accepting end: one ROUTER socket, its peers, and the news that one of them is gone.

Owns: which peers there are, from their first hello to the end of their connection. Must not know: what a
message asks for, or what follows from a loss.

A peer's loss shows as a monitor event that names a descriptor, while messages name a routing id; the first
message of a peer carries its descriptor and ties the two. Descriptors are reused at once, so the tie is made
only after every older event has been read, and between two peers with one descriptor the later routing id
(ROUTER counts them up) is the one that may be alive.

ROUTER queues without end for a peer that does not read, and has no call to close one connection. So there is a bound
on what is sent to a peer that says nothing meanwhile, and a connection is ended from below: by shutting down its
descriptor, which ZeroMQ takes for the peer's doing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import zmq

from sparrowmq.errors import ConfigError, ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.link import (
    NOBLOCK,
    SNDMORE,
    STRIKES_MAX,
    LinkOptions,
    Monitor,
    Reader,
    apply_options,
    receive_blobs,
    send_frame,
    send_parts,
)

Peer = tuple[str, bytes]  # (tag of the router, routing id); never reused

_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_FAILED_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_ACCEPTED = int(zmq.EVENT_ACCEPTED)
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_HANG_UP_AFTER_S = 2.0  # a peer that is forgotten: how long it may take to read why and leave by itself
_LAST_WORDS_S = 0.05  # under load: how long a lost peer's last messages may take to be reached
_REMEMBERED_MAX = 4096  # strangers with strikes, and peers to be ignored
_BACKLOG = 4096  # everybody comes at once after a restart; with ZeroMQ's 100 some wait a second for TCP to retry
_PORT_MAX = 65_535
_ID_BYTES = 5  # of a routing id that ROUTER made: a zero byte and a 32-bit count


class Router:
    """Accepts connections at ``bind_address`` and reports what peers say, and their loss, to three callables.

    ``on_batch(peer, messages)``: the first batch of a peer starts with its hello. ``on_lost(peer)``: once for
    each peer that ``on_batch`` has named, after its last messages; never from within `send`. ``on_bad(peer,
    error)``: something that is no message of this protocol, or comes before a hello; the peer may be told
    with `send`. After three of them the peer is ignored, and lost if it was known. A peer that was sent more than
    ``options.unheard_bytes_max`` since it last said something is lost.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: Loop,
        bind_address: str,
        *,
        on_batch: Callable[[Peer, list[m.AnyMessage]], object],
        on_lost: Callable[[Peer], object],
        on_bad: Callable[[Peer, ProtocolError], object],
        tag: str,
        options: LinkOptions | None = None,
    ) -> None:
        """Raise ConfigError when ``bind_address`` cannot be listened on."""
        _check_port(bind_address)
        self.counters = {
            "accepted": 0,
            "handshake_failed": 0,
            "unheard": 0,
            "bad": 0,
            "ignored": 0,
            "lost": 0,
            "unread": 0,
        }
        self._loop = loop
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_bad = on_bad
        self._tag = tag
        self._encoder = codec.Encoder()
        self._peers: dict[bytes, Peer] = {}
        self._descriptors: dict[bytes, int] = {}
        self._owners: dict[int, bytes] = {}  # descriptor -> the known peer whose connection it is
        self._open: set[int] = set()
        self._losing: dict[bytes, float] = {}  # peers to report lost, and when at the latest
        self._strikes: dict[bytes, int] = {}
        self._ignored: dict[bytes, None] = {}
        options = options or LinkOptions()
        self._unheard_max = options.unheard_bytes_max
        self._unheard: dict[bytes, int] = {}  # bytes sent to a peer since it last said something
        self._socket = cast("zmq.Socket[bytes]", context.socket(zmq.ROUTER))
        apply_options(self._socket, options)
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        self._reader = Reader(loop, self._socket, self._take, copy=True)
        self._socket.set(zmq.BACKLOG, _BACKLOG)
        self._monitor = Monitor(context, self._socket, _ACCEPTED | _DISCONNECTED | _FAILED | _FAILED_AUTH)
        self._closed = False
        try:
            self._socket.bind(bind_address)
        except zmq.ZMQError as error:
            self._monitor.close()
            self._socket.close(0)
            raise ConfigError(
                f"cannot listen on {bind_address}: {error.strerror}", hint="port 0 takes any free port"
            ) from None
        self.address: str = self._socket.get_string(zmq.LAST_ENDPOINT)
        loop.add_socket(self._socket, self._on_readable)
        loop.add_socket(self._monitor.socket, self._on_event)

    @property
    def peers(self) -> int:
        """How many peers have said hello and are there."""
        return len(self._peers)

    def send(self, peer: Peer, batch: Sequence[m.AnyMessage]) -> None:
        """Send ``batch``; never blocks. To a peer that is gone it does nothing: the loss is reported by itself.

        Raises TooLarge when a message exceeds the protocol's limits: whoever makes messages keeps to them.
        """
        rid = peer[1]
        if self._closed or rid in self._losing:
            return
        unheard = self._unheard.get(rid, 0)
        try:
            for parts in self._encoder.encode(batch):
                send_frame(self._socket, rid, SNDMORE)
                unheard += send_parts(self._socket, parts)
        except zmq.ZMQError:  # EHOSTUNREACH: the connection is over, whether its event has come or not
            self._lose(rid)
        if unheard > self._unheard_max:
            self.counters["unread"] += 1
            self._lose(rid)
            self._hang_up(rid)
        elif rid in self._peers:
            self._unheard[rid] = unheard
        if rid in self._losing:
            self._loop.post(self._pump)
        self._loop.recheck(self._socket)

    def forget(self, peer: Peer) -> None:
        """Ignore everything from ``peer`` from now on, its loss too; the connection ends soon afterwards."""
        self._leave(peer[1])

    def close(self) -> None:
        """Stop listening and drop all connections after what was sent has left; nothing is reported any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._socket)
        self._loop.remove(self._monitor.socket)
        self._monitor.close()
        self._socket.close()

    # Messages.

    def _on_readable(self) -> bool:
        """Take what has arrived, up to a bound; return whether more may be there."""
        more = self._reader.read()
        self._report_losses(time.monotonic() if more else float("inf"))
        return more

    def _take(self, rid: bytes) -> bool:
        """Take the message that starts with this routing id; return whether to go on."""
        body = self._socket.recv(NOBLOCK, copy=False)
        blobs = receive_blobs(self._socket) if body.more else []
        peer = self._peers.get(rid)
        if peer is None and rid in self._ignored:
            self.counters["ignored"] += 1
            return True
        try:
            batch = codec.decode(body.buffer, blobs)
            if peer is None:
                peer = self._welcome(rid, batch, body)
        except ProtocolError as error:
            self._strike(rid, error, body)
        else:
            self._unheard.pop(rid, None)
            self._on_batch(peer, batch)
        return not self._closed

    def _welcome(self, rid: bytes, batch: list[m.AnyMessage], body: zmq.Frame) -> Peer:
        """Make a stranger a peer if its first batch is a proper introduction; otherwise raise ProtocolError."""
        hello = batch[0]
        if not isinstance(hello, m.Hello):
            what = type(hello).__name__.lower()
            raise ProtocolError("no_hello", f"a connection starts with a hello, not with a {what} message")
        if hello.protocol != m.PROTOCOL:
            raise codec.version_error(hello.protocol, hello.package)
        if len(rid) != _ID_BYTES or rid[0]:
            raise ProtocolError("malformed", "the peer chose its own routing id: leave it unset")
        self._strikes.pop(rid, None)
        self._read_events()
        peer = self._peers[rid] = (self._tag, rid)
        self._tie(rid, _descriptor(body))
        return peer

    def _tie(self, rid: bytes, descriptor: int) -> None:
        """Note whose connection the descriptor is; whoever else had it, or comes too late for it, is lost."""
        if descriptor not in self._open:
            self._lose(rid)  # its end was among the events already read
            return
        owner = self._owners.get(descriptor)
        if owner is not None and _made_after(owner, rid):
            self._lose(rid)
            return
        if owner is not None:
            self._lose(owner)
        self._owners[descriptor] = rid
        self._descriptors[rid] = descriptor

    def _strike(self, rid: bytes, error: ProtocolError, body: zmq.Frame) -> None:
        self.counters["bad"] += 1
        strikes = self._strikes.pop(rid, 0) + 1
        _remember(self._strikes, rid, strikes)
        self._on_bad(self._peers.get(rid, (self._tag, rid)), error)
        if strikes < STRIKES_MAX:
            return
        if rid not in self._descriptors:
            self._read_events()
            self._tie(rid, _descriptor(body))
        known = self._leave(rid)
        if known is not None:
            self._tell_lost(known)

    # Connections.

    def _on_event(self) -> None:
        self._read_events()
        if self._losing:
            self._pump()

    def _read_events(self) -> None:
        for event, value in self._monitor.drain():
            if event == _ACCEPTED:
                self.counters["accepted"] += 1
                self._open.add(value)
            elif event == _DISCONNECTED:
                self._open.discard(value)
                rid = self._owners.pop(value, None)
                if rid is None:
                    self.counters["unheard"] += 1
                else:
                    self._descriptors.pop(rid, None)
                    self._lose(rid)
            else:
                self.counters["handshake_failed"] += 1

    def _lose(self, rid: bytes) -> None:
        """Report the loss of a known peer once what it said before has been read."""
        if rid in self._peers:
            self._losing.setdefault(rid, time.monotonic() + _LAST_WORDS_S)

    def _pump(self) -> None:
        """Read on and report losses; come back in the next turn when the socket is not exhausted."""
        if not self._closed and self._on_readable():
            self._loop.post(self._pump)

    def _report_losses(self, until: float) -> None:
        if not self._losing or self._closed:
            return
        for rid in [rid for rid, latest in self._losing.items() if latest <= until]:
            peer = self._drop(rid)
            _remember(self._ignored, rid)  # a straggler of it is no stranger
            if peer is not None:
                self._tell_lost(peer)

    def _tell_lost(self, peer: Peer) -> None:
        self.counters["lost"] += 1
        self._on_lost(peer)

    def _drop(self, rid: bytes) -> Peer | None:
        self._losing.pop(rid, None)
        self._strikes.pop(rid, None)
        self._unheard.pop(rid, None)
        descriptor = self._descriptors.pop(rid, -1)
        if self._owners.get(descriptor) == rid:
            del self._owners[descriptor]
        return self._peers.pop(rid, None)

    def _leave(self, rid: bytes) -> Peer | None:
        """Forget the peer; it may still read what was sent, and then its connection ends."""
        descriptor = self._descriptors.get(rid)
        peer = self._drop(rid)
        _remember(self._ignored, rid)
        if descriptor is not None:
            self._owners[descriptor], self._descriptors[rid] = rid, descriptor  # until it is hung up
            self._loop.call_later(_HANG_UP_AFTER_S, lambda: self._hang_up(rid))
        return peer

    def _hang_up(self, rid: bytes) -> None:
        """End the connection. Its descriptor is ZeroMQ's to close: shut down what it stands for, if it still does."""
        descriptor = self._descriptors.get(rid, -1)
        if self._closed or descriptor < 0:
            return
        try:
            copy = os.dup(descriptor)
        except OSError:  # closed: its event is on the way
            return
        with socket.socket(fileno=copy) as connection:
            self._read_events()  # no end was reported until now: the copy is of this connection, not of a later one
            if self._owners.get(descriptor) == rid:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _check_port(address: str) -> None:
    """Refuse what ZeroMQ would take modulo 65,536."""
    port = address.rpartition(":")[2]
    if address.startswith("tcp://") and port != "*" and not (port.isdecimal() and int(port) <= _PORT_MAX):
        raise ConfigError(
            f"cannot listen on {address}: expected a port from 0 to {_PORT_MAX:,}, got {port!r}",
            hint="port 0 takes any free port",
        )


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


def _remember(bounded: dict[bytes, Any], rid: bytes, value: Any = None) -> None:
    if len(bounded) >= _REMEMBERED_MAX:
        del bounded[next(iter(bounded))]
    bounded[rid] = value
