"""Router and Dealer over real sockets: messages arrive, losses are noticed, and nobody is lost by mistake."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from sparrowmq import limits
from sparrowmq.errors import TooLarge
from sparrowmq.protocol import messages as m
from sparrowmq.transport.link import DRAIN_MESSAGES
from tests.support.net import Net, encoded, hello, port_of


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


def test_messages_go_both_ways_in_order(net: Net) -> None:
    dealer, got, _ = net.dealer()
    dealer.send([hello("a"), m.Ping(0)])
    for n in range(1, 500):
        dealer.send([m.Ping(n)])
    net.until(lambda: net.knows("a") and len(net.said[net.peer("a")]) == 501)
    peer = net.peer("a")
    assert net.said[peer][1:] == [m.Ping(n) for n in range(500)]
    net.router.send(peer, [m.Pong(n) for n in range(500)])
    net.until(lambda: len(got) == 500)
    assert got == [m.Pong(n) for n in range(500)]
    assert dealer.connected
    assert net.router.peers == 1


def test_without_keys_nobody_has_one(net: Net) -> None:
    for number, lie in enumerate(({"key": "made up"}, {"owner": "made up"}, {"key": "made up", "owner": "made up"})):
        dealer, _, _ = net.dealer()
        dealer.send([msgspec.structs.replace(hello(f"a{number}"), **lie), m.Ping(1)])
        net.until(lambda name=f"a{number}": net.knows(name))
        assert net.said[net.peer(f"a{number}")] == [hello(f"a{number}"), m.Ping(1)]


@pytest.mark.parametrize("sender", ["router", "dealer"])
def test_a_message_that_arrives_before_a_send_is_not_left_lying(net: Net, sender: str) -> None:
    """A send takes the wake-up of what has arrived; both ends look again after it."""
    dealer, got, _ = net.dealer()
    dealer.send([hello("a")])
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("b")))
    net.until(lambda: net.knows("a") and net.knows("b"))

    def cross() -> None:
        if sender == "router":
            sock.send_multipart(encoded(m.Ping(1)))
            time.sleep(0.05)  # it arrives while this callback runs
            net.router.send(net.peer("b"), [m.Pong(1)])
        else:
            net.router.send(net.peer("a"), [m.Pong(1)])
            time.sleep(0.05)
            dealer.send([m.Ping(1)])

    net.loop.post(cross)
    net.until(lambda: m.Ping(1) in net.said[net.peer("b")] if sender == "router" else got == [m.Pong(1)], 2.0)


def test_large_payloads_travel_beside_the_message_and_are_passed_on_uncopied(net: Net) -> None:
    dealer, got, _ = net.dealer()
    payload = random.Random(1).randbytes(1_000_000)
    submit = m.Submit(
        job="j",
        epoch=0,
        spec=m.JobSpec(),
        count=2,
        payloads=[b"small", m.Blob(payload, len(payload))],
        function=m.Blob(b"f" * 70_000, 70_000),
    )
    dealer.send([hello("a"), submit])
    net.until(lambda: net.knows("a"))
    peer = net.peer("a")
    seen = net.said[peer][1]
    assert isinstance(seen, m.Submit)
    assert seen.payloads[0] == b"small"
    blob = seen.payloads[1]
    assert isinstance(blob, m.Blob)
    assert isinstance(blob.buffer, zmq.Frame), "the frame itself, not a copy of it"
    assert len(blob) == 1_000_000
    task = m.Task(0, "j", 0, m.JobSpec(), indices=[1], attempts=[1], payloads=[blob], function=seen.function)
    net.router.send(peer, [task])
    net.router.send(peer, [task])  # sending leaves the frame whole
    net.until(lambda: len(got) == 2)
    for back in got:
        assert isinstance(back, m.Task)
        assert isinstance(back.payloads[0], m.Blob)
        assert bytes(back.payloads[0].buffer) == payload  # type: ignore[call-overload]
        assert isinstance(back.function, m.Blob)
        assert bytes(back.function.buffer) == b"f" * 70_000  # type: ignore[call-overload]


def test_a_flood_from_one_peer_leaves_turns_for_the_others(tcp: Net) -> None:
    flood = tcp.raw_dealer()
    flood.send_multipart(encoded(hello("flood")))
    for n in range(20_000):
        flood.send_multipart(encoded(m.Ping(n)))
    calm, _, _ = tcp.dealer()
    calm.send([hello("calm")])
    taken: list[int] = []
    before = [0]

    def count() -> None:
        total = sum(map(len, tcp.said.values()))
        taken.append(total - before[0])
        before[0] = total

    tcp.loop.on_turn.append(count)
    tcp.until(lambda: tcp.knows("calm"))
    at = sum(map(len, tcp.said.values()))
    tcp.until(lambda: tcp.knows("flood") and len(tcp.said[tcp.peer("flood")]) == 20_001)
    assert max(taken) <= 2 * DRAIN_MESSAGES, "bounded: once for the socket, once for a post"
    assert at < 20_002, "the calm peer did not wait for the end of the flood"


def test_a_message_over_the_limits_is_refused_at_the_sender_and_leaves_the_connection_whole(tcp: Net) -> None:
    dealer, _, _ = tcp.dealer()
    dealer.send([hello("a")])
    huge = m.Blob(b"", limits.FRAME_BYTES_MAX + 1)
    with pytest.raises(TooLarge):
        dealer.send([m.Ping(0), m.Submit(job="j", epoch=0, spec=m.JobSpec(), count=1, payloads=[huge])])
    dealer.send([m.Ping(1)])
    tcp.until(lambda: tcp.knows("a") and tcp.said[tcp.peer("a")][1:] == [m.Ping(1)])


# Losses.

CHILD = """
import sys, zmq
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.dealer import Dealer
loop = Loop()
dealer = Dealer(zmq.Context(), loop, sys.argv[1], on_batch=print, on_lost=loop.stop, on_bad=print)
dealer.send([m.Hello(m.PROTOCOL, "1.0", "worker", sys.argv[2], 1)])
loop.run()
"""


def test_a_killed_process_is_noticed_at_once(net: Net) -> None:
    delays_s: list[float] = []
    for number in range(5):
        name = f"child-{number}"
        with subprocess.Popen([sys.executable, "-c", CHILD, net.router.address, name]) as child:
            net.until(lambda name=name: net.knows(name))  # type: ignore[misc]
            os.kill(child.pid, signal.SIGKILL)
            killed = time.monotonic()
            net.until(lambda name=name: net.peer(name) in net.lost)  # type: ignore[misc]
            delays_s.append(time.monotonic() - killed)
    print(f"SIGKILL to on_lost: {sorted(round(1000 * d, 1) for d in delays_s)} ms")
    assert sorted(delays_s)[2] < 0.05


def test_the_last_words_of_a_peer_come_before_its_loss(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("a")))
    for n in range(5000):
        sock.send_multipart(encoded(m.Ping(n)))
    sock.send_multipart(encoded(m.Goodbye("leaving")))
    sock.close()
    time.sleep(0.2)  # the loop stands still while everything arrives, the end of the connection too
    net.until(lambda: net.lost)
    assert net.lost == [net.peer("a")]
    assert net.said[net.peer("a")][-1] == m.Goodbye("leaving")
    assert len(net.said[net.peer("a")]) == 5002


def test_a_dealer_reads_to_the_end_before_it_reports_the_loss(net: Net) -> None:
    dealer, got, ends = net.dealer()
    dealer.send([hello("a")])
    net.until(lambda: net.knows("a"))
    for n in range(5000):
        net.router.send(net.peer("a"), [m.Pong(n)])
    net.router.close()
    time.sleep(0.2)
    net.until(lambda: ends)
    assert got == [m.Pong(n) for n in range(5000)]
    assert ends == ["connection lost"]
    dealer.send([m.Ping(1)])
    net.idle(0.05)
    assert len(ends) == 1


def test_sending_to_a_peer_that_is_gone_reports_its_loss_once_and_not_within_the_call(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("a")))
    net.until(lambda: net.knows("a"))
    peer = net.peer("a")
    sock.close()
    time.sleep(0.1)  # the connection is over, its event not yet read
    net.router.send(peer, [m.Pong(1)])
    assert net.lost == []
    net.until(lambda: net.lost)
    net.router.send(peer, [m.Pong(2)])
    net.idle(0.05)
    assert net.lost == [peer]
    assert net.router.peers == 0


def test_a_peer_that_is_gone_before_its_hello_is_read_is_heard_and_lost(net: Net) -> None:
    sock = net.raw_dealer()
    sock.send_multipart(encoded(hello("brief")))
    sock.close()
    time.sleep(0.2)
    net.until(lambda: net.lost)
    assert net.lost == [net.peer("brief")]


def test_rapidly_replaced_connections_never_cost_a_live_peer(net: Net) -> None:
    """Descriptors are reused at once here; every short-lived peer is lost exactly once, no other ever."""
    rng = random.Random(7)
    live = [net.dealer() for _ in range(5)]
    for number, (dealer, _, _) in enumerate(live):
        dealer.send([hello(f"live-{number}")])
    net.until(lambda: net.router.peers == 5)
    kept: list[zmq.Socket[bytes]] = []
    closed = 0
    for number in range(400):
        sock = net.raw_dealer()
        sock.send_multipart(encoded(hello(f"brief-{number}")))
        kept.append(sock)
        for _ in range(rng.choice((0, 0, 1, 2))):
            if kept:
                kept.pop(rng.randrange(len(kept))).close()
                closed += 1
        if rng.random() < 0.1:
            net.idle(0.002)
    for sock in kept:
        sock.close()
        closed += 1
    assert closed == 400
    net.until(lambda: len(net.lost) >= 400)
    net.idle(0.1)
    lost = [said[0].id for peer in net.lost for said in [net.said[peer]] if isinstance(said[0], m.Hello)]
    assert sorted(lost) == sorted(f"brief-{n}" for n in range(400))
    assert net.router.peers == 5
    for number in range(5):
        net.router.send(net.peer(f"live-{number}"), [m.Pong(number)])
    net.until(lambda: all(got for _, got, _ in live))
    assert not net.router._losing


def test_a_descriptor_reused_by_a_stranger_costs_nobody(tcp: Net) -> None:
    dealer, got, _ = tcp.dealer()
    dealer.send([hello("live")])
    tcp.until(lambda: tcp.router.peers == 1)
    for number in range(50):
        sock = tcp.raw_dealer()
        sock.send_multipart(encoded(hello(f"brief-{number}")))
        tcp.until(lambda: tcp.router.peers == 2)
        sock.close()
        with socket.create_connection(("127.0.0.1", port_of(tcp))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        tcp.until(lambda: tcp.router.peers == 1)
    assert len(tcp.lost) == 50
    tcp.router.send(tcp.peer("live"), [m.Pong(1)])
    tcp.until(lambda: got)


def test_of_two_peers_with_one_descriptor_the_later_one_lives(tcp: Net) -> None:
    """The order in which ROUTER hands out first messages is not the order of connections: feed it by hand."""
    router = tcp.router
    early, late = (b"\0\xff\xff\xff\xff", b"\0\0\0\0\x01")  # the 32-bit count has wrapped around
    connections = router.connections
    connections._unfinished.arrived(999)
    for first, second in ((early, late), (late, early)):
        router._peers = {rid: ("t", rid) for rid in (first, second)}
        connections._give(999, first)
        connections._give(999, second)
        assert list(router._losing) == [early]
        assert connections.owners == {999: late}
        for rid in (early, late):
            router._drop(rid)
            connections.untie(rid)


def test_a_forgotten_peer_is_not_heard_and_not_lost(net: Net) -> None:
    dealer, _, _ = net.dealer()
    dealer.send([hello("a")])
    net.until(lambda: net.knows("a"))
    net.router.forget(net.peer("a"))
    dealer.send([m.Ping(1)])
    net.until(lambda: net.router.counters["ignored"] == 1)
    dealer.close()
    net.idle(0.1)
    assert net.said[net.peer("a")] == [hello("a")]
    assert net.lost == []
    assert net.bad == []
