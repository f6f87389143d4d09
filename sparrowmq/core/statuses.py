"""Who is told how the scheduler does: questions, and subscriptions until the connection ends.

Owns: which client wants what how often. Must not know: what stands in a status (`report`), or what one costs (`turns`).
"""

from __future__ import annotations

from typing import Final

from sparrowmq.core import report
from sparrowmq.core.effects import Peer
from sparrowmq.core.peers import Client
from sparrowmq.core.state import State
from sparrowmq.core.turns import Turns
from sparrowmq.protocol import messages as m

INTERVAL_S: Final = 0.1  # subscriptions are looked at so often: no status comes at a higher rate
SUBSCRIPTIONS_MAX: Final = 16  # of one client; beyond, its oldest ends


class Statuses:
    """The answers of one scheduler. ``due`` belongs to the timer "status"."""

    def __init__(self, state: State, turns: Turns) -> None:
        self._state = state
        self._turns = turns
        # By connection and request: the subscription, and when its next status is due.
        self.subscriptions: dict[tuple[Peer, int], tuple[m.Subscribe, float]] = {}
        self._looking = False

    def asked(self, now: float, client: Client, message: m.Query) -> None:
        """A client asks once."""
        self._tell(now, client, message)

    def subscribed(self, now: float, client: Client, message: m.Subscribe) -> None:
        """A client asks from time to time, or not any more."""
        peer = client.peer
        if peer is None:
            return  # it has left meanwhile
        key = (peer, message.request)
        known = self.subscriptions.pop(key, None)
        if message.interval_s and len(self.subscriptions) < self._state.settings.limits.clients:
            mine = [other for other in self.subscriptions if other[0] == peer]
            if len(mine) >= SUBSCRIPTIONS_MAX:
                del self.subscriptions[mine[0]]
            self.subscriptions[key] = (message, now if known is None else known[1])
            self._look(now)

    def due(self, now: float) -> None:
        """It is time to look at the subscriptions."""
        self._looking = False
        self._look(now)

    def _look(self, now: float) -> None:
        """Send every status that is due; forget those whose client has left."""
        for key, (subscription, due) in list(self.subscriptions.items()):
            client = self._state.peers.get(key[0])
            if not isinstance(client, Client):
                del self.subscriptions[key]
            elif due <= now and self._turns.may_look(now, client):
                self._tell(now, client, subscription)
                self.subscriptions[key] = (subscription, now + subscription.interval_s)
        if self.subscriptions and not self._looking:
            self._looking = True
            self._state.timers.add(now + INTERVAL_S, ("status",))

    def _tell(self, now: float, client: Client, question: m.Query | m.Subscribe) -> None:
        status = report.status(self._state, now, question, client.owner)
        self._turns.looked_at(now, client, len(status.jobs) + len(status.workers) + len(status.tasks))
        self._state.send(client.peer, status)
