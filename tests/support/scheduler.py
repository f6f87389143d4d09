"""A scheduler by itself: connections named by text, virtual time, what it wants done as a list."""

from __future__ import annotations

import random
from typing import Any

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings

CLIENT = "client's connection"
SPEC = m.JobSpec(kind=m.SLEEP)


class World:
    """A scheduler with connections named by text; `said` gives what it wants done, log lines left out."""

    def __init__(
        self, *, workers: int = 0, client: bool = True, eager: bool = False, durable: bool = False, **settings: Any
    ) -> None:
        self.now = 1.0
        settings.setdefault("beat_interval_s", 0.0)
        self.machine = Scheduler(
            id="s1",
            incarnation=7,
            rng=random.Random(3),
            settings=SchedulerSettings(eager=eager, **settings),
            host="box",
            pid=99,
            durable=durable,
        )
        if client:
            self.hear(CLIENT, hello(m.CLIENT, "c1"))
        for k in range(1, workers + 1):
            self.hear(f"w{k}", hello(m.WORKER, f"w{k}"))
        self.said()

    def hear(self, peer: str, *messages: m.AnyMessage) -> None:
        for message in messages:
            self.machine.receive(self.now, peer, message)

    def lose(self, peer: str) -> None:
        self.machine.lost(self.now, peer)

    def wait(self, for_s: float) -> None:
        """Let time pass, ticking when asked."""
        end = self.now + for_s
        while (deadline := self.machine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.machine.tick(self.now)
        self.now = end

    def said(self) -> list[fx.AnyEffect]:
        effects = self.machine.take_effects()
        invariants.check(self.machine, effects)
        return [effect for effect in effects if not isinstance(effect, fx.Log)]

    def to(self, peer: str) -> list[m.AnyMessage]:
        return [effect.message for effect in self.said() if isinstance(effect, fx.Send) and effect.peer == peer]

    def job(self, id: str = "a") -> Any:
        return self.machine.state.job(id)

    def ask(self, question: m.Query | m.Drain, peer: str = CLIENT) -> m.Status:
        """Send a question; return its answer. What else the machine says meanwhile is lost."""
        self.hear(peer, question)
        [status] = [message for message in self.to(peer) if isinstance(message, m.Status)]
        return status

    def row(self, id: str = "a") -> m.JobStatus:
        [row] = self.ask(m.Query(1, "job", id)).jobs
        return row

    def start(self, worker: str, count: int = 1, job: str = "a") -> list[int]:
        """Have a worker request; return the tasks that it got."""
        self.hear(worker, m.Request(77, job, self.job(job).epoch, 1, count))
        return [index for message in self.to(worker) if isinstance(message, m.Task) for index in message.indices]


def hello(role: str, id: str, incarnation: int = 1, **fields: Any) -> m.Hello:
    if role == m.WORKER:
        fields = {"python": "3.11", "host": "box", "pid": 5, "slots": 1, **fields}
    return m.Hello(m.PROTOCOL, "0", role, id, incarnation, **fields)


def submit(tasks: int = 2, *, job: str = "a", epoch: int = 0, spec: m.JobSpec = SPEC, **fields: Any) -> m.Submit:
    return m.Submit(job, epoch, spec, tasks, fields.pop("payloads", [b"p%d" % k for k in range(tasks)]), **fields)


def task(request: int, indices: list[int], attempts: list[int] | None = None, **fields: Any) -> m.Task:
    attempts = attempts or [1] * len(indices)
    spec = fields.pop("spec", SPEC)
    return m.Task(request, "a", 0, spec, indices, attempts, [b"p%d" % k for k in indices], **fields)


def result(
    indices: list[int], *, seq: int = 1, attempt: int = 1, epoch: int = 0, status: int = 0, payload: bytes = b"r",
    job: str = "a",
) -> m.Result:  # fmt: skip
    n = len(indices)
    return m.Result(seq, job, epoch, indices, [attempt] * n, bytes([status] * n), [1000] * n, [payload] * n)


def outcome(
    seq: int, indices: list[int], status: int = m.SUCCEEDED, payload: bytes = b"r", *, job: str = "a"
) -> m.Outcome:
    return m.Outcome(seq, job, 0, indices, bytes([status] * len(indices)), [payload] * len(indices))
