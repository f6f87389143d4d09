"""One slot process as its node monitor sees it: the socket, the page, what was handed over and what came back.

Owns: non-blocking frames both ways, and the bookkeeping of sequence numbers. Must not know: the zygote, or why
a slot is started.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, Protocol, cast

import msgspec

from sparrowmq import limits
from sparrowmq.core.effects import StartTasks
from sparrowmq.errors import ProtocolError
from sparrowmq.executor import wire
from sparrowmq.executor.page import Page
from sparrowmq.protocol import messages as m

_SOCKET_BUFFER_BYTES: Final = 1024 * 1024  # asked for; the system may give less
_SENDS_PER_TURN: Final = 32
_READS_PER_TURN: Final = 32
_BUFFERS_PER_SEND: Final = 64
_WITH_FUNCTION: Final = (m.PYTHON, m.CALL)


class LoopLike(Protocol):
    """What the executor needs of the process's loop (see sparrowmq.runtime.loop)."""

    def add_fd(self, fd: int, on_readable: Callable[[], object]) -> None:
        """Call back while ``fd`` is readable."""

    def set_writable(self, fd: int, on_writable: Callable[[], object] | None) -> None:
        """Call back while ``fd`` is writable; None: no longer."""

    def remove(self, sock_or_fd: Any) -> None:
        """Forget the descriptor."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> object:
        """Call back once, after ``delay_s``."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the node monitor's end, non-blocking, and the slot's end, blocking."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    ours.setblocking(False)
    return ours, theirs


class Reports(Protocol):
    """Who hears what one slot process says."""

    def on_ready(self, pid: int) -> None:
        """It waits for tasks."""

    def on_results(self, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]) -> None:
        """Tasks first_seq, first_seq + 1, ... have ended."""

    def on_output(self, seq: int, stream: int, data: bytes) -> None:
        """Task ``seq`` has written this."""

    def on_large(self) -> None:
        """It has grown too large."""

    def on_broken(self, reason: str) -> None:
        """Once: it cannot start, or sends what is no report, and must be killed; "": it has closed its end."""


class Link:
    """The node monitor's end of one slot process."""

    def __init__(self, loop: LoopLike, sock: socket.socket, page: Page, reports: Reports) -> None:
        self.page = page
        self.handed_seq = 0  # the last task handed over
        self.reported_seq = 0  # the last task whose end was reported
        self._loop = loop
        self._sock = sock
        self._fd = sock.fileno()
        self._reports = reports
        self._functions: wire.Functions[bool] = wire.Functions()  # the twin of the slot's
        self._reader = wire.Reader()
        self._outgoing: deque[memoryview] = deque()
        self._waits_writable = False
        self._open = True
        loop.add_fd(self._fd, self._on_readable)

    # To the slot.

    def hand(self, effect: StartTasks) -> None:
        """Send the tasks, after the job's function unless the slot has it. Never blocks."""
        kind, job = effect.spec.kind, effect.job
        if kind in _WITH_FUNCTION and self._functions.get(job) is None:
            self._functions.add(job, True, len(effect.function))
            self._queue(wire.Function(job), effect.function)
        for at, end, inlined, body in _cut(effect.payloads, len(effect.indices)):
            tasks = wire.Tasks(
                effect.first_seq + at, kind, job, effect.indices[at:end], effect.attempts[at:end], inlined,
                effect.spec.retries, effect.spec.retry_on, effect.spec.at_most_once,
            )  # fmt: skip
            self._queue(tasks, body)
        self.handed_seq = effect.first_seq + len(effect.indices) - 1
        if not self._waits_writable:
            self._send()

    def _queue(self, head: msgspec.Struct, body: m.Payload) -> None:
        self._outgoing.append(memoryview(wire.frame(head, len(body))))
        if len(body):
            self._outgoing.append(_view(body))

    def _send(self) -> None:
        outgoing = self._outgoing
        for _ in range(_SENDS_PER_TURN):
            if not outgoing:
                break
            try:
                sent = self._sock.sendmsg(list(islice(outgoing, _BUFFERS_PER_SEND)))
            except BlockingIOError:
                break
            except OSError:  # the slot is ending: the zygote tells how
                outgoing.clear()
                break
            while sent:
                first = outgoing[0]
                if len(first) > sent:
                    outgoing[0] = first[sent:]
                    break
                sent -= len(first)
                outgoing.popleft()
        if bool(outgoing) != self._waits_writable:
            self._waits_writable = bool(outgoing)
            self._loop.set_writable(self._fd, self._send if outgoing else None)

    # From the slot.

    def current_seq(self) -> int:
        """Return the task that is running, 0 for none: what has started and is not reported."""
        started = min(self.page.started_seq(), self.handed_seq)
        return started if started > self.reported_seq else 0

    def drain(self) -> None:
        """Deliver all that a slot that has ended left in the socket."""
        while self._open and self._read_some():
            pass

    def close(self) -> None:
        """Release socket and page; nothing is delivered any more."""
        self._open = False
        self._outgoing.clear()
        self._loop.remove(self._fd)
        self._sock.close()
        self.page.close()

    def _on_readable(self) -> None:
        for _ in range(_READS_PER_TURN):
            if not (self._open and self._read_some()):
                break

    def _read_some(self) -> bool:
        """Read once and deliver; return whether there may be more."""
        try:
            for head, body in self._reader.read(self._sock, 1):
                self._deliver(wire.decode_report(head), body)
        except BlockingIOError:
            return False
        except (EOFError, ConnectionError):
            self._break("")
            return False
        except (ProtocolError, msgspec.DecodeError) as error:
            self._break(f"sent what is no report: {error}")
            return False
        return True

    def _break(self, reason: str) -> None:
        self._loop.remove(self._fd)
        self._outgoing.clear()
        self._waits_writable = True  # send nothing more
        self._open = False
        self._reports.on_broken(reason)

    def _deliver(self, report: wire.Report, body: bytearray | None) -> None:
        match report:
            case wire.Results():
                self._deliver_results(report, body)
            case wire.Output(seq, stream, data):
                if seq > self.reported_seq:  # else of a thread that its task has left
                    self._reports.on_output(seq, stream, data)
            case wire.Ready(pid):
                self._reports.on_ready(pid)
            case wire.Large():
                self._reports.on_large()
            case wire.Unready(reason):
                self._break(reason)

    def _deliver_results(self, report: wire.Results, body: bytearray | None) -> None:
        payloads: list[m.Payload] = list(report.payloads) if body is None else [m.Blob(body, len(body))]
        count = len(report.statuses)
        last_seq = report.first_seq + count - 1
        if not (
            self.reported_seq < report.first_seq <= last_seq <= self.handed_seq
            and count == len(report.service_us) == len(payloads)
        ):
            raise ProtocolError("malformed", f"results of tasks {report.first_seq} to {last_seq}")
        self.reported_seq = last_seq
        self._reports.on_results(report.first_seq, report.statuses, report.service_us, payloads)


def _cut(payloads: list[m.Payload], count: int) -> Iterator[tuple[int, int, list[bytes], m.Payload]]:
    """Cut ``count`` tasks into frames: (from, to, inlined payloads, body), at most one large payload in each."""
    shared = len(payloads) == 1
    if set(map(type, payloads)) == {bytes} and max(map(len, payloads)) <= limits.INLINE_BYTES_MAX:
        small = cast("list[bytes]", payloads)
        for at in range(0, count, wire.TASKS_PER_FRAME):
            end = min(count, at + wire.TASKS_PER_FRAME)
            yield at, end, small if shared else small[at:end], b""
    elif shared:
        yield (0, count, [], payloads[0]) if len(payloads[0]) else (0, count, [b""], b"")
    else:
        yield from _cut_mixed(payloads)


def _cut_mixed(payloads: list[m.Payload]) -> Iterator[tuple[int, int, list[bytes], m.Payload]]:
    at = 0
    run: list[bytes] = []
    for number, payload in enumerate(payloads):
        large = len(payload) > limits.INLINE_BYTES_MAX
        if run and (large or len(run) == wire.TASKS_PER_FRAME):
            yield at, number, run, b""
            run = []
            at = number
        if large:
            yield number, number + 1, [], payload
            at = number + 1
        else:
            run.append(payload if isinstance(payload, bytes) else bytes(_view(payload)))
    if run:
        yield at, len(payloads), run, b""


def _view(payload: m.Payload) -> memoryview:
    """Return the payload's bytes, uncopied; a ZeroMQ frame keeps them under ``buffer``."""
    if isinstance(payload, bytes):
        return memoryview(payload)
    buffer: Any = payload.buffer
    return memoryview(getattr(buffer, "buffer", buffer)).cast("B")
