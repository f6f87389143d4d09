"""Any decodable messages and events, in any order, many of them hostile: no machine ever raises, its invariants
hold after every step, what it sends can be decoded, and one step never makes it say much more than it was told.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.peers import Worker
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import codec, messages as m
from sparrowmq.settings import ClientSettings, SchedulerSettings, WorkerSettings
from tests.support.messages import messages, visible

EXAMPLES = settings(max_examples=100, derandomize=True, deadline=None)
SEEDS = range(400)
STEPS = 60
HUGE = limits.INT_MAX
ROLES = (m.WORKER, m.WORKER, m.CLIENT, m.CLIENT, "king")
POLICIES = ("late-binding", "late-binding", "LATE_BINDING", "random", "batch", "per-task")
REASONS = ("recalled", "drain", "slow", "crash", "function", "late", "full", "whim")

Step = tuple[Any, ...]


class Maker:
    """Makes messages from few ids and numbers, so that they often concern each other; some numbers are huge."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def one(self, *values: Any) -> Any:
        return self.rng.choice(values)

    def job(self) -> str:
        return str(self.one("a", "a", "b", "c"))

    def epoch(self) -> int:
        return int(self.one(0, 0, 0, 0, 0, 1, 2, HUGE))

    def n(self) -> int:
        return int(self.one(0, 1, 1, 2, 3, 7, HUGE))

    def seq(self) -> int:
        return int(self.one(0, 1, 1, 2, 3, HUGE))

    def rows(self) -> list[int]:
        return [int(self.one(0, 0, 1, 2, 3, 99_999)) for _ in range(self.one(0, 1, 1, 2, 3, 5))]

    def attempts(self, rows: list[int]) -> list[int]:
        return [int(self.one(1, 1, 1, 2, 0, HUGE)) for _ in rows]

    def payload(self) -> bytes:
        return bytes(self.one(b"", b"p", b"p" * 60))

    def payloads(self, rows: list[int]) -> list[m.Payload]:
        return [self.payload() for _ in rows]

    def statuses(self, rows: list[int]) -> bytes:
        return bytes(self.rng.randint(m.SUCCEEDED, m.LOST) for _ in rows)

    def result_statuses(self, rows: list[int]) -> bytes:
        return bytes(self.one(m.SUCCEEDED, m.SUCCEEDED, m.RETRY, self.rng.randint(m.FAILED, m.RETRY)) for _ in rows)

    def grace_s(self) -> float:
        return float(self.one(0.0, 0.0, 0.02, 86_400.0))

    def spec(self) -> m.JobSpec:
        return m.JobSpec(
            kind=self.one(m.PYTHON, m.SLEEP),
            policy=self.one(*POLICIES * 2, "?"),
            probe_ratio=self.one(1.0, 2.0, 100.0),
            timeout_s=self.one(0.0, 0.0, 0.5, limits.TIMEOUT_S_MAX),
            max_attempts=self.one(1, 2, 100),
            python=self.one("", "", "", "3.11", "2.7"),
            retries=self.one(0, 0, 1, 2, 100),
            backoff_s=self.one(0.0, 0.02, 0.3, 86_400.0),
            hedge_quantile=self.one(0.0, 0.0, 0.5, 1.0),
            hedge_after_s=self.one(0.0, 0.001, 0.001, limits.TIMEOUT_S_MAX),
        )

    def held(self) -> list[m.Held]:
        inventory = []
        for _ in range(self.one(0, 1, 2)):
            rows = self.rows()
            inventory.append(m.Held(self.job(), self.epoch(), rows, self.attempts(rows)))
        return inventory

    def hello(self) -> m.Hello:
        return m.Hello(
            self.one(*[m.PROTOCOL] * 9, 99),
            "0",
            self.one(*ROLES),
            self.one("n1", "n2", "n3"),
            self.one(1, 1, 2),
            self.one("3.11", "3.11", ""),
            slots=self.one(0, 1, 4, HUGE),
            reserved=[m.Reserved(self.job(), self.epoch(), self.seq(), self.n()) for _ in range(self.one(0, 1, 2))],
            held=self.held(),
            jobs=[self.job() for _ in range(self.one(0, 1, 2))],
        )

    def submit(self) -> m.Submit:
        n = self.rng.randint(1, 5)
        return m.Submit(
            self.job(),
            self.epoch(),
            self.spec(),
            n,
            [self.payload() for _ in range(self.one(1, n))],
            self.one(b"", *[b"f"] * 5),
            self.rng.sample([0, 1, 2, 3, 4, 200], n) if self.rng.random() < 0.3 else [],
            [self.n() for _ in range(self.one(0, n))],
            self.one(False, False, True),
        )

    def result(self) -> m.Result:
        rows = self.rows()
        return m.Result(
            self.seq(), self.job(), self.epoch(), rows, self.attempts(rows), self.result_statuses(rows),
            [self.n() for _ in rows], self.payloads(rows),
        )  # fmt: skip

    def output(self) -> m.Output:
        data = bytes(self.one(b"", b"x", b"line\n" * 9))
        row = int(self.one(0, 0, 1, 3, 99_999))
        return m.Output(self.job(), self.epoch(), row, self.n(), self.one(1, 2), data, self.n())

    def returned(self) -> m.Returned:
        rows = self.rows()
        numbers = self.attempts(rows) if self.rng.random() < 0.8 else []
        return m.Returned(self.seq(), self.job(), self.epoch(), rows, numbers, self.one(*REASONS))

    def task(self) -> m.Task:
        rows = self.rows()
        payloads = self.payloads(rows) if rows and self.rng.random() < 0.5 else [self.payload()]
        return m.Task(
            self.seq(), self.job(), self.epoch(), self.spec(), rows, self.attempts(rows), payloads,
            self.one(b"", b"f", b"ff"), self.n(), self.seq(),
        )  # fmt: skip

    def outcome(self) -> m.Outcome:
        rows = self.rows()
        return m.Outcome(self.seq(), self.job(), self.epoch(), rows, self.statuses(rows), self.payloads(rows))

    def recall(self) -> m.Recall:
        return m.Recall(self.seq(), self.job(), self.epoch(), self.rows())

    def kill(self) -> m.Kill:
        return m.Kill(self.job(), self.epoch(), self.rows(), self.grace_s())

    def from_worker(self) -> m.AnyMessage:
        make = self.one(
            self.result, self.result, self.result, self.returned, self.returned, self.output,
            lambda: m.Request(self.seq(), self.job(), self.epoch(), self.seq(), self.n()),
            lambda: m.Request(self.seq(), self.job(), self.epoch(), self.seq(), self.n()),
            lambda: m.Request(self.seq(), self.job(), self.epoch(), self.seq(), self.n()),
            lambda: m.Load(self.job(), self.epoch(), self.seq(), self.n(), self.n(), self.n()),
            lambda: m.Load(self.job(), self.epoch(), self.seq(), self.n(), self.n(), self.n()),
            lambda: m.Stale(self.job(), self.epoch()),
            lambda: m.Pong(self.seq()),
            lambda: m.Ping(self.seq()),
            lambda: m.Goodbye(self.one("draining", "draining", "leaving")),
        )  # fmt: skip
        message: m.AnyMessage = make()
        return message

    def from_client(self) -> m.AnyMessage:
        make = self.one(
            self.submit, self.submit, self.submit, self.recall, self.kill,
            lambda: m.OutcomeAck(self.seq()),
            lambda: m.OutcomeAck(self.seq()),
            lambda: m.Ping(self.seq()),
            lambda: m.Goodbye("leaving") if self.rng.random() < 0.2 else m.Ping(1),
            lambda: m.Query(self.seq(), self.one("jobs", "job", "workers", "summary", "?"), self.one("", "a")),
            lambda: m.Query(self.seq(), self.one("tasks", "failures"), self.job(), self.rows()),
            lambda: m.Follow(self.seq(), self.job(), self.one(True, False)),
            lambda: m.Drain(self.seq(), self.one("n1", "n3", "?"), self.grace_s()),
            lambda: m.Subscribe(self.seq(), self.one("jobs", "workers"), self.one(0.0, 0.01, 86_400.0)),
        )  # fmt: skip
        message: m.AnyMessage = make()
        return message

    def to_worker(self) -> m.AnyMessage:
        make = self.one(
            self.task, self.task, self.task, self.recall, self.kill,
            lambda: m.Probe(self.job(), self.epoch(), self.seq(), self.n()),
            lambda: m.Probe(self.job(), self.epoch(), self.seq(), self.n()),
            lambda: m.NoOp(self.seq(), self.n()),
            lambda: m.Cancel(self.job(), self.epoch(), self.seq()),
            lambda: m.ResultAck(self.seq()),
            lambda: m.Welcome(self.one("s1", "s2"), self.one(1, 1, 1, 2), "0"),
            lambda: m.Ping(self.seq()),
            lambda: m.Refused("busy", "") if self.rng.random() < 0.2 else m.Ping(1),
            lambda: m.Goodbye(self.one("draining", "draining", "leaving")),
        )  # fmt: skip
        message: m.AnyMessage = make()
        return message

    def to_client(self) -> m.AnyMessage:
        make = self.one(
            self.outcome, self.outcome, self.outcome, self.returned,
            lambda: m.Welcome(self.one("s1", "s2"), self.one(0, 1, 1, 2), "0", [self.job()]),
            lambda: m.Accepted(self.job(), self.epoch(), self.n()),
            lambda: m.Rejected(self.job(), self.epoch(), "busy", "", self.one(0.0, 0.1, 0.1, 86_400.0)),
            lambda: m.Stale(self.job(), self.epoch()),
            lambda: m.Goodbye(self.one("draining", "leaving")),
            lambda: m.Refused("busy", "") if self.rng.random() < 0.3 else m.Pong(1),
            lambda: m.Status(self.seq(), "s1"),
        )  # fmt: skip
        message: m.AnyMessage = make()
        return message

    def pause_s(self) -> float:
        return float(self.one(0.0, 0.001, 0.01, 0.06, 0.3, 1.1, 6.0, 11.0, 100.0))


def received(peers: int) -> st.SearchStrategy[list[Step]]:
    """Messages of all types, made from the types alone."""
    return st.lists(st.tuples(st.just("receive"), st.integers(1, peers), messages()), max_size=15)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Name the seed of what failed."""
    try:
        yield
    except Exception as error:
        error.add_note(f"with seed {seed}")
        raise


def checked(machine: Any, told: int) -> list[fx.AnyEffect]:
    """Take the effects and hold the machine and what it says against the rules."""
    effects: list[fx.AnyEffect] = machine.take_effects()
    invariants.check(machine, effects)
    sent = [effect.message for effect in effects if isinstance(effect, fx.Send)]
    if sent:
        [frames] = codec.Encoder().encode(sent)
        assert visible(codec.decode(frames[0])) == visible(sent)  # type: ignore[arg-type]
    assert len(effects) <= 60 + 10 * told, f"{len(effects)} effects of one step"
    deadline = machine.next_deadline()
    assert deadline is None or deadline >= 0.0
    return effects


def size(message: object) -> int:
    return len(getattr(message, "indices", ())) + len(getattr(message, "held", ()))


def tick(machine: Any, now: float) -> None:
    """As a driver does: at most a few times until nothing is due."""
    for _ in range(20):
        deadline = machine.next_deadline()
        if deadline is None or deadline > now:
            return
        machine.tick(now)
        checked(machine, 100)
    raise AssertionError("its deadlines never move on")


# -- scheduler

TINY = limits.SchedulerLimits(
    jobs=2, tasks=9, payload_bytes=900, clients=2, workers=2, finished_jobs=2, client_credit_bytes=150,
    history_tasks=6, history_bytes=1500, job_output_bytes=200, output_bytes=300,
)  # fmt: skip


def scheduler_steps(seed: int) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(STEPS):
        kind = make.rng.random()
        if kind < 0.2:
            yield "worker", make.one(1, 3), make.from_worker()
        elif kind < 0.4:
            yield (
                "answer",
                make.one(1, 3),
                make.one(0, 0, 1, 2, 5),
                make.one(m.SUCCEEDED, m.SUCCEEDED, m.RETRY, m.CANCELLED),
            )
        elif kind < 0.7:
            yield "client", make.one(2, 4), make.from_client()
        elif kind < 0.75:
            yield "receive", make.rng.randint(1, 6), make.hello()
        elif kind < 0.77:
            yield "receive", make.rng.randint(1, 6), make.one(make.from_worker, make.from_client, make.to_worker)()
        elif kind < 0.81:
            yield "lost", make.rng.randint(1, 6)
        elif kind < 0.99:
            yield "tick", make.pause_s()
        else:
            yield str(make.one("drain", "refuse")), make.rng.randint(1, 6)


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


def run_scheduler(steps: Iterable[Step], bounds: limits.SchedulerLimits) -> None:
    machine = Scheduler(
        id="s1", incarnation=1, rng=random.Random(7), settings=SchedulerSettings(limits=bounds), package="0"
    )
    now = 50.0
    for name, *arguments in steps:
        now += 0.001
        told = 0
        match name:
            case "worker" | "client" | "receive":
                peer, message = arguments
                if name != "receive" and peer not in machine.state.peers:
                    machine.receive(now, peer, m.Hello(m.PROTOCOL, "0", name, f"n{peer}", 2, "3.11", slots=2))
                    checked(machine, 10)
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
                tick(machine, now)
            case "drain":
                machine.drain(now, now + 5.0)
        checked(machine, told)


@pytest.mark.parametrize("bounds", [TINY, limits.SchedulerLimits()], ids=["tiny", "default"])
def test_scheduler(bounds: limits.SchedulerLimits) -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_scheduler(scheduler_steps(seed), bounds)


@given(received(4))
@EXAMPLES
def test_scheduler_takes_any_message(steps: list[Step]) -> None:
    run_scheduler(steps, TINY)


# -- node monitor

SMALL = limits.WorkerLimits(
    queue_entries=4, queued_tasks=6, schedulers=2, functions=2, function_bytes=2, unacked_bytes=200, job_records=2
)


def worker_steps(seed: int) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(STEPS):
        kind = make.rng.random()
        slot = make.rng.randint(0, 1)
        if kind < 0.6:
            yield "receive", make.one(1, 1, 1, 2, 3, 4, 5), make.to_worker()
        elif kind < 0.65:
            yield "lost", make.rng.randint(1, 6)
        elif kind < 0.7:
            yield "schedulers", make.rng.sample(["s1", "s2", "s3"], make.rng.randint(0, 3))
        elif kind < 0.75:
            yield "ready", slot
        elif kind < 0.82:
            yield "results", slot, make.rng.randint(1, 3), make.payload()
        elif kind < 0.86:
            yield "exited", slot, make.rng.random() < 0.7
        elif kind < 0.9:
            yield "reclaimed", slot, make.rng.randint(0, 3)
        elif kind < 0.995:
            yield "tick", make.pause_s()
        else:
            yield ("drain",)


def run_node_monitor(steps: Iterable[Step], bounds: limits.WorkerLimits) -> None:
    machine = NodeMonitor(
        id="w1", incarnation=1, slots=2, settings=WorkerSettings(limits=bounds), package="0", python="3.11"
    )
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
                machine.receive(now, peer, message)
                told = size(message)
            case "lost":
                machine.lost(now, arguments[0])
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
                tick(machine, now)
            case "drain":
                machine.drain(now, now + 5.0)
        checked(machine, told)


@pytest.mark.parametrize("bounds", [SMALL, limits.WorkerLimits()], ids=["small", "default"])
def test_node_monitor(bounds: limits.WorkerLimits) -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_node_monitor(worker_steps(seed), bounds)


@given(received(4))
@EXAMPLES
def test_node_monitor_takes_any_message(steps: list[Step]) -> None:
    run_node_monitor(steps, SMALL)


# -- session


def client_steps(seed: int) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(STEPS):
        kind = make.rng.random()
        if kind < 0.55:
            yield "receive", make.one(1, 1, 1, 2, 2, 3, 4, 5), make.to_client()
        elif kind < 0.62:
            yield "lost", make.rng.randint(1, 6)
        elif kind < 0.67:
            yield "schedulers", make.rng.sample(["s1", "s2"], make.rng.randint(0, 2))
        elif kind < 0.75:
            yield "submit", msgspec.structs.replace(make.submit(), epoch=0)
        elif kind < 0.8:
            yield "recall", make.seq(), make.job(), make.rows()
        elif kind < 0.84:
            yield "kill", make.job(), make.rows()
        elif kind < 0.88:
            yield str(make.one("query", "subscribe", "unsubscribe")), make.seq()
        elif kind < 0.995:
            yield "tick", make.pause_s()
        else:
            yield ("leave",)


def test_session() -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_session(client_steps(seed))


def run_session(steps: Iterable[Step]) -> None:
    machine = Session(id="c1", incarnation=1, rng=random.Random(7), settings=ClientSettings())
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
                machine.receive(now, *arguments)
                told = size(arguments[1])
            case "lost":
                machine.lost(now, arguments[0])
            case "schedulers":
                machine.schedulers_changed(now, {id: f"at {id}" for id in arguments[0]})
            case "submit" if arguments[0].job not in known and not machine._left:
                known[arguments[0].job] = arguments[0]
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
                tick(machine, now)
            case "leave":
                machine.leave(now)
        for effect in checked(machine, told):
            if isinstance(effect, fx.Deliver):
                for index in effect.indices:
                    assert (effect.job, index) not in shown
                    assert index in (known[effect.job].indices or range(known[effect.job].count))
                    shown.add((effect.job, index))


@given(received(3))
@EXAMPLES
def test_session_takes_any_message(steps: list[Step]) -> None:
    machine = Session(id="c1", incarnation=1, rng=random.Random(7), settings=ClientSettings())
    machine.schedulers_changed(1.0, {"s1": "a1"})
    machine.submit(1.0, m.Submit("a", 0, m.JobSpec(), 2, [b""], b"f"))
    for _, peer, message in steps:
        machine.receive(1.0, peer, message)
        checked(machine, size(message))
