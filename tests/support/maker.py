"""Messages and events for machines, many of them hostile, made from a seed.

Ids and numbers are few, so that messages often concern each other; some numbers are huge.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import msgspec

from sparrowmq import limits
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat

HUGE = limits.INT_MAX
ROLES = (m.WORKER, m.WORKER, m.CLIENT, m.CLIENT, "king")
POLICIES = ("late-binding", "late-binding", "LATE_BINDING", "random", "batch", "per-task")
REASONS = ("recalled", "drain", "slow", "crash", "function", "late", "full", "whim")
STEPS = 60

Step = tuple[Any, ...]


class Maker:
    """Makes one message after the other."""

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

    def to_assistant(self) -> m.AnyMessage:
        make = self.one(
            lambda: m.Welcome(self.one("s1", "s2"), self.one(0, 1, 2), "0"),
            lambda: m.Welcome(self.one("s1", "s2"), self.one(0, 1, 2), "0"),
            lambda: m.Ping(self.seq()),
            lambda: m.Refused("busy", "") if self.rng.random() < 0.3 else m.Pong(1),
        )
        message: m.AnyMessage = make()
        return message

    def from_assistant(self) -> m.AnyMessage:
        states = [self.one("alive", "suspect", "suspect", "dead", "?") for _ in range(self.one(0, 1, 2))]
        judged = [m.Judged(self.one("n1", "n3", "x"), self.one(1, 2), state, self.n(), "so") for state in states]
        ids = [str(self.one("n1", "n3", "n3", "x")) for _ in range(self.one(0, 1, 3))]
        make = self.one(
            lambda: m.Verdict(self.one(1, 2), judged),
            lambda: m.Hints(self.one(1, 2), ids, [self.n() for _ in ids]),
            lambda: m.Ping(self.seq()),
        )
        message: m.AnyMessage = make()
        return message

    def beat(self) -> Beat:
        return Beat(
            self.one("worker", "worker", "scheduler", "king"),
            self.one("n1", "n2", "s1", "s2"),
            self.one(1, 1, 1, 2, HUGE),
            self.one(0, 1, 2, 3, 50, 200, HUGE),
            self.one(0, 1, 100, 100, HUGE),
            *(self.n() for _ in range(4)),
            probes={id: self.n() for id in ("s1", "s2")[: self.one(0, 1, 2)]},
            draining=self.one(False, False, True),
            leaving=self.rng.random() < 0.05,
            pushed=self.n(),
        )


def scheduler_steps(seed: int, steps: int = STEPS) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(steps):
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
        elif kind < 0.85:
            yield "assistant", 5, make.from_assistant()
        elif kind < 0.99:
            yield "tick", make.pause_s()
        else:
            yield str(make.one("drain", "refuse")), make.rng.randint(1, 6)


def worker_steps(seed: int, steps: int = STEPS) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(steps):
        kind = make.rng.random()
        slot = make.rng.randint(0, 1)
        if kind < 0.57:
            yield "receive", make.one(1, 1, 1, 2, 3, 4, 5), make.to_worker()
        elif kind < 0.61:
            yield ("welcome",)
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
        elif kind < 0.998:
            yield "tick", make.pause_s()
        else:
            yield ("drain",)


def client_steps(seed: int, steps: int = STEPS) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(steps):
        kind = make.rng.random()
        if kind < 0.52:
            yield "receive", make.one(1, 1, 1, 2, 2, 3, 4, 5), make.to_client()
        elif kind < 0.57:
            yield ("welcome",)
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
        elif kind < 0.998:
            yield "tick", make.pause_s()
        else:
            yield ("leave",)


def assistant_steps(seed: int, steps: int = STEPS) -> Iterable[Step]:
    make = Maker(seed)
    for _ in range(steps):
        kind = make.rng.random()
        if kind < 0.4:
            yield "heard", make.one(0.0, 0.0, 0.01, 3.0), [make.beat() for _ in range(make.one(0, 1, 3))]
        elif kind < 0.7:
            yield "receive", make.one(1, 1, 2, 3, 4), make.to_assistant()
        elif kind < 0.72:
            yield ("welcome",)
        elif kind < 0.75:
            yield "lost", make.rng.randint(1, 6)
        elif kind < 0.8:
            yield "schedulers", make.rng.sample(["s1", "s2", "s3"], make.rng.randint(0, 3))
        elif kind < 0.85:
            yield "leads", make.one(0, 1, 2, 3)
        else:
            yield "tick", make.pause_s()
