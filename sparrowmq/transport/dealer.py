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

from sparrowmq.core.carried import Carried
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.credentials import Credentials, fingerprint
from sparrowmq.transport import curve, kernel
from sparrowmq.transport.link import (
    STRIKES_MAX,
    LinkOptions,
    Monitor,
    Reader,
    apply_options,
    cut,
    receive_blobs,
    send_parts,
)

_FAILED = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)  # how an unknown server key shows: the other side hangs up
_FAILED_PROTOCOL = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_FAILED_AUTH = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_FAILURES = _FAILED | _FAILED_PROTOCOL | _FAILED_AUTH
_OTHER_MECHANISM = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
_OPENED = int(zmq.EVENT_CONNECTED)  # and the handshake begins; its value is the descriptor
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

    With ``credentials`` it is encrypted, made with the owner of their server key only, and what is sent first, which
    starts with a hello, is preceded by the proof that this hello's sender is who it says.
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
        credentials: Credentials | None = None,
    ) -> None:
        options = options or LinkOptions()
        self.address = address
        self.connected = False
        self.handshake_failed = False
        self.why = ""
        self._loop = loop
        self._on_batch = on_batch
        self._on_lost = on_lost
        self._on_bad = on_bad
        self._encoder = codec.Encoder()
        self._strikes = 0
        self._closed = False
        self._ending = False
        self._descriptor = -1
        self._credentials = credentials
        self._unproven = credentials  # None from the first batch on
        self._unsent: list[Sequence[m.AnyMessage]] | None = []  # None once there is something to send to
        self._socket = cast("zmq.Socket[bytes]", context.socket(zmq.DEALER))
        apply_options(self._socket, options)
        if credentials is not None:
            curve.connect(self._socket, credentials)
        self._reader = Reader(loop, self._socket, self._take, copy=False)
        self._socket.set(zmq.RECONNECT_IVL, _NEVER_MS)
        self._socket.set(zmq.CONNECT_TIMEOUT, round(options.connect_timeout_s * 1000))
        self._monitor = Monitor(context, self._socket, _OPENED | _CONNECTED | _CLOSED | _DISCONNECTED | _FAILURES)
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
            for parts in self._encode(batch):
                send_parts(self._socket, parts)
        except zmq.ZMQError as error:
            self._end(f"cannot send: {error.strerror}")
            return
        self._loop.recheck(self._socket)

    def _encode(self, batch: Sequence[m.AnyMessage]) -> list[list[object]]:
        """Return the multipart messages that say ``batch``; the first hello stands in one with its proof alone."""
        credentials, self._unproven = self._unproven, None
        if credentials is None:
            return cut(self._encoder, batch)
        hello, *rest = batch
        assert isinstance(hello, m.Hello), "a connection starts with a hello"
        proof = m.Proof(credentials.role, hello.id, credentials.proof(hello.id))
        return self._encoder.encode([proof, hello]) + (cut(self._encoder, rest) if rest else [])

    def carried(self) -> Carried | None:
        """Return what the connection has carried; None where that cannot be known: it is over, or not of TCP."""
        over = self._closed or self._ending or self._descriptor < 0
        return None if over else kernel.carried(self._descriptor)

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
        for event, value in self._monitor.drain():
            if event == _OPENED:
                self._descriptor = value
            elif event == _CONNECTED:
                self.connected = True
                self._deadline.cancel()
            elif event == _CLOSED:
                self._end("connection refused or not possible")
            elif event == _DISCONNECTED:
                self._end("connection lost" if self.connected else "the other side ended the handshake")
            else:
                self.handshake_failed = True
                self.why = self._handshake_failure(event, value)

    def _handshake_failure(self, event: int, value: int) -> str:
        """Say what a failed handshake means; an answer that is none, or none at all, leaves several reasons."""
        credentials = self._credentials
        if credentials is None:
            if event == _FAILED_PROTOCOL and value == _OTHER_MECHANISM:
                return "the other side wants keys, and here are none (security.keys)"
            return "no ZeroMQ peer there, or one with other security settings (security.keys)"
        if event == _FAILED_AUTH:
            return (
                f"this {credentials.role}'s key {fingerprint(credentials.public_key)} is refused there: it is revoked"
            )
        if event == _FAILED_PROTOCOL and value == _OTHER_MECHANISM:
            return "the other side has no keys, and here are some (security.keys)"
        pinned = fingerprint(credentials.server_key)
        return f"no ZeroMQ peer there, or one with other keys: its server key is not {pinned} (security.keys)"

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
