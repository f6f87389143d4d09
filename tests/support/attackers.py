"""Peers that keep to no rules, over real sockets, and one honest client who must not notice.

Nothing here uses the transport under test, but for the bytes of messages and the proof of a role.
"""

from __future__ import annotations

import contextlib
import operator
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from sparrowmq.client.client import Client
from sparrowmq.protocol import codec, messages as m
from sparrowmq.security.credentials import Credentials
from tests.support.messages import blobs

DEADLINE_S = 20.0
GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01"  # of ZMTP 3.1, up to the mechanism
NULL = GREETING + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\6DEALER"
CURVE = GREETING + b"CURVE".ljust(20, b"\0") + bytes(32)

Message = TypeVar("Message", bound=m.AnyMessage)


def until(condition: Callable[[], object], within_s: float = DEADLINE_S) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


class Peer:
    """A ZeroMQ peer with these keys, or none, that says what it is told to."""

    def __init__(self, address: str, credentials: Credentials | None = None, **options: Any) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.set(zmq.SNDHWM, 0)
        self.socket.set(zmq.RCVHWM, 0)
        self.socket.set(zmq.RECONNECT_IVL, 60_000)
        if credentials is not None:
            self.socket.set(zmq.CURVE_SERVERKEY, credentials.server_key)
            self.socket.set(zmq.CURVE_PUBLICKEY, credentials.public_key)
            self.socket.set(zmq.CURVE_SECRETKEY, credentials.secret_key)
        for name, value in options.items():
            self.socket.set(getattr(zmq, name.upper()), value)
        self._credentials = credentials
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self.ended = False
        self.heard: list[m.AnyMessage] = []
        self.socket.connect(address)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.close(0)
        self.socket.disable_monitor()
        self.socket.close(0)
        self._context.term()

    def send(self, *frames: bytes) -> None:
        """Send one message, unless the connection is over: then there is nobody to wait for."""
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart(list(frames), zmq.NOBLOCK)

    def say(self, *messages: m.AnyMessage) -> None:
        """Send these messages, unless the connection is over."""
        for frames in codec.Encoder().encode(messages):
            self.send(*frames)

    def introduce(self, hello: m.Hello) -> m.Welcome:
        """Prove its role, say hello, and return the welcome."""
        assert self._credentials is not None
        self.say(m.Proof(hello.role, hello.id, self._credentials.proof(hello.id)), hello)
        return self.wait(m.Welcome)

    def read(self, wait_s: float = 0.0) -> None:
        """Take what has arrived, after waiting for something for so long at most."""
        if self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            self.ended = self.ended or event == zmq.EVENT_DISCONNECTED
        if not self.socket.poll(round(wait_s * 1000)):
            return
        with contextlib.suppress(zmq.Again):
            while True:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
                self.heard += codec.decode(frames[0], blobs(frames))

    def wait(self, kind: type[Message], within_s: float = DEADLINE_S) -> Message:
        """Return the next message of this kind; what comes before it is dropped."""
        deadline = time.monotonic() + within_s
        while True:
            while self.heard:
                message = self.heard.pop(0)
                if isinstance(message, kind):
                    return message
                assert not isinstance(message, m.Refused), message
            assert time.monotonic() < deadline, f"no {kind.__name__.lower()} came"
            self.read(0.05)

    def wait_end(self, within_s: float = DEADLINE_S) -> None:
        """Wait until the other side ends the connection."""

        def over() -> bool:
            self.read()
            return self.ended

        until(over, within_s)

    def counters(self) -> dict[str, int]:
        """What the scheduler has counted so far."""
        self.say(m.Query(1, "summary"))
        return self.wait(m.Status).counters


def connect(address: str) -> socket.socket:
    """Return a plain TCP connection to a tcp:// address."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=DEADLINE_S)


def is_over(connection: socket.socket) -> bool:
    """Return whether the other side has ended it; reads what is there."""
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class Recorder:
    """A relay to ``address`` that keeps what is sent towards it; listens at ``address`` of its own."""

    def __init__(self, address: str) -> None:
        self._to = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = bytearray()
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5.0)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            here, _ = self._listener.accept()
            there = connect(self._to)
            there.settimeout(None)
            self._ends += [here, there]
            back = threading.Thread(target=self._relay, args=(there, here, None), daemon=True)
            back.start()
            self._threads.append(back)
            self._relay(here, there, self.sent)

    def _relay(self, source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if kept is not None:
                    kept += data
                sink.sendall(data)


class Honest:
    """A client at work, from a thread of its own: one small call after the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self.done = 0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                assert self._client.submit(operator.neg, self.done).result(DEADLINE_S) == -self.done
                self.done += 1
        except BaseException as error:
            self._errors.append(error)

    def goes_on(self) -> None:
        """Wait until some more calls have been answered."""
        goal = self.done + 5
        until(lambda: self.done >= goal or self._errors)
        assert not self._errors, self._errors

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Honest]:
        """Work while the block runs; nothing may have failed, and work goes on after it."""
        self._thread.start()
        try:
            self.goes_on()
            yield self
            self.goes_on()
        finally:
            self._stop.set()
            self._thread.join(DEADLINE_S)
        assert not self._errors, self._errors


def shake_hands(address: str) -> socket.socket:
    """Return a plain connection on which frames may follow; there are no keys."""
    connection, heard = connect(address), b""
    connection.sendall(NULL)
    while len(heard) < len(GREETING) + 52 + 2 or len(heard) < len(GREETING) + 52 + 2 + heard[len(GREETING) + 53]:
        heard += connection.recv(4096)
    return connection


def frame(data: bytes, *, more: bool = False) -> bytes:
    """Return a frame as it goes over a connection without keys."""
    return struct.pack(">BQ", 2 | more, len(data)) + data


class Endless:
    """Sends ``start`` and then ``data`` again and again from a thread of its own, up to a number of bytes."""

    def __init__(self, address: str, start: bytes, data: bytes, most: int) -> None:
        self._connection = shake_hands(address)
        self._start, self._data, self._most = start, data, most
        self.sent = 0
        self.was_ended = False
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        try:
            self._connection.sendall(self._start)
            while self.sent < self._most:
                self._connection.sendall(self._data)
                self.sent += len(self._data)
                time.sleep(0.002)  # faster, and even a prompt end comes after gigabytes
        except OSError:
            self.was_ended = True

    @property
    def is_over(self) -> bool:
        """Whether it sends no more, for whatever reason."""
        return not self._thread.is_alive()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(DEADLINE_S)
        self._connection.close()


def drip(connections: Sequence[socket.socket], data: bytes, until_over: Callable[[], bool], pause_s: float) -> None:
    """Send one byte after the other of ``data`` over each connection, as slowly, until ``until_over`` says so."""
    at = 0
    while not until_over():
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.send(data[at % len(data) :][:1])
        at += 1
        time.sleep(pause_s)
