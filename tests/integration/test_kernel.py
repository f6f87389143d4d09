"""What the kernel tells of a connection, against what was written to it and read from it."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from sparrowmq.transport import kernel

TIMEOUT_S = 10.0


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection: the one that was accepted, and the other."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as there:
        here, _ = server.accept()
        here.settimeout(TIMEOUT_S)
        with here:
            yield here, there


def test_what_came_is_counted_whether_it_was_read_or_not(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    there.sendall(bytes(1000))
    assert len(here.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)) == 1000
    here.recv(400)
    assert kernel.bytes_received(here.fileno()) == 1000
    assert kernel.bytes_unread(here.fileno()) == 600


def test_what_went_is_counted_once_the_other_end_has_it(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    before = kernel.carried(there.fileno())
    there.setblocking(False)
    sent = 0
    with selectors.DefaultSelector() as selector:
        selector.register(there, selectors.EVENT_WRITE)
        while selector.select(0.1):  # nobody reads: both buffers are full then
            sent += there.send(bytes(1024 * 1024))
    stuck = kernel.carried(there.fileno())
    assert before is not None
    assert stuck is not None
    assert before.waiting == 0 < stuck.waiting < sent
    assert stuck.delivered - before.delivered == sent - stuck.waiting
    assert kernel.bytes_received(here.fileno()) == sent - stuck.waiting
    left = sent
    while left:
        left -= len(here.recv(left))
    here.sendall(b"read")
    assert len(there.recv(4)) == 4
    done = kernel.carried(there.fileno())
    assert done is not None
    assert (done.received, done.delivered - before.delivered, done.waiting) == (4, sent, 0)


def test_nothing_is_known_of_what_is_closed_or_not_of_tcp(ends: tuple[socket.socket, socket.socket]) -> None:
    here, _ = ends
    closed = here.fileno()
    here.close()
    left, right = socket.socketpair()
    with left, right, open(os.devnull, "rb") as file:
        for descriptor in (closed, left.fileno(), file.fileno()):
            assert kernel.bytes_received(descriptor) is None
            assert kernel.carried(descriptor) is None
        assert kernel.bytes_unread(file.fileno()) == 0
