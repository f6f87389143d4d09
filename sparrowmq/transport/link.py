"""What both ends of a connection share: socket options, the connection monitor, frames in and out.

Owns: how a ZeroMQ socket is set up, watched and read. Must not know: who the peers are or what they say.

Two traps decide the options. ZMTP heartbeats wait for a whole frame: a frame that takes longer than the
time-out ends its connection, again and again (40 MB at 1.25 MB/s did with 20 s). So they are sent, but who can tell by
bytes whether the other end is there does without their time-out: routers over TCP (connections.py), and machines that
judge silence themselves. Dead hosts are found by the kernel (TCP keepalive, and a bound on unacknowledged data). And a
receive queue with a high-water mark of its own would hide the protocol's credits: both marks are off.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec
import zmq

from sparrowmq import limits
from sparrowmq.protocol import codec, messages as m
from sparrowmq.runtime.loop import Loop

DRAIN_MESSAGES = 256  # multiparts taken from one socket in one turn, so that no peer starves the rest
DRAIN_S = 0.005
STRIKES_MAX = 3  # undecodable messages before a peer is ignored
NOBLOCK = int(zmq.NOBLOCK)  # plain ints: pyzmq converts its enums on every call
SNDMORE = int(zmq.SNDMORE) | NOBLOCK

_numbers = itertools.count(1)


class LinkOptions(msgspec.Struct, frozen=True):
    """Times of a connection, in seconds. ``linger_s``: how long `close` lets sent messages leave."""

    linger_s: float = 0.2
    connect_timeout_s: float = 2.0
    handshake_timeout_s: float = 2.0
    heartbeat_interval_s: float = 5.0
    heartbeat_timeout_s: float = 20.0  # without a byte of the other end's, or where they are not counted, a whole frame
    dead_host_s: int = 5  # silence on an idle link, or unacknowledged data, before the kernel gives up
    unheard_bytes_max: int = 2**53  # that a router sends to a peer which says nothing meanwhile
    unread_bytes_max: int = 4 * 1024**3  # that a peer may have sent to a router and that nobody has come to read
    unfinished_bytes_max: int = 768 * 1024**2  # of messages not yet whole over all of a router's connections: two jobs
    hello_timeout_s: float = 5.0  # from the accepting of a connection; longer than any handshake
    strangers_max: int = 4096  # connections to a router without a hello


# For whom somebody else judges silence: frames may take as long as they need.
UNHURRIED: Final = LinkOptions(heartbeat_timeout_s=0.0)


def apply_options(sock: zmq.Socket[Any], options: LinkOptions) -> None:
    """Set what every data socket has in common; before bind or connect."""
    sock.set(zmq.LINGER, _ms(options.linger_s))
    sock.set(zmq.SNDHWM, 0)
    sock.set(zmq.RCVHWM, 0)
    sock.set(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
    sock.set(zmq.HANDSHAKE_IVL, _ms(options.handshake_timeout_s))
    sock.set(zmq.HEARTBEAT_IVL, _ms(options.heartbeat_interval_s))
    sock.set(zmq.HEARTBEAT_TIMEOUT, _ms(options.heartbeat_timeout_s))
    sock.set(zmq.TCP_KEEPALIVE, 1)
    sock.set(zmq.TCP_KEEPALIVE_IDLE, max(1, options.dead_host_s - 3))
    sock.set(zmq.TCP_KEEPALIVE_INTVL, 1)
    sock.set(zmq.TCP_KEEPALIVE_CNT, 3)
    sock.set(zmq.TCP_MAXRT, options.dead_host_s * 1000)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


class Monitor:
    """The connection events of one socket, in order; read them when ``socket`` is readable."""

    def __init__(self, context: zmq.Context[Any], watched: zmq.Socket[Any], events: int) -> None:
        address = f"inproc://sparrowmq.monitor.{next(_numbers)}"
        self._watched = watched
        watched.monitor(address, events)
        self.socket = cast("zmq.Socket[bytes]", context.socket(zmq.PAIR))
        self.socket.set(zmq.RCVHWM, 0)  # a full monitor would block ZeroMQ's I/O thread
        self.socket.set(zmq.LINGER, 0)
        self.socket.connect(address)

    def drain(self) -> list[tuple[int, int]]:
        """Return (event, value) of everything that happened so far; the value is a descriptor or an errno."""
        events: list[tuple[int, int]] = []
        while True:
            try:
                head = self.socket.recv(NOBLOCK)
            except zmq.Again:
                return events
            self.socket.recv(NOBLOCK)  # the endpoint
            events.append(struct.unpack("=Hi", head))

    def close(self) -> None:
        """Stop watching; before the watched socket is closed.

        In this order: with the reading end gone, the next event would block the thread that closes sockets,
        for the whole process and for good.
        """
        self._watched.monitor(None, 0)
        self.socket.close()


_send: Any = zmq.backend.Socket.send


class Reader:
    """Reads a socket when the loop says so: one message while the link is quiet, up to a bound when it is not.

    A lone message is the rule on a quiet link. To ask whether there is another costs as much as to read one, so
    the question waits until the turn's answers have left: `read` returns True, and the loop asks in its next turn.
    """

    def __init__(self, loop: Loop, sock: zmq.Socket[bytes], take: Callable[[Any], bool], *, copy: bool) -> None:
        """``take`` gets the first frame of each message, reads the others and returns whether to go on."""
        self._loop = loop
        self._sock = sock
        self._take = take
        self._copy = copy
        self._turn = -2  # of the loop, when it was read last

    def read(self) -> bool:
        """Take what has arrived; return whether something may be left.

        Stops when ``take`` returns False: the socket may be closed then.
        """
        quiet = self._loop.turns - self._turn > 1
        self._turn = self._loop.turns
        late = time.monotonic() + DRAIN_S
        for _ in range(1 if quiet else DRAIN_MESSAGES):
            try:
                first: Any = self._sock.recv(NOBLOCK, copy=self._copy)
            except zmq.Again:
                return False
            if not self._take(first):
                return False
            if time.monotonic() > late:
                break
        return True


def receive_blobs(sock: zmq.Socket[bytes]) -> list[m.Blob]:
    """Take the rest of a multipart message, uncopied. Frames beyond the protocol's limit are dropped, not kept.

    What is dropped shows: the codec refuses a message with as many frames as are kept then.
    """
    blobs: list[m.Blob] = []
    more = True
    while more:
        frame = sock.recv(NOBLOCK, copy=False)
        more = frame.more
        if len(blobs) < limits.FRAMES_MAX:
            blobs.append(m.Blob(frame, len(frame)))
    return blobs


def cut(encoder: codec.Encoder, batch: Sequence[m.AnyMessage]) -> list[list[Any]]:
    """Return multipart messages that together say ``batch``, none larger than the one that bears the largest job.

    The other end hangs up on more than that. Frames alone do not bound a batch: each may bring 1,023 of 64 MiB.
    """
    made: list[list[Any]] = encoder.encode(batch)
    if len(batch) == 1 or all(sum(map(len, parts)) <= limits.JOB_BYTES_MAX for parts in made):
        return made
    half = len(batch) // 2
    return cut(encoder, batch[:half]) + cut(encoder, batch[half:])


def send_frame(sock: zmq.Socket[bytes], frame: object, flags: int, *, copy: bool = True) -> None:
    """Send one frame. Past pyzmq's own `send`, whose options nobody here needs, at half its cost."""
    _send(sock, frame, flags, copy, False)


def send_parts(sock: zmq.Socket[bytes], parts: Sequence[Any]) -> int:
    """Send the frames of one message; large ones uncopied, so nobody may change them afterwards. Return their size."""
    last, total = len(parts) - 1, 0
    for position, part in enumerate(parts):
        size = len(part)
        small = type(part) is bytes and size < zmq.COPY_THRESHOLD
        send_frame(sock, part, NOBLOCK if position == last else SNDMORE, copy=small)
        total += size
    return total
