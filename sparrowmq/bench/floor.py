"""The floor under a task's latency: its way through the processes, with nothing on it but ZeroMQ.

Owns: that chain of processes, of which this file is the program too. Must not know: the rest of sparrowmq, none
of which runs in it.

Three processes, each a `zmq.Poller` loop over plain TCP sockets on loopback, and one that blocks in a read:

    user thread -> I/O thread            a deque, and a byte on a socket pair
    client -> scheduler -> worker        DEALER to ROUTER, ROUTER to DEALER   (submit, probe)
    worker -> scheduler -> worker        DEALER to ROUTER, ROUTER to DEALER   (request, task)
    worker -> slot -> worker             a socket pair, and a forked process
    worker -> scheduler -> client        DEALER to ROUTER, ROUTER to DEALER   (result, outcome)
    I/O thread -> user thread            a concurrent.futures.Future

That is six ZeroMQ hops, two of a pipe and two of a thread, as many as a late-binding task has. Every message
is BODY_BYTES opaque bytes, of which the first says which leg it is on. Nothing is encoded, kept or timed.
"""

from __future__ import annotations

import collections
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import IO, Any, Final

import zmq

BODY_BYTES: Final = 128
_SUBMIT, _REQUEST, _RESULT, _HELLO, _END = b"S", b"Q", b"R", b"H", b"E"
_REST: Final = bytes(BODY_BYTES - 1)
_CLOSE_TIMEOUT_S: Final = 5.0


class Chain:
    """The running chain: use it in a ``with`` block, from one thread."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._wanted: collections.deque[Future[bytes]] = collections.deque()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Chain:
        try:
            scheduler = self._start("scheduler")
            for_workers, for_clients = _line(scheduler).split()
            self._start("worker", for_workers)
            _line(scheduler)  # the worker has connected
        except BaseException:
            self.close()
            raise
        self._thread = threading.Thread(target=self._serve, args=(for_clients,), name="floor", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def round_trip(self, timeout_s: float) -> None:
        """Go once around. Raises TimeoutError."""
        future: Future[bytes] = Future()
        self._wanted.append(future)
        self._wake_writer.send(_SUBMIT)
        future.result(timeout_s)

    def close(self) -> None:
        """End the chain's processes, by the end of their standard input, and its thread."""
        if self._thread is not None:
            self._wake_writer.send(_END)
            self._thread.join(_CLOSE_TIMEOUT_S)
        self._wake_reader.close()
        self._wake_writer.close()
        for process in self._processes:
            try:
                process.communicate(timeout=_CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        # -P: the other files of this directory must not pass for modules of the standard library.
        command = [sys.executable, "-P", __file__, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def _serve(self, address: str) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.set(zmq.LINGER, 0)
            dealer.connect(address)
            poller = zmq.Poller()
            poller.register(dealer, zmq.POLLIN)
            poller.register(self._wake_reader.fileno(), zmq.POLLIN)
            under_way: collections.deque[Future[bytes]] = collections.deque()
            while True:
                for ready, _ in poller.poll():
                    if ready is dealer:
                        under_way.popleft().set_result(dealer.recv())
                    elif self._wake_reader.recv(4096).endswith(_END):
                        return
                while self._wanted:
                    under_way.append(self._wanted.popleft())
                    dealer.send(_SUBMIT + _REST)


def _line(process: subprocess.Popen[str]) -> str:
    stream: IO[str] | None = process.stdout
    line = stream.readline() if stream is not None else ""
    if not line:
        raise RuntimeError(f"the benchmark's bare ZeroMQ process ended early, with status {process.wait()}")
    return line


# The processes.


def _scheduler() -> None:
    """Pass on between one client and one worker."""
    context: zmq.Context[Any] = zmq.Context()
    workers, clients = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    poller = _poller(workers, clients)
    for router in (workers, clients):
        router.set(zmq.LINGER, 0)
        router.bind("tcp://127.0.0.1:*")
    print(workers.get_string(zmq.LAST_ENDPOINT), clients.get_string(zmq.LAST_ENDPOINT), flush=True)
    worker = client = b""
    while True:
        for ready, _ in poller.poll():
            if ready is clients:
                client, body = clients.recv_multipart()
                workers.send_multipart((worker, body))
            elif ready is workers:
                worker, body = workers.recv_multipart()
                if body[:1] == _HELLO:
                    print("connected", flush=True)
                elif body[:1] == _REQUEST:
                    workers.send_multipart((worker, body))
                else:
                    clients.send_multipart((client, body))
            else:
                context.destroy()
                return


def _worker(address: str) -> None:
    """Ask for the task, pass it to the slot, report the result."""
    ours, theirs = socket.socketpair()
    if not os.fork():
        ours.close()
        _slot(theirs)
        os._exit(0)
    theirs.close()
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.set(zmq.LINGER, 0)
    dealer.connect(address)
    dealer.send(_HELLO)
    poller = _poller(dealer, ours.fileno())
    while True:
        for ready, _ in poller.poll():
            if ready is dealer:
                body = dealer.recv()
                if body[:1] == _SUBMIT:
                    dealer.send(_REQUEST + _REST)
                else:
                    ours.sendall(body)
            elif ready == ours.fileno():
                dealer.send(_RESULT + ours.recv(BODY_BYTES)[1:])
            else:
                ours.close()  # ends the slot
                os.wait()
                context.destroy()
                return


def _slot(sock: socket.socket) -> None:
    while body := sock.recv(BODY_BYTES):
        sock.sendall(body)


def _poller(*sources: Any) -> zmq.Poller:
    """Return a poller of ``sources`` and of standard input, whose end is the end."""
    poller = zmq.Poller()
    for source in (*sources, sys.stdin.fileno()):
        poller.register(source, zmq.POLLIN)
    return poller


if __name__ == "__main__":
    if sys.argv[1] == "scheduler":
        _scheduler()
    else:
        _worker(sys.argv[2])
