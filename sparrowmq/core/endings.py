"""How running work ends before it is done: kills, with or without a grace, and timeouts.

Owns: which slot is interrupted or killed when, and what its task is then reported as. Must not know: queues,
connections, how a process is signalled.

A kill concerns the one task that runs. Where a slot holds more, what has not started is taken back first; the task that
remains is then asked to end (`InterruptSlot`), and its process killed when the grace is over.

So it is with timeouts. The results of short tasks wait in their slot while the next one runs, so that of several tasks
the first need not be the one that runs. A reclaim tells: what comes before the last that has started is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sparrowmq.core.effects import AnyEffect, InterruptSlot, KillSlot
from sparrowmq.core.report import failure
from sparrowmq.core.slots import KILLED, TIMED_OUT, Batch, Slot
from sparrowmq.core.timers import Timers
from sparrowmq.errors import TaskCrashed, TaskTimedOut
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.retries import names_of, wants_retry

CLOCK_S: Final = 1.0

_CRASHED: Final = names_of(TaskCrashed)
_TOO_SLOW: Final = names_of(TaskTimedOut)


class Endings:
    """The ends that a node monitor brings about."""

    def __init__(
        self, slots: list[Slot], effects: list[AnyEffect], timers: Timers[tuple[Any, ...]],
        reclaim: Callable[[Slot, str], None],
    ) -> None:  # fmt: skip
        self._slots = slots
        self._effects = effects
        self._timers = timers
        self._reclaim = reclaim

    def end(self, slot: Slot, verdict: str) -> None:
        """Kill the slot's process, for this reason."""
        if slot.up:
            slot.verdict = verdict
            self._effects.append(KillSlot(slot.number))

    def end_running(self, now: float, slot: Slot) -> None:
        """End the last task that the slot holds, if it is to be killed: it runs, or is about to, and none follows."""
        if not slot.held or not slot.kills:
            return
        last = slot.held[-1]
        grace_s = slot.kills.get((last.job, last.epoch, last.indices[-1]))
        if grace_s is None:
            return
        if grace_s <= 0.0:
            self.end(slot, KILLED)
            return
        if slot.up:
            if slot.interrupted != last.last_seq:
                slot.interrupted = last.last_seq
                self._effects.append(InterruptSlot(slot.number, last.last_seq))
            self._timers.add(now + grace_s, ("grace_over", slot.number, last.last_seq))

    def due_grace_over(self, now: float, number: int, seq: int) -> None:
        """A task that was interrupted has had its time."""
        slot = self._slots[number]
        if slot.interrupted == seq:
            self.end(slot, KILLED)

    def watch_clock(self, now: float, slot: Slot) -> None:
        """Look at the time of a task with a timeout when it is up, or in CLOCK_S.

        Most tasks end long before: a deadline for each, kept for its whole timeout, would be too many.
        """
        timeout_s, since = slot.clock()
        if timeout_s:
            when = min(since + timeout_s, now + CLOCK_S)
            if not slot.clock_at or when < slot.clock_at:
                slot.clock_at = when
                self._timers.add(when, ("clock", slot.number))

    def due_clock(self, now: float, number: int) -> None:
        """The time of the task that runs may be up."""
        slot = self._slots[number]
        if now < slot.clock_at:
            return  # an older deadline, that a sooner one has replaced
        slot.clock_at = 0.0
        timeout_s, since = slot.clock()
        if not 0.0 < timeout_s <= now - since + 1e-9:
            self.watch_clock(now, slot)
        elif slot.knows_running:
            self.end(slot, TIMED_OUT)
        else:  # the answer looks at the time again
            self._reclaim(slot, "timeout")


def outcome(verdict: str, interrupted: bool, batch: Batch, cause: str) -> tuple[int, bytes]:
    """Return status and payload of the task that ran when its slot's process ended."""
    spec = batch.spec
    if verdict == KILLED:
        return m.CANCELLED, b"killed"
    if verdict == TIMED_OUT:
        status = m.RETRY if wants_retry(spec, _TOO_SLOW) else m.TIMED_OUT
        return status, failure("TaskTimedOut", f"ran longer than its timeout of {spec.timeout_s:g} s")
    if interrupted:
        return m.CANCELLED, b"interrupted"  # its way of ending was to end the process
    status = m.RETRY if wants_retry(spec, _CRASHED) else m.FAILED
    return status, failure("TaskCrashed", f"the task's process ended without a result: {cause}")
