"""Running one command: its output captured and passed on as it comes, and nothing of it left behind.

Owns: its session, the bounds of the capture, its interrupt, the clean-up. Must not know: payload bytes, slots.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from sparrowmq.executor import linux
from sparrowmq.executor.interrupts import Interrupts
from sparrowmq.executor.streams import STDERR, STDOUT
from sparrowmq.payload.command import Command

CAPTURE_BYTES_MAX: Final = 1024 * 1024  # of each stream
_CHUNK_BYTES: Final = 64 * 1024


class Ended(NamedTuple):
    """``status`` is the exit status, or -n for signal n."""

    status: int
    stdout: bytes
    stderr: bytes
    interrupted: bool


class Emit(Protocol):
    """Passes on what a command writes."""

    def __call__(self, stream: int, data: bytes, *, flush: bool) -> None: ...


class _Capture:
    """The beginning of a stream, and how much of it went unkept."""

    def __init__(self, stream: int, emit: Emit) -> None:
        self.kept = bytearray()
        self.dropped = 0
        self._stream = stream
        self._emit = emit

    def add(self, data: bytes) -> None:
        self._emit(self._stream, data, flush=True)
        room = CAPTURE_BYTES_MAX - len(self.kept)
        self.kept += data[:room]
        self.dropped += max(0, len(data) - room)

    def text(self) -> bytes:
        if not self.dropped:
            return bytes(self.kept)
        note = f"\n[... {self.dropped:,} more bytes: only the first {CAPTURE_BYTES_MAX:,} are kept ...]\n"
        return bytes(self.kept) + note.encode()


class _Interruption:
    """What an interrupt does to a command: SIGTERM to its process group, now or as soon as it is there."""

    def __init__(self) -> None:
        self.done = False
        self._told = False
        self._pid = 0

    def __call__(self) -> None:
        self._told = True
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGTERM)
                self.done = True

    def started(self, pid: int) -> None:
        self._pid = pid
        if self._told:
            self()

    def ended(self) -> None:
        self._pid = 0


def run(command: Command, environment: Mapping[str, str], interrupts: Interrupts, emit: Emit) -> Ended:
    """Run ``command`` to its end, then kill what it started and did not wait for.

    Raises OSError when it cannot be started (no such program or directory, no permission).
    """
    before = set(linux.outsiders())
    captures = _Capture(STDOUT, emit), _Capture(STDERR, emit)
    interruption = _Interruption()
    interrupts.instead = interruption
    try:
        # In a session of its own, all that descends from it can be told from what tasks of this slot started before.
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **environment, **command.env},
            cwd=command.cwd or None,
            stdin=subprocess.PIPE if command.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        interruption.started(process.pid)
        try:
            _attend(process, command.stdin, captures)
        finally:
            interruption.ended()
            _kill_all(process, before)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    finally:
        interrupts.instead = None
    return Ended(process.returncode, captures[0].text(), captures[1].text(), interruption.done)


def _attend(process: subprocess.Popen[bytes], stdin: bytes, captures: tuple[_Capture, _Capture]) -> None:
    """Feed and drain the command until it ends; then take what its pipes still hold.

    Not until the pipes are closed: a daemon that it left behind may hold them open for ever.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    sinks = {process.stdout.fileno(): captures[0], process.stderr.fileno(): captures[1]}
    watched = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(watched, selectors.EVENT_READ)
            for fd in sinks:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            left = memoryview(stdin)
            if process.stdin is not None:
                os.set_blocking(process.stdin.fileno(), False)
                selector.register(process.stdin, selectors.EVENT_WRITE)
            running = True
            while running:
                for key, _ in selector.select():
                    if key.fd == watched:
                        running = False
                    elif key.fd in sinks:
                        if not _take(key.fd, sinks[key.fd]):
                            selector.unregister(key.fd)
                    else:
                        left = left[_feed(key.fd, left) :]
                        if not left and process.stdin is not None:
                            selector.unregister(process.stdin)
                            process.stdin.close()
    finally:
        os.close(watched)
    for fd, capture in sinks.items():
        # A pipe holds less than this; more is a survivor writing faster than we read.
        for _ in range(CAPTURE_BYTES_MAX // _CHUNK_BYTES):
            try:
                if not _take(fd, capture):
                    break
            except BlockingIOError:
                break


def _take(fd: int, capture: _Capture) -> bool:
    data = os.read(fd, _CHUNK_BYTES)
    capture.add(data)
    return bool(data)


def _feed(fd: int, left: memoryview) -> int:
    """Write some of ``left``; a command that closes its input wants no more, which is not an error."""
    try:
        return os.write(fd, left[:_CHUNK_BYTES])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(left)


def _kill_all(process: subprocess.Popen[bytes], before: set[int]) -> None:
    """Kill the command if it runs, then what it left: each orphan that this slot adopts, and theirs in turn."""
    process.kill()
    process.wait()
    while strays := set(linux.outsiders()) - before:
        for pid in strays:
            linux.kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
