"""Heartbeats on their way into a real server: they arrive, and nothing that the server does holds up the loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from sparrowmq.protocol import beats
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import StoreSettings
from sparrowmq.store.beats import BEAT, STREAM_BYTES_MAX, Appending, Beats
from sparrowmq.store.connection import connect
from sparrowmq.store.embedded import EmbeddedServer
from sparrowmq.store.line import Line, pack
from tests.support.store import Said, beat, restart, stopped, until

pytestmark = pytest.mark.timeout(60)
KEY = "t:beats"


class FakeServer:
    """It takes any command for XADD, once connecting is done, and answers with these replies, byte by byte."""

    def __init__(self, replies: list[bytes]) -> None:
        self.answered = 0
        self._replies = replies
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):  # the other side has seen enough
            while data := connection.recv(65536):
                if b"XADD" not in data:
                    connection.sendall(b"+OK\r\n" * data.count(b"*"))
                    continue
                for byte in self._replies[self.answered % len(self._replies)]:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.001)
                self.answered += 1


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Every one that a test has begun ends once it is told to. (Other tests of this process may have left theirs.)"""
    before = set(threading.enumerate())
    yield
    until(lambda: not [t for t in threading.enumerate() if t.name == "beats" and t not in before])


@pytest.fixture
def settings(server: EmbeddedServer) -> StoreSettings:
    return StoreSettings(url=server.url, prefix="t:", reply_timeout_s=0.3, connect_timeout_s=0.3)


@pytest.fixture
def begin(settings: StoreSettings) -> Iterator[Callable[..., tuple[Beats, Said]]]:
    threads: list[Beats] = []

    def _begin(given: StoreSettings = settings) -> tuple[Beats, Said]:
        said = Said()
        threads.append(Beats(given, entries_max=1000, log=said))
        threads[-1].start()
        return threads[-1], said

    yield _begin
    for thread in threads:
        thread.stop()


def stored(settings: StoreSettings) -> list[Beat]:
    client = connect(settings)
    try:
        return [beats.decode(fields[BEAT]) for _, fields in client.xrange(KEY)]
    finally:
        client.close()


def numbers(settings: StoreSettings) -> list[int]:
    return [found.sequence for found in stored(settings)]


@pytest.fixture(params=["plain", "tls"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With TLS there is no socket to lend, and the thread sends everything."""
    if request.param == "tls":
        monkeypatch.setattr(Line, "lend", lambda self: None)


@pytest.mark.usefixtures("transport")
def test_beats_arrive_in_order_and_each_once(settings, begin):
    thread, said = begin()
    for sequence in range(1, 6):
        thread.deposit(beat(sequence, probes={"scheduler-1": sequence}))
        until(lambda: numbers(settings)[-1:] == [sequence])  # noqa: B023
    thread.stop()
    assert stored(settings) == [beat(n, probes={"scheduler-1": n}) for n in range(1, 6)]
    assert said.lines == []


def test_one_at_a_time_and_always_the_newest(server, settings, begin):
    thread, said = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    with stopped(server):
        for sequence in range(2, 1000):
            thread.deposit(beat(sequence))
    until(lambda: len(numbers(settings)) == 2)
    until(lambda: thread.deposit(beat(1000)) or len(numbers(settings)) == 3)
    assert numbers(settings) == [1, 2, 1000], "2 was on its way, the others had no turn"
    assert said.lines == []


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("busy", [False, True])
def test_the_last_beat_leaves_when_its_process_ends(server, settings, begin, busy):
    thread, _ = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    if busy:  # the one before is not answered yet
        with stopped(server):
            thread.deposit(beat(2))
            thread.deposit(beat(3, leaving=True))
            threading.Timer(0.1, lambda: os.kill(server.pid, signal.SIGCONT)).start()
            thread.stop()
    else:
        thread.deposit(beat(3, leaving=True))
        thread.stop()
    until(lambda: stored(settings)[-1] == beat(3, leaving=True))


def test_ending_does_not_wait_for_a_server_that_hangs(server, settings, begin):
    thread, _ = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    with stopped(server):
        thread.deposit(beat(2))
        thread.deposit(beat(3, leaving=True))
        began = time.monotonic()
        thread.stop(timeout_s=0.2)
        assert time.monotonic() - began < 0.4


def test_replies_in_pieces_are_put_together(settings, begin):
    """A server of our own that answers byte by byte, and not always with an id."""
    replies = [b"$5\r\n100-1\r\n", b"-OOM no memory\r\n", b"$5\r\n100-2\r\n"]
    with FakeServer(replies) as fake:
        thread, said = begin(msgspec.structs.replace(settings, url=fake.url, reply_timeout_s=5.0))
        until(lambda: thread.deposit(beat(1)) or fake.answered == len(replies))
        until(lambda: said.lines)
    assert said.lines[0][2]["reason"] == "OOM no memory"


def test_a_server_that_closes_the_connection_is_connected_to_anew(settings, begin):
    thread, said = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    client = connect(settings)
    until(lambda: thread.deposit(beat(2)) or 2 in numbers(settings))
    client.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    until(lambda: thread.deposit(beat(3)) or 3 in numbers(settings))
    assert [level for level, _, _ in said.lines] == ["warning", "info"]


def test_the_stream_is_bounded(settings):
    thread = Beats(settings, entries_max=100, log=Said())
    thread.start()
    client = connect(settings)
    added = 0
    while added < 400:
        thread.deposit(beat(added))
        added = client.xinfo_stream(KEY)["entries-added"] if client.exists(KEY) else 0
    thread.stop()
    assert client.xlen(KEY) <= 300


def test_the_stream_is_bounded_in_bytes_too(settings):
    client = connect(settings)
    large = b"x" * 30_000
    append = Appending(settings, BEAT, 100_000)
    assert b"\r\n100000\r\n" in append(b"x" * 72)
    line = Line(settings, "test", Said())
    for _ in range(2000):
        assert line.ask(append(large))
    assert client.xlen(KEY) < 1200
    assert client.memory_usage(KEY) < 1.2 * STREAM_BYTES_MAX
    assert b"\r\n1024\r\n" in append(b"x"), "whoever writes large ones once keeps to it"
    line.close()


@pytest.mark.usefixtures("transport")
def test_a_server_that_hangs_blocks_nobody_and_gets_the_newest_afterwards(server, settings, begin):
    thread, said = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    sequence, longest_s = 1, 0.0
    with stopped(server):
        while not said.lines:
            sequence += 1
            began = time.monotonic()
            thread.deposit(beat(sequence))
            longest_s = max(longest_s, time.monotonic() - began)
            time.sleep(0.001)
    assert longest_s < 0.25, "less than one timeout: it never waits for the server"
    until(lambda: thread.deposit(beat(sequence + 1)) or said.count("answers again"))
    until(lambda: numbers(settings)[-1] == sequence + 1)
    found = numbers(settings)
    assert len(found) <= 6, "what could not be sent is dropped, not kept for later"
    assert [level for level, _, _ in said.lines] == ["warning", "info"]


def test_a_server_that_is_killed_and_comes_back_empty(server, settings, begin):
    server.stop()
    thread, said = begin()
    sequence = 0

    def go_on() -> bool:
        nonlocal sequence
        sequence += 1
        thread.deposit(beat(sequence))
        return False

    until(lambda: go_on() or said.count("does not answer"))
    server.launch()
    server.wait_ready()
    began = time.monotonic()
    until(lambda: go_on() or said.count("answers again"))
    assert time.monotonic() - began < 2.0
    restart(server)
    until(lambda: go_on() or said.count("answers again") == 2)
    until(lambda: numbers(settings))
    assert [level for level, _, _ in said.lines] == ["warning", "info"] * 2


def test_a_key_that_is_no_stream_is_counted_and_named_and_survived(settings, begin):
    client = connect(settings)
    client.set(KEY, "somebody else's")
    thread, said = begin()
    for sequence in range(1, 30):
        thread.deposit(beat(sequence))
        time.sleep(0.003)
    until(lambda: said.lines)
    assert said.count("WRONGTYPE") == 1, "named once, however often it happens"
    client.delete(KEY)
    thread.deposit(beat(100))
    until(lambda: numbers(settings)[-1:] == [100])


@pytest.mark.parametrize(
    ("break_it", "mend_it", "name"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "OOM"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "READONLY"),
        (("ACL", "SETUSER", "default", "-xadd"), ("ACL", "SETUSER", "default", "+xadd"), "NOPERM"),
    ],
)
def test_what_the_server_refuses_is_named_once_and_survived(settings, begin, break_it, mend_it, name):
    thread, said = begin()
    thread.deposit(beat(1))
    until(lambda: numbers(settings) == [1])
    client = connect(settings)
    client.execute_command(*break_it)
    for sequence in range(2, 30):
        thread.deposit(beat(sequence))
        time.sleep(0.003)
    until(lambda: said.count(name) == 1)
    client.execute_command(*mend_it)
    thread.deposit(beat(100))
    until(lambda: numbers(settings)[-1] == 100)
    assert len(said.lines) == 1


def test_a_password_that_is_missing_or_wrong_is_named_and_not_shown(server, settings, begin):
    client = connect(settings)
    client.config_set("requirepass", "secret-right")
    path = server.url.removeprefix("unix://").partition("?")[0]
    lines = []
    for url in (server.url, f"unix://:secret-wrong@{path}"):
        thread, said = begin(msgspec.structs.replace(settings, url=url))
        until(lambda: thread.deposit(beat(int(time.monotonic() * 1000))) or said.lines)  # noqa: B023
        lines += said.lines
    client.execute_command("AUTH", "secret-right")
    client.config_set("requirepass", "secret-wrong")
    shown = str(lines)
    assert len(lines) == 2
    assert path in shown
    assert "secret" not in shown
    until(lambda: thread.deposit(beat(int(time.monotonic() * 1000))) or said.count("answers again"))


def test_a_line_packs_what_redis_understands_and_returns_every_reply(settings):
    line = Line(settings, "test", Said())
    answer = line.ask(pack("SET", "t:x", b"\0\r\n\xff") + pack("GET", "t:x") + pack("INCR", "t:n"), 3)
    assert answer == [b"OK", b"\0\r\n\xff", 1]
    said = Said()
    line = Line(settings, "test", said)
    assert line.ask(pack("INCR", "t:x") + pack("GET", "t:n"), 2) is None
    assert line.ask(pack("GET", "t:n")) == [b"1"], "the reply behind an error was read, too"
    assert not line.down
    line.close()
