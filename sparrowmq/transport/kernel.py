"""What the kernel counts of a TCP connection (TCP_INFO, Linux 4.1), by its descriptor.

Owns: where the numbers stand. Must not know: whose a connection is, or what follows from them.

The descriptors are ZeroMQ's: it closes them in a thread of its own, and the number may stand for something else before
anybody here has read of that end. So no answer is more than a hint about a connection whose end is being told.
"""

from __future__ import annotations

import array
import fcntl
import socket
import sys
import termios
from typing import Final

from sparrowmq.core.carried import Carried

# Of struct tcp_info; both are 64-bit fields.
_BYTES_ACKED_AT: Final = 120
_BYTES_RECEIVED_AT: Final = 128
_PEEK_BYTES: Final = 136


def bytes_received(descriptor: int) -> int | None:
    """Return what a TCP connection has brought so far; None for what is none, or is closed."""
    info = _tcp_info(descriptor)
    return None if info is None else _count(info, _BYTES_RECEIVED_AT)


def bytes_unread(descriptor: int) -> int:
    """Return how much of that lies in the kernel still."""
    return _queued(descriptor, termios.FIONREAD)


def bytes_waiting(descriptor: int) -> int:
    """Return how much of what was written to it the other end has not got yet."""
    return _queued(descriptor, termios.TIOCOUTQ)


def carried(descriptor: int) -> Carried | None:
    """Return what a TCP connection has carried in both directions; None for what is none, or is closed."""
    info = _tcp_info(descriptor)
    if info is None:
        return None
    return Carried(_count(info, _BYTES_RECEIVED_AT), _count(info, _BYTES_ACKED_AT), bytes_waiting(descriptor))


def _tcp_info(descriptor: int) -> bytes | None:
    try:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)
    except OSError:
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PEEK_BYTES)
    except OSError:
        return None
    finally:
        connection.detach()  # it is ZeroMQ's
    return info if len(info) == _PEEK_BYTES else None


def _count(info: bytes, at: int) -> int:
    return int.from_bytes(info[at : at + 8], sys.byteorder)


def _queued(descriptor: int, request: int) -> int:
    count = array.array("i", [0])
    try:
        fcntl.ioctl(descriptor, request, count)
    except OSError:
        return 0
    return count[0]
