"""The connecting end: one fresh DEALER socket for one connection, from connect to its end.

Owns: that every connection ends exactly once, however it fails. Must not know: whether and when to connect
again; whoever wants that makes a new one (DESIGN rule 2).

Three things that ZeroMQ does not do for us: it reports no event at all when a host name does not resolve
(so there is a deadline of our own), it resolves names in the thread that serves all sockets (so names are
looked up in a thread beside it), and with RECONNECT_IVL -1 it throws away messages that have arrived and
were not read when the connection drops (so the interval is a day, and the socket is closed long before).
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import zmq

from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.link import (
    STRIKES_MAX,
    LinkOptions,
    Monitor,
    Reader,
    apply_options,
    receive_blobs,
    send_parts,
)

_FAILED = int(
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_CONNECTED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
_CLOSED = int(zmq.EVENT_CLOSED)  # the connect itself failed
_DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
_NEVER_MS = 86_400_000
_UNSENT_MAX = 1024  # batches that wait for a host name


class Dealer:
    """One connection to ``address``. What is sent before it stands, waits.

    ``on_batch(messages)``; ``on_bad(error)`` for what is no message of this protocol, the third of which
    ends the connection; ``on_lost()`` exactly once when it could not be made or is over, after its last
    messages, never from within a call and not after `close`. `why` then says what happened, in words.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        loop: Loop,
        address: str,
        *,
        on_batch: Callable[[list[m.AnyMessage]], object],
        on_lost: Callable[[], object],
        on_bad: Callable[[ProtocolError], object],
        options: LinkOptions | None = None,
    ) -> None:
        options = options or LinkOptions()
        self.address = address
        self.connected = False
        self.why = ""
        self._loop = loop
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_bad = on_bad
        self._encoder = codec.Encoder()
        self._strikes = 0
        self._closed = False
        self._ending = False
        self._unsent: list[Sequence[m.AnyMessage]] | None = []  # None once there is something to send to
        self._socket = cast("zmq.Socket[bytes]", context.socket(zmq.DEALER))
        apply_options(self._socket, options)
        self._reader = Reader(loop, self._socket, self._take, copy=False)
        self._socket.set(zmq.RECONNECT_IVL, _NEVER_MS)
        self._socket.set(zmq.CONNECT_TIMEOUT, round(options.connect_timeout_s * 1000))
        self._monitor = Monitor(context, self._socket, _CONNECTED | _CLOSED | _DISCONNECTED | _FAILED)
        loop.add_socket(self._socket, self._on_readable)
        loop.add_socket(self._monitor.socket, self._on_event)
        patience_s = options.connect_timeout_s + options.handshake_timeout_s
        self._deadline = loop.call_later(patience_s, lambda: self._end(f"no answer within {patience_s:g} s"))
        host = _name_in(address)
        if host:
            threading.Thread(target=self._look_up, args=(host,), name=f"resolve {host}", daemon=True).start()
        else:
            self._connect(address)

    def send(self, batch: Sequence[m.AnyMessage]) -> None:
        """Send ``batch``; never blocks. On a connection that is over it does nothing.

        Raises TooLarge when a message exceeds the protocol's limits: whoever makes messages keeps to them.
        """
        if self._closed or self._ending:
            return
        if self._unsent is not None:
            if len(self._unsent) >= _UNSENT_MAX:
                self._end("too much to send before the host name was resolved")
            else:
                self._unsent.append(list(batch))
            return
        try:
            for parts in self._encoder.encode(batch):
                send_parts(self._socket, parts)
        except zmq.ZMQError as error:
            self._end(f"cannot send: {error.strerror}")
            return
        self._loop.recheck(self._socket)

    def close(self) -> None:
        """End the connection after what was sent has left (up to ``linger_s``); nothing is reported any more."""
        if self._closed:
            return
        self._closed = True
        self._deadline.cancel()
        self._loop.remove(self._socket)
        self._loop.remove(self._monitor.socket)
        self._monitor.close()
        self._socket.close(0 if self._ending else None)

    # The connection's life.

    def _look_up(self, host: str) -> None:
        """Resolve the name, beside the loop; IPv4, as ZeroMQ does by default."""
        found, why = "", ""
        try:
            number = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
            found = f"tcp://{number}:{self.address.rpartition(':')[2]}"
        except (OSError, UnicodeError) as error:
            why = f"cannot resolve {host}: {error}"
        self._loop.post(lambda: self._connect(found, why))

    def _connect(self, address: str, why: str = "") -> None:
        if self._closed or self._ending:
            return
        if why:
            self._end(why)
            return
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._end(f"cannot connect to {address}: {error.strerror}")
            return
        unsent, self._unsent = self._unsent or [], None
        for batch in unsent:
            self.send(batch)

    def _on_event(self) -> None:
        for event, _value in self._monitor.drain():
            if event == _CONNECTED:
                self.connected = True
                self._deadline.cancel()
            elif event == _CLOSED:
                self._end("connection refused or not possible")
            elif event == _DISCONNECTED:
                self._end("connection lost" if self.connected else "the other side ended the handshake")
            else:
                self.why = "no ZeroMQ peer there, or one with other security settings"

    def _end(self, why: str) -> None:
        """Note that the connection is over; `_finish` says so when its last messages have been read."""
        if not self._closed and not self._ending:
            self._ending = True
            self.why = self.why or why
            self._loop.post(self._finish)

    def _finish(self) -> None:
        if self._closed:
            return
        if self._on_readable():
            self._loop.post(self._finish)
            return
        if not self._closed:
            self.close()
            self._on_lost()

    # Messages.

    def _on_readable(self) -> bool:
        """Take what has arrived, up to a bound; return whether more may be there."""
        return self._strikes < STRIKES_MAX and self._reader.read()

    def _take(self, body: zmq.Frame) -> bool:
        """Take the message that starts with this frame; return whether to go on."""
        blobs = receive_blobs(self._socket) if body.more else []
        try:
            batch = codec.decode(body.buffer, blobs)
        except ProtocolError as error:
            self._strikes += 1
            self._on_bad(error)
            if self._strikes >= STRIKES_MAX:
                self._end("the other side does not keep to the protocol")
        else:
            self._on_batch(batch)
        return not self._closed and self._strikes < STRIKES_MAX


def _name_in(address: str) -> str:
    """Return the host of a tcp address if it is a name that has to be resolved, else ""."""
    if not address.startswith("tcp://"):
        return ""
    host = address[len("tcp://") :].rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return ""
