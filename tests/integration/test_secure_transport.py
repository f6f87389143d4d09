"""Router and Dealer with keys, over real sockets: who is let in, as whom, and what becomes of everybody else."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from sparrowmq import limits
from sparrowmq.protocol import codec, messages as m
from sparrowmq.security.credentials import Credentials, Trust, fingerprint
from sparrowmq.security.pairs import new_pair
from sparrowmq.transport import curve
from sparrowmq.transport.dealer import Dealer
from sparrowmq.transport.guard import Claim, Guard
from sparrowmq.transport.link import LinkOptions
from sparrowmq.transport.router import Router
from sparrowmq.transport.zap import Zap
from tests.support.net import FAST, Net, port_of

SERVER = new_pair()
SECRETS = {"worker": b"w" * 32, "client": b"c" * 32, "assistant": b"a" * 32}


def trust(listed: dict[bytes, tuple[str, str]] | None = None, revoked: tuple[bytes, ...] = ()) -> Trust:
    return Trust(*SERVER, SECRETS, listed or {}, frozenset(revoked))


def credentials(role: str = "client", *, enrolled: bool = True) -> Credentials:
    return Credentials(role, SERVER[0], *new_pair(), SECRETS[role] if enrolled else b"")


def hello(name: str, role: str = "client", incarnation: int = 1) -> m.Hello:
    return m.Hello(m.PROTOCOL, "1.0", role, name, incarnation)


class SecureNet(Net):
    """A net whose router is the one for clients and assistants, with keys."""

    def __init__(self, bind: str, options: LinkOptions = FAST) -> None:
        self.guard = Guard(trust(), ("client", "assistant"), {"client": 10.0})
        self.zap: Zap | None = None
        self.forgets = True
        super().__init__(bind, options)

    def listen(self, bind: str) -> Router:
        self.zap = Zap(self.context, self.loop, lambda key: self.guard.trust.admits(key))
        return Router(
            self.context,
            self.loop,
            bind,
            on_batch=self.batch,
            on_lost=self.lost.append,
            on_bad=self.on_bad,
            tag="t",
            options=self.options,
            guard=self.guard,
        )

    def on_bad(self, peer: Any, error: Any) -> None:
        """As a scheduler does it, at the end of its turn: the peer is told, and forgotten."""
        self.bad.append((peer, error))
        if not self.forgets:
            return
        self.router.send(peer, [m.Refused(error.code, str(error))])
        self.router.forget(peer)

    def join(
        self, given: Credentials | None, *first: m.AnyMessage, options: LinkOptions = FAST
    ) -> tuple[Dealer, list[m.AnyMessage], list[str]]:
        got: list[m.AnyMessage] = []
        ends: list[str] = []
        dealer = Dealer(
            self.context,
            self.loop,
            self.router.address,
            on_batch=got.extend,
            on_lost=lambda: ends.append(dealer.why),
            on_bad=lambda error: ends.append(error.code),
            options=options,
            credentials=given,
        )
        self.dealers.append(dealer)
        if first:
            dealer.send(list(first))
        return dealer, got, ends

    def raw_with(self, given: Credentials) -> zmq.Socket[bytes]:
        """A socket with this key that sends whatever it likes."""
        sock = self.context.socket(zmq.DEALER)
        sock.set(zmq.LINGER, 0)
        sock.set(zmq.SNDHWM, 0)
        sock.set(zmq.RECONNECT_IVL, 60_000)
        curve.connect(sock, given)
        sock.connect(self.router.address)
        self.raw.append(sock)
        return sock

    def close(self) -> None:
        for dealer in self.dealers:
            dealer.close()
        for sock in self.raw:
            sock.close()
        self.router.close()
        assert self.zap is not None
        self.zap.close()
        self.context.term()
        self.loop.close()
        assert not self.errors, self.errors


def frames(*batch: m.AnyMessage) -> list[Any]:
    return codec.Encoder().encode(batch)[0]


def proof(given: Credentials, id: str) -> m.Proof:
    return m.Proof(given.role, id, given.proof(id))


@pytest.fixture(params=["tcp", "ipc"])
def net(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SecureNet]:
    net = SecureNet("tcp://127.0.0.1:*" if request.param == "tcp" else f"ipc://{tmp_path}/s")
    yield net
    net.close()


@pytest.fixture
def tcp() -> Iterator[SecureNet]:
    net = SecureNet("tcp://127.0.0.1:0")
    yield net
    net.close()


def refusal(net: SecureNet, got: list[m.AnyMessage]) -> m.Refused:
    net.until(lambda: got)
    assert isinstance(got[0], m.Refused), got
    return got[0]


def honest(
    net: SecureNet, name: str = "honest", given: Credentials | None = None, options: LinkOptions = FAST
) -> Credentials:
    """Show that the router still serves who is in order; return whose credentials these are."""
    given = given or credentials()
    _, got, ends = net.join(given, hello(name), m.Ping(7), options=options)
    net.until(lambda: net.knows(name) and len(net.said[net.peer(name)]) >= 2)
    assert net.said[net.peer(name)][-1] == m.Ping(7)
    assert (got, ends) == ([], [])
    return given


# Who is let in.


@pytest.mark.parametrize("role", ["client", "assistant"])
def test_one_with_its_roles_secret_is_let_in_and_bears_its_keys_fingerprint(net: SecureNet, role: str) -> None:
    given = credentials(role)
    lie = msgspec.structs.replace(hello("a", role), key="made up", owner="a" * 20)
    dealer, got, _ = net.join(given, lie, m.Ping(1))
    dealer.send([m.Ping(2)])
    net.until(lambda: net.knows("a") and len(net.said[net.peer("a")]) == 3)
    peer = net.peer("a")
    stamped = msgspec.structs.replace(hello("a", role), key=fingerprint(given.public_key), owner="")
    assert net.said[peer] == [stamped, m.Ping(1), m.Ping(2)], "the machine sees no proof"
    net.router.send(peer, [m.Pong(1)])
    net.until(lambda: got == [m.Pong(1)])


def test_a_listed_key_needs_no_secret_and_owns_its_jobs_alone(net: SecureNet) -> None:
    given = credentials(enrolled=False)
    net.guard.trust = trust({given.public_key: ("client", "lab")})
    honest(net, given=given)
    for number, said in enumerate(("", "a" * 20)):
        net.join(given, msgspec.structs.replace(hello(f"a{number}"), owner=said))
        net.until(lambda name=f"a{number}": net.knows(name))
        [seen] = net.said[net.peer(f"a{number}")]
        assert isinstance(seen, m.Hello)
        assert seen.owner == given.owner == fingerprint(given.public_key), "both ends have the same opinion of it"


@pytest.mark.parametrize("mac", [SECRETS["client"], bytes(32), b"x"], ids=["good", "zeros", "short"])
def test_a_listed_key_that_proves_anything_is_refused(net: SecureNet, mac: bytes) -> None:
    """Its jobs would be those of all who know the secret to one end, and its own to the other."""
    given = credentials()
    net.guard.trust = trust({given.public_key: ("client", "lab")})
    mac = given.proof("a") if mac == SECRETS["client"] else mac
    sock = net.raw_with(given)
    sock.send_multipart(frames(m.Proof("client", "a", mac), hello("a")))
    net.until(lambda: net.bad)
    [(_, error)] = net.bad
    assert (error.code, str(error)) == (
        "forbidden", "the key of lab is listed: it sends no proof of enrolment, and here is one",
    )  # fmt: skip
    assert not net.knows("a")


def test_a_key_that_is_listed_while_it_is_enrolled_has_to_come_again(net: SecureNet) -> None:
    given = honest(net)
    assert net.router.renew(trust({given.public_key: ("client", "lab")})) == 1
    [(_, error)] = net.bad
    assert "of lab is listed" in str(error)


def test_what_is_sent_at_first_arrives_in_order_however_much_it_is(net: SecureNet) -> None:
    many = [m.Ping(n) for n in range(10_000)]
    net.join(credentials(), hello("a"), *many)
    net.until(lambda: net.knows("a") and len(net.said[net.peer("a")]) == 10_001)
    assert net.said[net.peer("a")][1:] == many


def test_a_proof_is_not_parted_from_its_hello(net: SecureNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first batch is too large for one frame it is split, but not there."""
    monkeypatch.setattr(limits, "FRAME_BYTES_MAX", 3000)
    submit = m.Submit("j", 0, m.JobSpec(), 1, [b"x" * 2900])
    net.join(credentials(), hello("a"), submit)
    net.until(lambda: net.knows("a") and submit in net.said[net.peer("a")])


# Who is not, and what each is told.


def test_a_key_that_is_neither_listed_nor_enrolled(net: SecureNet) -> None:
    _, got, _ = net.join(credentials(enrolled=False), hello("a"))
    assert refusal(net, got).code == "forbidden"
    assert "not listed" in refusal(net, got).detail
    assert not net.said
    honest(net)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda given: msgspec.structs.replace(given, secret=b"x" * 32), "the proof of enrolment as client is false"),
        (lambda given: msgspec.structs.replace(given, role="assistant"), "is false"),
        (lambda given: msgspec.structs.replace(given, role="worker", secret=SECRETS["worker"]), "this socket is for"),
        (lambda given: msgspec.structs.replace(given, role="king"), "this socket is for"),
    ],
    ids=["secret", "role", "worker", "nonsense"],
)
def test_a_false_proof(net: SecureNet, change: Any, says: str) -> None:
    given = change(credentials())
    _, got, _ = net.join(given, hello("a", given.role))
    assert refusal(net, got).code == "forbidden"
    assert says in refusal(net, got).detail
    assert not net.said
    honest(net)


def test_a_listed_key_under_another_role(net: SecureNet) -> None:
    given = credentials("assistant")
    net.guard.trust = trust({given.public_key: ("client", "lab")})
    _, got, _ = net.join(given, hello("a", "assistant"))
    assert refusal(net, got).detail == "the key of lab is listed as client, not as assistant"


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        (lambda p: [hello("a")], "forbidden"),  # no proof
        (lambda p: [p], "no_hello"),
        (lambda p: [p, m.Ping(1)], "no_hello"),
        (lambda p: [p, p, hello("a")], "no_hello"),
        (lambda p: [p, hello("b")], "forbidden"),
        (lambda p: [p, hello("a", "assistant")], "forbidden"),
        (lambda p: [p, hello("a", "worker")], "forbidden"),
        (lambda p: [p, hello("a"), hello("b", "worker")], "malformed"),
        (lambda p: [m.Ping(1), p, hello("a")], "forbidden"),
    ],
)
def test_what_does_not_go_together(net: SecureNet, claims: Any, code: str) -> None:
    given = credentials()
    sock = net.raw_with(given)
    sock.send_multipart(frames(*claims(proof(given, "a"))))
    net.until(lambda: net.bad)
    assert [error.code for _, error in net.bad] == [code]
    assert not net.said
    honest(net)


def test_a_second_hello_is_nobodys(net: SecureNet) -> None:
    """Only the first one was looked at: a later one may name anybody."""
    given = credentials()
    dealer, got, _ = net.join(given, hello("a"))
    net.until(lambda: net.knows("a"))
    dealer.send([m.Ping(1), hello("victim", "worker")])
    assert refusal(net, got).code == "malformed"
    assert [type(said) for said in net.said[net.peer("a")]] == [m.Hello]


def test_a_proof_is_good_for_one_key_only(net: SecureNet) -> None:
    """Bytes that were heard elsewhere, or made by an owner of another key, say nothing."""
    given = credentials()
    honest(net, "a", given)
    thief = net.raw_with(credentials())
    thief.send_multipart(frames(proof(given, "a"), hello("a")))
    net.until(lambda: net.bad)
    assert net.bad[0][1].code == "forbidden"
    assert "false" in str(net.bad[0][1])


def test_an_id_belongs_to_the_key_that_goes_by_it(net: SecureNet) -> None:
    first = honest(net, "a")
    _, got, _ = net.join(credentials(), hello("a", incarnation=9))
    assert refusal(net, got).code == "identity_conflict"
    net.dealers[0].close()
    net.until(lambda: net.lost)
    _, got, _ = net.join(credentials(), hello("a", incarnation=9))
    assert refusal(net, got).code == "identity_conflict", "what waits for a client waits for no other key"
    _, got, ends = net.join(first, hello("a", incarnation=2), m.Ping(3))
    net.until(lambda: [m.Ping(3)] in [said[1:] for said in net.said.values()])
    assert (got, ends) == ([], [])


def test_an_id_is_free_after_a_while() -> None:
    guard = Guard(trust(), ("client",), {"client": 10.0})
    mine, other = ((given, proof(given, "a")) for given in (credentials(), credentials()))

    def come(rid: bytes, who: tuple[Credentials, m.Proof], now: float) -> None:
        claim = Claim(who[0].public_key, "client", "a", who[1].mac)
        guard.introduce(claim, [who[1], hello("a")], now)
        guard.enter(rid, claim)

    come(b"1", mine, 0.0)
    come(b"2", mine, 1.0)
    guard.leave(b"1", 2.0)
    guard.leave(b"2", 3.0)
    with pytest.raises(Exception, match="in use by another key"):
        come(b"3", other, 12.9)
    come(b"3", other, 13.1)
    guard.leave(b"3", 14.0)
    guard.leave(b"4", 30.0)
    with pytest.raises(Exception, match="in use by another key"):
        come(b"5", mine, 20.0)


# Other security settings.


def test_no_keys_at_all(net: SecureNet) -> None:
    _, _, ends = net.join(None, hello("a"))
    net.until(lambda: ends)
    # Which one depends on whether the other side's greeting is read before its end.
    wanted, unknown = "the other side wants keys, and here are none", "no ZeroMQ peer there, or one with other security"
    assert ends[0].startswith((wanted, unknown))
    assert "(security.keys)" in ends[0]
    assert net.router.counters["handshake_failed"] == 1
    honest(net)


def test_keys_where_there_are_none(tmp_path: Path) -> None:
    net = Net(f"ipc://{tmp_path}/s")
    ends: list[str] = []
    dealer = Dealer(
        net.context, net.loop, net.router.address, on_batch=lambda _: None, on_lost=lambda: ends.append(dealer.why),
        on_bad=lambda _: None, options=FAST, credentials=credentials(),
    )  # fmt: skip
    net.dealers.append(dealer)
    net.until(lambda: ends)
    assert ends[0].startswith(("the other side has no keys, and here are some", "no ZeroMQ peer there, or one with"))
    assert "(security.keys)" in ends[0]
    net.close()


def test_another_server_key(net: SecureNet) -> None:
    elsewhere = msgspec.structs.replace(credentials(), server_key=new_pair()[0])
    _, _, ends = net.join(elsewhere, hello("a"))
    net.until(lambda: ends)
    expected = f"its server key is not {fingerprint(elsewhere.server_key)} (security.keys)"
    assert ends == [f"no ZeroMQ peer there, or one with other keys: {expected}"]
    honest(net)


@pytest.mark.parametrize("bytes_sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 4000, b"\0" * 4000, b""])
def test_bytes_of_another_kind(tcp: SecureNet, bytes_sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port_of(tcp))) as alien:
        with contextlib.suppress(OSError):  # it may have been hung up on already
            alien.sendall(bytes_sent)
            alien.shutdown(socket.SHUT_WR)
        tcp.until(lambda: tcp.router.counters["accepted"] == 1 and not tcp.router.connections)
        honest(tcp)
    assert not tcp.bad


def test_the_server_key_alone_opens_nothing(net: SecureNet) -> None:
    """Its public half may be known: the handshake succeeds then, and nothing else does."""
    sock = net.raw_with(credentials(enrolled=False))
    sock.send_multipart([b"\x91" * 100_000])
    net.until(lambda: net.bad)
    assert net.bad[0][1].code == "forbidden"
    honest(net)


def test_who_is_refused_has_had_its_one_try(net: SecureNet) -> None:
    """What follows the hello in one breath is not judged again, and cannot be a better hello."""
    net.forgets = False
    given = credentials()
    sock = net.raw_with(given)
    sock.send_multipart(frames(hello("a")))
    sock.send_multipart(frames(proof(given, "a"), hello("a")))
    net.until(lambda: net.router.counters["ignored"])
    assert len(net.bad) == 1
    assert not net.said


# Revoking.


def test_a_revoked_key_is_refused_in_the_handshake(net: SecureNet) -> None:
    given = credentials()
    net.guard.trust = trust(revoked=(given.public_key,))
    _, _, ends = net.join(given, hello("a"))
    net.until(lambda: ends)
    assert ends == [f"this client's key {fingerprint(given.public_key)} is refused there: it is revoked"]
    assert net.router.counters["key_refused"] == 1
    assert net.zap is not None
    assert net.zap.counters["refused"] == 1
    assert not net.bad
    honest(net)


def test_a_key_that_is_revoked_during_its_connection(net: SecureNet) -> None:
    given = honest(net, "a")
    other = honest(net, "b")
    peer = net.peer("a")
    assert net.router.renew(trust(revoked=(given.public_key,))) == 1
    assert [peer for peer, _ in net.bad] == [peer]
    assert net.router.peers == 1
    net.dealers[0].send([m.Ping(9)])
    net.until(lambda: net.router.counters["ignored"])
    assert m.Ping(9) not in net.said[peer]
    assert net.router.counters["revoked"] == 1
    assert fingerprint(given.public_key) in str(net.bad[0][1])
    net.dealers[1].send([m.Ping(8)])
    net.until(lambda: m.Ping(8) in net.said[net.peer("b")])
    assert net.router.renew(trust(revoked=(given.public_key, other.public_key))) == 1


def test_a_new_secret_ends_those_who_enrolled_with_the_old_one(net: SecureNet) -> None:
    honest(net, "a")
    listed = credentials(enrolled=False)
    net.guard.trust = trust({listed.public_key: ("client", "lab")})
    honest(net, "b", listed)
    renewed = msgspec.structs.replace(net.guard.trust, secrets=SECRETS | {"client": b"n" * 32})
    assert net.router.renew(renewed) == 1
    assert [peer for peer, _ in net.bad] == [net.peer("a")]
    _, got, _ = net.join(credentials(), hello("c"))
    assert refusal(net, got).code == "forbidden"


# The requests that ask whether a key may connect.


@pytest.mark.parametrize(
    "request_frames",
    [
        [b""],
        [b"", b"1.0"],
        [b"x", b"1.0", b"1", b"sparrowmq", b"", b"", b"CURVE", b"k" * 32],
        [b"", b"2.0", b"1", b"sparrowmq", b"", b"", b"CURVE", b"k" * 32],
    ],
)
def test_a_malformed_request_gets_no_answer(tcp: SecureNet, request_frames: list[bytes]) -> None:
    with tcp.context.socket(zmq.DEALER) as asker:
        asker.set(zmq.LINGER, 0)
        asker.connect("inproc://zeromq.zap.01")
        asker.send_multipart(request_frames)
        assert tcp.zap is not None
        zap = tcp.zap
        tcp.until(lambda: zap.counters["malformed"])
        honest(tcp)
        assert not asker.poll(0)


@pytest.mark.parametrize(
    "asked",
    [
        [b"sparrowmq", b"", b"", b"NULL"],
        [b"sparrowmq", b"", b"", b"PLAIN", b"user", b"password"],
        [b"sparrowmq", b"", b"", b"CURVE"],
        [b"sparrowmq", b"", b"", b"CURVE", b"short"],
        [b"sparrowmq", b"", b"", b"CURVE", b"k" * 33],
        [b"sparrowmq", b"", b"", b"CURVE", b"k" * 32, b"more"],
        [b"other", b"", b"", b"CURVE", b"k" * 32],
        [],
    ],
)
def test_an_improper_request_is_refused(tcp: SecureNet, asked: list[bytes]) -> None:
    with tcp.context.socket(zmq.DEALER) as asker:
        asker.set(zmq.LINGER, 0)
        asker.connect("inproc://zeromq.zap.01")
        asker.send_multipart([b"", b"1.0", b"17", *asked])
        tcp.until(lambda: asker.poll(0))
        answer = asker.recv_multipart()
        assert answer[1:4] == [b"1.0", b"17", b"400"]
        assert answer[5] == b""
        honest(tcp)


# Connections that cost something and give nothing.


def test_who_says_no_hello_in_time_is_hung_up(tmp_path: Path) -> None:
    net = SecureNet("tcp://127.0.0.1:0", msgspec.structs.replace(FAST, hello_timeout_s=0.4, handshake_timeout_s=5.0))
    honest(net, "a")
    mute = net.join(credentials())[2]  # the handshake succeeds, and then nothing
    with socket.create_connection(("127.0.0.1", port_of(net))):  # not even a handshake
        began = time.monotonic()
        net.until(lambda: net.router.counters["no_hello_in_time"] == 2 and len(net.router.connections) == 1)
        assert time.monotonic() - began < 2.0
        net.until(lambda: mute)
    assert mute == ["connection lost"]
    net.dealers[0].send([m.Ping(5)])
    net.until(lambda: m.Ping(5) in net.said[net.peer("a")])
    net.close()


def test_many_silent_connections_do_not_keep_the_others_out(tmp_path: Path) -> None:
    options = msgspec.structs.replace(FAST, handshake_timeout_s=30.0, hello_timeout_s=30.0, strangers_max=50)
    net = SecureNet("tcp://127.0.0.1:0", options)
    alien = [socket.create_connection(("127.0.0.1", port_of(net))) for _ in range(200)]
    honest(net, "a", options=LinkOptions())
    net.until(lambda: net.router.counters["accepted"] == 201 and len(net.router.connections) <= 51)
    assert net.router.counters["crowded_out"] >= 150
    for connection in alien:
        connection.close()
    net.close()


def test_one_that_is_ignored_and_goes_on_is_hung_up_at_once(net: SecureNet) -> None:
    given = credentials(enrolled=False)
    sock = net.raw_with(given)
    for _ in range(2000):
        sock.send_multipart(frames(hello("a")))
    began = time.monotonic()
    net.until(lambda: net.router.counters["accepted"] == 1 and not net.router.connections)
    assert time.monotonic() - began < 1.0, "not when its time to read why is over"
    assert net.router.counters["ignored"] >= 64
    assert len(net.bad) == 1
    honest(net)
