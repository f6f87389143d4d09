"""Drives one machine over the poll loop: events in, effects out, messages coalesced and flushed once a turn.

What nobody waits for (acknowledgements) leaves with the next message to the same peer, or after PATIENCE_S.

Owns: the order of a turn, natural batching, the rate of log lines. Must not know: which machine it drives, or
what carries the messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from sparrowmq.core import effects as fx
from sparrowmq.core.carried import Carried
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop

LINES_PER_S: Final = 10  # log lines of one kind
PATIENCE_S: Final = 0.002  # how long messages that nobody waits for may wait for others to the same peer
_KINDS_MAX: Final = 256
_PATIENT: Final = frozenset({m.Accepted, m.ResultAck, m.OutcomeAck})
_HURRIED: Final = frozenset({m.Submit, m.Probe, m.Request, m.Task})
_CUMULATIVE: Final = frozenset({m.ResultAck, m.OutcomeAck})

Emit = Callable[[str, str, Mapping[str, Any]], None]


class Machine(Protocol):
    """What a driver asks of every machine."""

    def receive(self, now: float, peer: Any, message: m.AnyMessage) -> None:
        """A message arrived."""

    def lost(self, now: float, peer: Any) -> None:
        """A connection is gone."""

    def tick(self, now: float) -> None:
        """A deadline may have passed."""

    def next_deadline(self) -> float | None:
        """When `tick` is wanted."""

    def take_effects(self) -> list[fx.AnyEffect]:
        """What is to be done."""


class Watchful(Protocol):
    """A machine that wants to know what its connections carry."""

    def carried(self, now: float, peer: Any, carried: Carried) -> None:
        """The answer to a `Look`."""


def looking(loop: Loop, machine: Watchful, see: Callable[[Any], Carried | None]) -> Callable[[fx.Look], None]:
    """Return what carries out a `Look`: ``see(peer)`` returns what the connection has carried, None if unknown."""

    def look(effect: fx.Look) -> None:
        carried = see(effect.peer)
        if carried is not None:
            machine.carried(loop.now(), effect.peer, carried)

    return look


class LogLimit:
    """Lets at most LINES_PER_S lines of a kind through in a second, and says how many it kept back."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._kinds: dict[str, tuple[float, int]] = {}

    def __call__(self, now: float, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Emit one line, unless its kind has had its share of this second."""
        since, count = self._kinds.get(event, (now, 0))
        if now - since >= 1.0:
            if count > LINES_PER_S:
                self._emit(level, event, {"not_shown": count - LINES_PER_S})
            since, count = now, 0
        if len(self._kinds) >= _KINDS_MAX and event not in self._kinds:
            self._kinds.clear()
        self._kinds[event] = (since, count + 1)
        if count < LINES_PER_S:
            self._emit(level, event, fields)


class Driver:
    """Connects a machine to a loop. ``send(peer, messages)`` carries a turn's messages to one peer.

    ``perform`` has a handler for each effect that the machine can have, except Send, Log and Exit.
    """

    def __init__(
        self,
        loop: Loop,
        machine: Machine,
        send: Callable[[Any, Sequence[m.AnyMessage]], None],
        perform: Mapping[type, Callable[[Any], None]],
        emit: Emit,
    ) -> None:
        self._loop = loop
        self._machine = machine
        self._send = send
        self._perform = dict(perform)
        self._log = LogLimit(emit)
        self._outgoing: dict[Any, list[m.AnyMessage]] = {}
        self._patient: dict[Any, float] = {}  # peers whose messages wait, in order of when they must leave
        self.exit_reason = ""
        loop.deadline = self._next_deadline
        loop.on_turn.append(self.turn)

    def on_batch(self, peer: Any, batch: list[m.AnyMessage]) -> None:
        """Messages arrived. One that breaks the machine (a bug: it must not) does not take the others along."""
        now = self._loop.now()
        receive = self._machine.receive
        for message in batch:
            try:
                receive(now, peer, message)
            except Exception as error:
                kind = type(message).__name__.lower()
                self._log(now, "error", "message failed", {"message": kind, "error": repr(error)[:500]})

    def on_lost(self, peer: Any) -> None:
        """A connection is gone."""
        self._machine.lost(self._loop.now(), peer)

    def log(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write a line, at a bounded rate."""
        self._log(self._loop.now(), level, event, fields)

    def turn(self) -> None:
        """End a turn: what is due, then all effects, then one flush for each peer."""
        machine, now = self._machine, self._loop.now()
        deadline = machine.next_deadline()
        if deadline is not None and deadline <= now:
            machine.tick(now)
        urgent: dict[Any, bool] = {}  # peers to be sent to now; whether a slot idles until they have it
        for effect in machine.take_effects():
            kind = type(effect)
            if kind is fx.Send:
                self._post(now, effect.peer, effect.message, urgent)  # type: ignore[union-attr]
            elif kind is fx.Log:
                self._log(now, effect.level, effect.event, effect.fields)  # type: ignore[union-attr]
            elif kind is fx.Exit:
                self.exit_reason = effect.reason  # type: ignore[union-attr]
                urgent.update(dict.fromkeys(self._outgoing, False))
                self._loop.stop()
            else:
                if kind is fx.Close:
                    self._flush(effect.peer)  # type: ignore[union-attr]
                self._perform[kind](effect)
        for peer in sorted(urgent, key=urgent.__getitem__, reverse=True):
            self._flush(peer)
        for peer in [peer for peer, when in self._patient.items() if when <= now]:
            self._flush(peer)

    def _post(self, now: float, peer: Any, message: m.AnyMessage, urgent: dict[Any, bool]) -> None:
        batch = self._outgoing.setdefault(peer, [])
        kind = type(message)
        if kind not in _PATIENT:
            urgent[peer] = kind in _HURRIED or urgent.get(peer, False)
        elif batch and kind is type(batch[-1]) and kind in _CUMULATIVE:
            batch[-1] = message
            return
        elif peer not in self._patient:
            self._patient[peer] = now + PATIENCE_S
        batch.append(message)

    def _next_deadline(self) -> float | None:
        deadline = self._machine.next_deadline()
        if self._patient:
            patient = next(iter(self._patient.values()))
            return patient if deadline is None else min(deadline, patient)
        return deadline

    def _flush(self, peer: Any) -> None:
        self._patient.pop(peer, None)
        batch = self._outgoing.pop(peer, None)
        if batch:
            self._send(peer, batch)
