"""How a process's heartbeats get into the store's stream: the newest one only, and nobody waits for it.

Owns: the stream's key and fields, and the order of depositing and sending. Must not know: what is in a beat, or what is
concluded from it. `watcher` reads the stream.

An entry has one field: ``b`` a beat (protocol/beats.py), ``c`` a canary, which is an assistant's id.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Final

from sparrowmq.protocol import beats
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import StoreSettings
from sparrowmq.store.line import Line, Log, pack

BEAT: Final = b"b"
CANARY: Final = b"c"
STREAM_BYTES_MAX: Final = 32 * 1024 * 1024  # of beats; what Redis adds to that is a few bytes each
ENTRIES_MIN: Final = 1000
STOP_S: Final = 0.5
_REPLY_BYTES: Final = 4096


def stream_key(settings: StoreSettings) -> str:
    """Return the key of the stream."""
    return f"{settings.prefix}beats"


class Appending:
    """The command that appends an entry to the stream, which keeps about ``entries_max`` of them.

    Fewer where they are large: beats of workers of very many schedulers would fill a Redis that others use.
    """

    def __init__(self, settings: StoreSettings, field: bytes, entries_max: int) -> None:
        self._key = stream_key(settings)
        self._field = field
        self._entries = entries_max
        self._prepare(STREAM_BYTES_MAX // max(1, entries_max))

    def __call__(self, value: bytes) -> bytes:
        """Return the command for this value, in the bytes that Redis reads."""
        if len(value) > self._value_bytes_max:
            self._prepare(1 << len(value).bit_length())
        return b"%b$%d\r\n%b\r\n" % (self._head, len(value), value)

    def _prepare(self, value_bytes_max: int) -> None:
        """Make the command ready for values up to this size."""
        self._value_bytes_max = max(1, value_bytes_max)
        entries = min(self._entries, max(ENTRIES_MIN, STREAM_BYTES_MAX // self._value_bytes_max))
        whole = pack("XADD", self._key, "MAXLEN", "~", entries, "*", self._field, b"")
        self._head = whole.removesuffix(b"$0\r\n\r\n")


class Beats:
    """Sends what is deposited: always the newest, none twice, and none while the one before it is unanswered.

    Where the store answers, a beat costs the loop two calls of the kernel that do not block: one takes the reply to
    the beat before, one sends. To wake another thread would cost more than all the rest (docs/decisions/0019). That
    thread connects, and takes over wherever one would have to wait. While the store does not answer, beats are dropped;
    it is tried with each new one, at most every half second. ``log`` (level, event, fields) may be called in either.
    """

    def __init__(self, settings: StoreSettings, *, entries_max: int, log: Log) -> None:
        self._line = Line(settings, "beats", log)
        self._append = Appending(settings, BEAT, entries_max)
        self._patience_s = settings.reply_timeout_s
        self._newest: Beat | None = None
        self._sent: Beat | None = None
        self._sent_s = 0.0
        self._lent: socket.socket | None = None  # while it is set the line is the loop's, else the thread's
        self._reply: bytes | None = None  # as far as it has come; None: none is expected
        self._stopping = threading.Event()
        self._wanted = threading.Lock()  # held, except when there may be something to do for the thread
        self._wanted.acquire()
        self._thread = threading.Thread(target=self._run, name="beats", daemon=True)

    def start(self) -> None:
        """Start the thread. Call it after the last fork."""
        self._thread.start()

    def deposit(self, beat: Beat) -> None:
        """Have this beat sent, unless a newer one comes before its turn. Returns at once; for one thread only."""
        self._newest = beat
        lent = self._lent
        if lent is None:
            self._wake()
            return
        try:
            if self._is_answered(lent):
                self._send(lent, beat)
        except OSError as error:
            self._give_up(error)

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Send what was deposited last, and end; waits for at most ``timeout_s``. Call it where `deposit` is called."""
        self._stopping.set()
        self._lent = None  # whatever is left to do is the thread's
        self._wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # In the loop.

    def _is_answered(self, lent: socket.socket) -> bool:
        """Return whether the last beat is: take the reply if it is there."""
        if self._reply is None:
            return True
        try:
            data = lent.recv(_REPLY_BYTES)
        except BlockingIOError:
            if time.monotonic() - self._sent_s > self._patience_s:
                raise TimeoutError("Timeout reading from socket") from None
            return False
        if not data:
            raise ConnectionError("Connection closed by server")
        self._reply = reply = self._reply + data
        if len(reply) > _REPLY_BYTES:
            raise ConnectionError("Protocol error: too long a reply")
        if not reply.endswith(b"\r\n") or (reply.startswith(b"$") and reply.count(b"\r\n") < 2):
            return False
        if reply.startswith(b"-"):
            reason = reply[1:-2].decode(errors="replace")
            self._line.refused(reason.partition(" ")[0], reason)
            if reason.startswith("READONLY"):  # the master is another one now: the thread finds it, if it can be found
                self._line.reconnect()
                self._lent = self._reply = None
                self._wake()
                return False
        self._reply = None
        return True

    def _send(self, lent: socket.socket, beat: Beat) -> None:
        command = self._append(beats.encode(beat))
        if lent.send(command) < len(command):
            raise TimeoutError("Timeout writing to socket")
        self._sent, self._sent_s, self._reply = beat, time.monotonic(), b""

    def _give_up(self, error: OSError) -> None:
        self._line.give_up(error)
        self._lent = None
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is awake
            self._wanted.release()

    # In the thread.

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            if self._line.wait_s > 0.0:
                self._stopping.wait(self._line.wait_s)
            beat = self._newest
            if self._stopping.is_set():
                break
            if self._lent is not None or beat is None or beat is self._sent:
                continue
            self._sent = beat
            if self._line.ask(self._append(beats.encode(beat))) is not None and not self._stopping.is_set():
                self._reply = None
                self._lent = self._line.lend()
        self._finish()

    def _finish(self) -> None:
        """Send what nobody has sent, over a connection of its own: the other's last reply may be under way."""
        if self._newest is not self._sent and self._newest is not None and not self._line.down:
            self._line.reconnect()
            self._line.ask(self._append(beats.encode(self._newest)))
        self._line.close()
