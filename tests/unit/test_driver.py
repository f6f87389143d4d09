"""The driver: what leaves when, and in which order, at the end of a turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from sparrowmq.core import effects as fx
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.driver import LINES_PER_S, PATIENCE_S, Driver


class Machine:
    """Says what it is told to say; raises at a ping."""

    def __init__(self) -> None:
        self.effects: list[fx.AnyEffect] = []
        self.received: list[m.AnyMessage] = []

    def receive(self, now: float, peer: Any, message: m.AnyMessage) -> None:
        if isinstance(message, m.Ping):
            raise ValueError("a bug")
        self.received.append(message)

    def lost(self, now: float, peer: Any) -> None: ...

    def tick(self, now: float) -> None: ...

    def next_deadline(self) -> float | None:
        return None

    def take_effects(self) -> list[fx.AnyEffect]:
        taken, self.effects = self.effects, []
        return taken


class World:
    """A driver over a clock that stands still unless moved."""

    def __init__(self) -> None:
        self.time = 1.0
        self.on_turn: list[Any] = []
        self.deadline: Any = None
        self.stopped = False
        self.did: list[Any] = []
        self.lines: list[str] = []
        self.machine = Machine()
        self.driver = Driver(
            self,  # type: ignore[arg-type]  # as much of a loop as a driver needs
            self.machine,
            self._send,
            {fx.Close: lambda effect: self.did.append(("close", effect.peer))},
            lambda level, event, fields: self.lines.append(event),
        )

    def _send(self, peer: Any, batch: Sequence[m.AnyMessage]) -> None:
        self.did.append((peer, list(batch)))

    def now(self) -> float:
        return self.time

    def stop(self) -> None:
        self.stopped = True

    def turn(self, *effects: fx.AnyEffect) -> list[Any]:
        self.machine.effects += effects
        self.driver.turn()
        did, self.did = self.did, []
        return did


@pytest.fixture
def world() -> World:
    return World()


REQUEST = m.Request(1, "a", 0, 1, 1)
OUTCOME = m.Outcome(1, "a", 0, [0], b"\0", [b""])


def test_what_a_slot_waits_for_leaves_first_and_each_peer_gets_one_batch(world: World) -> None:
    noop = m.NoOp(1, 1)
    did = world.turn(fx.Send("client", OUTCOME), fx.Send("worker", noop), fx.Send("worker", REQUEST))
    assert did == [("worker", [noop, REQUEST]), ("client", [OUTCOME])]


def test_acknowledgements_wait_for_company_and_the_last_one_says_it_all(world: World) -> None:
    assert world.turn(fx.Send("p", m.ResultAck(1))) == []
    assert world.turn(fx.Send("p", m.ResultAck(2))) == []
    assert world.turn(fx.Send("p", REQUEST)) == [("p", [m.ResultAck(2), REQUEST])]


def test_acknowledgements_without_company_leave_when_their_patience_ends(world: World) -> None:
    world.turn(fx.Send("p", m.ResultAck(1)))
    assert world.deadline() == pytest.approx(1.0 + PATIENCE_S)
    world.time += PATIENCE_S
    assert world.turn() == [("p", [m.ResultAck(1)])]
    assert world.deadline() is None


def test_what_was_sent_before_a_close_or_an_exit_leaves(world: World) -> None:
    did = world.turn(fx.Send("p", m.ResultAck(1)), fx.Close("p"), fx.Send("q", m.OutcomeAck(1)), fx.Exit("done"))
    assert did == [("p", [m.ResultAck(1)]), ("close", "p"), ("q", [m.OutcomeAck(1)])]
    assert world.stopped
    assert world.driver.exit_reason == "done"


def test_a_message_that_breaks_the_machine_takes_no_other_along(world: World) -> None:
    world.driver.on_batch("p", [m.Ping(1), REQUEST])
    assert world.machine.received == [REQUEST]
    assert world.lines == ["message failed"]


def test_log_lines_of_a_kind_are_limited(world: World) -> None:
    for _ in range(50):
        world.turn(fx.Log("warning", "refused"))
    assert world.lines == ["refused"] * LINES_PER_S
    world.time += 1.0
    world.turn(fx.Log("warning", "refused"))
    assert len(world.lines) == LINES_PER_S + 2  # how many were not shown, and this one
