"""Who may finish a CURVE handshake: the answers to ZeroMQ's authentication requests (ZAP, RFC 27).

Owns: the one socket of a context that ZeroMQ asks, and its counts. Must not know: who the keys' owners are, or what
they may do: a key that is let in has yet to prove its role (guard.py).

Without somebody who answers at this address, libzmq lets every key in. Refusals are the status 400: the other side
is told that it is its key; anything that is no proper CURVE request is refused, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import zmq
import zmq.utils.z85

from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.link import DRAIN_MESSAGES, NOBLOCK

DOMAIN: Final = "sparrowmq"  # of all routers with keys
_ADDRESS: Final = "inproc://zeromq.zap.01"
_VERSION: Final = b"1.0"
_CURVE_KEY_BYTES: Final = 32
# Frames of a request: who asks, an empty one, version, request number, domain, address, identity, mechanism, key.
_FRAMES: Final = 9


class Zap:
    """Answers for one context, from its making to `close`; before the first router with keys binds.

    ``admits(public_key)``, a Z85 key, returns "" or why its owner may not connect.
    """

    def __init__(self, context: zmq.Context[Any], loop: Loop, admits: Callable[[bytes], str]) -> None:
        self.counters = {"admitted": 0, "refused": 0, "malformed": 0}
        self._loop = loop
        self._admits = admits
        self._socket = cast("zmq.Socket[bytes]", context.socket(zmq.ROUTER))
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 0)
        self._socket.set(zmq.RCVHWM, 0)  # ZeroMQ's I/O thread must never wait for this one
        self._socket.bind(_ADDRESS)
        loop.add_socket(self._socket, self._on_readable)

    def close(self) -> None:
        """Answer no more; after the routers have closed."""
        self._loop.remove(self._socket)
        self._socket.close()

    def _on_readable(self) -> bool:
        for _ in range(DRAIN_MESSAGES):
            try:
                frames = self._socket.recv_multipart(NOBLOCK)
            except zmq.Again:
                return False
            self._answer(frames)
            self._loop.recheck(self._socket)
        return True

    def _answer(self, frames: Sequence[bytes]) -> None:
        if len(frames) < 4 or frames[1] or frames[2] != _VERSION:  # there is no request to answer
            self.counters["malformed"] += 1
            return
        status, text, user = self._judge(frames)
        self._socket.send_multipart([frames[0], b"", _VERSION, frames[3], status, text, user, b""], NOBLOCK)

    def _judge(self, frames: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
        """Return status, a sentence, and the user id, by which messages tell whose they are: the Z85 key."""
        proper = len(frames) == _FRAMES and frames[4] == DOMAIN.encode() and frames[7] == b"CURVE"
        if not proper or len(frames[8]) != _CURVE_KEY_BYTES:
            self.counters["malformed"] += 1
            return b"400", b"not a CURVE request of this program's", b""
        key = zmq.utils.z85.encode(frames[8])
        why = self._admits(key)
        if why:
            self.counters["refused"] += 1
            return b"400", why.encode()[:255], b""
        self.counters["admitted"] += 1
        return b"200", b"OK", key
