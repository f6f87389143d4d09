"""The proxy between the parts: it forwards, and cuts the links of one process in four ways."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrowmq.bench.proxy import HOWS, Proxy
from sparrowmq.errors import UsageError

TIMEOUT_S = 10.0
HELD_S = 0.15  # what does not arrive within this is held back
# A process of its own that says and prints lines: "say" on its input sends one, what it is sent it prints.
_PEER = """\
import socket, sys, threading
family, address = sys.argv[1:3]
if family == "unix":
    sock = socket.socket(socket.AF_UNIX); sock.connect(address)
else:
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host, int(port)))
def read():
    try:
        while data := sock.recv(100): print(data.decode(), flush=True)
        print("end", flush=True)
    except OSError: print("reset", flush=True)
threading.Thread(target=read, daemon=True).start()
print("connected", flush=True)
for line in sys.stdin: sock.sendall(line.strip().encode())
"""


class Peer:
    """A process with one connection through the proxy, and the server's end of it."""

    def __init__(self, server: socket.socket, address: object) -> None:
        name = address if isinstance(address, str) else f"{address[0]}:{address[1]}"
        family = "unix" if isinstance(address, str) else "tcp"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PEER, family, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.far, _ = server.accept()
        self.far.settimeout(TIMEOUT_S)
        assert self.line() == "connected"

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def say(self, text: str) -> None:
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hears(self, text: str) -> bool:
        """Whether it is sent ``text`` and gets nothing else first, within HELD_S."""
        found: list[str] = []
        self._reading = threading.Thread(target=lambda: found.append(self.line()), daemon=True)
        self._reading.start()
        self._reading.join(HELD_S)
        return found == [text]

    def rest(self) -> None:
        self._reading.join(TIMEOUT_S)
        assert not self._reading.is_alive()

    def arrives(self, text: str) -> bool:
        """Whether the server gets ``text`` within HELD_S."""
        self.far.settimeout(HELD_S)
        try:
            return self.far.recv(100).decode() == text
        except TimeoutError:
            return False
        finally:
            self.far.settimeout(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.far.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture(params=["unix", "tcp"])
def pair(proxy: Proxy, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Peer, Peer]]:
    """Two processes connected through the proxy."""
    if request.param == "unix":
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(tmp_path / "server"))
        address: object = str(tmp_path / "proxy")
    else:
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        address = ("127.0.0.2", server.getsockname()[1])
    server.listen()
    server.settimeout(TIMEOUT_S)
    proxy.listen(address, server.getsockname())
    peers = Peer(server, address), Peer(server, address)
    yield peers
    for peer in peers:
        peer.close()
    server.close()


def test_it_forwards_both_ways_and_knows_whose_links_there_are(proxy: Proxy, pair: tuple[Peer, Peer]) -> None:
    for number, peer in enumerate(pair):
        peer.say(f"hello {number}")
        assert peer.far.recv(100) == b"hello %d" % number
        peer.far.sendall(b"welcome %d" % number)
        assert peer.line() == f"welcome {number}"
        assert proxy.links_of(peer.pid) == 1
    assert proxy.links_of(os.getpid()) == 0


@pytest.mark.parametrize(
    ("how", "out", "into"), [("drop", False, False), ("drop-out", False, True), ("drop-in", True, False)]
)
def test_a_cut_concerns_one_process_and_what_was_held_back_follows(
    proxy: Proxy, pair: tuple[Peer, Peer], how: str, out: bool, into: bool
) -> None:
    cut, other = pair
    proxy.cut(cut.pid, how)
    for peer in pair:
        peer.say("up")
        peer.far.sendall(b"down")
    assert (other.arrives("up"), other.hears("down")) == (True, True)
    assert (cut.arrives("up"), cut.hears("down")) == (out, into)
    proxy.heal()
    assert out or cut.arrives("up")
    cut.rest()
    cut.say("again")
    assert cut.arrives("again")


def test_closed_links_end_at_both_ends_and_are_refused_until_it_heals(proxy: Proxy, pair: tuple[Peer, Peer]) -> None:
    cut, other = pair
    proxy.cut(cut.pid, "close")
    assert cut.line() in ("reset", "end")
    with contextlib.suppress(ConnectionResetError):  # as TCP tells it
        assert cut.far.recv(100) == b""
    other.say("still here")
    assert other.arrives("still here")
    assert proxy.links_of(cut.pid) == 0


def test_a_link_that_is_made_during_a_cut_is_cut_too(proxy: Proxy, tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "server"))
    server.listen()
    server.settimeout(TIMEOUT_S)
    proxy.listen(str(tmp_path / "proxy"), str(tmp_path / "server"))
    proxy.cut(os.getpid(), "drop-out")
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(str(tmp_path / "proxy"))
        far, _ = server.accept()
        with far:
            far.settimeout(HELD_S)
            near.sendall(b"held")
            with pytest.raises(TimeoutError):
                far.recv(100)
            proxy.heal()
            far.settimeout(TIMEOUT_S)
            assert far.recv(100) == b"held"
    proxy.cut(os.getpid(), "close")
    with socket.socket(socket.AF_UNIX) as near, contextlib.suppress(ConnectionResetError):
        near.connect(str(tmp_path / "proxy"))
        near.settimeout(TIMEOUT_S)
        assert near.recv(100) == b""
    server.close()


def test_large_data_passes_whole_and_a_reader_that_is_slow_holds_the_writer(proxy: Proxy, tmp_path: Path) -> None:
    data = os.urandom(4_000_000)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "server"))
    server.listen()
    proxy.listen(str(tmp_path / "proxy"), str(tmp_path / "server"))
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(str(tmp_path / "proxy"))
        far, _ = server.accept()
        with far:
            near.settimeout(HELD_S)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < len(data):
                    sent += near.send(data[sent : sent + 65536])
            assert 0 < sent < len(data) // 2
            near.settimeout(TIMEOUT_S)
            writer = threading.Thread(target=lambda: near.sendall(data[sent:]))
            writer.start()
            got = bytearray()
            while len(got) < len(data):
                got += far.recv(65536)
            writer.join(TIMEOUT_S)
            assert bytes(got) == data
    server.close()


def test_where_nobody_listens_links_end(proxy: Proxy, tmp_path: Path) -> None:
    proxy.listen(str(tmp_path / "proxy"), str(tmp_path / "nowhere"))
    with socket.socket(socket.AF_UNIX) as near:
        near.connect(str(tmp_path / "proxy"))
        near.settimeout(TIMEOUT_S)
        assert near.recv(100) == b""


def test_an_unknown_cut_and_an_address_in_use(proxy: Proxy, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no way to cut"):
        proxy.cut(1, "melt")
    assert HOWS[0] == "close"
    proxy.listen(str(tmp_path / "proxy"), str(tmp_path / "server"))
    with pytest.raises(OSError, match="in use"):
        proxy.listen(str(tmp_path / "proxy"), str(tmp_path / "server"))
    proxy.close()
    proxy.close()
    assert not (tmp_path / "proxy").exists()
