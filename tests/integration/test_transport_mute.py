"""Heartbeats over TCP: who answers none is ended, and who is busy with one large frame is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from sparrowmq.protocol import messages as m
from sparrowmq.transport import unfinished
from sparrowmq.transport.link import UNHURRIED
from sparrowmq.transport.unfinished import Unfinished
from tests.support.attackers import frame, shake_hands
from tests.support.net import FAST, Net, encoded, hello
from tests.support.slow_link import SlowLink

MIB = 1024 * 1024
QUICK = msgspec.structs.replace(FAST, heartbeat_interval_s=0.1, heartbeat_timeout_s=0.5, dead_host_s=1)
BYTES_PER_S = 1.25 * MIB
LARGE = m.Submit("large", 0, m.JobSpec(kind=m.SLEEP), 1, [bytes(3 * MIB)])  # takes five times the time-out


@pytest.fixture
def link() -> Iterator[SlowLink]:
    made = SlowLink("127.0.0.2", "127.0.0.1", BYTES_PER_S)
    yield made
    made.close()


@pytest.fixture
def net(link: SlowLink) -> Iterator[Net]:
    made = Net(f"tcp://127.0.0.1:{link.port}", QUICK)
    yield made
    made.close()


def test_who_answers_no_heartbeat_is_ended_and_lost(net: Net) -> None:
    idle, _, ends = net.dealer()
    idle.send([hello("idle")])
    with contextlib.closing(shake_hands(net.router.address)) as mute:
        mute.sendall(b"".join(map(frame, encoded(hello("mute")))))
        net.until(lambda: net.lost)
    assert net.lost == [net.peer("mute")]
    assert net.router.counters["mute"] == 1
    net.idle(4 * QUICK.heartbeat_timeout_s)
    assert len(net.lost) == 1, "that says nothing either, and is there"
    assert ends == []


def test_who_reads_nothing_of_what_waits_for_it_is_ended_by_the_kernel(net: Net) -> None:
    with contextlib.closing(shake_hands(net.router.address)) as frozen:
        frozen.sendall(b"".join(map(frame, encoded(hello("frozen")))))
        net.until(lambda: net.knows("frozen"))
        net.router.send(net.peer("frozen"), [m.Outcome(1, "a", 0, [0], b"\0", [bytes(60 * MIB)])])
        net.until(lambda: net.lost)
    assert net.router.counters["mute"] == 0


def test_a_frame_that_takes_longer_than_the_time_out_arrives(net: Net, link: SlowLink) -> None:
    dealer, got, ends = net.dealer(f"tcp://127.0.0.2:{link.port}", msgspec.structs.replace(UNHURRIED, linger_s=0.0))
    dealer.send([hello("slow")])
    net.until(lambda: net.knows("slow"))
    dealer.send([LARGE])
    net.until(lambda: len(net.said[net.peer("slow")]) > 1)
    net.router.send(net.peer("slow"), [LARGE])
    net.until(lambda: got)
    assert (ends, net.lost) == ([], [])


def test_heartbeats_are_counted_for_those_that_were_heard_and_have_got_them(monkeypatch: pytest.MonkeyPatch) -> None:
    received = {5: 100, 6: 100, 7: 100, 8: 0}
    waiting = {5: 0, 6: 1, 7: 0, 8: 0}
    monkeypatch.setattr(unfinished, "bytes_received", received.get)
    monkeypatch.setattr(unfinished, "bytes_waiting", waiting.get)
    flows = Unfinished(2**60, 2**60)
    for descriptor in received:
        flows.arrived(descriptor)

    def heartbeat() -> list[int]:
        assert flows.look(lambda _: False) == []
        received[7] += 1
        return flows.mute(2)

    assert [heartbeat() for _ in range(4)] == [[], [], [], [5]]
    waiting[6] = 0
    assert heartbeat() == [5, 6]
    received[5] += 1
    assert heartbeat() == [6]
