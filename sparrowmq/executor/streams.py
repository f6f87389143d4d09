"""What a slot's tasks write to sys.stdout and sys.stderr, on its way to the node monitor.

Owns: the two streams, which stand in for the process's own as long as it lives; the cap of each task; who may write.
Must not know: frames, or what becomes of the text.

Lines leave as they end, and the rest of a task's before its result. What is written when no task runs, by threads of a
task that is over, or in processes that a task forked, goes to the worker's own standard error.
"""

from __future__ import annotations

import _thread
import contextlib
import io
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Final

from sparrowmq.executor.interrupts import Interrupts
from sparrowmq.limits import OUTPUT_BYTES_MAX

STDOUT: Final = 1
STDERR: Final = 2

Buffer = bytes | bytearray | memoryview
Send = Callable[[int, int, bytes], object]  # (sequence number, stream, data)


class _Part:
    """One stream of the running task: what waits for the end of its line, how much it has had of its cap."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.taken = 0
        self.capped = False
        self.in_line = False  # the last byte taken did not end a line


class Streams:
    """Both streams. ``send`` delivers; it is called by one thread at a time, and never interrupted."""

    def __init__(self, interrupts: Interrupts, send: Send, output_bytes: int) -> None:
        self.used = False  # the running task has written something
        self.stdout = TaskStream(self, STDOUT)
        self.stderr = TaskStream(self, STDERR)
        self._interrupts = interrupts
        self._send = send
        self._cap = output_bytes
        self._seq = 0  # whose the parts are
        self._parts = {STDOUT: _Part(), STDERR: _Part()}
        self.lock = _thread.allocate_lock()  # of the parts, and of the socket behind ``send``
        # Threads that are in `write`: one that enters it again was interrupted, by a signal handler or a destructor.
        self._writing: set[int] = set()
        self._main = _thread.get_ident()
        self._strangers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()  # threads of tasks that are over
        self._left = False

    def install(self) -> None:
        """Be sys.stdout and sys.stderr (again)."""
        sys.stdout, sys.stderr = self.stdout, self.stderr

    def write(self, stream: int, data: Buffer, *, flush: bool) -> None:
        """Take ``data`` of the task that runs, in whatever thread; ``flush`` sends it and what waits before it."""
        seq, me = self._interrupts.running, _thread.get_ident()
        if not seq or self._left or me in self._writing or not self._belongs(me):
            _write_aside(data)
            return
        main = me == self._main
        if main:
            self._interrupts.shield()
        self._writing.add(me)
        try:
            self._take(seq, stream, data, flush)
        finally:
            self._writing.discard(me)
            if main:
                self._interrupts.unshield()

    def end_task(self, seq: int) -> None:
        """Task ``seq`` is over: send what waits, and remember the threads that it leaves."""
        if self.used:
            with self.lock:
                if self._seq == seq:
                    self._flush_all()
                self._begin(0)
                self.used = False
        if _thread._count():
            self._strangers.update(thread for thread in threading.enumerate() if thread.ident != self._main)

    def leave(self) -> None:
        """In a process that a task forked: nothing goes over the socket, and other threads hold no lock."""
        self._left = True
        self.lock = _thread.allocate_lock()
        self._begin(0)

    def _belongs(self, me: int) -> bool:
        return me == self._main or threading.current_thread() not in self._strangers

    def _take(self, seq: int, stream: int, data: Buffer, flush: bool) -> None:
        with self.lock:
            if self._interrupts.running != seq:  # over meanwhile: this is another thread
                _write_aside(data)
                return
            if self._seq != seq:
                self._begin(seq)
            self.used = True
            self._add(stream, data, flush)

    def _add(self, stream: int, data: Buffer, flush: bool) -> None:
        part = self._parts[stream]
        if part.capped:
            return
        room = self._cap - part.taken
        kept = data[:room]
        if kept:
            part.waiting += kept
            part.taken += len(kept)
            part.in_line = kept[-1:] != b"\n"
        if len(data) > room:
            part.capped = True
            note = f"[... output beyond {self._cap:,} bytes is left out ...]\n".encode()
            part.waiting += b"\n" + note if part.in_line else note
        if flush or part.capped or len(part.waiting) >= OUTPUT_BYTES_MAX:
            self._flush(stream)

    def _flush(self, stream: int) -> None:
        waiting = self._parts[stream].waiting
        for at in range(0, len(waiting), OUTPUT_BYTES_MAX):
            with contextlib.suppress(OSError):  # the node monitor is gone, and this process about to be
                self._send(self._seq, stream, bytes(waiting[at : at + OUTPUT_BYTES_MAX]))
        waiting.clear()

    def _flush_all(self) -> None:
        for stream in self._parts:
            self._flush(stream)

    def _begin(self, seq: int) -> None:
        self._seq = seq
        for part in self._parts.values():
            part.waiting.clear()
            part.taken, part.capped, part.in_line = 0, False, False


class TaskStream(io.TextIOBase):
    """A text stream that user code takes for a file: everything but reading works, closing does nothing."""

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True
    mode = "w"

    def __init__(self, streams: Streams, stream: int) -> None:
        self._streams = streams
        self._stream = stream
        self.buffer = _Binary(streams, stream)
        self.name = "<stdout>" if stream == STDOUT else "<stderr>"

    def write(self, text: str) -> int:
        """Write ``text``; whole lines leave at once."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        data = text.encode("utf-8", "backslashreplace")
        self._streams.write(self._stream, data, flush=b"\n" in data or b"\r" in data)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Write each text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send what waits for the end of its line."""
        self._streams.write(self._stream, b"", flush=True)

    def writable(self) -> bool:
        """Whether it can be written to: yes."""
        return True

    def isatty(self) -> bool:
        """Whether a person reads along: no."""
        return False

    def fileno(self) -> int:
        """Return the process's own descriptor, for those who give it to another program."""
        return self._stream

    def reconfigure(self, **_: Any) -> None:
        """Change nothing: the encoding is UTF-8, and lines leave as they end."""

    def close(self) -> None:
        """Change nothing: the stream is not the task's to close."""


class _Binary(io.BufferedIOBase):
    """The ``buffer`` of a stream."""

    mode = "wb"

    def __init__(self, streams: Streams, stream: int) -> None:
        self._streams = streams
        self._stream = stream

    def write(self, data: Any) -> int:
        with memoryview(data) as view:
            flat = view.tobytes()
        self._streams.write(self._stream, flat, flush=b"\n" in flat)
        return len(flat)

    def flush(self) -> None:
        self._streams.write(self._stream, b"", flush=True)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def close(self) -> None:
        return


def _write_aside(data: Buffer) -> None:
    """Write to the worker's own standard error, as far as it takes it."""
    view = memoryview(data)
    with contextlib.suppress(OSError):
        while view:
            view = view[os.write(STDERR, view) :]
