"""Beats of a node that never dies, made up from a seed: when each is sent, and when it arrives.

Owns: the scenarios, and how a process that gets no processor sends its beats. Must not know: detectors.

Beat i is due i intervals after the beginning. A process that wakes late sends it late; beats that became due meanwhile
are one, the newest, as DESIGN rule 9 has it. Arrivals keep their order: they come over one connection into one stream.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

Law = Callable[[random.Random], float]  # draws seconds


class Beat(NamedTuple):
    """A beat that arrives."""

    sequence: int
    sent_s: float
    at_s: float


class Scenario(NamedTuple):
    """What happens to beats. ``wake``: how late the sender wakes; pauses stop it altogether, at random moments."""

    name: str
    says: str
    delay: Law
    wake: Law = lambda rng: 0.0
    loss: float = 0.0
    pause: Law | None = None
    pause_every_s: float = 5.0  # on average, from the end of one to the next
    rearmed: bool = False  # its timer runs from when it woke, and sequences count beats: lateness adds up


def _normal(rng: random.Random) -> float:
    return max(0.0, rng.gauss(0.050, 0.010))


def _lognormal(rng: random.Random) -> float:
    return 0.005 * math.exp(rng.gauss(0.0, 1.0))


def _local(rng: random.Random) -> float:
    return 0.001 * math.exp(rng.gauss(0.0, 0.5))


def _pause(rng: random.Random) -> float:
    length_s = 0.0
    while not 0.05 <= length_s <= 0.25:
        length_s = rng.expovariate(10.0)
    return length_s


def _starved(rng: random.Random) -> float:
    """Return how late a process wakes where many want the same cores: mostly < 30 ms, in 0.07 % of cases > 100."""
    kind = rng.random()
    if kind < 0.9:
        return rng.expovariate(250.0)
    if kind < 0.997:
        return rng.uniform(0.010, 0.040)
    return 0.040 + rng.expovariate(25.0)


SCENARIOS: Final = (
    Scenario("normal", "delays of 50 ms, normal, deviation 10 ms", _normal),
    Scenario("lognormal", "delays of 5 ms at the median, lognormal, sigma 1", _lognormal),
    Scenario("loss", "1 % of the beats are lost; delays of 1 ms", _local, loss=0.01),
    Scenario("pauses", "the sender stops for 50 to 250 ms each 5 s", _local, pause=_pause),
    Scenario("all", "lognormal delays, 1 % loss and these pauses", _lognormal, loss=0.01, pause=_pause),
    Scenario("starved", "the sender wakes late, mostly < 30 ms, rarely > 100", _local, wake=_starved),
    Scenario("stopped", "starved, and stopped for 200 ms each 5 s", _local, wake=_starved, pause=lambda rng: 0.2),
    Scenario("drift", "starved, and the timer runs from when it woke", _local, wake=_starved, rearmed=True),
)


def beats(scenario: Scenario, rng: random.Random, interval_s: float, seconds: float) -> Iterator[Beat]:
    """Yield the beats that arrive, in order, of ``seconds`` from time 0. The same seed, the same beats."""
    sequence, due_s, at_s = 0, 0.0, 0.0
    pauses = _pauses(scenario, rng)
    pause_s, resumed_s = next(pauses)
    while True:
        sent_s = due_s + scenario.wake(rng)
        while pause_s <= sent_s:
            sent_s = max(sent_s, resumed_s)
            pause_s, resumed_s = next(pauses)
        if sent_s >= seconds:
            return
        if not scenario.rearmed:
            sequence = max(sequence, int(sent_s / interval_s))
        delay_s = scenario.delay(rng)
        if rng.random() >= scenario.loss:
            at_s = max(at_s, sent_s + delay_s)
            yield Beat(sequence, sent_s, at_s)
        sequence += 1
        due_s = sent_s + interval_s if scenario.rearmed else sequence * interval_s


def _pauses(scenario: Scenario, rng: random.Random) -> Iterator[tuple[float, float]]:
    """Yield when the sender stops and goes on; for ever the end of time where it never stops."""
    now_s = 0.0
    while scenario.pause is not None:
        begin_s = now_s + rng.expovariate(1.0 / scenario.pause_every_s)
        now_s = begin_s + scenario.pause(rng)
        yield begin_s, now_s
    while True:
        yield math.inf, math.inf
