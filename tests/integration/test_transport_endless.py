"""Router over TCP: messages without an end cost their sender the connection, and large ones cost nobody anything."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sparrowmq import limits
from sparrowmq.protocol import codec, messages as m
from sparrowmq.transport import connections, unfinished
from sparrowmq.transport.link import cut
from sparrowmq.transport.unfinished import PEER_BYTES_MAX, STRANGER_BYTES_MAX, Unfinished
from tests.support.attackers import Endless, frame, shake_hands
from tests.support.net import FAST, Net, encoded, hello

MIB = 1024 * 1024
NONCES = itertools.count(1000)
ENOUGH = 600 * MIB  # is sent at most, so that no machine suffers where nothing ends it
PART = frame(bytes(MIB), more=True)
PAYLOAD = bytes(limits.FRAME_BYTES_MAX)


@pytest.fixture
def tcp() -> Iterator[Net]:
    net = Net("tcp://127.0.0.1:0", msgspec.structs.replace(FAST, hello_timeout_s=30.0))
    dealer, _, _ = net.dealer()
    dealer.send([hello("good")])
    net.until(lambda: net.knows("good"))
    yield net
    net.close()


def is_served(net: Net) -> None:
    """The one that keeps to the rules is there and heard."""
    nonce = next(NONCES)
    net.dealers[0].send([m.Ping(nonce)])
    net.until(lambda: m.Ping(nonce) in net.said[net.peer("good")])


def submit(job: str, payloads: int, payload: bytes = PAYLOAD) -> m.Submit:
    blobs: list[Any] = [m.Blob(payload, len(payload)) for _ in range(payloads)]
    return m.Submit(job, 0, m.JobSpec(kind=m.SLEEP, name="large"), payloads, blobs)


def wire(message: m.AnyMessage) -> list[bytes]:
    """Return the frames of a message, as they go over a connection."""
    parts = encoded(message)
    return [*(frame(bytes(part), more=True) for part in parts[:-1]), frame(bytes(parts[-1]))]


@contextlib.contextmanager
def endless(net: Net, *first: bytes, data: bytes = PART, most: int = ENOUGH) -> Iterator[Endless]:
    sender = Endless(net.router.address, b"".join(map(frame, first)), data, most)
    try:
        yield sender
    finally:
        sender.close()


@pytest.mark.parametrize("data", [PART, b"\1\0" * (MIB // 2)], ids=["large frames", "frames of nothing"])
def test_a_stranger_whose_first_message_does_not_end_is_hung_up(tcp: Net, data: bytes) -> None:
    with endless(tcp, data=data) as sender:
        tcp.until(lambda: sender.is_over)
        assert sender.was_ended
        assert STRANGER_BYTES_MAX - 2 * MIB < sender.sent < PEER_BYTES_MAX
        is_served(tcp)
    tcp.until(lambda: len(tcp.router.connections) == 1)
    assert tcp.router.counters["endless"] == 1
    assert not tcp.lost
    assert not tcp.bad


def test_a_peer_whose_message_does_not_end_is_hung_up_and_lost(tcp: Net) -> None:
    with endless(tcp, *encoded(hello("bad"))) as sender:
        tcp.until(lambda: sender.is_over)
        assert sender.was_ended
        assert sender.sent > PEER_BYTES_MAX - 2 * MIB
        is_served(tcp)
    tcp.until(lambda: tcp.lost)
    assert tcp.lost == [tcp.peer("bad")]
    assert tcp.router.counters["endless"] == 1


def test_messages_of_others_do_not_hide_it(tcp: Net) -> None:
    """While there is always something to read, too, and the sender's own small messages came before."""
    dealer = tcp.dealers[0]

    def chatter() -> None:
        dealer.send([m.Ping(1)])
        if not sender.is_over:
            tcp.loop.post(chatter)

    with endless(tcp, *encoded(hello("bad")), *encoded(m.Ping(1)) * 1000) as sender:
        chatter()
        tcp.until(lambda: sender.is_over)
        assert sender.was_ended
    tcp.until(lambda: tcp.lost)
    assert tcp.router.counters["endless"] == 1


def test_who_is_never_read_to_the_end_is_hung_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """More complete messages than can be read in any time: they hold memory, too."""
    monkeypatch.setattr(unfinished, "PEER_BYTES_MAX", 16 * MIB)
    net = Net("tcp://127.0.0.1:0", msgspec.structs.replace(FAST, unread_bytes_max=32 * MIB))
    with endless(net, *encoded(hello("bad")), data=frame(*encoded(m.Ping(1))) * 10_000) as sender:
        net.until(lambda: net.lost, 20.0)
        assert sender.sent < ENOUGH
    assert net.router.counters["endless"] == 1
    net.close()


def test_the_largest_messages_pass_however_fast(tcp: Net) -> None:
    """A few jobs of the largest size in one batch, which is cut for the way."""
    dealer, _, ends = tcp.dealer()
    dealer.send([hello("large")])
    dealer.send([submit(f"job-{number}", 3) for number in range(4)])
    tcp.until(lambda: tcp.knows("large") and len(tcp.said[tcp.peer("large")]) == 5, 15.0)
    assert tcp.router.counters["endless"] == 0
    assert not ends
    assert not tcp.lost
    assert not tcp.bad
    is_served(tcp)


def test_the_largest_messages_pass_however_slowly(tcp: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at a hundred times on the way, and just within what a peer may hold."""
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.01)
    with shake_hands(tcp.router.address) as slow:
        slow.sendall(frame(*encoded(hello("slow"))))
        frames = wire(submit("job", 4))

        def send() -> None:
            for data in frames:
                for at in range(0, len(data), 4 * MIB):
                    slow.sendall(data[at : at + 4 * MIB])
                    time.sleep(0.02)

        thread = threading.Thread(target=send)
        thread.start()
        tcp.until(lambda: tcp.knows("slow") and len(tcp.said[tcp.peer("slow")]) == 2, 15.0)
        thread.join()
    assert tcp.router.counters["endless"] == 0


def largest_hello() -> m.Hello:
    """All that a worker's limits let it hold, of as many jobs, with the largest numbers."""
    bounds, jobs = limits.WorkerLimits(), iter(range(10**6))
    return m.Hello(
        m.PROTOCOL, "1.0", m.WORKER, "large", limits.INT_MAX,
        reserved=[m.Reserved(f"{next(jobs):020}", *[limits.INT_MAX] * 3) for _ in range(bounds.queue_entries)],
        held=[
            m.Held(f"{next(jobs):020}", limits.INT_MAX, [99_999], [limits.INT_MAX]) for _ in range(bounds.queued_tasks)
        ],
    )  # fmt: skip


def test_the_largest_hello_passes_however_slowly(tcp: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.01)
    (body,) = encoded(largest_hello())
    assert limits.HELLO_BYTES_MAX // 2 < len(body) <= limits.HELLO_BYTES_MAX

    def send(data: bytes) -> None:
        slow.sendall(data[:MIB])
        if len(data) > MIB:
            tcp.loop.call_later(0.01, lambda: send(data[MIB:]))

    with shake_hands(tcp.router.address) as slow:
        send(frame(body))
        tcp.until(lambda: tcp.knows("large"))
    tcp.until(lambda: tcp.lost)
    assert tcp.router.counters["endless"] == 0
    assert not tcp.bad


def test_a_larger_hello_is_refused_by_name(tcp: Net) -> None:
    with shake_hands(tcp.router.address) as stranger:
        stranger.sendall(frame(bytes(limits.HELLO_BYTES_MAX + 1)))
        tcp.until(lambda: tcp.bad)
    assert [error.code for _, error in tcp.bad] == ["too_large"]


def test_what_many_have_begun_together_has_a_bound_too() -> None:
    """Of strangers a quarter, and no more of them go than have to; who is in the midst of a message is heard."""
    net = Net("tcp://127.0.0.1:0", msgspec.structs.replace(FAST, hello_timeout_s=30.0, unfinished_bytes_max=100 * MIB))
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(shake_hands(net.router.address))
        slow.sendall(frame(*encoded(hello("slow"))))
        net.until(lambda: net.knows("slow"))
        data = b"".join(wire(submit("job", 1, bytes(12 * MIB))))
        slow.sendall(data[: 10 * MIB])
        for _ in range(4):
            stack.enter_context(endless(net, most=10 * MIB))
        net.until(lambda: len(net.router.connections) == 3)
        slow.sendall(data[10 * MIB :])
        net.until(lambda: len(net.said[net.peer("slow")]) == 2)
    assert (net.router.counters["hoarding"], net.router.counters["endless"]) == (2, 0)
    net.close()


def test_a_batch_is_cut_to_what_one_message_may_hold_and_says_the_same() -> None:
    batch: list[m.AnyMessage] = [submit(f"job-{number}", number % 4 + 1) for number in range(9)]
    made = cut(codec.Encoder(), [m.Ping(1), *batch, m.Ping(2)])
    assert all(sum(map(len, parts)) <= limits.JOB_BYTES_MAX + limits.FRAME_BYTES_MAX for parts in made)
    read = [codec.decode(body, [m.Blob(blob, len(blob)) for blob in blobs]) for body, *blobs in made]
    said = [message for messages in read for message in messages]
    assert (said[0], said[-1]) == (m.Ping(1), m.Ping(2))
    submits = [message for message in said if isinstance(message, m.Submit)]
    assert [submit.job for submit in submits] == [f"job-{number}" for number in range(9)]
    assert [len(submit.payloads) for submit in submits] == [number % 4 + 1 for number in range(9)]
    assert len(cut(codec.Encoder(), [m.Ping(n) for n in range(1000)])) == 1


# The count.


class Kernel:
    """What it would say of each descriptor; it counts how often it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.received: dict[int, int] = {}
        self.unread: dict[int, int] = {}
        self.asked: list[int] = []
        monkeypatch.setattr(unfinished, "bytes_received", self._received)
        monkeypatch.setattr(unfinished, "bytes_unread", lambda descriptor: self.unread.get(descriptor, 0))

    def _received(self, descriptor: int) -> int | None:
        self.asked.append(descriptor)
        return self.received.get(descriptor)


def look(flows: Unfinished, *, stranger: bool = False) -> list[int]:
    """All that there was to read is read, and then it looks."""
    flows.rounds += 1
    return flows.look(lambda _: stranger)


def test_one_that_says_much_in_whole_messages_for_days_is_not_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, flows = Kernel(monkeypatch), Unfinished(2**60, 2**60)
    flows.arrived(5)
    flow = flows.get(5)
    assert flow is not None
    for second in range(1, 5_000):
        kernel.received[5] = second * (10 * (100_000 + 42) + 20)  # with keys, and heartbeats beside
        for _ in range(10):
            flows.took(flow, 100_000, 1)
        assert look(flows) == []
        assert flow.held == 0
    for _ in range(100_000):  # and nothing but heartbeats
        kernel.received[5] += 20
        assert look(flows) == []
        assert flow.held == 0


def test_small_messages_earn_no_credit_for_an_endless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, flows = Kernel(monkeypatch), Unfinished(2**60, 2**60)
    flows.arrived(5)
    flow = flows.get(5)
    assert flow is not None
    kernel.received[5] = 0
    for _ in range(100):
        for _ in range(100_000):
            flows.took(flow, 1, 1)
        kernel.received[5] += 3 * 100_000
        assert look(flows) == []
    kernel.received[5] += PEER_BYTES_MAX + MIB
    assert [look(flows), look(flows)] == [[], [5]]


def test_what_is_complete_and_unread_or_in_the_kernel_still_is_not_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, flows = Kernel(monkeypatch), Unfinished(8 * PEER_BYTES_MAX, 2**60)
    flows.arrived(5)
    flow = flows.get(5)
    assert flow is not None
    kernel.received[5] = 2 * PEER_BYTES_MAX
    for _ in range(10):
        assert flows.look(lambda _: False) == [], "nobody has read meanwhile"
    flows.took(flow, 1000, 1)
    assert [look(flows), look(flows)] == [[], [5]], "read to the end, and most of it was no message"
    kernel.unread[5] = PEER_BYTES_MAX
    assert [look(flows), look(flows)] == [[], []]


def test_each_of_many_connections_is_looked_at_in_time_and_those_in_doubt_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel, flows = Kernel(monkeypatch), Unfinished(2**60, 2**60)
    for descriptor in range(2000):
        flows.arrived(descriptor)
        kernel.received[descriptor] = 1000
    while len(set(kernel.asked)) < 2000:
        look(flows)
    kernel.asked.clear()
    kernel.received[77] = 100 * MIB
    for _ in range(10):
        look(flows)
    assert set(kernel.asked) == set(range(2000))
    for _ in range(10):
        kernel.asked.clear()
        assert look(flows) == []
        assert 77 in kernel.asked
        assert len(kernel.asked) <= 201


class Held:
    """Flows of which each has brought so many MiB of a message, in this order, and what becomes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, held_max: int, **brought: int) -> None:
        self._kernel, self.flows = Kernel(monkeypatch), Unfinished(2**60, held_max * MIB, random.Random(1))
        self.names = dict(enumerate(brought, 10))
        for descriptor, name in self.names.items():
            self.flows.arrived(descriptor)
            self._kernel.received[descriptor] = 1000
            self.says(name)
        self.brings(**brought)

    def _is_stranger(self, descriptor: int) -> bool:
        return self.names[descriptor].startswith("stranger")

    def _descriptor(self, name: str) -> int:
        return next(descriptor for descriptor, known in self.names.items() if known == name)

    def brings(self, **brought: int) -> None:
        for name, mib in brought.items():
            self._kernel.received[self._descriptor(name)] += mib * MIB

    def says(self, name: str, mib: float = 0.0009) -> None:
        flow = self.flows.get(self._descriptor(name))
        assert flow is not None
        self.flows.took(flow, int(mib * MIB), 1)

    def surplus(self) -> str:
        """Look, after all that there was to read has been read, and hang up."""
        self.flows.rounds += 1
        assert self.flows.look(self._is_stranger) == []
        chosen = self.flows.surplus(self._is_stranger)
        for descriptor in chosen:
            flow = self.flows.get(descriptor)
            assert flow is not None
            flow.hung_up = True
        return " ".join(self.names[descriptor] for descriptor in chosen)


def test_where_all_hold_too_much_strangers_go_first_and_then_some_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"early": 50, "small": 2, "stranger1": 6, "late": 60, "stranger2": 9}
    held = Held(monkeypatch, 100, **given)
    assert [held.surplus(), held.surplus()] == ["", "stranger2 stranger1 early"], "after a turn for each"
    assert held.surplus() == "", "those that are hung up do not count"
    held.brings(late=45)
    assert [held.surplus(), held.surplus()] == ["late", ""], "at once, where it was so before"


def test_strangers_together_may_hold_a_quarter_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, 100, stranger1=9, peer=60, stranger2=8, stranger3=7)
    assert [held.surplus(), held.flows.suspicious()] == ["", False]
    held.brings(stranger2=2)
    assert held.surplus() == ""
    for number in (1, 2, 3):
        held.says(f"stranger{number}")
    assert held.surplus() == "", "each has just brought something, and it is no peer's fault"
    assert [held.surplus(), held.surplus()] == ["stranger2", ""]


def test_what_is_complete_and_unread_does_not_make_it_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, 100, first=70, second=70)
    assert held.surplus() == ""
    held.says("first", 70)
    assert held.surplus() == ""
    assert not held.flows.suspicious()
    held.brings(first=70)
    assert held.surplus() == ""
    held.says("second", 1)
    held.says("first", 1)
    assert held.surplus() == "", "each has brought a message since it was too much"
    assert held.surplus() == "second"
    held.flows.gone(10)
    held.flows.gone(11)
    assert held.flows.held == 0


def test_many_with_large_messages_over_links_of_one_speed_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve times 200 MiB at once, where 768 may be held: each that is hung up begins anew."""
    kernel, flows = Kernel(monkeypatch), Unfinished(2**60, 768 * MIB, random.Random(1))
    sent: dict[int, int] = {}
    descriptors = itertools.count(10)
    over = 0

    def begin() -> None:
        descriptor = next(descriptors)
        flows.arrived(descriptor)
        sent[descriptor] = kernel.received[descriptor] = 0

    for _ in range(12):
        begin()
    for _ in range(3000):
        for descriptor in list(sent):
            sent[descriptor] += MIB
            kernel.received[descriptor] += MIB
            if sent[descriptor] == 200 * MIB:
                flow = flows.get(descriptor)
                assert flow is not None
                flows.took(flow, sent[descriptor], 5)
                sent[descriptor], over = 0, over + 1
        flows.rounds += 1
        assert flows.look(lambda _: False) == []
        for descriptor in flows.surplus(lambda _: False):
            flows.gone(descriptor)
            del sent[descriptor]
            begin()
    assert over > 10


def test_connections_that_hold_no_more_than_their_share_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch, 100, stranger=0, **{f"peer{number}": 1 for number in range(97)}, large=4)
    assert [held.surplus(), held.surplus()] == ["", "large"]
