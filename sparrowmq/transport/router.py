"""The accepting end: one ROUTER socket, its peers, and the news that one of them is gone.

Owns: which peers there are, from their first hello to the end of their connection. Must not know: what a
message asks for, what follows from a loss, or how connections are watched and ended (connections.py).

ROUTER queues without end for a peer that does not read. So there is a bound on what is sent to a peer that says nothing
meanwhile. Who is not wanted is told why, ignored, and hung up where it does not leave by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import zmq

from sparrowmq import limits
from sparrowmq.core.carried import Carried
from sparrowmq.errors import ConfigError, ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.credentials import Trust
from sparrowmq.transport import curve
from sparrowmq.transport.connections import Connections
from sparrowmq.transport.guard import Guard
from sparrowmq.transport.link import (
    NOBLOCK,
    SNDMORE,
    STRIKES_MAX,
    LinkOptions,
    Reader,
    apply_options,
    receive_blobs,
    send_frame,
    send_parts,
)

Peer = tuple[str, bytes]  # (tag of the router, routing id); never reused

_HANG_UP_AFTER_S = 2.0  # a peer that is forgotten: how long it may take to read why and leave by itself
_LAST_WORDS_S = 0.05  # under load: how long a lost peer's last messages may take to be reached
_IGNORED_MESSAGES_MAX = 64  # of a peer that is forgotten and goes on: it is hung up at once
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
    ``options.unheard_bytes_max`` since it last said something is lost. A connection without a hello within
    ``options.hello_timeout_s`` is ended; so are the oldest of those where there are too many, and over TCP one that
    goes on without end with what is no whole message, and some where all together have too much of that
    (unfinished.py). One that answers no heartbeat for ``options.heartbeat_timeout_s`` is ended, too.

    With a ``guard`` connections are encrypted, and only those are peers that prove who they are (a `Zap` answers for
    the context then).
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
        guard: Guard | None = None,
    ) -> None:
        """Raise ConfigError when ``bind_address`` cannot be listened on."""
        _check_port(bind_address)
        self.counters = {"bad": 0, "ignored": 0, "lost": 0, "unread": 0, "revoked": 0}
        self._loop = loop
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_bad = on_bad
        self._tag = tag
        self._encoder = codec.Encoder()
        self._peers: dict[bytes, Peer] = {}
        self._losing: dict[bytes, float] = {}  # peers to report lost, and when at the latest
        self._strikes: dict[bytes, int] = {}
        self._ignored: dict[bytes, int] = {}  # and how many of their messages were
        self._guard = guard
        options = options or LinkOptions()
        self._unheard_max = options.unheard_bytes_max
        self._unheard: dict[bytes, int] = {}  # bytes sent to a peer since it last said something
        self._socket = cast("zmq.Socket[bytes]", context.socket(zmq.ROUTER))
        counts_bytes = bind_address.startswith("tcp://")
        apply_options(
            self._socket, msgspec.structs.replace(options, heartbeat_timeout_s=0.0) if counts_bytes else options
        )
        self._socket.set(zmq.ROUTER_MANDATORY, 1)
        if guard is not None:
            curve.serve(self._socket, guard.trust)
        self._reader = Reader(loop, self._socket, self._take, copy=True)
        self._socket.set(zmq.BACKLOG, _BACKLOG)
        self.connections = Connections(
            context,
            loop,
            self._socket,
            options,
            self.counters,
            counts_bytes=counts_bytes,
            on_end=self._lose,
            on_events=self._after_events,
            read_on=self._on_readable,
        )
        self._closed = False
        try:
            self._socket.bind(bind_address)
        except zmq.ZMQError as error:
            self.connections.close()
            self._socket.close(0)
            raise ConfigError(
                f"cannot listen on {bind_address}: {error.strerror}", hint="port 0 takes any free port"
            ) from None
        self.address: str = self._socket.get_string(zmq.LAST_ENDPOINT)
        loop.add_socket(self._socket, self._on_readable)

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
            self.connections.hang_up(rid)
        elif rid in self._peers:
            self._unheard[rid] = unheard
        if rid in self._losing:
            self._loop.post(self._pump)
        self._loop.recheck(self._socket)

    def carried(self, peer: Peer) -> Carried | None:
        """Return what the peer's connection has carried; None where that cannot be known: it is over, or not of TCP."""
        return self.connections.carried(peer[1])

    def forget(self, peer: Peer) -> None:
        """Ignore everything from ``peer`` from now on, its loss too; the connection ends soon afterwards."""
        self._leave(peer[1])

    def renew(self, trust: Trust) -> int:
        """Go by this trust from now on. Peers that it does not cover are reported bad and left; return their number."""
        if self._guard is None:
            return 0
        ended = self._guard.renew(trust)
        for rid, why in ended:
            self.counters["revoked"] += 1
            self._on_bad((self._tag, rid), ProtocolError("forbidden", why))
            known = self._leave(rid)
            if known is not None:
                self._tell_lost(known)
        return len(ended)

    def close(self) -> None:
        """Stop listening and drop all connections after what was sent has left; nothing is reported any more."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._socket)
        self.connections.close()
        self._socket.close()

    # Messages.

    def _on_readable(self) -> bool:
        """Take what has arrived, up to a bound; return whether more may be there."""
        more = self._reader.read()
        if not more:
            self.connections.exhausted()
        self._report_losses(time.monotonic() if more else float("inf"))
        return more

    def _take(self, rid: bytes) -> bool:
        """Take the message that starts with this routing id; return whether to go on."""
        body = self._socket.recv(NOBLOCK, copy=False)
        blobs = receive_blobs(self._socket) if body.more else []
        self._judge(rid, body, blobs)
        size = len(body) + sum([blob.size for blob in blobs]) if blobs else len(body)
        self.connections.took(rid, size, 1 + len(blobs))
        return not self._closed

    def _judge(self, rid: bytes, body: zmq.Frame, blobs: Sequence[m.Blob]) -> None:
        """Hand a message on if it is a peer's, make its sender one, or note what is wrong with it."""
        peer = self._peers.get(rid)
        if peer is None and rid in self._ignored:
            self._ignore(rid, body)
            return
        try:
            if peer is None:
                peer, batch = self._meet(rid, body, blobs)
            else:
                batch = codec.decode(body.buffer, blobs)
                if self._guard is not None and m.Hello in map(type, batch):  # nobody has looked at whose it is
                    raise ProtocolError("malformed", "a second hello on one connection")
        except ProtocolError as error:
            self._strike(rid, error, body)
        else:
            self._unheard.pop(rid, None)
            self._on_batch(peer, batch)

    def _meet(self, rid: bytes, body: zmq.Frame, blobs: Sequence[m.Blob]) -> tuple[Peer, list[m.AnyMessage]]:
        """Make a stranger a peer if it says properly who it is; otherwise raise ProtocolError."""
        size = len(body) + sum([blob.size for blob in blobs])
        if size > limits.HELLO_BYTES_MAX:  # as if it came slowly: it would be ended on its way (unfinished.py)
            what = f"a first message of {size:,} bytes: the limit is {limits.HELLO_BYTES_MAX:,}"
            raise ProtocolError("too_large", what)
        guard = self._guard
        if guard is None:
            batch = codec.decode(body.buffer, blobs)
            peer, hello = self._welcome(rid, batch, body), cast(m.Hello, batch[0])
            if hello.key or hello.owner:  # it has none, whatever it says
                batch[0] = msgspec.structs.replace(hello, key="", owner="")
            return peer, batch
        claim = guard.read(body)
        batch = guard.introduce(claim, codec.decode(body.buffer, blobs), time.monotonic())
        peer = self._welcome(rid, batch, body)
        guard.enter(rid, claim)
        return peer, batch

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
        peer = self._peers[rid] = (self._tag, rid)
        self.connections.tie(rid, body)
        self.connections.welcomed(rid)
        return peer

    def _strike(self, rid: bytes, error: ProtocolError, body: zmq.Frame) -> None:
        self.counters["bad"] += 1
        self.connections.tie(rid, body)
        strikes = self._strikes.pop(rid, 0) + 1
        _remember(self._strikes, rid, strikes)
        shut_out = self._guard is not None and rid not in self._peers  # there is one try to show a key's right
        self._on_bad(self._peers.get(rid, (self._tag, rid)), error)
        if strikes < STRIKES_MAX and not shut_out:
            return
        known = self._leave(rid)
        if known is not None:
            self._tell_lost(known)

    def _ignore(self, rid: bytes, body: zmq.Frame) -> None:
        """Count a message of one that is not listened to; who does not take the hint is hung up."""
        self.counters["ignored"] += 1
        self._ignored[rid] += 1
        if self._ignored[rid] == _IGNORED_MESSAGES_MAX:
            self.connections.tie(rid, body)
            self.connections.hang_up(rid)

    # Losses.

    def _after_events(self) -> None:
        if self._losing:
            self._pump()

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
            self.connections.untie(rid)
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
        if self._guard is not None:
            self._guard.leave(rid, time.monotonic())
        return self._peers.pop(rid, None)

    def _leave(self, rid: bytes) -> Peer | None:
        """Forget the peer; it may still read what was sent, and then its connection ends."""
        peer = self._drop(rid)
        if rid not in self._ignored:
            _remember(self._ignored, rid)
            self._loop.call_later(_HANG_UP_AFTER_S, lambda: self.connections.hang_up(rid))
        return peer


def _check_port(address: str) -> None:
    """Refuse what ZeroMQ would take modulo 65,536."""
    port = address.rpartition(":")[2]
    if address.startswith("tcp://") and port != "*" and not (port.isdecimal() and int(port) <= _PORT_MAX):
        raise ConfigError(
            f"cannot listen on {address}: expected a port from 0 to {_PORT_MAX:,}, got {port!r}",
            hint="port 0 takes any free port",
        )


def _remember(bounded: dict[bytes, int], rid: bytes, value: int = 0) -> None:
    if len(bounded) >= _REMEMBERED_MAX:
        del bounded[next(iter(bounded))]
    bounded[rid] = value
