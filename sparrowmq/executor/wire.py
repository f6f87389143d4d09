"""What node monitor and slot say to each other, over one stream socket.

Owns: the frames. Must not know: how they are produced or obeyed. Both ends are the same program, forked: there
are no versions. A frame is a header (length of the head, length of the body), a msgpack head, and a body: the
one payload that is too large to be inlined.
"""

from __future__ import annotations

import socket
import struct
from collections import OrderedDict
from typing import Annotated, Final, Generic, TypeVar

import msgspec
from msgspec import Meta

from sparrowmq import limits
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol.records import Stream

HEADER: Final = struct.Struct("<IQ")
HEAD_BYTES_MAX: Final = 32 * 1024 * 1024
TASKS_PER_FRAME: Final = 256  # a slot starts on the first of many before the last has arrived
RECV_BYTES: Final = 256 * 1024
FUNCTIONS_MAX: Final = 64  # a slot keeps so many functions ...
FUNCTION_BYTES_MAX: Final = 128 * 1024 * 1024  # ... of so many bytes together

Value = TypeVar("Value")


class Function(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """To the slot: the function of a job, in the body; tasks of the job follow."""

    job: str


class Tasks(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """To the slot: run these in order. ``payloads``: one a task, a single shared one, or none: it is the body.

    ``at_once``: each result leaves before the next task begins, whatever that does to the process.
    """

    first_seq: int
    kind: int
    job: str
    indices: list[int]
    attempts: list[int]
    payloads: list[bytes]
    retries: int = 0  # as in the job's spec
    retry_on: list[str] = []
    at_once: bool = False


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """From the slot, first: it waits for tasks."""

    pid: int


class Results(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """From the slot: tasks first_seq, first_seq + 1, ... have ended. No payload: it is the body (one task)."""

    first_seq: int
    statuses: bytes
    service_us: list[int]
    payloads: list[bytes]


class Output(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """From the slot: task ``seq``, which runs, has written ``data`` to standard output (1) or error (2)."""

    seq: int
    stream: Stream
    data: Annotated[bytes, Meta(max_length=limits.OUTPUT_BYTES_MAX)]


class Unready(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """From the slot, instead of `Ready`, and last: why it cannot start."""

    reason: str


class Large(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """From the slot, after results: it has grown beyond what its worker wants to keep."""

    resident_mib: int


Report = Ready | Results | Output | Unready | Large

_encoder = msgspec.msgpack.Encoder()
decode_order: Final = msgspec.msgpack.Decoder(Function | Tasks).decode
decode_report: Final = msgspec.msgpack.Decoder(Report).decode


def frame(head: msgspec.Struct, body_bytes: int = 0) -> bytearray:
    """Return header and head; ``body_bytes`` bytes of body are to follow."""
    buffer = bytearray(HEADER.size)
    _encoder.encode_into(head, buffer, HEADER.size)
    HEADER.pack_into(buffer, 0, len(buffer) - HEADER.size, body_bytes)
    return buffer


class Reader:
    """Cuts the stream of one socket, blocking or not, into frames."""

    def __init__(self) -> None:
        self._rest = b""  # of a frame whose head is incomplete
        self._head = b""
        self._body: bytearray | None = None
        self._filled = 0

    def read(self, sock: socket.socket, reads_max: int) -> list[tuple[bytes, bytearray | None]]:
        """Return at least one (head, body), or none after ``reads_max`` reads.

        Raises EOFError at the end of the stream, BlockingIOError when a non-blocking socket has nothing left,
        ProtocolError when the bytes are no frames.
        """
        frames: list[tuple[bytes, bytearray | None]] = []
        for _ in range(reads_max):
            if self._body is not None:
                self._fill(sock, self._body, frames)
            else:
                data = sock.recv(RECV_BYTES)
                if not data:
                    raise EOFError
                self._parse(self._rest + data if self._rest else data, frames)
            if frames:
                break
        return frames

    def _fill(self, sock: socket.socket, body: bytearray, frames: list[tuple[bytes, bytearray | None]]) -> None:
        with memoryview(body) as view:
            count = sock.recv_into(view[self._filled :])
        if not count:
            raise EOFError
        self._filled += count
        if self._filled == len(body):
            frames.append((self._head, body))
            self._body = None

    def _parse(self, data: bytes, frames: list[tuple[bytes, bytearray | None]]) -> None:
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            head_bytes, body_bytes = HEADER.unpack_from(data, at)
            if head_bytes > HEAD_BYTES_MAX or body_bytes > limits.FRAME_BYTES_MAX:
                raise ProtocolError("too_large", f"a frame with {head_bytes:,} and {body_bytes:,} bytes")
            head_end = at + HEADER.size + head_bytes
            if head_end > end:
                break
            head = data[at + HEADER.size : head_end]
            at = min(end, head_end + body_bytes)
            if not body_bytes:
                frames.append((head, None))
                continue
            body = bytearray(body_bytes)
            body[: at - head_end] = memoryview(data)[head_end:at]
            if at - head_end == body_bytes:
                frames.append((head, body))
            else:
                self._head, self._body, self._filled = head, body, at - head_end
        self._rest = data[at:]


class Functions(Generic[Value]):
    """The functions a slot keeps, oldest use first. The node monitor keeps its twin, fed alike, to know which."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._bytes = 0

    def get(self, job: str) -> Value | None:
        """Return the job's entry, now the most recently used one; None when it is not kept."""
        entry = self._entries.get(job)
        if entry is None:
            return None
        self._entries.move_to_end(job)
        return entry[0]

    def add(self, job: str, value: Value, size: int) -> None:
        """Keep ``value`` for a new job; the least recently used ones go, but never this one."""
        self._entries[job] = (value, size)
        self._bytes += size
        while len(self._entries) > 1 and (len(self._entries) > FUNCTIONS_MAX or self._bytes > FUNCTION_BYTES_MAX):
            _, (_, gone) = self._entries.popitem(last=False)
            self._bytes -= gone
