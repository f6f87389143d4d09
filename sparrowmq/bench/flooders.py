"""Processes that flood a scheduler: strangers' bytes, peers without keys, a client in order that sends far too much.

Owns: what each kind sends, and its pace. Must not know: what is measured meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final
from urllib.parse import urlsplit

from sparrowmq import ids
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.keyring import load_credentials
from sparrowmq.transport.context import new_context
from sparrowmq.transport.dealer import Dealer

PACE_S: Final = 0.01  # as much is sent in each of these as the rate makes it
PER_CONNECTION: Final = 100  # frames of a stranger: a connection of its own for each so many
_CONNECT_S: Final = 2.0
_FRAME: Final = b"\x04\x40" + bytes(64)
_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)  # of ZMTP 3.1
_READY: Final = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
_GARBAGE: Final = random.Random(1).randbytes(64)

_MESSAGES: Final[dict[str, Callable[[int, str], m.AnyMessage]]] = {
    "pings": lambda number, name: m.Ping(number),
    "queries": lambda number, name: m.Query(number, "summary"),
    "submits": lambda number, name: m.Submit(f"{name}-{number}", 0, m.JobSpec(kind=m.SLEEP), 1, [b"\0"]),
}
COMEBACKS: Final = "comebacks"  # of one that floods with submissions and connects again whenever it is sent away
_BYTES: Final = {"garbage": (b"", _GARBAGE), "null": (_GREETING + _READY, _FRAME)}
KINDS: Final = (*_BYTES, *_MESSAGES, COMEBACKS)


def flood(connection: Connection, _parent: int, kind: str, address: str, keys: str, frames: int, for_s: float) -> None:
    """Send ``frames`` to ``address``, evenly over ``for_s`` seconds, once told to; tell how many were sent.

    With ``keys`` in order; kinds that are not leave them alone. It stands for another machine, so that whoever else has
    something to do here comes first: this process and its threads get what nobody wants of the processors.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(EOFError, OSError):  # whoever started this one has ended
        send = _strangers(kind, address) if kind in _BYTES else _Client(kind, address, keys).send
        connection.send("ready")
        connection.recv()
        began, sent = time.monotonic(), 0
        while sent < frames:
            due = min(frames, int((time.monotonic() - began + PACE_S) / for_s * frames))
            if due > sent:
                send(sent, due - sent)
                sent = due
            time.sleep(PACE_S)
        connection.send(sent)
        connection.recv()


def _strangers(kind: str, address: str) -> Callable[[int, int], None]:
    """Return what opens connections and sends bytes that are none of this protocol's."""
    head, frame = _BYTES[kind]
    parts = urlsplit(address)
    place = (parts.hostname or "", parts.port or 0)

    def send(_first: int, count: int) -> None:
        for start in range(0, count, PER_CONNECTION):
            with contextlib.suppress(OSError), socket.create_connection(place, timeout=_CONNECT_S) as one:
                one.sendall(head + frame * min(PER_CONNECTION, count - start))

    return send


class _Client:
    """A client in order, but for how much it sends. Of COMEBACKS it returns at once when it was sent away."""

    def __init__(self, kind: str, address: str, keys: str) -> None:
        """Raise OSError where it is not let in."""
        self._returns = kind == COMEBACKS
        self._make = _MESSAGES["submits" if self._returns else kind]
        self._address = address
        self._credentials = load_credentials(keys, m.CLIENT) if keys else None
        self._context = new_context()
        self._loop = Loop()
        self._name = ids.node_id("flooder", random.Random())
        self._connections = 0
        self._dealer = self._connect()
        self._loop.run()
        if not self._dealer.connected:
            raise OSError(self._dealer.why)

    def _connect(self) -> Dealer:
        self._lost = False
        self._connections += 1
        dealer = Dealer(
            self._context,
            self._loop,
            self._address,
            on_batch=self._on_batch,
            on_lost=self._on_lost,
            on_bad=_ignore,
            credentials=self._credentials,
        )
        dealer.send([m.Hello(m.PROTOCOL, "", m.CLIENT, self._name, 1, connection=self._connections)])
        return dealer

    def _on_batch(self, batch: list[m.AnyMessage]) -> None:
        for message in batch:
            if isinstance(message, m.Ping):
                self._dealer.send([m.Pong(message.n)])
        self._loop.stop()

    def _on_lost(self) -> None:
        self._lost = True
        self._loop.stop()

    def send(self, first: int, count: int) -> None:
        """Send so many messages, each in a frame of its own; what is answered is read, questions are answered."""
        if self._lost and self._returns:
            self._dealer.close()
            self._dealer = self._connect()
        for number in range(first, first + count):
            self._dealer.send([self._make(number, self._name)])
        self._loop.call_later(0.0, self._loop.stop)
        self._loop.run()


def _ignore(_error: ProtocolError) -> None:
    """Whatever the scheduler says is none of this process's business."""
