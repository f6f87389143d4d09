"""Machines that are told whatever a list of steps says, as their drivers would tell them, and held against the rules.

No machine may ever raise, its invariants hold, what it sends can be decoded, and no step makes it say much more than it
was told. What was wrong is raised from here, with the step at which it was found.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from sparrowmq import limits
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.assistant import Arrival, Assistant
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.peers import Worker
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import codec, messages as m
from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from tests.support.maker import Step
from tests.support.messages import blobs, visible

TINY = limits.SchedulerLimits(
    jobs=2, tasks=9, payload_bytes=900, clients=2, workers=2, finished_jobs=2, client_credit_bytes=150,
    history_tasks=6, history_bytes=1500, job_output_bytes=200, output_bytes=300,
)  # fmt: skip
LIMITED = limits.SchedulerLimits(submits_per_s=20.0, probes_per_s=20.0, tasks_per_job=1000)
SMALL = limits.WorkerLimits(
    queue_entries=4, queued_tasks=6, schedulers=2, functions=2, function_bytes=2, unacked_bytes=200, job_records=2
)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Name the seed of what failed."""
    try:
        yield
    except Exception as error:
        error.add_note(f"with seed {seed}")
        raise


class Rules:
    """Takes a machine's effects and holds it, and what it says, against the rules: fully after each ``every`` steps."""

    def __init__(self, machine: Any, every: int = 1) -> None:
        self.machine = machine
        self.every = every
        self.steps = 0
        self.tasks = 0  # the most that the machine, a scheduler, has had to tell somebody of

    def step(self, told: int) -> list[fx.AnyEffect]:
        """The machine was told something of this size; return what it wants done."""
        effects: list[fx.AnyEffect] = self.machine.take_effects()
        self.steps += 1
        if self.steps % self.every == 0:
            self.hold(effects)
        assert len(effects) <= 60 + 10 * told + self.tasks, f"{len(effects)} effects of one step"
        if isinstance(self.machine, Scheduler):
            self.tasks = max(self.tasks, self.machine.state.tasks)
        deadline = self.machine.next_deadline()
        assert deadline is None or deadline >= 0.0
        return effects

    def hold(self, effects: list[fx.AnyEffect]) -> None:
        invariants.check(self.machine, effects)
        sent = [effect.message for effect in effects if isinstance(effect, fx.Send)]
        if sent:
            parts: list[Any] = codec.Encoder().encode(sent)
            said = [message for frames in parts for message in codec.decode(frames[0], blobs(frames))]
            assert visible(said) == visible(sent)

    def tick(self, now: float) -> None:
        """As a driver does: at most a few times until nothing is due."""
        for _ in range(20):
            deadline = self.machine.next_deadline()
            if deadline is None or deadline > now:
                return
            self.machine.tick(now)
            self.step(100)
        raise AssertionError("its deadlines never move on")


def among(live: Iterable[int], number: int) -> int:
    """Return one of the connections that stand, which have ever higher numbers; of 5 and more one that does not."""
    numbers = sorted(live)
    return numbers[number % len(numbers)] if numbers and number < 5 else number


def size(message: Any) -> int:
    """How many entries the lists of a message have."""
    return sum(len(value) for value in msgspec.structs.astuple(message) if isinstance(value, list))


def answer(machine: Scheduler, now: float, peer: int, count: int, status: int) -> int:
    """A worker asks for tasks of each job and ends those that it has (none, if it asks for none)."""
    worker = machine.state.peers.get(peer)
    if not isinstance(worker, Worker):
        return 0
    told = 0
    for job in list(machine.state.jobs.values()):
        machine.receive(now, peer, m.Request(1, job.id, job.epoch, 1, count))
        rows = job.launched_on(worker.id) if count != 1 else []
        numbers = [job.attempt_at(index, worker.id) for index in rows]
        n = len(rows)
        result = m.Result(1, job.id, job.epoch, rows, numbers, bytes([status] * n), [9] * n, [b"r"] * n)
        machine.receive(now, peer, result)
        told += n + count
    return told


def run_scheduler(steps: Iterable[Step], bounds: limits.SchedulerLimits, every: int = 1) -> None:
    machine = Scheduler(
        id="s1", incarnation=1, rng=random.Random(7), settings=SchedulerSettings(limits=bounds), package="0"
    )
    rules = Rules(machine, every)
    now = 50.0
    for name, *arguments in steps:
        now += 0.001
        told = 0
        match name:
            case "worker" | "client" | "assistant" | "receive":
                peer, message = arguments
                if name != "receive" and peer not in machine.state.peers:
                    machine.receive(now, peer, m.Hello(m.PROTOCOL, "0", name, f"n{peer}", 2, "3.11", slots=2))
                    rules.step(10)
                machine.receive(now, peer, message)
                told = size(message)
            case "answer":  # results of what is launched there indeed
                told = answer(machine, now, *arguments)
            case "lost":
                machine.lost(now, arguments[0])
            case "refuse":
                machine.refuse(now, arguments[0], "malformed", "it was")
            case "tick":
                now += arguments[0]
                rules.tick(now)
            case "drain":
                machine.drain(now, now + 5.0)
        rules.step(told)


def run_node_monitor(steps: Iterable[Step], bounds: limits.WorkerLimits, every: int = 1) -> None:
    machine = NodeMonitor(
        id="w1", incarnation=1, slots=2, settings=WorkerSettings(limits=bounds), package="0", python="3.11"
    )
    rules = Rules(machine, every)
    now = 50.0
    machine.start(now)
    machine.schedulers_changed(now, {"s1": "a1", "s2": "a2"})
    machine.slot_ready(now, 0, 100)
    for peer in (1, 2):
        machine.receive(now, peer, m.Welcome(f"s{peer}", 1, "0"))
    for name, *arguments in steps:
        now += 0.001
        told = 0
        slot = machine.place.slots[arguments[0]] if name in ("ready", "results", "exited", "reclaimed") else None
        match name:
            case "receive":
                peer, message = arguments
                machine.receive(now, among(machine.connections.peers, peer), message)
                told = size(message)
            case "welcome":
                for peer, link in list(machine.connections.peers.items()):
                    machine.receive(now, peer, m.Welcome(link.scheduler, 1, "0"))
            case "lost":
                machine.lost(now, among(machine.connections.peers, arguments[0]))
            case "schedulers":
                machine.schedulers_changed(now, {id: f"at {id}" for id in arguments[0]})
            case "ready" if slot and not slot.pid:
                machine.slot_ready(now, slot.number, 100)
            case "results" if slot and slot.held:
                n = min(arguments[1], slot.held_count)
                machine.slot_results(
                    now, slot.number, slot.held[0].first_seq, bytes(n), [5] * n, [arguments[2] for _ in range(n)]
                )
            case "exited" if slot and slot.pid:
                running = slot.held[0].first_seq if slot.held and arguments[1] else 0
                machine.slot_exited(now, slot.number, "killed", running)
            case "reclaimed" if slot and slot.reclaiming:
                first = slot.held[0].first_seq if slot.held else slot.last_seq + 1
                machine.slot_reclaimed(now, slot.number, min(slot.last_seq, first - 1 + arguments[1]))
            case "tick":
                now += arguments[0]
                rules.tick(now)
            case "drain":
                machine.drain(now, now + 5.0)
        rules.step(told)


def run_session(steps: Iterable[Step], every: int = 1) -> None:
    machine = Session(id="c1", incarnation=1, rng=random.Random(7), settings=ClientSettings())
    rules = Rules(machine, every)
    now = 50.0
    machine.schedulers_changed(now, {"s1": "a1", "s2": "a2"})
    machine.receive(now, 1, m.Welcome("s1", 1, "0"))
    shown: set[tuple[str, int]] = set()
    known: dict[str, m.Submit] = {}
    for name, *arguments in steps:
        now += 0.001
        told = 0
        match name:
            case "receive":
                machine.receive(now, among(machine._links, arguments[0]), arguments[1])
                told = size(arguments[1])
            case "welcome":
                for peer, connection in list(machine._links.items()):
                    if not connection.incarnation:
                        machine.receive(now, peer, m.Welcome(connection.scheduler, 1, "0"))
            case "lost":
                machine.lost(now, among(machine._links, arguments[0]))
            case "schedulers":
                machine.schedulers_changed(now, {id: f"at {id}" for id in arguments[0]})
            case "submit" if arguments[0].job not in machine.jobs and not machine._left:
                known[arguments[0].job] = arguments[0]
                shown = {task for task in shown if task[0] != arguments[0].job}
                machine.submit(now, arguments[0])
            case "recall":
                machine.recall(now, *arguments)
            case "kill":
                machine.kill(now, *arguments)
            case "query":
                machine.query(now, arguments[0], "jobs")
            case "subscribe" | "unsubscribe":
                machine.subscribe(now, arguments[0], "jobs", float(name == "subscribe"))
            case "tick":
                now += arguments[0]
                rules.tick(now)
            case "leave":
                machine.leave(now)
        for effect in rules.step(told):
            if isinstance(effect, fx.Deliver):
                for index, _, _ in zip(effect.indices, effect.statuses, effect.payloads, strict=True):
                    assert (effect.job, index) not in shown
                    assert index in (known[effect.job].indices or range(known[effect.job].count))
                    shown.add((effect.job, index))


def run_assistant(steps: Iterable[Step], every: int = 1) -> None:
    settings = AssistantSettings(limits=limits.AssistantLimits(nodes=3, schedulers=2))
    machine = Assistant(id="a1", incarnation=1, settings=settings)
    rules = Rules(machine, every)
    now = 50.0
    machine.heard(now, now, 0.0, [])
    machine.leads(now, 1)
    machine.schedulers_changed(now, {"s1": "at s1", "s2": "at s2"})
    for name, *arguments in steps:
        now += 0.001
        told = 0
        match name:
            case "receive":
                machine.receive(now, among(machine._peers, arguments[0]), arguments[1])
                told = size(arguments[1])
            case "heard":
                lag_s, beats = arguments
                machine.heard(now, now - lag_s, lag_s, [Arrival(now - lag_s, beat) for beat in beats])
                told = len(beats)
            case "welcome":
                for peer, link in list(machine._peers.items()):
                    machine.receive(now, peer, m.Welcome(link.scheduler, 1, "0"))
            case "lost":
                machine.lost(now, among(machine._peers, arguments[0]))
            case "schedulers":
                machine.schedulers_changed(now, {id: f"at {id}" for id in arguments[0]})
            case "leads":
                machine.leads(now, arguments[0])
            case "tick":
                now += arguments[0]
                rules.tick(now)
        rules.step(told)
        machine.report(now)
