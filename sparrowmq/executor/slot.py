"""The slot process: takes tasks from its node monitor, runs them one by one, reports.

Owns: the order of things between a task's arrival and its report. Must not know: schedulers, queues, how kinds
of tasks are run.

A result leaves at once when the task took long or nothing else is at hand, and with its neighbours when tasks
are short: a system call costs as much as several of them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import itertools
import os
import socket
import sys
from _thread import _count as _thread_count
from collections.abc import Sequence
from time import monotonic_ns
from typing import Final, NoReturn

from sparrowmq import limits
from sparrowmq.executor import linux, preload, runners, wire
from sparrowmq.executor.interrupts import Interrupts
from sparrowmq.executor.options import SlotOptions
from sparrowmq.executor.page import STARTED, STARTED_NS, STOP, Page
from sparrowmq.executor.streams import Streams
from sparrowmq.payload import failure
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.retries import names_of, wants_retry

LONG_TASK_NS: Final = 200_000  # a task that took so long is reported at once
REPORT_EVERY_NS: Final = 500_000  # no report of short ones waits longer, save for one task's time
REPORT_TASKS_MAX: Final = 256
_READS_MAX: Final = 1_000_000
_MIB: Final = 1024 * 1024
_INTERRUPTED: Final = b"interrupted"


def main(sock: socket.socket, page: Page, options: SlotOptions) -> NoReturn:
    """Serve until the node monitor closes the socket; ends the process."""
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a kill loses what is buffered
    slot = _Slot(sock, page, options)
    os.register_at_fork(after_in_child=slot.leave)
    with contextlib.suppress(EOFError, ConnectionError):  # the node monitor closed the socket, or is gone
        try:
            slot.prepare()
            slot.serve()
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # whatever is said from here on is the worker's
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a task may have closed or replaced it
        sys.stdout.flush()
    os._exit(0)


class _Kept:
    """A job's function: its bytes until the first task needs it, then what runs its tasks."""

    __slots__ = ("data", "runner")

    def __init__(self, data: runners.Buffer) -> None:
        self.data = data
        self.runner: runners.Runner | None = None


class _Slot:
    def __init__(self, sock: socket.socket, page: Page, options: SlotOptions) -> None:
        self._sock = sock
        self._page = page
        self._options = options
        self._interrupts = Interrupts(page, self._report)
        self._streams = Streams(self._interrupts, self._send_output, options.output_bytes)
        self._surroundings = runners.Surroundings(self._interrupts, self._streams, frozenset(options.allow))
        self._recycle_bytes = options.recycle_mib * _MIB
        self._reader = wire.Reader()
        self._functions: wire.Functions[_Kept] = wire.Functions()
        self._left = False
        # The report being collected: parallel lists, of consecutive tasks.
        self._next_seq = 0  # the first task after those in the lists
        self._statuses = bytearray()
        self._service_us: list[int] = []
        self._payloads: list[bytes] = []
        self._since_ns = 0  # when the lists were last empty

    def prepare(self) -> None:
        """Load what is to be there before the first task, and be ready; raises EOFError where that fails."""
        self._interrupts.install()
        self._streams.install()
        reason = preload.load(self._options.preload)
        if reason:
            self._sock.sendall(wire.frame(wire.Unready(reason)))
            raise EOFError
        if self._options.task_memory_mib:
            linux.limit_memory(self._options.task_memory_mib * _MIB + limits.FRAME_BYTES_MAX)
        self._sock.sendall(wire.frame(wire.Ready(os.getpid())))

    def serve(self) -> NoReturn:
        """Obey orders until EOFError or ConnectionError says that nobody gives them any more."""
        while True:
            self._interrupts.install()
            for head, body in self._reader.read(self._sock, _READS_MAX):
                order = wire.decode_order(head)
                if isinstance(order, wire.Function):
                    data = b"" if body is None else body
                    self._functions.add(order.job, _Kept(data), len(data))
                else:
                    self._run(order, order.payloads if body is None else [body])
            if self._statuses:
                self._report()

    def leave(self) -> None:
        """In a process that a task forked: it is no slot, and what it inherited must not act as one."""
        self._left = True
        self._sock.close()
        self._streams.leave()
        self._interrupts.leave()

    def _run(self, order: wire.Tasks, payloads: Sequence[runners.Buffer]) -> None:
        # Looked up whether or not a task runs: the node monitor counts on it (see wire.Functions).
        kept = self._functions.get(order.job) or _Kept(b"")
        each = itertools.repeat(payloads[0], len(order.indices)) if len(payloads) == 1 else payloads
        tasks = zip(each, order.indices, order.attempts, strict=True)
        words, page = self._page.words, self._page
        seq = order.first_seq
        begun_ns = monotonic_ns()
        if seq != self._next_seq or not self._statuses:
            self._report()
            self._since_ns = begun_ns
        for payload, index, attempt in tasks:
            words[STARTED_NS] = begun_ns
            words[STARTED] = seq
            if words[STOP] >= seq and (resume_seq := page.resume_at(seq)) != seq:
                for _ in itertools.islice(tasks, resume_seq - seq - 1):
                    pass
                self._report()
                seq = resume_seq
                continue
            status, result = self._run_one(kept, order, seq, payload, index, attempt)
            seq += 1
            ended_ns = monotonic_ns()
            if self._add(seq, status, result, ended_ns - begun_ns, ended_ns, order.at_once):
                ended_ns = monotonic_ns()
            begun_ns = ended_ns

    def _run_one(
        self, kept: _Kept, order: wire.Tasks, seq: int, payload: runners.Buffer, index: int, attempt: int
    ) -> tuple[int, bytes]:
        interrupts, streams = self._interrupts, self._streams
        try:
            try:
                interrupts.running = seq
                if interrupts.early == seq:
                    raise runners.Cancelled
                runner = kept.runner
                if runner is None:
                    runner = kept.runner = runners.make(order.kind, order.job, kept.data, self._surroundings)
                    kept.data = b""
                status, result = m.SUCCEEDED, runner(payload, index, attempt)
                interrupts.running = 0
            except BaseException as error:  # a task's SystemExit or KeyboardInterrupt ends the task, not the slot
                interrupts.running = 0
                status, result = self._failed(order, seq, error)
        except KeyboardInterrupt:  # it came between the end of the task and the note of that
            interrupts.running = 0
            status, result = m.CANCELLED, _INTERRUPTED
        if self._left:
            os._exit(0)
        if streams.used or _thread_count():
            streams.end_task(seq)
        if sys.stdout is not streams.stdout or sys.stderr is not streams.stderr:
            streams.install()
        return status, result

    def _failed(self, order: wire.Tasks, seq: int, error: BaseException) -> tuple[int, bytes]:
        """Return status and payload of a task that raised. One that was interrupted may raise whatever it likes."""
        if isinstance(error, runners.Cancelled):
            return m.CANCELLED, b""
        kind: type[BaseException] | None
        if isinstance(error, runners.Failed):
            kind, result = error.kind, error.report
        elif self._interrupts.raised == seq:
            return m.CANCELLED, _INTERRUPTED
        else:
            kind, result = type(error), failure.dump(error, allow_pickle=order.kind == m.PYTHON)
        again = kind is not None and order.retries and wants_retry(order, names_of(kind))
        return (m.RETRY if again else m.FAILED), result

    def _add(self, next_seq: int, status: int, result: bytes, took_ns: int, now_ns: int, at_once: bool) -> bool:
        """Note the end of task ``next_seq`` - 1; return whether that has sent a report."""
        large = len(result) > limits.INLINE_BYTES_MAX
        if large:
            self._report()
        self._next_seq = next_seq
        self._statuses.append(status)
        self._service_us.append(took_ns // 1000)
        if large:
            self._report(result)
            return True
        self._payloads.append(result)
        if (
            at_once
            or took_ns >= LONG_TASK_NS
            or now_ns - self._since_ns >= REPORT_EVERY_NS
            or len(self._statuses) >= REPORT_TASKS_MAX
        ):
            self._report()
            return True
        return False

    def _report(self, body: bytes = b"") -> None:
        """Send the lists, if there is anything in them, and start new ones. ``body``: the only task's payload."""
        count = len(self._statuses)
        if not count:
            return
        report = wire.Results(self._next_seq - count, bytes(self._statuses), self._service_us, self._payloads)
        with self._streams.lock:
            self._sock.sendall(wire.frame(report, len(body)))
            if body:
                self._sock.sendall(body)
        self._statuses.clear()
        self._service_us.clear()
        self._payloads.clear()
        self._since_ns = monotonic_ns()
        if self._recycle_bytes and (resident_bytes := linux.resident_bytes()) > self._recycle_bytes:
            self._recycle_bytes = 0  # said once
            with self._streams.lock:
                self._sock.sendall(wire.frame(wire.Large(resident_bytes // _MIB)))

    def _send_output(self, seq: int, stream: int, data: bytes) -> None:
        """Called with the lock of the streams held."""
        self._sock.sendall(wire.frame(wire.Output(seq, stream, data)))
