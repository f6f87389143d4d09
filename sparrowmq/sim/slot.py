"""A simulated slot: one process that runs tasks one after the other, in virtual time.

Owns: what a slot process does with tasks, stop marks, interrupts and kills (as executor/ does it), and how a simulated
task says how long it takes, what it writes and how it ends. Must not know: node monitors, schedulers, messages.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

import msgspec

from sparrowmq.core.effects import StartTasks
from sparrowmq.core.report import failure
from sparrowmq.errors import RemoteError
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.retries import names_of, wants_retry
from sparrowmq.sim.engine import Engine

SPAWN_S: Final = 0.005  # until the process of a slot is up
PIPE_S: Final = 0.00003  # from node monitor to slot, and back
SETTLE_S: Final = 0.002  # from a stop mark to its answer
KILL_S: Final = 0.001
OVERHEAD_S: Final = 0.000005  # of each task
FLUSH_S: Final = 0.0005  # results wait for others no longer than this
_FAILURE: Final = names_of(RemoteError)
LONG_S: Final = 0.0002  # the result of a task that took longer leaves at once


class Work(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a simulated task: how long it takes and how it ends: "ok", "fail" or "crash".

    "fail N" fails on the first N attempts. ``output`` is written at its start. ``deaf``: an interrupt does not end it.
    """

    service_s: float = 0.0
    end: str = "ok"
    output: bytes = b""
    deaf: bool = False

    def fails(self, attempt: int) -> bool:
        """Whether this attempt (1 is the first) fails."""
        how, _, attempts = self.end.partition(" ")
        return how == "fail" and attempt <= int(attempts or attempt)

    def payload(self) -> bytes:
        """Return it as a task's payload."""
        return msgspec.msgpack.encode(self)


class Listener(Protocol):
    """Who hears of the slots: the events of the node monitor's machine, without the time."""

    def slot_ready(self, slot: int, pid: int) -> None:
        """The process is up."""

    def slot_started(self, slot: int, job: str, epoch: int, index: int, attempt: int) -> None:
        """For the records of the simulation only: no node monitor sees this."""

    def slot_results(
        self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        """Tasks have ended."""

    def slot_output(self, slot: int, seq: int, stream: int, data: bytes) -> None:
        """A task has written something."""

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        """The process is gone."""

    def slot_reclaimed(self, slot: int, after_seq: int) -> None:
        """Nothing up to the stop mark and above ``after_seq`` will start."""


class SimSlot:
    """One slot. ``pipe_s`` is the way from its node monitor, and back; without it a task is one event."""

    def __init__(self, number: int, engine: Engine, listener: Listener, pipe_s: float = PIPE_S) -> None:
        self._number = number
        self._engine = engine
        self._later = engine.later
        self._listener = listener
        self._pipe_s = pipe_s
        self._process = 0  # which process this is; what was scheduled for an older one is void
        self._node = 0  # which start of the whole node this is; results of an older one reach nobody
        self._up = False
        self._queue: deque[tuple[int, StartTasks, int]] = deque()  # (sequence number, batch, position within it)
        self._handed = 0
        self._started = 0
        self._stop = 0
        self._marked = 0  # the task that is to be interrupted
        self._running = False
        self._work = Work()  # what runs
        self._runs = 0  # how many tasks were begun
        self._batch: StartTasks | None = None  # what the running task belongs to
        self._position = 0
        self._done: list[tuple[int, int, bytes]] = []  # results not sent: (status, microseconds, payload)
        self._done_from = 0
        self._flushed_at = 0.0
        self._direct = False  # what is to be reported is reported at once

    # What the node monitor asks for.

    def spawn(self) -> None:
        """Bring the process up."""
        self._process += 1
        self._later(SPAWN_S, self._ready, self._process)

    def start(self, effect: StartTasks) -> None:
        """Hand tasks to the process."""
        if self._up:
            self._handed = effect.first_seq + len(effect.indices) - 1
            if self._pipe_s:
                self._later(self._pipe_s, self._arrive, self._process, effect)
            else:
                self._arrive(self._process, effect)

    def reclaim(self) -> None:
        """Set the stop mark."""
        if self._up:
            self._stop = self._handed
            self._later(SETTLE_S, self._settled, self._process, self._stop)

    def interrupt(self, seq: int) -> None:
        """Interrupt this task: it runs when the signal arrives, or never begins."""
        if self._up:
            self._marked = seq
            self._later(self._pipe_s, self._interrupted, self._process, seq)

    def kill(self) -> None:
        """Kill the process."""
        if self._up:
            self._later(KILL_S, self._exit, self._process, "killed by signal 9")

    def vanish(self) -> None:
        """The whole node is gone: nothing is reported any more."""
        self._process += 1
        self._node += 1
        self._reset()

    # The process.

    def _ready(self, process: int) -> None:
        if process == self._process:
            self._up = True
            self._flushed_at = self._engine.now
            self._listener.slot_ready(self._number, process)

    def _arrive(self, process: int, effect: StartTasks) -> None:
        if process != self._process:
            return
        self._queue.extend((effect.first_seq + k, effect, k) for k in range(len(effect.indices)))
        if not self._running:
            self._next()

    def _next(self) -> None:
        queue = self._queue
        while queue and queue[0][0] <= self._stop:  # taken back before it started
            queue.popleft()
        if not queue:
            self._flush()
            return
        seq, batch, position = queue.popleft()
        if self._done and seq != self._done_from + len(self._done):
            self._flush()
        self._started = seq
        if seq == self._marked:
            self._work = Work()
            self._over(m.CANCELLED, b"")
            return
        self._running = True
        self._listener.slot_started(
            self._number, batch.job, batch.epoch, batch.indices[position], batch.attempts[position]
        )
        payload = batch.payloads[position if len(batch.payloads) > 1 else 0]
        work = msgspec.msgpack.decode(payload, type=Work) if isinstance(payload, bytes) else Work()
        self._work, self._batch, self._position = work, batch, position
        self._runs += 1
        if work.output:
            self._later(self._pipe_s, self._report_output, self._node, seq, work.output)
        self._later(work.service_s + OVERHEAD_S, self._end, self._process, self._runs)

    def _interrupted(self, process: int, seq: int) -> None:
        if process == self._process and self._running and self._started == seq and not self._work.deaf:
            self._runs += 1  # what was to end it finds another number
            self._over(m.CANCELLED, b"interrupted")

    def _end(self, process: int, run: int) -> None:
        if process != self._process or run != self._runs or not self._running or self._batch is None:
            return
        work, spec = self._work, self._batch.spec
        if work.end == "crash":
            self._exit(process, "killed by signal 11")
        elif work.end != "ok" and work.fails(self._batch.attempts[self._position]):
            status = m.RETRY if wants_retry(spec, _FAILURE) else m.FAILED
            self._over(status, failure("RemoteError", "it raised"))
        else:
            self._direct = not self._pipe_s
            self._over(m.SUCCEEDED, msgspec.msgpack.encode(self._started))
            self._direct = False

    def _over(self, status: int, result: bytes) -> None:
        if not self._done:
            self._done_from = self._started
        self._done.append((status, int(self._work.service_s * 1e6), result))
        self._running = False
        at_once = self._batch is not None and self._batch.spec.at_most_once
        if at_once or self._work.service_s >= LONG_S or self._engine.now - self._flushed_at >= FLUSH_S:
            self._flush()
        if not self._running:  # unless the node monitor has answered at once with the next
            self._next()

    def _flush(self) -> None:
        done, self._done = self._done, []
        self._flushed_at = self._engine.now
        if not done:
            return
        statuses, service_us = bytes([d[0] for d in done]), [d[1] for d in done]
        payloads: list[m.Payload] = [d[2] for d in done]
        if self._direct:
            self._report(self._node, self._done_from, statuses, service_us, payloads)
        else:
            self._later(self._pipe_s, self._report, self._node, self._done_from, statuses, service_us, payloads)

    def _report(
        self, node: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        if node == self._node:
            self._listener.slot_results(self._number, first_seq, statuses, service_us, payloads)

    def _report_output(self, node: int, seq: int, data: bytes) -> None:
        if node == self._node:
            self._listener.slot_output(self._number, seq, 1, data)

    def _settled(self, process: int, stop: int) -> None:
        if process == self._process and stop == self._stop:
            if self._running:
                self._flush()
            self._listener.slot_reclaimed(self._number, min(self._started, stop))

    def _exit(self, process: int, cause: str) -> None:
        if process == self._process and self._up:
            current = self._started if self._running else 0
            self._process += 1
            self._reset()
            self._later(self._pipe_s, self._exited, self._node, cause, current)

    def _exited(self, node: int, cause: str, current_seq: int) -> None:
        if node == self._node:
            self._listener.slot_exited(self._number, cause, current_seq)

    def _reset(self) -> None:
        self._up = self._running = False
        self._queue.clear()
        self._done.clear()
        self._handed = self._started = self._stop = self._marked = 0
