"""Links between two nodes: how long a packet takes, and what happens to it on the way.

Owns: latency laws, loss, duplication, reordering, and what a connection makes of them. Must not know: nodes, messages.

Machines speak over TCP, as ZeroMQ does between hosts. A packet may get lost, arrive twice or overtake others, but a
connection hides that: what was lost is sent again after a time-out that doubles, what comes too early waits, doubles
are dropped. All that is left is delay, of a packet and of everything behind it; so that is what is drawn here.
(RFC 6298 has the time-outs; Linux begins at 200 ms.)
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final, Protocol

RTO_S: Final = 0.2  # until a lost packet is sent again, at first
RTO_S_MAX: Final = 3.2
LOSSES_MAX: Final = 12  # of one packet: then it comes through, so that a run ends


class Latency(Protocol):
    """A law of one-way delays."""

    def draw(self, rng: random.Random) -> float:
        """Return the delay of one packet in seconds, 0 or more."""


@dataclass(frozen=True, slots=True)
class Constant:
    """Always ``s`` seconds."""

    s: float

    def draw(self, rng: random.Random) -> float:
        """See `Latency`."""
        return self.s


@dataclass(frozen=True, slots=True)
class Uniform:
    """Evenly between two delays in seconds."""

    low_s: float
    high_s: float

    def draw(self, rng: random.Random) -> float:
        """See `Latency`."""
        return self.low_s + (self.high_s - self.low_s) * rng.random()


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Around ``median_s`` seconds, with the long tail of real networks; ``sigma`` is the deviation of the logarithm."""

    median_s: float
    sigma: float = 0.5

    def draw(self, rng: random.Random) -> float:
        """See `Latency`."""
        return self.median_s * math.exp(rng.gauss(0.0, self.sigma))


@dataclass(frozen=True, slots=True)
class Wire:
    """One link. ``loss``, ``duplication``, ``reordering``: the share of packets that meets it, 0 to below 1."""

    latency: Latency = field(default_factory=lambda: Uniform(0.0001, 0.0003))
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0

    @property
    def fixed_s(self) -> float | None:
        """The delay of every packet, if all have the same."""
        faulty = self.loss or self.duplication or self.reordering
        return self.latency.s if isinstance(self.latency, Constant) and not faulty else None

    def transit_s(self, rng: random.Random) -> float:
        """Return how long the connection takes to bring a packet over, beside waiting for those before it."""
        delay_s = self.latency.draw(rng)
        if self.loss:
            rto_s = RTO_S
            for _ in range(LOSSES_MAX):
                if rng.random() >= self.loss:
                    break
                delay_s += rto_s
                rto_s = min(2.0 * rto_s, RTO_S_MAX)
        if self.reordering and rng.random() < self.reordering:
            delay_s += self.latency.draw(rng) * (1.0 + 3.0 * rng.random())  # a detour: others overtake it, and wait
        if self.duplication and rng.random() < self.duplication:
            delay_s = min(delay_s, self.latency.draw(rng))  # the first of the two counts, the other is dropped
        return delay_s
