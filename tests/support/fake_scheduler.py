"""A scheduler for tests of the client: it speaks the protocol over a real socket and runs tasks itself, at once.

What it does with a job is up to the test: run it, hold it, reject it, or fall silent.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import zmq

from sparrowmq.payload import command, failure, python
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.router import Router

Peer = tuple[str, bytes]
TIMEOUT_S = 10.0


class FakeScheduler:
    """Listens from its making until `close`. ``received`` holds every message that came, in order."""

    def __init__(self, id: str = "scheduler-a", address: str = "tcp://127.0.0.1:*") -> None:
        self.id = id
        self.hold = False  # keep tasks queued until `release`
        self.mute = False  # answer nothing
        self.refuse: m.Refused | None = None  # the answer to a hello
        self.reject: tuple[str, str] | None = None  # code and detail of the answer to a submit
        self.received: list[m.AnyMessage] = []
        self.errors: list[BaseException] = []
        self.job_rows: list[m.JobStatus] = []  # what queries are answered with
        self.worker_rows: list[m.WorkerStatus] = []
        self.task_rows: list[m.TaskStatus] = []
        self.outputs: list[m.Output] = []  # what is sent to those who follow
        self.followed: str | None = "done"  # the state that ends the output; None: it does not end
        self.cancellation = b""  # of killed tasks
        self.accept = True  # answer a submit
        self._changed = threading.Condition()
        self._jobs: dict[str, m.Submit] = {}
        self._queued: dict[str, tuple[Peer, list[int]]] = {}
        self._seq = 0
        self._context: zmq.Context[Any] = zmq.Context()
        self._loop = Loop(lambda name, error, _: self.errors.append(error))
        self._router = Router(
            self._context, self._loop, address, on_batch=self._on_batch, on_lost=lambda peer: None,
            on_bad=lambda peer, error: self.errors.append(error), tag="test",
        )  # fmt: skip
        self.address = self._router.address
        self._thread = threading.Thread(target=self._loop.run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Drop all connections; fail the test that made this one stumble."""
        if self._thread.is_alive():
            self._loop.post(self._loop.stop)
            self._thread.join(TIMEOUT_S)
            self._router.close()
            self._loop.close()
            self._context.term()
        assert self.errors == []

    def wait_for(self, kind: type[m.AnyMessage], count: int = 1) -> list[Any]:
        """Return the messages of this kind as soon as there are ``count`` of them."""

        def found() -> list[m.AnyMessage]:
            return [message for message in self.received if isinstance(message, kind)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= count, TIMEOUT_S), f"no {count} {kind.__name__}"
            return found()

    def has(self, kind: type[m.AnyMessage]) -> bool:
        """Whether a message of this kind has come."""
        return any(isinstance(message, kind) for message in self.received)

    def release(self, job: str, indices: list[int] | None = None) -> None:
        """Run held tasks (none given: all of the job)."""
        self._do(lambda: self._run(job, indices))

    def _do(self, action: Callable[[], None]) -> None:
        done = threading.Event()
        self._loop.post(lambda: (action(), done.set()))
        assert done.wait(TIMEOUT_S)

    def _on_batch(self, peer: Peer, batch: list[m.AnyMessage]) -> None:
        with self._changed:  # whoever has an answer also sees what it answers
            self.received += batch
            for message in batch:
                if not self.mute:
                    self._answer(peer, message)
            self._changed.notify_all()

    def _answer(self, peer: Peer, message: m.AnyMessage) -> None:
        match message:
            case m.Hello():
                self._router.send(peer, [self.refuse or m.Welcome(self.id, 1, "0.1.0")])
            case m.Ping():
                self._router.send(peer, [m.Pong(message.n)])
            case m.Submit() if self.reject is not None:
                self._router.send(peer, [m.Rejected(message.job, message.epoch, *self.reject)])
            case m.Submit() if not self.accept:
                pass
            case m.Submit():
                self._router.send(peer, [m.Accepted(message.job, message.epoch, 3)])
                self._jobs[message.job] = message
                self._queued[message.job] = (peer, list(message.indices or range(message.count)))
                if not self.hold and not message.detached:
                    self._run(message.job)
            case m.Recall():
                queued = self._queued[message.job][1]
                back = [index for index in message.indices if index in queued]
                self._outcome(message.job, back, m.CANCELLED, [b""] * len(back))
                self._router.send(peer, [m.Returned(message.request, message.job, message.epoch, back)])
            case m.Kill() if message.job in self._queued:
                queued = list(self._queued[message.job][1])
                ended = [index for index in queued if not message.indices or index in message.indices]
                self._outcome(message.job, ended, m.CANCELLED, [self.cancellation] * len(ended))
            case m.Query():
                self._router.send(peer, [self._status(message)])
            case m.Drain():
                rows = [row for row in self.worker_rows if row.id == message.worker]
                self._router.send(peer, [m.Status(message.request, self.id, workers=rows)])
            case m.Follow():
                if self.outputs:
                    self._router.send(peer, self.outputs)
                if self.followed is not None:
                    self._router.send(peer, [m.Followed(message.request, message.job, self.followed)])

    def _status(self, query: m.Query) -> m.Status:
        counters = {"jobs": len(self._jobs)}
        jobs = [row for row in self.job_rows if query.what in ("jobs", "job") and row.id.startswith(query.job)]
        tasks = [row for row in self.task_rows if query.what == "failures" or row.index in query.indices]
        workers = self.worker_rows if query.what == "workers" else []
        return m.Status(query.request, self.id, jobs, workers, counters, tasks)

    def _run(self, job: str, indices: list[int] | None = None) -> None:
        submit = self._jobs[job]
        for index in list(self._queued[job][1] if indices is None else indices):
            position = submit.indices.index(index) if submit.indices else index
            payload = submit.payloads[position if len(submit.payloads) > 1 else 0]
            try:
                status, result = m.SUCCEEDED, execute(submit.spec.kind, _bytes(submit.function), _bytes(payload))
            except Exception as error:
                status, result = m.FAILED, failure.dump(error)
            self._outcome(job, [index], status, [result])

    def _outcome(self, job: str, indices: list[int], status: int, payloads: list[bytes]) -> None:
        peer, queued = self._queued[job]
        self._seq += 1
        outcome = m.Outcome(self._seq, job, self._jobs[job].epoch, indices, bytes([status]) * len(indices), payloads)
        self._router.send(peer, [outcome])
        for index in indices:
            queued.remove(index)


def execute(kind: int, function: bytes, payload: bytes) -> bytes:
    """Run one task here and return its result as the executor would."""
    if kind == m.PYTHON:
        args, kwargs = python.load_call(payload)
        return python.dump_result(python.load_function(function)(*args, **kwargs))
    if kind == m.CALL:
        module, _, name = function.decode().partition(":")
        args, kwargs = msgpack.unpackb(payload)
        return msgpack.packb(getattr(importlib.import_module(module), name)(*args, **kwargs))
    if kind == m.COMMAND:
        return msgpack.packb([0, " ".join(command.loads(payload).argv).encode(), b""])
    return msgpack.packb(None)


def _bytes(payload: m.Payload) -> bytes:
    return payload if isinstance(payload, bytes) else bytes(memoryview(payload.buffer))  # type: ignore[arg-type]
