"""The placer by itself: who gets probes, reservations and tasks."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sparrowmq.core.job import Job
from sparrowmq.core.peers import Worker
from sparrowmq.core.placer import Placer
from sparrowmq.protocol import messages as m


class World:
    """A placer over workers w0, w1, ...; what it emits is kept by worker."""

    def __init__(self, workers: int, *, slots: int = 1, seed: int = 5) -> None:
        self.workers: dict[str, Worker] = {}
        self.emitted: list[tuple[Any, m.AnyMessage]] = []
        self.deadlines: list[tuple[float, tuple[str, str]]] = []
        emit, later = lambda *sent: self.emitted.append(sent), lambda *due: self.deadlines.append(due)
        self.placer = Placer(self.workers, random.Random(seed), emit, later, eager=False)
        for _ in range(workers):
            self.join(slots)

    def join(self, slots: int = 1, python: str = "3.11") -> Worker:
        id = f"w{len(self.workers)}"
        hello = m.Hello(m.PROTOCOL, "0", m.WORKER, id, 1, python, slots=slots)
        self.workers[id] = Worker(id, 1, hello, f"to {id}", 0.0)
        self.placer.members_changed()
        return self.workers[id]

    def probes(self) -> dict[Any, int]:
        found, self.emitted = self.emitted, []
        return {peer: message.count for peer, message in found if isinstance(message, m.Probe)}


def job(tasks: int, policy: str = "late-binding", ratio: float = 2.0, python: str = "") -> Job:
    spec = m.JobSpec(kind=m.SLEEP, policy=policy, probe_ratio=ratio, python=python)
    return Job(m.Submit("a", 0, spec, tasks, [b"p"]), "c1", 0.0)


@pytest.mark.parametrize(
    ("workers", "tasks", "ratio", "expected"),
    [
        (100, 10, 2.0, [1] * 20),
        (100, 10, 1.1, [1] * 11),
        (100, 10, 1.05, [1] * 11),
        (20, 10, 2.0, [1] * 20),
        (8, 10, 2.0, [2] * 4 + [3] * 4),
        (1, 10, 2.0, [20]),
    ],
)
def test_late_binding_leaves_d_m_reservations_spread_evenly(
    workers: int, tasks: int, ratio: float, expected: list[int]
) -> None:
    world = World(workers)
    record = job(tasks, ratio=ratio)
    assert world.placer.place(0.0, record) is None
    counts = world.probes()
    assert sorted(counts.values()) == expected
    assert record.reserved_total == sum(expected)
    assert world.placer.place(0.0, record) is None  # all that is unplaced has its reservations
    assert world.emitted == []


def test_what_comes_back_gets_new_reservations_only_if_too_few_are_left() -> None:
    world = World(4)
    record = job(4)
    world.placer.place(0.0, record)
    for worker in list(world.workers.values())[:2]:
        world.placer.requested(1.0, record, worker, m.Request(1, "a", 0, 1, 2), True)
    assert (record.unplaced, record.reserved_total) == (0, 0)  # the last task placed cancels the rest
    world.emitted.clear()
    for index in (0, 1):
        record.put_back(index)
    world.placer.place(0.0, record)
    assert sum(world.probes().values()) == 4
    assert record.round == 2  # what is still under way of round 1 cannot cancel these


@pytest.mark.parametrize("why", ["gone", "draining", "full", "python"])
def test_no_probe_for_a_worker_that_cannot_take_it(why: str) -> None:
    world = World(2)
    worker = world.join(python="2.7" if why == "python" else "3.11")
    if why == "gone":
        worker.peer = None
    worker.draining = why == "draining"
    worker.full_until = 9.0 if why == "full" else 0.0
    world.placer.place(5.0, job(3, python="3.11"))
    assert set(world.probes()) == {"to w0", "to w1"}


@pytest.mark.parametrize("why", ["no credit", "draining", "python"])
def test_a_request_that_must_not_be_served_gets_a_no_op(why: str) -> None:
    world = World(1)
    record = job(3, python="3.11")
    world.placer.place(0.0, record)
    worker = world.join(python="2.7") if why == "python" else world.workers["w0"]
    worker.draining = why == "draining"
    world.emitted.clear()
    world.placer.requested(1.0, record, worker, m.Request(4, "a", 0, 1, 2), why != "no credit")
    assert world.emitted == [(worker.peer, m.NoOp(4, 2))]
    assert record.no_ops == 2


def test_random_pushes_every_task_at_once() -> None:
    world = World(3)
    record = job(30, "random")
    assert world.placer.place(0.0, record) is None
    assert record.unplaced == 0
    assert sorted(index for _, message in world.emitted for index in message.indices) == list(range(30))  # type: ignore[union-attr]
    assert {worker.id: worker.launched for worker in world.workers.values()} == {
        id: len(record.launched_on(id)) for id in world.workers
    }


@pytest.mark.parametrize(("policy", "asked"), [("per-task", 8), ("batch", 8)])
def test_sampling_asks_d_m_distinct_workers_and_places_when_all_have_answered(policy: str, asked: int) -> None:
    world = World(50)
    record = job(4, policy)
    deadline = world.placer.place(0.0, record)
    assert deadline == 0.25
    peers = [peer for peer, _ in world.emitted]
    assert len(peers) == len(set(peers))
    assert asked - 2 <= len(peers) <= asked
    world.emitted.clear()
    for peer in peers:
        assert world.emitted == []
        world.placer.loaded(1.0, record, world.workers[peer.split()[1]], m.Load("a", 0, 1, 0, 0, 1))
    assert record.unplaced == 0
    assert not world.placer.sampling_over(1.0, record, 1)


def test_loads_of_an_older_round_do_not_count() -> None:
    world = World(2)
    record = job(1, "batch")
    world.placer.place(0.0, record)
    world.placer.loaded(1.0, record, world.workers["w0"], m.Load("a", 0, 7, 0, 0, 1))
    assert world.placer.sampled("w0") == ["a"]


def test_the_end_of_the_time_for_answers_places_on_those_that_answered() -> None:
    world = World(3)
    record = job(2, "batch")
    world.placer.place(0.0, record)
    world.placer.loaded(1.0, record, world.workers["w1"], m.Load("a", 0, 1, 7, 1, 1))
    assert world.placer.sampling_over(1.0, record, 1)
    assert record.launched_on("w1") == [0, 1]
    assert world.placer.sampled("w0") == []


def test_nobody_answers() -> None:
    world = World(2)
    record = job(2, "per-task")
    world.placer.place(0.0, record)
    for id in ("w0", "w1"):
        world.placer.unsampled(1.0, record, id)
    assert record.unplaced == 2
    assert world.placer.place(1.0, record) == 1.25  # another round


def test_the_function_goes_once_to_each_worker() -> None:
    world = World(1)
    spec = m.JobSpec(kind=m.PYTHON)
    record = Job(m.Submit("a", 0, spec, 3, [b"p"], b"function"), "c1", 0.0)
    world.placer.place(0.0, record)
    for number in (1, 2):
        world.placer.requested(1.0, record, world.workers["w0"], m.Request(number, "a", 0, 1, 1), True)
    functions = [message.function for _, message in world.emitted if isinstance(message, m.Task)]
    assert functions == [b"function", b""]


def test_a_worker_without_slots_gets_nothing() -> None:
    world = World(2)
    world.join(slots=0)
    world.placer.place(0.0, job(3))
    assert set(world.probes()) == {"to w0", "to w1"}
