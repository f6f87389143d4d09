"""A client without a session: it says what it is told to say, to any scheduler, and keeps what it hears.

Owns: its connections. Must not know: what the messages mean. For what sessions do not do: jobs of others, detached
jobs, following output, queries, drains.
"""

from __future__ import annotations

from typing import Final

from sparrowmq.core.effects import AnyEffect, Connect, Send
from sparrowmq.protocol import messages as m

RECONNECT_S: Final = 0.02


class Observer:
    """A machine as drivers know it."""

    def __init__(self, *, id: str, incarnation: int, package: str, answers: bool = False) -> None:
        self.id = id
        self._answers = answers
        self.heard: list[tuple[str, m.AnyMessage]] = []  # from which scheduler
        self._hello = m.Hello(m.PROTOCOL, package, m.CLIENT, id, incarnation)
        self._addresses: dict[str, str] = {}
        self._peers: dict[int, str] = {}
        self._last_peer = 0
        self._retry_at: float | None = None
        self._effects: list[AnyEffect] = []

    def schedulers_changed(self, now: float, addresses: dict[str, str]) -> None:
        """The registry lists these schedulers."""
        self._addresses = addresses
        self._connect()

    def _connect(self) -> None:
        for scheduler, address in self._addresses.items():
            if scheduler not in self._peers.values():
                self._last_peer += 1
                self._peers[self._last_peer] = scheduler
                self._effects += [Connect(self._last_peer, address), Send(self._last_peer, self._hello)]

    def receive(self, now: float, peer: int, message: m.AnyMessage) -> None:
        """Keep it, and acknowledge outcomes; answer what schedulers ask, if it does."""
        self.heard.append((self._peers[peer], message))
        if isinstance(message, m.Outcome):
            self._effects.append(Send(peer, m.OutcomeAck(message.seq)))
        elif isinstance(message, m.Ping) and self._answers:
            self._effects.append(Send(peer, m.Pong(message.n)))

    def lost(self, now: float, peer: int) -> None:
        """The connection is gone: connect again soon."""
        self._peers.pop(peer, None)
        self._retry_at = now + RECONNECT_S

    def say(self, now: float, message: m.AnyMessage, scheduler: str = "") -> None:
        """Say something to one scheduler, or to all that it is connected to."""
        for peer, name in self._peers.items():
            if scheduler in ("", name):
                self._effects.append(Send(peer, message))

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self._retry_at is not None and self._retry_at <= now:
            self._retry_at = None
            self._connect()

    def next_deadline(self) -> float | None:
        """Return when `tick` is wanted next, or None."""
        return self._retry_at

    def take_effects(self) -> list[AnyEffect]:
        """Return what is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects
