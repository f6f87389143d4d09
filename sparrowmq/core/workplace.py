"""A worker's queue and slots together: what waits, what runs, and how running work is taken back or ended.

Owns: handing tasks to slots, their results, crashes, timeouts, kills, recalls, the cache of functions, the
epochs of jobs. Must not know: connections; results and returns go out through two functions it is given.

One guilty task (DESIGN rule 4): whatever ends a slot's process concerns the task that was running; the rest
of its batch goes back unharmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from sparrowmq.core.effects import AnyEffect, KillSlot, Log, ReclaimSlot, SpawnSlot, StartTasks
from sparrowmq.core.queue import Entry, Queue
from sparrowmq.core.report import failure
from sparrowmq.core.slots import Batch, Paces, Slot
from sparrowmq.core.timers import Timers
from sparrowmq.limits import INT_MAX
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings

CLOCK_S: Final = 1.0
STUCK_S: Final = 0.025  # a batch that shows no progress for so long gives its rest back (rule 3)

Report = Callable[[Batch, list[int], list[int], bytes, list[int], list[m.Payload]], float]


class GiveBack(Protocol):
    """How tasks that have not started go back to their scheduler."""

    def __call__(
        self, scheduler: str, job: str, epoch: int, indices: list[int], attempts: list[int], reason: str,
        request: int = 0,
    ) -> None: ...  # fmt: skip


class _Recall:
    """A scheduler's recall that waits for slots to be reclaimed."""

    def __init__(self, scheduler: str, message: m.Recall, waiting: set[int], found: list[tuple[int, int]]) -> None:
        self.scheduler = scheduler
        self.message = message
        self.wanted = set(message.indices)
        self.waiting = waiting
        self.found = found


class Workplace:
    """The queue and the slots of one worker."""

    def __init__(
        self, slots: int, settings: WorkerSettings, effects: list[AnyEffect], timers: Timers[tuple[Any, ...]],
        report: Report, give_back: GiveBack,
    ) -> None:  # fmt: skip
        self.slots = [Slot(number) for number in range(slots)]
        self.queue = Queue()
        self._settings = settings
        self._effects = effects
        self._timers = timers
        self._report = report
        self._give_back = give_back
        limits = settings.limits
        self._paces = Paces(limits.job_records, limits.window_tasks, settings.window_s)
        self._epochs: OrderedDict[str, int] = OrderedDict()
        self._functions: OrderedDict[str, m.Payload] = OrderedDict()
        self._function_bytes = 0
        self._recalls: list[_Recall] = []
        self._kills: dict[int, set[tuple[str, int, int]]] = {}  # slot -> (job, epoch, index) to end when reclaimed

    # -- what there is

    def start(self) -> None:
        """Bring every slot's process up."""
        self._effects.extend(SpawnSlot(slot.number) for slot in self.slots)

    def running(self) -> int:
        """Return how many slots are busy: running something or waiting for an answer."""
        return sum(1 for slot in self.slots if slot.held_count or slot.request)

    def expecting(self) -> bool:
        """Whether an answer is due and nothing runs: a slot idles until it comes."""
        return any(slot.request for slot in self.slots) and not any(slot.held_count for slot in self.slots)

    def waiting(self) -> int:
        """Return the length of the queue as a load probe reports it: reservations and pushed tasks."""
        return self.queue.reservations + self.queue.tasks

    def idle(self) -> Slot | None:
        """Return a slot with nothing to do, or None."""
        return next((slot for slot in self.slots if slot.ready and not slot.held_count and not slot.request), None)

    def epoch(self, job: str, epoch: int) -> int:
        """Note that somebody acts for this epoch of the job; return the highest one seen."""
        known = self._epochs.get(job, -1)
        if epoch > known:
            self._epochs[job] = epoch
            if known < 0 and len(self._epochs) > self._settings.limits.job_records:
                self._epochs.popitem(last=False)
            if known >= 0:
                self.queue.remove(lambda entry: entry.job == job and entry.epoch < epoch)
            return epoch
        return known

    def function(self, task: m.Task) -> m.Payload | None:
        """Return the function that these tasks need (b"": none), keeping it for the job; None if it is not here."""
        if task.spec.kind not in (m.PYTHON, m.CALL):
            return b""
        if len(task.function):
            old = self._functions.pop(task.job, b"")
            self._functions[task.job] = task.function
            self._function_bytes += len(task.function) - len(old)
            limits = self._settings.limits
            while len(self._functions) > limits.functions or (
                self._function_bytes > limits.function_bytes and len(self._functions) > 1
            ):
                self._function_bytes -= len(self._functions.popitem(last=False)[1])
            return task.function
        known = self._functions.get(task.job)
        if known is not None:
            self._functions.move_to_end(task.job)
        return known

    def reserved_by(self, scheduler: str) -> list[m.Reserved]:
        """Return the inventory of this scheduler's reservations."""
        counts: dict[tuple[str, int, int], int] = {}
        for entry in self.queue:
            if entry.scheduler == scheduler and entry.tasks is None and entry.count:
                key = (entry.job, entry.epoch, entry.round)
                counts[key] = counts.get(key, 0) + entry.count
        return [m.Reserved(*key, min(count, INT_MAX)) for key, count in counts.items()]

    def held_by(self, scheduler: str) -> list[m.Held]:
        """Return the inventory of this scheduler's tasks, queued and at slots."""
        held = [
            m.Held(batch.job, batch.epoch, list(batch.indices), list(batch.attempts))
            for slot in self.slots
            for batch in slot.held
            if batch.scheduler == scheduler
        ]
        for entry in self.queue:
            if entry.scheduler == scheduler and entry.waiting():
                indices, attempts = zip(*entry.waiting(), strict=True)
                held.append(m.Held(entry.job, entry.epoch, list(indices), list(attempts)))
        return held

    # -- handing out

    def wanted(self, slot: Slot, entry: Entry, rtt_s: float) -> int:
        """Return how many of this entry's tasks the slot should be given or ask for now; 0: none yet.

        An idle slot takes at least one. A busy one asks ahead only while what it holds is known to be over
        within a round trip, so that short tasks find it busy and long ones are bound late (DESIGN rule 3).
        """
        backlog_s = 0.0
        for batch in slot.held:
            service_s = self._paces.service_s(batch.job)
            if not service_s or batch.timeout_s:
                return 0
            backlog_s += service_s * len(batch.indices)
        if not slot.held:
            return min(entry.count, 1 if self._alone(entry) else self._paces.window(entry.job, rtt_s, 0.0))
        if backlog_s >= rtt_s or self._alone(entry) or not self._paces.service_s(entry.job):
            return 0
        return min(entry.count, self._paces.window(entry.job, rtt_s, backlog_s))

    def _alone(self, entry: Entry) -> bool:
        """A pushed task with a timeout runs by itself, so that the clock starts when it does."""
        return entry.tasks is not None and entry.tasks.spec.timeout_s > 0

    def hand(self, now: float, slot: Slot, task: m.Task, scheduler: str, function: m.Payload) -> None:
        """Give these tasks to a slot."""
        if not slot.held_count:
            slot.progress_at = now
        first_seq = slot.hand(task, scheduler)
        self._effects.append(
            StartTasks(
                slot.number, first_seq, task.job, task.epoch, task.spec, function, task.payloads, task.indices,
                task.attempts,
            )
        )  # fmt: skip
        self._watch_clock(now, slot)
        if slot.held_count > 1 and not slot.watched:
            slot.watched = True
            self._timers.add(now + STUCK_S, ("watch", slot.number))

    # -- what comes back

    def ready(self, number: int, pid: int) -> None:
        """A slot's process is up."""
        slot = self.slots[number]
        slot.pid = pid
        slot.verdict = None

    def results(
        self, now: float, number: int, first_seq: int, statuses: bytes, service_us: list[int],
        payloads: list[m.Payload],
    ) -> None:  # fmt: skip
        """A slot's tasks have ended."""
        slot = self.slots[number]
        slot.progress_at = now
        slot.crashes = 0
        for batch, indices, attempts, offset in slot.settle(first_seq, len(statuses)):
            part = slice(offset, offset + len(indices))
            us = service_us[part]
            rtt_s = self._report(batch, indices, attempts, statuses[part], us, payloads[part])
            self._paces.observe(batch.job, us, rtt_s)
            if batch.timeout_s:
                self._paces.slow(batch.job)  # never more than one at a time, so that the clock starts when it does
        self._watch_clock(now, slot)

    def exited(self, now: float, number: int, cause: str, current_seq: int) -> None:
        """A slot's process is gone: the task that ran is the guilty one, the rest goes back."""
        slot = self.slots[number]
        verdict, slot.verdict, slot.pid = slot.verdict, None, 0
        slot.reclaiming = False
        slot.crashes += verdict is None
        kills = self._kills.pop(number, set())
        for batch in slot.cut(0):
            guilty = current_seq - batch.first_seq
            if 0 <= guilty < len(batch.indices):
                status, payload = _verdict(verdict, batch, cause)
                us = [max(0, int((now - slot.progress_at) * 1e6))]
                where = slice(guilty, guilty + 1)
                self._report(batch, batch.indices[where], batch.attempts[where], bytes([status]), us, [payload])
                slot.crashes = 0
                del batch.indices[where], batch.attempts[where]
            self._sort_out(batch, kills, "crash")
        self._answer_recalls(number)
        if slot.crashes:
            self._effects.append(Log("error", "slot ended by itself", {"slot": number, "cause": cause}))
        self._timers.add(now + slot.respawn_after_s(), ("respawn", number))

    def due_respawn(self, now: float, number: int) -> None:
        """A slot's process is to be started again."""
        if not self.slots[number].pid:
            self._effects.append(SpawnSlot(number))

    # -- taking back

    def reclaim(self, slot: Slot, why: str) -> None:
        """Take back what this slot has not started; ``why`` is for the log."""
        if slot.pid and not slot.reclaiming:
            slot.reclaiming = True
            self._effects.append(Log("debug", "reclaim", {"slot": slot.number, "why": why}))
            self._effects.append(ReclaimSlot(slot.number))

    def reclaimed(self, number: int, after_seq: int) -> None:
        """A slot has been stopped after ``after_seq``: give back what comes later, end what was to be killed."""
        slot = self.slots[number]
        if not slot.reclaiming:
            return
        slot.reclaiming = False
        kills = self._kills.pop(number, set())
        for batch in slot.cut(after_seq):
            self._paces.slow(batch.job)
            self._sort_out(batch, kills, "slow")
        self._answer_recalls(number)
        if slot.held:
            last = slot.held[-1]
            if (last.job, last.epoch, last.indices[-1]) in kills:
                self.end(slot, m.CANCELLED)

    def _sort_out(self, batch: Batch, kills: set[tuple[str, int, int]], reason: str) -> None:
        """Tasks that never start: killed ones are cancelled, recalled ones wait for the answer, others go back."""
        back: list[tuple[int, int]] = []
        killed: list[tuple[int, int]] = []
        for index, attempt in zip(batch.indices, batch.attempts, strict=True):
            if (batch.job, batch.epoch, index) in kills:
                killed.append((index, attempt))
                continue
            recall = next((r for r in self._recalls if self._concerns(r, batch) and index in r.wanted), None)
            (recall.found if recall else back).append((index, attempt))
        self._cancelled(batch, killed)
        indices, attempts = [index for index, _ in back], [attempt for _, attempt in back]
        self._give_back(batch.scheduler, batch.job, batch.epoch, indices, attempts, reason)

    def _cancelled(self, batch: Batch, tasks: list[tuple[int, int]]) -> None:
        """Report these tasks (index, attempt) of the batch's job as cancelled; they never started."""
        n = len(tasks)
        if n:
            indices, attempts = [index for index, _ in tasks], [attempt for _, attempt in tasks]
            self._report(batch, indices, attempts, bytes([m.CANCELLED] * n), [0] * n, [b""] * n)

    @staticmethod
    def _concerns(recall: _Recall, batch: Batch) -> bool:
        message = recall.message
        return recall.scheduler == batch.scheduler and message.job == batch.job and message.epoch == batch.epoch

    def recall(self, scheduler: str, message: m.Recall) -> None:
        """Give back what has not started of these tasks."""
        found = self.queue.pull(scheduler, message.job, message.epoch, set(message.indices))
        recall = _Recall(scheduler, message, set(), found)
        for slot in self.slots:
            held = (batch for batch in slot.held if self._concerns(recall, batch))
            if slot.held_count > 1 and any(not recall.wanted.isdisjoint(batch.indices) for batch in held):
                recall.waiting.add(slot.number)
                self.reclaim(slot, "recall")
        self._recalls.append(recall)
        self._answer_recalls(-1)

    def _answer_recalls(self, number: int) -> None:
        open_recalls: list[_Recall] = []
        for recall in self._recalls:
            recall.waiting.discard(number)
            if recall.waiting:
                open_recalls.append(recall)
                continue
            message = recall.message
            indices, attempts = [index for index, _ in recall.found], [attempt for _, attempt in recall.found]
            self._give_back(
                recall.scheduler, message.job, message.epoch, indices, attempts, "recalled", message.request
            )
        self._recalls = open_recalls

    def empty_queue(self, reason: str) -> None:
        """Hand everything that waits back; reservations are simply dropped, their scheduler was told."""
        for entry in self.queue.remove(lambda entry: True):
            waiting = entry.waiting()
            indices, attempts = [index for index, _ in waiting], [attempt for _, attempt in waiting]
            self._give_back(entry.scheduler, entry.job, entry.epoch, indices, attempts, reason)

    # -- ending what runs

    def kill(self, scheduler: str, message: m.Kill) -> None:
        """End these tasks (none named: the whole job), whether they wait or run."""
        wanted = set(message.indices) or None
        pulled = self.queue.pull(scheduler, message.job, message.epoch, wanted)
        self._cancelled(Batch(0, scheduler, message.job, message.epoch, [], [], 0.0), pulled)
        for slot in self.slots:
            targets = {
                (batch.job, batch.epoch, index)
                for batch in slot.held
                if batch.scheduler == scheduler and batch.job == message.job and batch.epoch == message.epoch
                for index in batch.indices
                if wanted is None or index in wanted
            }
            if not targets:
                continue
            if slot.held_count == 1:
                self.end(slot, m.CANCELLED)
            else:
                self._kills.setdefault(slot.number, set()).update(targets)
                self.reclaim(slot, "kill")

    def end(self, slot: Slot, verdict: int) -> None:
        """Kill the slot's process; its running task ends with ``verdict``."""
        if slot.up:
            slot.verdict = verdict
            self._effects.append(KillSlot(slot.number))

    def _watch_clock(self, now: float, slot: Slot) -> None:
        """Look at the time of a task with a timeout when it is up, or in CLOCK_S.

        Most tasks end long before: a deadline for each, kept for its whole timeout, would be too many.
        """
        if slot.held and slot.held[0].timeout_s:
            when = min(slot.progress_at + slot.held[0].timeout_s, now + CLOCK_S)
            if not slot.clock_at or when < slot.clock_at:
                slot.clock_at = when
                self._timers.add(when, ("clock", slot.number))

    def due_clock(self, now: float, number: int) -> None:
        """The time of the task that runs may be up."""
        slot = self.slots[number]
        if now < slot.clock_at:
            return  # an older deadline, that a sooner one has replaced
        slot.clock_at = 0.0
        if slot.held and 0.0 < slot.held[0].timeout_s <= now - slot.progress_at + 1e-9:
            self.end(slot, m.TIMED_OUT)
        else:
            self._watch_clock(now, slot)

    def due_watch(self, now: float, number: int) -> None:
        """A batch that shows no progress keeps its rest from free slots elsewhere: give it back."""
        slot = self.slots[number]
        slot.watched = False
        if slot.held_count <= 1:
            return
        if now - slot.progress_at >= STUCK_S - 1e-9:
            self.reclaim(slot, "slow")
        slot.watched = True
        self._timers.add(max(now, slot.progress_at) + STUCK_S, ("watch", number))


def _verdict(verdict: int | None, batch: Batch, cause: str) -> tuple[int, bytes]:
    """Return status and payload of the task that ran when its slot's process ended."""
    if verdict == m.CANCELLED:
        return m.CANCELLED, b""
    if verdict == m.TIMED_OUT:
        return m.TIMED_OUT, failure("TaskTimedOut", f"ran longer than its timeout of {batch.timeout_s:g} s")
    return m.FAILED, failure("TaskCrashed", f"the task's process ended without a result: {cause}")
