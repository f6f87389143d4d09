"""A worker's connections to its schedulers.

Owns: what a node monitor remembers per scheduler: the connection, requests on their way, results not yet
acknowledged. Must not know: slots, the queue, or what is decided from that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from sparrowmq.core.carried import Traffic
from sparrowmq.core.outbox import Outbox
from sparrowmq.protocol import messages as m

RECONNECT_S_MIN: Final = 0.005
RECONNECT_S_MAX: Final = 1.0
RTT_S_INITIAL: Final = 0.0005


@dataclass(slots=True, eq=False)
class Request:
    """Reservations that were asked for: ``count`` are not answered yet."""

    number: int
    slot: int
    job: str
    epoch: int
    round: int
    count: int
    sent_at: float
    answered: bool = False


@dataclass(slots=True, eq=False)
class Link:
    """One scheduler. ``peer`` 0: not connected; ``welcomed``: it has answered our hello."""

    scheduler: str
    address: str
    peer: int = 0
    incarnation: int = 0
    welcomed: bool = False
    listed: bool = True  # in the registry
    silent: bool = False  # a request went unanswered
    waiting: bool = False  # a deadline for answers is set
    heard_at: float = 0.0
    traffic: Traffic = field(default_factory=Traffic)
    down_since: float = 0.0
    failures: int = 0
    received: int = 0  # reservations and pushed tasks, ever
    rtt_s: float = RTT_S_INITIAL
    requests: dict[int, Request] = field(default_factory=dict)
    outbox: Outbox[m.Result] = field(default_factory=Outbox)
    unsaid: list[m.Returned] = field(default_factory=list)  # the hello that is on its way tells of these tasks still

    @property
    def usable(self) -> bool:
        """Whether requests to it make sense now."""
        return self.welcomed and not self.silent

    def answered(self, request: Request, now: float) -> None:
        """The first answer to a request: one more sample of the round trip."""
        if not request.answered:
            request.answered = True
            self.rtt_s += 0.2 * (now - request.sent_at - self.rtt_s)

    def retry_after_s(self) -> float:
        """Return how long to wait before the next attempt to connect."""
        return min(RECONNECT_S_MAX, RECONNECT_S_MIN * 2.0 ** min(self.failures, 10))
