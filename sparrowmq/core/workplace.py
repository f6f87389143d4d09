"""A worker's queue and slots together: what waits, what runs, and how running work is taken back or ended.

Owns: handing tasks to slots, their results, crashes, recalls, new processes, the cache of functions, the epochs of
jobs. Must not know: connections; results and returns go out through two functions it is given. What is ended before it
is done is in `endings`.

One guilty task (DESIGN rule 4): whatever ends a slot's process concerns the task that was running; the rest
of its batch goes back unharmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, Final, Protocol

from sparrowmq.core.effects import AnyEffect, Log, ReclaimSlot, SpawnSlot, StartTasks
from sparrowmq.core.endings import Endings, outcome
from sparrowmq.core.queue import Entry, Queue
from sparrowmq.core.report import failure
from sparrowmq.core.slots import RETIRED, Batch, Paces, Slot
from sparrowmq.core.timers import Timers
from sparrowmq.limits import INT_MAX
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings

STUCK_S: Final = 0.025  # a batch that shows no progress for so long gives its rest back (rule 3)
AHEAD_S: Final = 0.002  # so much work at most, as far as can be told, waits in a slot
AHEAD_JOBS: Final = 48
_NO_SPEC: Final = m.JobSpec()

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
        self.retiring: set[int] = set()  # slots whose process is to be replaced
        self.endings = Endings(self.slots, effects, timers, self.reclaim)

    # -- what there is

    def start(self) -> None:
        """Bring every slot's process up."""
        self._effects.extend(SpawnSlot(slot.number) for slot in self.slots)

    def running(self) -> int:
        """Return how many slots are busy: running something or waiting for an answer."""
        return sum(1 for slot in self.slots if slot.held_count or slot.asked)

    def expecting(self) -> bool:
        """Whether an answer is due and nothing runs: a slot idles until it comes."""
        return any(slot.asked for slot in self.slots) and not any(slot.held_count for slot in self.slots)

    def waiting(self) -> int:
        """Return the length of the queue as a load probe reports it: reservations and pushed tasks."""
        return self.queue.reservations + self.queue.tasks

    def recent_s(self) -> float:
        """Return what tasks have lately taken here, 0 if nothing is known."""
        return self._paces.recent_s

    def idle(self) -> Slot | None:
        """Return a slot with nothing to do, or None."""
        return next((slot for slot in self.slots if slot.ready and not slot.held_count and not slot.asked), None)

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

    def adopt(self, scheduler: str, job: str, epoch: int) -> list[Batch]:
        """Put what slots hold of earlier epochs of this job under this one; return it. (What waited is gone by now.)

        What is being killed stays as it is: nobody waits for how it ends.
        """
        adopted: list[Batch] = []
        for slot in self.slots:
            for batch in slot.held:
                if batch.job != job or batch.epoch >= epoch:
                    continue
                if any((job, batch.epoch, index) in slot.kills for index in batch.indices):
                    continue
                batch.scheduler, batch.epoch = scheduler, epoch
                adopted.append(batch)
        return adopted

    # -- handing out

    def wanted(self, slot: Slot, entry: Entry, rtt_s: float) -> int:
        """Return how many of this entry's tasks the slot should be given or ask for now; 0: none yet.

        An idle slot takes at least one. A busy one asks ahead only while all that it holds and has asked for is
        expected to be over within a round trip, so that short tasks find it busy and long ones are bound late
        (DESIGN rule 3). A job that nothing is known of counts as what is usual here, one task at a time.
        """
        count = entry.count
        if recycle_tasks := self._settings.recycle_tasks:
            count = max(0, min(count, recycle_tasks - slot.reported - slot.held_count - slot.asked_count))
        if not slot.held and not slot.asked:
            return min(count, 1 if self._alone(entry) else self._paces.window(entry.job, rtt_s, 0.0))
        if self._alone(entry) or entry.job in slot.asked:
            return 0
        backlog_s = self._backlog_s(slot)
        if backlog_s is None or backlog_s >= min(rtt_s, AHEAD_S):
            slot.sated = backlog_s is None or backlog_s >= AHEAD_S
            return 0
        if self._paces.service_s(entry.job):
            return min(count, self._paces.window(entry.job, rtt_s, backlog_s))
        known = self._paces.usual_s and all(batch.job != entry.job for batch in slot.held)
        return min(count, 1) if known else 0

    def _backlog_s(self, slot: Slot) -> float | None:
        """Return how long what the slot holds and has asked for is expected to take; None: that cannot be told."""
        paces = self._paces
        if len(slot.held) + len(slot.asked) > AHEAD_JOBS:
            return None
        backlog_s = 0.0
        for batch in slot.held:
            service_s = paces.service_s(batch.job) or paces.usual_s
            if not service_s or batch.spec.timeout_s or batch.spec.at_most_once:
                return None
            backlog_s += service_s * len(batch.indices)
        for job, count in slot.asked.items():
            service_s = paces.service_s(job) or paces.usual_s
            if not service_s:
                return None
            backlog_s += service_s * count
        return backlog_s

    def _alone(self, entry: Entry) -> bool:
        """A pushed task runs by itself if its timeout's clock starts when it does, or if it may start only once."""
        return entry.tasks is not None and (entry.tasks.spec.timeout_s > 0 or entry.tasks.spec.at_most_once)

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
        self.endings.watch_clock(now, slot)
        if slot.held_count > 1 and not slot.watched:
            slot.watched = True
            self._timers.add(now + STUCK_S, ("watch", slot.number))

    # -- what comes back

    def ready(self, number: int, pid: int) -> None:
        """A slot's process is up."""
        self.slots[number].began(pid)

    def results(
        self, now: float, number: int, first_seq: int, statuses: bytes, service_us: list[int],
        payloads: list[m.Payload],
    ) -> None:  # fmt: skip
        """A slot's tasks have ended."""
        slot = self.slots[number]
        slot.progress_at = now
        slot.crashes = 0
        slot.reported += len(statuses)
        for batch, indices, attempts, offset in slot.settle(first_seq, len(statuses)):
            part = slice(offset, offset + len(indices))
            us = service_us[part]
            rtt_s = self._report(batch, indices, attempts, statuses[part], us, payloads[part])
            self._paces.observe(batch.job, us, rtt_s)
            for other in self.slots:  # whose backlog may look different now
                other.sated = False
            if batch.spec.timeout_s or batch.spec.at_most_once:
                # Never more than one at a time: a timeout's clock starts when it does, and none is lost with another.
                self._paces.slow(batch.job)
        if slot.kills or slot.interrupted:
            slot.forget_settled()
        if 0 < self._settings.recycle_tasks <= slot.reported:
            self.retire(number)
        self.endings.watch_clock(now, slot)

    def retire(self, number: int) -> None:
        """The slot's process is to be replaced once it has nothing to do."""
        slot = self.slots[number]
        if slot.up and not slot.retiring:
            slot.retiring = True
            self.retiring.add(number)

    def replace_retired(self) -> None:
        """End processes that are to be replaced, hold nothing and have nothing coming. Called once a turn."""
        for number in sorted(self.retiring):
            slot = self.slots[number]
            if not slot.held_count and not slot.asked:
                self.endings.end(slot, RETIRED)
            if not slot.up:
                self.retiring.discard(number)

    def exited(self, now: float, number: int, cause: str, current_seq: int) -> None:
        """A slot's process is gone: the task that ran is the guilty one, the rest goes back."""
        slot = self.slots[number]
        interrupted = slot.interrupted
        verdict = slot.ended()
        slot.crashes += not verdict
        for batch in slot.cut(0):
            if batch.spec.at_most_once:
                self._give_up_started(batch, current_seq, slot.kills)
            guilty = current_seq - batch.first_seq
            if 0 <= guilty < len(batch.indices):
                status, payload = outcome(verdict, interrupted == current_seq, batch, cause)
                us = [max(0, int((now - slot.progress_at) * 1e6))]
                where = slice(guilty, guilty + 1)
                self._report(batch, batch.indices[where], batch.attempts[where], bytes([status]), us, [payload])
                slot.crashes = 0
                del batch.indices[where], batch.attempts[where]
            self._sort_out(batch, slot.kills, "crash")
        slot.kills.clear()
        self._answer_recalls(number)
        if slot.crashes:
            self._effects.append(Log("error", "slot ended by itself", {"slot": number, "cause": cause}))
        self._timers.add(now + slot.respawn_after_s(), ("respawn", number))

    def _give_up_started(self, batch: Batch, current_seq: int, kills: Container[tuple[str, int, int]]) -> None:
        """A process is gone: what came before the task that it ran (0: none) may have ended; it may not start again."""
        before = current_seq - batch.first_seq if current_seq else len(batch.indices)
        rows = list(zip(batch.indices, batch.attempts, strict=True))
        gone = [row for row in rows[: max(0, before)] if (batch.job, batch.epoch, row[0]) not in kills]
        if not gone:
            return
        n, text = len(gone), "its process ended with the result, if there was one; it may start only once"
        indices, attempts = [index for index, _ in gone], [attempt for _, attempt in gone]
        self._report(batch, indices, attempts, bytes([m.LOST] * n), [0] * n, [failure("TaskLost", text)] * n)
        left = [row for row in rows if row not in gone]
        batch.first_seq += n
        batch.indices[:], batch.attempts[:] = [index for index, _ in left], [attempt for _, attempt in left]

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

    def reclaimed(self, now: float, number: int, after_seq: int) -> None:
        """A slot has been stopped after ``after_seq``: give back what comes later, end what was to be killed."""
        slot = self.slots[number]
        if not slot.reclaiming:
            return
        slot.reclaiming = False
        slot.started(now, after_seq)
        for batch in slot.cut(after_seq):
            self._paces.slow(batch.job)
            self._sort_out(batch, slot.kills, "slow")
        self._answer_recalls(number)
        self.endings.end_running(now, slot)
        self.endings.watch_clock(now, slot)
        if slot.kills:
            slot.forget_settled()
            slot.forget_late_kills()

    def _sort_out(self, batch: Batch, kills: Container[tuple[str, int, int]], reason: str) -> None:
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

    def kill(self, now: float, scheduler: str, message: m.Kill) -> None:
        """End these tasks (none named: the whole job), whether they wait or run."""
        wanted = set(message.indices) or None
        pulled = self.queue.pull(scheduler, message.job, message.epoch, wanted)
        self._cancelled(Batch(0, scheduler, message.job, message.epoch, [], [], _NO_SPEC), pulled)
        for slot in self.slots:
            targets = {
                (batch.job, batch.epoch, index)
                for batch in slot.held
                if batch.scheduler == scheduler and batch.job == message.job and batch.epoch == message.epoch
                for index in batch.indices
                if wanted is None or index in wanted
            }
            for task in targets:
                slot.kills[task] = min(message.grace_s, slot.kills.get(task, message.grace_s))
            if targets and slot.held_count == 1:
                self.endings.end_running(now, slot)
            elif targets:
                self.reclaim(slot, "kill")

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
