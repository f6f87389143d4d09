"""Bytes as a sign of life: what a connection has carried in, whole effect lists compared."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.carried import SIGN_BYTES, Carried, Traffic, near_s
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, SchedulerSettings, WorkerSettings

SILENT_S = 4.0  # with pings each second
WORKER = m.Hello(m.PROTOCOL, "", m.WORKER, "w1", 1, slots=1)
NO_PING = m.Ping(0)


class World:
    """A machine with one peer, which has said its last message at 0.25 s, and the connection between them."""

    def __init__(self, machine: Any, peer: Any) -> None:
        self.machine = machine
        self.peer = peer
        self.now = 0.25
        self.said()

    def said(self) -> list[fx.AnyEffect]:
        effects = self.machine.take_effects()
        invariants.check(self.machine, effects)
        return [effect for effect in effects if not isinstance(effect, fx.Log)]

    def second(self, carried: Carried | None) -> list[fx.AnyEffect]:
        """Let a second pass, and say what the connection has carried by then where that is asked."""
        self.now += 1.0
        while (deadline := self.machine.next_deadline()) is not None and deadline <= self.now:
            self.machine.tick(deadline)
        effects = self.said()
        if fx.Look(self.peer) in effects and carried is not None:
            self.machine.carried(self.now, self.peer, carried)
            assert self.said() == [], "it decides when it is due"
        return effects


def of_client() -> World:
    settings = ClientSettings(silent_after_s=SILENT_S, ping_interval_s=1.0)
    machine = Session(id="c1", incarnation=3, rng=random.Random(1), settings=settings)
    machine.schedulers_changed(0.0, {"s1": "at s1"})
    machine.receive(0.25, 1, m.Welcome("s1", 7, "0"))
    return World(machine, 1)


def of_worker() -> World:
    settings = WorkerSettings(silent_after_s=SILENT_S, ping_interval_s=1.0, beat_interval_s=0.0)
    machine = NodeMonitor(id="w1", incarnation=1, slots=1, settings=settings)
    machine.schedulers_changed(0.0, {"s1": "at s1"})
    machine.receive(0.25, 1, m.Welcome("s1", 7, "0"))
    return World(machine, 1)


def of_scheduler() -> World:
    settings = SchedulerSettings(silent_after_s=SILENT_S, ping_interval_s=1.0, beat_interval_s=0.0)
    machine = Scheduler(id="s1", incarnation=7, rng=random.Random(1), settings=settings)
    machine.receive(0.0, "w1's", WORKER)
    machine.receive(0.25, "w1's", m.Load("a", 0, 1, 0, 0, 1))
    return World(machine, "w1's")


MACHINES = pytest.mark.parametrize("make", [of_client, of_worker, of_scheduler])


def without_pings(effects: list[fx.AnyEffect]) -> list[fx.AnyEffect]:
    return [e for e in effects if not (isinstance(e, fx.Send) and isinstance(e.message, m.Ping))]


@MACHINES
def test_a_peer_is_not_looked_at_before_it_has_left_a_question_unanswered(make: Any) -> None:
    world = make()
    for _ in range(10):
        assert without_pings(world.second(None)) == []
        world.machine.receive(world.now, world.peer, NO_PING)
        world.said()
    assert without_pings(world.second(None)) == []
    assert without_pings(world.second(None)) == [fx.Look(world.peer)]


@MACHINES
@pytest.mark.parametrize("way", ["in", "out"])
def test_while_a_large_message_is_on_its_way_its_peer_is_not_silent(make: Any, way: str) -> None:
    world = make()
    assert without_pings(world.second(None)) == []
    for n in range(1, 60):
        moved = n * SIGN_BYTES
        carried = Carried(moved, 0, 0) if way == "in" else Carried(0, moved, SIGN_BYTES)
        assert without_pings(world.second(carried)) == [fx.Look(world.peer)]
    for _ in range(int(SILENT_S)):  # there it stops
        assert without_pings(world.second(carried)) == [fx.Look(world.peer)]
    assert fx.Close(world.peer) in world.second(carried)


@MACHINES
@pytest.mark.parametrize(
    "step",
    [
        None,  # nothing is known: a Unix socket
        Carried(0, 0, SIGN_BYTES),
        Carried(SIGN_BYTES // 5, 0, 0),  # a trickle, or heartbeats
        Carried(0, SIGN_BYTES // 5, SIGN_BYTES),
        Carried(0, 100 * SIGN_BYTES, SIGN_BYTES - 1),  # it gets what it is sent, and says nothing
    ],
)
def test_else_it_is_as_silent_as_ever(make: Any, step: Carried | None) -> None:
    world = make()
    looks = [fx.Look(world.peer)]
    seconds = [world.second(step and Carried(n * step.received, n * step.delivered, step.waiting)) for n in range(1, 6)]
    assert [without_pings(effects) for effects in seconds[:4]] == [[], looks, looks, looks]
    assert fx.Close(world.peer) in seconds[4]
    assert fx.Look(world.peer) not in seconds[4]


def test_a_clients_question_follows_the_look() -> None:
    world = of_client()
    assert world.second(None) == [fx.Send(1, m.Ping(1))]
    assert world.second(None) == [fx.Look(1), fx.Send(1, m.Ping(2))]


def test_a_schedulers_question_follows_the_look() -> None:
    world = of_scheduler()
    assert world.second(None) == [fx.Send("w1's", m.Ping(1000))]
    assert world.second(None) == [fx.Look("w1's"), fx.Send("w1's", m.Ping(2000))]


@MACHINES
def test_what_is_told_of_a_connection_that_is_over_means_nothing(make: Any) -> None:
    world = make()
    world.machine.lost(world.now, world.peer)
    world.said()
    world.machine.carried(world.now, world.peer, Carried(SIGN_BYTES, 0, 0))
    assert world.said() == []


# -- what counts


def test_what_came_before_or_as_messages_does_not_count() -> None:
    traffic = Traffic()
    traffic.look(2.0, 0.5, Carried(10 * SIGN_BYTES, 0, 0))
    assert traffic.silent_s(2.0, 0.5) == 1.5
    traffic.look(9.0, 7.0, Carried(20 * SIGN_BYTES, 0, 0))
    assert traffic.silent_s(9.0, 7.0) == 2.0


def test_each_sign_takes_as_many_bytes_anew_from_both_directions_together() -> None:
    traffic = Traffic()
    half = SIGN_BYTES // 2
    traffic.look(1.0, 0.0, Carried(0, 0, SIGN_BYTES))
    traffic.look(2.0, 0.0, Carried(half, half - 1, SIGN_BYTES))
    assert traffic.moved_at == 0.0
    traffic.look(3.0, 0.0, Carried(half, half, SIGN_BYTES))
    assert traffic.moved_at == 3.0
    traffic.look(4.0, 0.0, Carried(SIGN_BYTES, SIGN_BYTES - 1, SIGN_BYTES))
    assert traffic.moved_at == 3.0
    traffic.look(5.0, 0.0, Carried(SIGN_BYTES, SIGN_BYTES, SIGN_BYTES))
    assert traffic.moved_at == 5.0


def test_once_nothing_waits_what_was_delivered_before_does_not_count_either() -> None:
    traffic = Traffic()
    traffic.look(1.0, 0.0, Carried(0, 0, SIGN_BYTES))
    traffic.look(2.0, 0.0, Carried(0, SIGN_BYTES, 0))
    traffic.look(3.0, 0.0, Carried(0, 2 * SIGN_BYTES - 1, SIGN_BYTES))
    assert traffic.moved_at == 0.0
    traffic.look(4.0, 0.0, Carried(0, 2 * SIGN_BYTES, SIGN_BYTES))
    assert traffic.moved_at == 4.0


def test_the_first_look_comes_before_a_peer_is_silent_however_short_that_is() -> None:
    assert near_s(1.0, 10.0) == 1.5
    assert near_s(1.0, 1.2) == 0.6
