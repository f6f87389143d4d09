"""Wires and connections: delay, order, loss, cuts, resets, heartbeats, messages that cost something."""

from __future__ import annotations

import random
import statistics
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.network import CONNECT_TIMEOUT_S, HEARTBEAT_TIMEOUT_S, Network
from sparrowmq.sim.wires import RTO_S, Constant, LogNormal, Uniform, Wire

LATENCY_S = 0.25  # a power of two: sums are exact


class Machine:
    """Keeps what it hears."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.heard: list[tuple[float, Any]] = []
        self.lost_at: list[float] = []

    def lost(self, now: float, peer: object) -> None:
        self.lost_at.append(now)


class Node:
    """What the network needs of a node."""

    def __init__(self, engine: Engine, id: str) -> None:
        self.engine, self.id = engine, id
        self.machine = Machine(engine)
        self.starts, self.up, self.paused = 1, True, False
        self.connections: dict[object, Any] = {}
        self.held: list[Any] = []

    def receive(self, end: object, batch: list[m.AnyMessage]) -> None:
        self.machine.heard += [(self.engine.now, message.n) for message in batch]  # type: ignore[union-attr]

    def hold(self, what: Any) -> None:
        self.held.append(what)

    def step(self, event: Any, *arguments: Any) -> None:
        event(self.engine.now, *arguments)


class World:
    """A worker that is connected to a scheduler."""

    def __init__(self, wire: Wire, *, encode: bool = False, seed: int = 1) -> None:
        self.engine = Engine()
        self.network = Network(self.engine, random.Random(seed), wire, encode=encode)
        self.worker, self.scheduler = Node(self.engine, "w"), Node(self.engine, "s")
        self.began = self.engine.now
        self.sent = 0
        self.connect()

    def connect(self, starts: int = 1) -> None:
        self.network.connect(self.worker, 1, self.scheduler, starts)  # type: ignore[arg-type]
        self.end = self.worker.connections[1]  # the worker's

    def send(self, *, back: bool = False) -> None:
        """Send the next number to the scheduler, or back to the worker."""
        self.sent += 1
        self.network.send(self.end if back else self.end.other, [m.Ping(self.sent)])

    def heard(self, node: Node) -> list[tuple[float, int]]:
        return [(at - self.began, n) for at, n in node.machine.heard]

    def lost(self, node: Node) -> list[float]:
        return [at - self.began for at in node.machine.lost_at]


@pytest.mark.parametrize("encode", [False, True])
def test_a_message_arrives_after_the_latency(encode: bool) -> None:
    world = World(Wire(Constant(LATENCY_S)), encode=encode)
    world.send()
    world.engine.run(1.0)
    world.send(back=True)
    world.engine.run(1.0)
    assert world.heard(world.scheduler) == [(LATENCY_S, 1)]
    assert world.heard(world.worker) == [(1.0 + LATENCY_S, 2)]
    assert world.network.sent == {m.Ping: 2}
    assert world.end.calm


LAWS = st.sampled_from([Constant(0.01), Uniform(0.0, 0.1), LogNormal(0.01, 1.5)])
SHARES = st.sampled_from([0.0, 0.1, 0.5])


@settings(max_examples=60)
@given(LAWS, SHARES, SHARES, SHARES, st.integers(0, 1000))
def test_whatever_happens_to_packets_a_connection_brings_everything_once_and_in_order(
    law: Any, loss: float, duplication: float, reordering: float, seed: int
) -> None:
    world = World(Wire(law, loss, duplication, reordering), seed=seed)
    for _ in range(50):
        world.send()
        world.engine.run(world.network._rng.random() * 0.05)
    world.engine.run(600.0)
    assert [n for _, n in world.heard(world.scheduler)] == list(range(1, 51))
    assert world.lost(world.scheduler) == []


def test_the_laws_of_latency_have_the_shape_they_say() -> None:
    rng = random.Random(1)
    even = [Uniform(0.1, 0.3).draw(rng) for _ in range(4000)]
    assert 0.1 <= min(even) < 0.101 < 0.299 < max(even) <= 0.3
    assert statistics.mean(even) == pytest.approx(0.2, rel=0.02)
    tailed = [LogNormal(0.1, 0.5).draw(rng) for _ in range(4000)]
    assert statistics.median(tailed) == pytest.approx(0.1, rel=0.05)
    assert statistics.mean(tailed) == pytest.approx(0.1 * 2.718281828 ** (0.5**2 / 2), rel=0.05)


def test_a_lost_packet_is_sent_again_after_a_time_out_that_doubles() -> None:
    wire = Wire(Constant(0.0), loss=0.5)
    delays = {round(wire.transit_s(random.Random(seed)), 9) for seed in range(200)}
    assert sorted(delays)[:5] == pytest.approx([0.0, RTO_S, 3 * RTO_S, 7 * RTO_S, 15 * RTO_S])
    mean_s = statistics.mean(wire.transit_s(random.Random(seed)) > 0 for seed in range(2000))
    assert mean_s == pytest.approx(0.5, abs=0.05)


def test_a_wire_that_is_changed_does_not_let_later_messages_overtake() -> None:
    world = World(Wire(Constant(1.0)))
    world.send()
    world.network.set_wire("w", "s", Wire(Constant(0.0)))
    world.send()
    world.network.set_wire("w", "s", Wire(Uniform(0.0, 0.001)))
    world.send()
    world.engine.run(5.0)
    assert [n for _, n in world.heard(world.scheduler)] == [1, 2, 3]
    assert [at for at, _ in world.heard(world.scheduler)] == pytest.approx([1.0, 1.0, 1.0], abs=0.01)


def test_wires_belong_to_pairs_and_later_connections_have_them_too() -> None:
    world = World(Wire(Constant(1.0)))
    world.network.set_wire("w", "s", Wire(Constant(0.5)))
    world.connect()
    world.send()
    world.network.set_wire("w", "other", Wire(Constant(9.0)))
    world.engine.run(2.0)
    assert world.heard(world.scheduler) == [(0.5, 1)]
    world.network.set_wire("", "", Wire(Constant(0.125)))
    world.send()
    world.engine.run(2.0)
    assert world.heard(world.scheduler)[1:] == [(2.125, 2)]


# -- cuts


def test_a_cut_one_way_holds_what_goes_that_way_until_it_heals() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.send()  # has left before the cut
    world.network.cut("w", "s")
    world.send()
    world.send(back=True)
    world.engine.run(4.0)
    assert world.heard(world.scheduler) == [(LATENCY_S, 1)]
    assert world.heard(world.worker) == [(LATENCY_S, 3)]
    world.network.heal("s", "w")
    world.engine.run(4.0)
    assert [n for _, n in world.heard(world.scheduler)] == [1, 2]
    assert world.heard(world.scheduler)[1][0] >= 4.0 + LATENCY_S
    assert world.end.calm


@pytest.mark.parametrize("both", [False, True])
def test_an_end_that_hears_nothing_for_as_long_as_heartbeats_allow_gives_up(both: bool) -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.network.cut("w", "s")
    if both:
        world.network.cut("s", "w")
    world.engine.run(HEARTBEAT_TIMEOUT_S + 1.0)
    assert world.lost(world.scheduler) == [HEARTBEAT_TIMEOUT_S]
    late_s = 0.0 if both else LATENCY_S  # it hears the other give up, or gives up itself
    assert world.lost(world.worker) == [HEARTBEAT_TIMEOUT_S + late_s]


def test_a_cut_that_was_healed_in_between_starts_the_time_anew() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.network.cut("w", "s")
    world.engine.run(15.0)
    world.network.heal()
    world.network.cut("w", "s")
    world.engine.run(10.0)
    assert world.lost(world.scheduler) == []
    world.engine.run(10.5)
    assert world.lost(world.scheduler) == [15.0 + HEARTBEAT_TIMEOUT_S]


def test_a_connection_that_is_opened_into_a_cut_stands_once_that_heals_in_time() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.network.cut("s", "w")
    world.connect()
    world.send(back=True)
    world.engine.run(CONNECT_TIMEOUT_S - 0.5)
    world.network.heal()
    world.engine.run(5.0)
    assert [n for _, n in world.heard(world.worker)] == [1]
    assert world.lost(world.worker) == []


def test_a_connection_that_is_opened_into_a_cut_fails_after_a_while() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.network.cut("s", "w")
    world.connect()
    world.engine.run(CONNECT_TIMEOUT_S + 1.0)
    assert world.lost(world.worker) == [CONNECT_TIMEOUT_S]


# -- ends


def test_a_close_comes_after_what_was_sent_before_it() -> None:
    world = World(Wire(Uniform(0.0, 1.0)))
    for _ in range(5):
        world.send()
    world.network.close(world.end)
    world.send()  # into the void
    world.engine.run(5.0)
    assert [n for _, n in world.heard(world.scheduler)] == [1, 2, 3, 4, 5]
    assert world.lost(world.scheduler)[0] >= world.heard(world.scheduler)[-1][0]
    assert (world.lost(world.worker), world.worker.connections) == ([], {})


def test_a_close_into_a_cut_is_learnt_of_when_it_heals() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.network.cut("w", "s")
    world.network.close(world.end)
    world.engine.run(5.0)
    assert world.lost(world.scheduler) == []
    world.network.heal()
    world.engine.run(2.0)
    assert len(world.lost(world.scheduler)) == 1


def test_a_reset_loses_what_is_under_way_and_both_ends_learn_of_it_once() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.send()
    world.send(back=True)
    world.network.reset(world.end)
    world.engine.run(5.0)
    assert world.heard(world.scheduler) == world.heard(world.worker) == []
    assert world.lost(world.scheduler) == world.lost(world.worker) == [LATENCY_S]
    assert world.network._dialed == {}


def test_nobody_listens_where_a_process_was_restarted_meanwhile() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.scheduler.starts = 2
    world.connect(starts=1)
    world.engine.run(1.0)
    assert world.lost(world.worker) == [LATENCY_S]


def test_a_frozen_process_learns_of_a_loss_when_it_goes_on() -> None:
    world = World(Wire(Constant(LATENCY_S)))
    world.scheduler.paused = True
    world.network.close(world.end)
    world.engine.run(1.0)
    assert (world.lost(world.scheduler), len(world.scheduler.held)) == ([], 1)
    world.scheduler.paused = False
    world.scheduler.held.pop()()
    assert world.lost(world.scheduler) == [1.0]


# -- whole clusters


def test_messages_that_cost_processor_time_queue_at_their_node() -> None:
    """A scheduler that receives a submit and sends an acceptance and four probes, at 1 ms each."""
    cost_s = 0.001
    world = Cluster(1, wire=Wire(Constant(0.0)), costs_s={"scheduler": cost_s}, pipe_s=0.0, journal=Journal(1000))
    world.add_scheduler()
    for _ in range(4):
        world.add_worker()
    world.add_client()
    world.run(0.5)
    submitted_at = world.now
    world.submit([1.0, 1.0], policy="batch")
    world.run(0.5)
    assert world.journal is not None
    probed = [float(line.split()[0]) for line in world.journal.lines() if "Probe(" in line]
    assert probed == pytest.approx([submitted_at + k * cost_s for k in (3, 4, 5, 6)], abs=1e-6)


def test_the_journal_tells_runs_apart_by_all_of_their_events() -> None:
    def digest(seed: int, duration_s: float) -> str:
        journal = Journal()
        world = Cluster(seed, journal=journal)
        world.add_scheduler()
        world.add_worker()
        world.add_client()
        world.run(0.5)
        world.submit([duration_s])
        world.finish()
        assert journal.events > 10
        return journal.digest()

    assert digest(1, 0.1) == digest(1, 0.1)
    assert len({digest(1, 0.1), digest(2, 0.1), digest(1, 0.1000001)}) == 3


def test_the_journal_keeps_the_last_lines_and_cuts_long_ones() -> None:
    journal = Journal(2)
    for number in range(3):
        journal.add(float(number), "worker-1", "<- s", "x" * (number * 1000))
    assert [line[:45] for line in journal.lines()] == [
        "    1.000000 worker-1       <- s      " + "x" * 7,
        "    2.000000 worker-1       <- s      " + "x" * 7,
    ]
    assert all(len(line) < 500 for line in journal.lines())
    assert (journal.events, len(journal.lines(1))) == (3, 1)
