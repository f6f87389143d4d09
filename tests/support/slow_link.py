"""A slow link: a TCP proxy that forwards so many bytes a second in each direction, until it is told to stop."""

from __future__ import annotations

import contextlib
import socket
import threading

CHUNK_BYTES = 16 * 1024
BUFFER_BYTES = 64 * 1024  # of each socket in the kernel: what it has taken is soon there


class SlowLink:
    """Listens at ``host``, on a port of its choice, and forwards to the same port of ``target``.

    ``bytes_per_s`` is the speed of one direction of each connection, 0 for as fast as can be.
    """

    def __init__(self, host: str, target: str, bytes_per_s: float) -> None:
        self._wait_s = CHUNK_BYTES / bytes_per_s if bytes_per_s else 0.0
        self._target = target
        self.accepted = 0
        self._changed = threading.Condition()
        self._carried = 0
        self._closed = threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        self._sockets: list[socket.socket] = []
        self._listener = _socket()
        self._listener.bind((host, 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Forward nothing more; the connections stand."""
        self._flows.clear()

    def wait_accepted(self, count: int, timeout_s: float) -> bool:
        """Wait until so many connections have been made; return whether they were."""
        with self._changed:
            return self._changed.wait_for(lambda: self.accepted >= count, timeout_s)

    def wait_carried(self, size: int, timeout_s: float) -> bool:
        """Wait until so many bytes have been carried, in both directions; return whether they were."""
        with self._changed:
            return self._changed.wait_for(lambda: self._carried >= size, timeout_s)

    def close(self) -> None:
        """End everything."""
        self._closed.set()
        self._flows.set()
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
                far = _socket()
                far.connect((self._target, self.port))
            except OSError:  # closed, or nobody listens there yet: whoever has connected tries again
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += (near, far)
            with self._changed:
                self.accepted += 1
                self._changed.notify_all()
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                self._flows.wait()
                sink.sendall(data)
                with self._changed:
                    self._carried += len(data)
                    self._changed.notify_all()
                self._closed.wait(self._wait_s * len(data) / CHUNK_BYTES)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _socket() -> socket.socket:
    sock = socket.socket()
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
    return sock
