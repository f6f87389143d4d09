"""Router and Dealer over real sockets: connections that cannot be made, and peers that break the protocol."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from sparrowmq import limits
from sparrowmq.errors import ConfigError
from sparrowmq.protocol import codec, messages as m
from sparrowmq.transport import router
from sparrowmq.transport.dealer import Dealer
from tests.support.net import FAST, Net, encoded, hello, port_of

MIB = 1024 * 1024


@pytest.fixture(params=["tcp", "ipc"])
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Net]:
    net = Net("tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/s")
    yield net
    net.close()


@pytest.fixture
def tcp() -> Iterator[Net]:
    net = Net("tcp://127.0.0.1:0")
    yield net
    net.close()


# Connections that cannot be made.


def test_a_refused_connection_is_reported_once(net: Net, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}" if net.router.address.startswith("tcp") else f"ipc://{tmp_path}/none"
    dealer, _, ends = net.dealer(address)
    dealer.send([hello("a")])
    started = time.monotonic()
    net.until(lambda: ends)
    assert time.monotonic() - started < 0.25, "at once, not at the deadline"
    net.idle(0.7)  # past the deadline
    assert ends == ["connection refused or not possible"]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "carrier-pigeon://coop", "", "tcp://127.0.0.1:70000", "ipc://"])
def test_an_address_that_means_nothing_is_a_loss_not_an_exception(tcp: Net, address: str) -> None:
    dealer = Dealer(
        tcp.context,
        tcp.loop,
        address,
        on_batch=lambda _: None,
        on_lost=lambda: tcp.lost.append(("dealer", b"")),
        on_bad=lambda _: None,
        options=FAST,
    )
    assert tcp.lost == [], "not within the constructor"
    tcp.until(lambda: tcp.lost)
    assert dealer.why
    tcp.idle(0.05)
    assert len(tcp.lost) == 1


def test_a_host_name_is_looked_up_beside_the_loop_and_what_was_sent_waits(tcp: Net, monkeypatch: Any) -> None:
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def slow(host: str, *rest: Any) -> Any:
        looked_up.append(host)
        time.sleep(0.1)
        return real("127.0.0.1", *rest)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    dealer, _, _ = tcp.dealer(f"tcp://t.example:{port_of(tcp)}")
    dealer.send([hello("a")])
    dealer.send([m.Ping(1)])
    tcp.until(lambda: tcp.knows("a") and len(tcp.said[tcp.peer("a")]) == 2)
    assert looked_up == ["t.example"]
    assert tcp.loop.turns > 1


def test_a_host_name_that_does_not_exist_and_one_that_never_answers(tcp: Net, monkeypatch: Any) -> None:
    def fails(host: str, *_: Any) -> Any:
        if host == "slow.example":
            time.sleep(1.0)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    _, _, ends = tcp.dealer("tcp://none.example:1")
    tcp.until(lambda: ends)
    assert ends == ["cannot resolve none.example: Name or service not known"]
    _, _, ends = tcp.dealer("tcp://slow.example:1")
    tcp.until(lambda: ends, timeout_s=0.9)
    assert ends == ["no answer within 0.6 s"]


def test_a_server_that_accepts_and_says_nothing_or_nonsense(tcp: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        _, _, mute = tcp.dealer(address)
        tcp.until(lambda: mute, timeout_s=2.0)
        server.accept()[0].close()
        _, _, http = tcp.dealer(address)
        connection, _ = server.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
        connection.close()
        tcp.until(lambda: http, timeout_s=2.0)
    assert len(mute) == len(http) == 1


def test_an_address_in_use_is_a_clear_error(net: Net) -> None:
    if net.router.address.startswith("ipc"):
        with pytest.raises(ConfigError, match="cannot listen on ipc:///nonexistent/x"):
            net.listen("ipc:///nonexistent/x")
    else:
        with pytest.raises(ConfigError, match="Address already in use"):
            net.listen(net.router.address)


@pytest.mark.parametrize("port", ["99999", "-1", "abc", ""])
def test_a_port_that_is_none_is_a_clear_error(tcp: Net, port: str) -> None:
    with pytest.raises(ConfigError, match="expected a port from 0 to 65,535"):
        tcp.listen(f"tcp://127.0.0.1:{port}")


# Peers that do not keep to the protocol.


def test_garbage_is_counted_and_touches_nobody(tcp: Net) -> None:
    dealer, got, ends = tcp.dealer()
    dealer.send([hello("good")])
    tcp.until(lambda: tcp.router.peers == 1)
    rng = random.Random(3)
    garbage = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 5000, b"\xff" * 5000, b"", *map(rng.randbytes, [5000] * 5)]
    greeting = b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 48
    garbage += [greeting, greeting + b"\xff" * 500]
    for data in garbage:
        with socket.create_connection(("127.0.0.1", port_of(tcp))) as stranger:
            stranger.sendall(data)
            with contextlib.suppress(OSError):
                stranger.shutdown(socket.SHUT_WR)
    tcp.until(lambda: tcp.router.counters["unheard"] == len(garbage))
    assert tcp.router.counters["handshake_failed"] > 0
    assert all(error.code in ("malformed", "too_large", "unknown_type") for _, error in tcp.bad)
    assert tcp.router.peers == 1
    assert tcp.lost == []
    tcp.router.send(tcp.peer("good"), [m.Pong(1)])
    tcp.until(lambda: got)
    assert ends == []


def test_an_oversized_frame_costs_its_sender_the_connection_and_nobody_else(tcp: Net) -> None:
    dealer, got, _ = tcp.dealer()
    dealer.send([hello("good")])
    big = tcp.raw_dealer(linger_ms=0)
    big.send_multipart(encoded(hello("big")))
    tcp.until(lambda: tcp.router.peers == 2)
    big.send(b"\0" * (limits.FRAME_BYTES_MAX + 1), copy=False)
    tcp.until(lambda: tcp.lost)
    assert tcp.lost == [tcp.peer("big")]
    tcp.router.send(tcp.peer("good"), [m.Pong(1)])
    tcp.until(lambda: got)


def test_too_many_frames_are_refused(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("a")))
    sock.send_multipart(encoded(m.Ping(1)) + [b"x"] * 3000)
    sock.send_multipart(encoded(m.Ping(2)))
    net.until(lambda: net.knows("a") and m.Ping(2) in net.said[net.peer("a")])
    assert [error.code for _, error in net.bad] == ["too_large"]
    assert net.said[net.peer("a")] == [hello("a"), m.Ping(2)]


def test_a_peer_that_speaks_before_its_hello_is_told_and_after_three_times_ignored(net: Net) -> None:
    sock = net.raw_dealer()
    for n in range(3):
        sock.send_multipart(encoded(m.Ping(n)))
    net.until(lambda: len(net.bad) == 3)
    assert {error.code for _, error in net.bad} == {"no_hello"}
    peer = net.bad[0][0]
    net.router.send(peer, [m.Refused("no_hello", "say hello first")])
    net.until(lambda: sock.poll(0))
    assert codec.decode(sock.recv()) == [m.Refused("no_hello", "say hello first")]
    sock.send_multipart(encoded(hello("late")))
    net.until(lambda: net.router.counters["ignored"] == 1)
    assert net.said == {}
    assert net.lost == []


def test_a_late_hello_within_the_three_strikes_is_welcome(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send(b"nonsense")
    sock.send_multipart(encoded(hello("a")))
    net.until(lambda: net.knows("a"))
    assert [error.code for _, error in net.bad] == ["malformed"]
    sock.close()
    net.until(lambda: net.lost)


def test_a_known_peer_that_turns_bad_is_lost_after_three_strikes(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("a")))
    for _ in range(3):
        sock.send(b"\x91\x92\x7f\x00")
    sock.send_multipart(encoded(m.Ping(1)))
    net.until(lambda: net.router.counters["ignored"] == 1)
    assert [error.code for _, error in net.bad] == ["unknown_type"] * 3
    assert net.lost == [net.peer("a")]
    sock.close()
    net.idle(0.1)
    assert net.lost == [net.peer("a")], "once"


@pytest.mark.parametrize("protocol", [0, m.PROTOCOL + 1])
def test_another_protocol_version_is_named(net: Net, protocol: int) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("other", protocol)))
    net.until(lambda: net.bad)
    (peer, error) = net.bad[0]
    assert error.code == "version"
    assert f"speaks protocol {protocol}, here {m.PROTOCOL}" in str(error)
    net.router.send(peer, [m.Refused(error.code, str(error))])
    net.until(lambda: sock.poll(0))
    assert net.router.peers == 0


def test_a_chosen_routing_id_is_refused(net: Net) -> None:
    sock = net.context.socket(zmq.DEALER)
    net.raw.append(sock)
    sock.set(zmq.ROUTING_ID, b"me")
    sock.connect(net.router.address)
    sock.send_multipart(encoded(hello("me")))
    net.until(lambda: net.bad)
    assert "routing id" in str(net.bad[0][1])
    assert net.said == {}


# Peers whose connection the router ends.


def test_a_forgotten_peer_reads_why_and_then_its_connection_ends(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_HANG_UP_AFTER_S", 0.1)
    _, got, ends = introduced(net, "a")
    _, other, others_ends = introduced(net, "b")
    net.router.send(net.peer("a"), [m.Refused("busy", "later")])
    net.router.forget(net.peer("a"))
    net.until(lambda: ends)
    assert got == [m.Refused("busy", "later")]
    assert ends == ["connection lost"]
    net.router.send(net.peer("b"), [m.Pong(1)])
    net.until(lambda: other)
    assert (net.lost, others_ends) == ([], [])


def test_a_stranger_that_is_ignored_is_cut_off(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_HANG_UP_AFTER_S", 0.0)
    dealer, _, ends = net.dealer()
    for n in range(3):
        dealer.send([m.Ping(n)])
    net.until(lambda: ends)
    assert ends == ["connection lost"]
    assert net.lost == []


def test_who_takes_the_descriptor_of_a_forgotten_peer_is_left_alone(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_HANG_UP_AFTER_S", 0.3)
    first = {name: introduced(net, name)[0] for name in "abcdef"}
    descriptors = set(net.router.connections.owners)
    for name, dealer in first.items():
        net.router.forget(net.peer(name))
        dealer.close()
    net.until(lambda: not net.router.connections.owners)
    followers = [introduced(net, str(number)) for number in range(12)]
    assert descriptors & set(net.router.connections.owners), "a number is taken again"
    net.idle(0.5)
    for number, (_, got, ends) in enumerate(followers):
        net.router.send(net.peer(str(number)), [m.Pong(number)])
        net.until(lambda got=got: got)
        assert ends == []


def test_a_peer_that_does_not_read_is_lost_before_much_is_kept_for_it(tmp_path: Path) -> None:
    net = Net(f"ipc://{tmp_path}/s", msgspec.structs.replace(FAST, unheard_bytes_max=8 * MIB))
    stopped = net.context.socket(zmq.DEALER)
    net.raw.append(stopped)
    stopped.set(zmq.LINGER, 0)
    stopped.set(zmq.RCVHWM, 1)  # it stands for a process that does not run: nobody reads its socket
    stopped.set(zmq.RECONNECT_IVL, -1)
    stopped.connect(net.router.address)
    stopped.send_multipart(encoded(hello("stopped")))
    _, got, _ = introduced(net, "b")
    net.until(lambda: net.knows("stopped"))
    peer, sent = net.peer("stopped"), 0
    while not net.lost and sent < 100:
        net.router.send(peer, [m.NoOp(n, 1) for n in range(MIB // 16)] + [m.Refused("x", "y" * 4096)] * 250)
        net.router.send(net.peer("b"), [m.Pong(sent)])
        net.idle(0.0)
        sent += 1
    assert 4 < sent < 9
    assert net.lost == [peer]
    net.until(lambda: len(net.router.connections) == 1)  # its connection is over, and with it what was kept
    assert net.router.counters["unread"] == 1
    net.until(lambda: len(got) == sent)
    net.close()


def test_a_peer_that_answers_may_be_sent_any_amount(tmp_path: Path) -> None:
    net = Net(f"ipc://{tmp_path}/s", msgspec.structs.replace(FAST, unheard_bytes_max=MIB))
    dealer, got, ends = introduced(net, "a")
    for number in range(5):
        net.router.send(net.peer("a"), [m.Refused("x", "y" * 4096)] * 200)
        net.until(lambda number=number: len(got) == (number + 1) * 200)
        dealer.send([m.Ping(number)])
        net.until(lambda number=number: m.Ping(number) in net.said[net.peer("a")])
    assert (net.lost, ends) == ([], [])
    net.close()


def introduced(net: Net, name: str) -> tuple[Dealer, list[m.AnyMessage], list[str]]:
    dealer, got, ends = net.dealer()
    dealer.send([hello(name)])
    net.until(lambda: net.knows(name))
    return dealer, got, ends


def test_a_dealer_gives_up_on_a_server_that_talks_nonsense(net: Net) -> None:
    dealer, got, ends = net.dealer()
    dealer.send([hello("a")])
    net.until(lambda: net.knows("a"))
    rid = net.peer("a")[1]
    net.router.send(net.peer("a"), [m.Pong(1)])
    for _ in range(4):
        net.router._socket.send_multipart([rid, b"nonsense"])
    net.until(lambda: len(ends) == 4)
    assert ends == ["malformed"] * 3 + ["the other side does not keep to the protocol"]
    assert got == [m.Pong(1)]


def test_closing_from_within_a_callback(net: Net) -> None:
    dealer, _, _ = net.dealer()
    dealer.send([hello("a")])
    net.until(lambda: net.knows("a"))
    closing, got, ends = net.dealer()

    def hear_and_close(batch: list[m.AnyMessage]) -> None:
        got.extend(batch)
        closing.close()

    closing._on_batch = hear_and_close
    closing.send([hello("b")])
    net.until(lambda: net.knows("b"))
    for n in range(10):
        net.router.send(net.peer("b"), [m.Pong(n)])
    net.until(lambda: net.peer("b") in net.lost)
    assert got == [m.Pong(0)]
    assert ends == []


def test_goodbye_leaves_before_the_connection_closes(net: Net) -> None:
    dealer, _, ends = net.dealer()
    dealer.send([hello("a")])
    dealer.send([m.Goodbye("leaving")])
    dealer.close()
    net.until(lambda: net.lost)
    assert net.said[net.peer("a")] == [hello("a"), m.Goodbye("leaving")]
    assert ends == []


def test_closed_sockets_are_reaped(tmp_path: Path) -> None:
    """Had a monitor been closed in the wrong order, ending the context would hang (see link.Monitor)."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(30):
        net = Net(f"ipc://{tmp_path}/{number}")
        for _ in range(3):
            net.dealer()[0].send([hello("x")])
        net.dealer(f"ipc://{tmp_path}/none")
        net.idle(0.001)
        net.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 2
