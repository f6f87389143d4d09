"""Load hints in a scheduler: its own books, its share, and what becomes of both."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sparrowmq.core.hints import NEWS_S, POOLS_MAX, Hints, Pool
from sparrowmq.core.job import Job
from sparrowmq.core.peers import Worker
from sparrowmq.core.placer import Placer
from sparrowmq.placement import late_binding
from sparrowmq.protocol import messages as m


class World:
    """A placer over workers w0, w1, ..., and the jobs that it has placed."""

    def __init__(self, workers: int, *, slots: int = 2, eager: bool = False) -> None:
        self.workers: dict[str, Worker] = {}
        self.emitted: list[tuple[Any, m.AnyMessage]] = []
        self.deadlines: list[tuple[float, tuple[str, str]]] = []
        emit, later = lambda *sent: self.emitted.append(sent), lambda *due: self.deadlines.append(due)
        self.placer = Placer(self.workers, random.Random(5), emit, later, eager=eager)
        for number in range(workers):
            id = f"w{number}"
            hello = m.Hello(m.PROTOCOL, "0", m.WORKER, id, 1, "3.11", slots=slots)
            self.workers[id] = Worker(id, 1, hello, id, 0.0)

    def hint(self, now: float, waits: dict[str, int]) -> None:
        self.placer.hinted(now, m.Hints(7, list(waits), list(waits.values())))

    def place(self, now: float, record: Job) -> dict[Any, int]:
        self.emitted.clear()
        self.placer.place(now, record)
        return {peer: message.count for peer, message in self.emitted if isinstance(message, m.Probe)}


def job(tasks: int, policy: str = "assisted", id: str = "a", ratio: float = 2.0) -> Job:
    return Job(m.Submit(id, 0, m.JobSpec(kind=m.SLEEP, policy=policy, probe_ratio=ratio), tasks, [b"p"]), "c1", 0.0)


def test_without_hints_reservations_go_where_this_scheduler_has_the_least() -> None:
    world = World(6)
    assert len(world.place(0.0, job(1, id="a", ratio=4.0))) == 4
    first = {id for id, worker in world.workers.items() if worker.reserved}
    second = world.place(0.0, job(1, id="b"))
    assert set(second) == set(world.workers) - first
    assert sum(worker.reserved for worker in world.workers.values()) == 6


def test_the_share_comes_first_then_workers_with_nothing_of_mine_then_the_shortest_wait() -> None:
    world = World(6)
    world.hint(0.0, {"w1": 0, "w4": 0})
    assert set(world.place(0.1, job(1, id="a"))) == {"w1", "w4"}
    assert set(world.place(0.1, job(1, id="b"))) == {"w1", "w4"}  # both have two slots
    third = world.place(0.1, job(2, id="c"))
    assert set(third) == {"w0", "w2", "w3", "w5"}
    assert len(world.place(0.1, job(3, id="d"))) == 6


def test_a_worker_of_the_share_that_others_keep_busy_waits_its_time() -> None:
    world = World(3)
    world.hint(1.0, {"w0": 0, "w1": 200_000, "w2": 0})
    assert set(world.place(1.1, job(1, id="a"))) == {"w0", "w2"}
    world = World(3)
    world.hint(1.0, {"w0": 0, "w1": 200_000, "w2": 0})
    assert set(world.place(1.2001, job(1, id="a", ratio=3.0))) == {"w0", "w1", "w2"}
    hints = Hints(world.workers)
    hints.heard(1.0, m.Hints(7, ["w0", "w1"], [0, 200_000]))
    hints.pool(1.1, "", list(world.workers))
    assert hints.wait("w1") > 1.0 > hints.wait("w0")
    hints.pool(1.3, "", list(world.workers))
    assert hints.wait("w1") == hints.wait("w0")


def test_hints_are_forgotten_when_no_more_come() -> None:
    world = World(4)
    hints, eligible = Hints(world.workers), list(world.workers)
    hints.heard(5.0, m.Hints(7, ["w2"], [10_000_000]))
    assert hints.pool(5.0 + NEWS_S, "", eligible) == Pool(["w2"], ["w0", "w1", "w3"])
    assert hints.pool(5.01 + NEWS_S, "", eligible) == Pool(eligible, ())
    assert {hints.wait(worker) for worker in eligible} == {-0.5}  # of two slots one would be left


def test_hints_that_come_seldom_are_believed_longer() -> None:
    world = World(2)
    hints, eligible = Hints(world.workers), list(world.workers)
    for at in (0.0, 2.0):
        hints.heard(at, m.Hints(7, ["w1"], [0]))
    assert hints.pool(9.9, "", eligible).share == ["w1"]
    assert hints.pool(10.1, "", eligible).share == eligible


def test_workers_of_the_share_that_left_or_are_unknown_are_not_chosen() -> None:
    world = World(3)
    world.hint(0.0, {"w0": 0, "elsewhere": 0, "w1": 0})
    world.workers["w0"].suspect = True
    world.placer.members_changed()
    assert set(world.place(0.1, job(1))) == {"w1", "w2"}


def test_pools_are_made_anew_when_workers_change_and_their_number_is_bounded() -> None:
    world = World(3)
    hints = Hints(world.workers)
    hints.heard(0.0, m.Hints(7, ["w0"], [0]))
    for number in range(3 * POOLS_MAX):
        assert hints.pool(0.1, f"3.{number}", ["w0", "w1"]) == Pool(["w0"], ["w1"])
    assert len(hints._pools) <= POOLS_MAX
    assert hints.pool(0.1, "3.1", ["w1", "w2"]) == Pool([], ["w1", "w2"])


def test_with_eager_launches_free_workers_of_the_share_get_tasks_at_once() -> None:
    world = World(40, slots=1, eager=True)
    world.hint(0.0, {f"w{number}": 0 for number in range(0, 40, 2)})
    world.place(0.1, job(6))
    launched = {worker.id for worker in world.workers.values() if worker.launched}
    assert len(launched) == 6
    assert all(int(id[1:]) % 2 == 0 for id in launched)
    assert world.placer.assisted == 6


def test_late_binding_draws_and_places_as_if_there_were_no_hints() -> None:
    """Not one random draw more or less: figures and digests depend on it."""
    world, expected = World(30), random.Random(5)
    world.hint(0.0, {"w1": 0, "w2": 5})
    for number in range(20):
        placed = world.place(0.1, job(4, "late-binding", id=str(number)))
        assert placed == late_binding.reserve(expected, list(world.workers), 4, 2.0)
    assert world.placer.assisted == 0


@pytest.mark.parametrize("cancellation", [True, False])
def test_a_withdrawn_reservation_is_off_the_books(cancellation: bool) -> None:
    world = World(5)
    world.placer._cancellation = cancellation
    record = job(1, ratio=5.0)
    world.place(0.0, record)
    worker = world.workers["w3"]
    world.placer.requested(0.1, record, worker, m.Request(1, "a", 0, 1, 1), True)
    assert {w.id: (w.reserved, w.launched) for w in world.workers.values()} == {
        f"w{number}": (0, int(number == 3)) for number in range(5)
    }


class Books(RuleBasedStateMachine):
    """Whatever comes in whatever order, a worker's reservations are those of all jobs, and hints change none."""

    @initialize()
    def begin(self) -> None:
        self.world = World(5)
        self.jobs: dict[str, Job] = {}
        self.now = 0.0
        self.requests = 0

    @rule(tasks=st.integers(1, 8), policy=st.sampled_from(["assisted", "late-binding"]))
    def submit(self, tasks: int, policy: str) -> None:
        if len(self.jobs) < 12:
            record = self.jobs[str(len(self.jobs))] = job(tasks, policy, id=str(len(self.jobs)))
            self.world.place(self.now, record)

    @rule(which=st.integers(0, 11), worker=st.integers(0, 4), count=st.integers(1, 3), late=st.booleans())
    def request(self, which: int, worker: int, count: int, late: bool) -> None:
        record, there = self.jobs.get(str(which)), self.world.workers.get(f"w{worker}")
        if record is not None and there is not None:
            self.requests += 1
            round = 0 if late else record.round
            message = m.Request(self.requests, record.id, 0, round, count)
            self.world.placer.requested(self.now, record, there, message, True)

    @rule(worker=st.integers(0, 4))
    def lose(self, worker: int) -> None:
        if len(self.world.workers) > 1 and (there := self.world.workers.pop(f"w{worker}", None)) is not None:
            self.world.placer.members_changed()
            for record in self.jobs.values():
                self.world.placer.gone(self.now, record, there.id)

    @rule(which=st.integers(0, 11), worker=st.integers(0, 4))
    def drop(self, which: int, worker: int) -> None:
        record = self.jobs.get(str(which))
        if record is not None:
            self.world.placer.gone(self.now, record, f"w{worker}")

    @rule(which=st.integers(0, 11))
    def end(self, which: int) -> None:
        if (record := self.jobs.get(str(which))) is not None:
            self.world.placer.ended(record)

    @rule(
        waits=st.dictionaries(st.sampled_from([f"w{n}" for n in range(7)]), st.integers(0, 10**6)), dt=st.floats(0, 3)
    )
    def hint(self, waits: dict[str, int], dt: float) -> None:
        before = {worker.id: worker.reserved for worker in self.world.workers.values()}
        self.now += dt
        self.world.hint(self.now, waits)
        assert before == {worker.id: worker.reserved for worker in self.world.workers.values()}

    @invariant()
    def agree(self) -> None:
        for worker in self.world.workers.values():
            assert worker.reserved == sum(record.reserved.get(worker.id, 0) for record in self.jobs.values())
            assert worker.reserved >= 0


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
