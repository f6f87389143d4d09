"""Those without keys, at the sockets of a real scheduler: refused, counted, and nobody else is affected."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zmq

from sparrowmq.protocol import messages as m
from sparrowmq.security import keyring
from sparrowmq.security.credentials import Credentials
from sparrowmq.security.pairs import new_pair
from sparrowmq.store.registry import SchedulerRecord
from tests.support.attackers import CURVE, GREETING, Honest, Peer, Recorder, connect, drip, is_over, until
from tests.support.scheduler import hello

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("honest")]
RNG = random.Random(62)
DOORS = ("clients", "workers")


def door(target: SchedulerRecord, which: str) -> str:
    return str(getattr(target, f"address_{which}"))


def counted(witness: Peer, which: str, name: str) -> int:
    return witness.counters().get(f"{which.removesuffix('s')}_connections_{name}", 0)


@pytest.fixture(params=DOORS)
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # a TLS client's hello
        b"*1\r\n$4\r\nPING\r\n",
        RNG.randbytes(100_000),
        b"\xff" * 100_000,
        bytes(100_000),
        GREETING + b"NULL".ljust(20, b"\0") + bytes(32) + b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\6DEALER",
        CURVE + b"\x04\xc8\x05HELLO" + RNG.randbytes(194),
        CURVE + b"\x06" + (2**63 - 1).to_bytes(8, "big"),  # a command of so many bytes
        CURVE + b"\x04\x06\x05READY",
    ],
    ids=["http", "tls", "redis", "random", "ones", "zeros", "null", "false hello", "endless", "wrong command"],
)
def test_bytes_of_any_kind(target: SchedulerRecord, witness: Peer, which: str, data: bytes) -> None:
    before = counted(witness, which, "accepted")
    with connect(door(target, which)) as alien:
        alien.sendall(data)
        until(lambda: is_over(alien))
    until(lambda: counted(witness, which, "accepted") > before)


def test_peers_with_other_mechanisms(target: SchedulerRecord, witness: Peer, which: str) -> None:
    before = counted(witness, which, "handshake_failed")
    options = ({}, {"plain_username": b"admin", "plain_password": b"admin"})
    for number, given in enumerate(options):
        with Peer(door(target, which), **given) as alien:
            for _ in range(100):
                alien.say(hello(which.removesuffix("s"), f"alien {number}"), m.Ping(1))
            until(lambda n=number: counted(witness, which, "handshake_failed") > before + n)  # type: ignore[misc]
            alien.read()
            assert alien.heard == []


def test_a_peer_that_expects_another_server(target: SchedulerRecord, witness: Peer, which: str) -> None:
    before = counted(witness, which, "handshake_failed")
    lost = Credentials(which.removesuffix("s"), new_pair()[0], *new_pair())
    with Peer(door(target, which), lost) as alien:
        alien.say(hello(which.removesuffix("s"), "lost"))
        until(lambda: counted(witness, which, "handshake_failed") > before)
        assert alien.heard == []


def test_a_key_that_nobody_knows(target: SchedulerRecord, witness: Peer, keys: Path, which: str) -> None:
    """The handshake proves a key, and nothing else: what comes first must prove the role."""
    role = which.removesuffix("s")
    given = keyring.load_credentials(keys, role)
    unknown = msgspec.structs.replace(given, secret=b"")
    before = witness.counters().get("refused_forbidden", 0)
    attempts: list[list[m.AnyMessage]] = [
        [hello(role, "x")],
        [m.Proof(role, "x"), hello(role, "x")],
        [m.Proof(role, "x", bytes(32)), hello(role, "x")],
        [m.Proof(role, "x", given.proof("x")), hello(role, "x")],  # another key's proof
        [m.Ping(1)],
        [m.Query(1, "jobs")],
    ]
    with contextlib.ExitStack() as stack:
        aliens = [Peer(door(target, which), msgspec.structs.replace(unknown, **pair())) for _ in attempts]
        for alien, first in zip(aliens, attempts, strict=True):
            stack.enter_context(alien)
            alien.say(*first)
        for alien in aliens:
            assert alien.wait(m.Refused).code == "forbidden"
            alien.say(m.Ping(1), m.Query(1, "jobs"))
        for alien in aliens:
            alien.wait_end()
            assert alien.heard == []
    assert witness.counters()["refused_forbidden"] == before + len(attempts)


def pair() -> dict[str, bytes]:
    public, secret = new_pair()
    return {"public_key": public, "secret_key": secret}


def test_a_session_that_is_played_again(target: SchedulerRecord, witness: Peer, keys: Path) -> None:
    """What was sent over one connection means nothing on another: its keys are gone with it."""
    given = keyring.load_credentials(keys, "client")
    with Recorder(target.address_clients) as recorder, Peer(recorder.address, given) as victim:
        victim.introduce(hello("client", f"victim-{RNG.random()}"))
        victim.say(m.Submit("replayed", 0, m.JobSpec(kind=m.SLEEP, name="replayed"), 1, [b"\0"]))
        victim.wait(m.Outcome)
    assert len(recorder.sent) > 500
    before = witness.counters()
    for cut in (None, -1, 200):
        with connect(target.address_clients) as thief:
            thief.sendall(recorder.sent[:cut])
            thief.sendall(recorder.sent)
            until(lambda: is_over(thief))
    witness.say(m.Query(1, "jobs"))
    rows = [row for row in witness.wait(m.Status).jobs if row.name == "replayed"]
    assert len(rows) == 1
    assert witness.counters()["clients_now"] <= before["clients_now"]
    failed = before.get("client_connections_handshake_failed", 0)
    until(lambda: counted(witness, "clients", "handshake_failed") > failed)


def test_a_flood_of_connections(target: SchedulerRecord, witness: Peer, which: str, honest: Honest) -> None:
    before, done = counted(witness, which, "accepted"), honest.done
    for _ in range(1000):
        with connect(door(target, which)) as alien:
            alien.sendall(RNG.randbytes(100))
    until(lambda: counted(witness, which, "accepted") >= before + 1000)
    honest.goes_on()
    assert honest.done > done


SLOW: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "nothing": (b"", lambda number: b""),
    "drops": (b"", lambda number: CURVE),
    "half a greeting": (CURVE[:20], lambda number: b""),
    "drops of a command": (CURVE + b"\x04\xc8\x05HELLO", lambda number: b"x"),
}


def test_two_hundred_connections_that_take_their_time(
    target: SchedulerRecord, witness: Peer, which: str, honest: Honest
) -> None:
    """None of them is let hang around, and those in order are served meanwhile."""
    slow = [connect(door(target, which)) for _ in range(200)]
    groups = [slow[k::4] for k in range(4)]
    try:
        for group, (start, _) in zip(groups, SLOW.values(), strict=True):
            for connection in group:
                connection.sendall(start)
        done, deadline = honest.done, time.monotonic() + 20.0
        for group, (_, more) in zip(groups, SLOW.values(), strict=True):
            if data := more(0):
                drip(group, data, lambda: all(map(is_over, slow)) or time.monotonic() > deadline - 8.0, 0.3)
        until(lambda: all(map(is_over, slow)), 15.0)
        assert honest.done > done
    finally:
        for connection in slow:
            connection.close()


def test_peers_that_shake_hands_and_say_nothing(target: SchedulerRecord, keys: Path) -> None:
    with contextlib.ExitStack() as stack:
        given = {which: keyring.load_credentials(keys, which.removesuffix("s")) for which in DOORS}
        silent = [stack.enter_context(Peer(door(target, which), given[which])) for which in DOORS * 10]
        for peer in silent:
            peer.wait_end(15.0)


def test_socket_types_that_have_no_business_here(target: SchedulerRecord, keys: Path, witness: Peer) -> None:
    given = keyring.load_credentials(keys, "client")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    before = counted(witness, "clients", "accepted")
    for kind in (zmq.PUSH, zmq.PUB, zmq.SUB, zmq.PAIR, zmq.STREAM):
        sock = context.socket(kind)
        sock.set(zmq.LINGER, 0)
        if kind != zmq.STREAM:
            sock.set(zmq.CURVE_SERVERKEY, given.server_key)
            sock.set(zmq.CURVE_PUBLICKEY, given.public_key)
            sock.set(zmq.CURVE_SECRETKEY, given.secret_key)
        sock.connect(target.address_clients)
        until(lambda: counted(witness, "clients", "accepted") > before)
        sock.close()
    context.term()


def test_what_is_left_of_a_connection_is_nothing(target: SchedulerRecord, witness: Peer) -> None:
    """Connections that are reset at any moment of the handshake."""
    before = counted(witness, "clients", "accepted")
    for length in range(0, 300, 3):
        with connect(target.address_clients) as alien:
            alien.sendall((CURVE + b"\x04\xc8\x05HELLO" + bytes(300))[:length])
            alien.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    until(lambda: counted(witness, "clients", "accepted") >= before + 100)
