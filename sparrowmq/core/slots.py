"""A worker's slots: what each was handed, what has come back, how long a job's tasks take.

Owns: matching a slot's stream of results to attempts, and the pace that sizes the request window (DESIGN
rule 3). Must not know: schedulers, messages to them, or how a slot runs anything.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from sparrowmq.protocol import messages as m

RESPAWN_S_MIN: Final = 0.1
RESPAWN_S_MAX: Final = 5.0

RECENT: Final = 32  # reports that tell what is usual here
RECENT_MIN: Final = 4

# Why a slot's process is ended by its node monitor. "": it is not, so it crashed when it ends.
KILLED: Final = "killed"
TIMED_OUT: Final = "timed out"
RETIRED: Final = "retired"  # nothing ran


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks of one job that a slot was handed together; those before ``first_seq`` have come back."""

    first_seq: int
    scheduler: str
    job: str
    epoch: int
    indices: list[int]
    attempts: list[int]
    spec: m.JobSpec

    @property
    def last_seq(self) -> int:
        """The sequence number of the last of them."""
        return self.first_seq + len(self.indices) - 1


@dataclass(slots=True, eq=False)
class Slot:
    """One slot. ``held`` is what it was handed and has not answered, in order of sequence numbers."""

    number: int
    pid: int = 0  # 0: not up
    last_seq: int = 0
    held: deque[Batch] = field(default_factory=deque)
    held_count: int = 0
    asked: dict[str, int] = field(default_factory=dict)  # tasks asked for it and not answered yet, by job
    asked_count: int = 0
    progress_at: float = 0.0
    watched: bool = False
    reclaiming: bool = False
    started_seq: int = 0  # the last task that had started at a reclaim
    started_at: float = 0.0  # when that was first known
    clock_at: float = 0.0  # when the time of its running task is looked at next; 0: not
    verdict: str = ""  # why its process is being killed; "": it is not
    kills: dict[tuple[str, int, int], float] = field(default_factory=dict)  # (job, epoch, index) to end -> grace_s
    interrupted: int = 0  # the running task that was asked to end; 0: none
    reported: int = 0  # tasks that its process has ended
    retiring: bool = False  # its process is replaced once it has nothing to do
    crashes: int = 0  # in a row, without a result in between
    sated: bool = False  # it was found to take nothing more, and nothing that this depends on has changed since

    @property
    def up(self) -> bool:
        """Whether its process is there and not about to be killed."""
        return self.pid != 0 and not self.verdict

    @property
    def ready(self) -> bool:
        """Whether it may be given something new.

        Not during a reclaim: its answer would not tell them from those before. Not after an interrupt: they would be
        killed with a task that does not care.
        """
        return self.takes_answers and not self.retiring

    @property
    def takes_answers(self) -> bool:
        """Whether it may be handed what was asked for it: as `ready`, and also before it is replaced."""
        return self.up and not self.reclaiming and not self.interrupted

    def began(self, pid: int) -> None:
        """Note that a new process is up."""
        self.pid = pid
        self.verdict = ""
        self.reported = self.interrupted = 0
        self.retiring = False

    def ended(self) -> str:
        """Note that the process is gone; return why it was to be killed, "" if it was not."""
        verdict, self.verdict, self.pid = self.verdict, "", 0
        self.reclaiming = self.retiring = False
        self.interrupted = 0
        return verdict

    def ask(self, job: str, count: int) -> None:
        """Note that ``count`` tasks of this job were asked for."""
        self.asked[job] = self.asked.get(job, 0) + count
        self.asked_count += count

    def answered(self, job: str, count: int) -> None:
        """Note that ``count`` of what was asked for is answered, or not waited for any more."""
        self.sated = False
        self.asked_count -= count
        self.asked[job] -= count
        if not self.asked[job]:
            del self.asked[job]

    def hand(self, task: m.Task, scheduler: str) -> int:
        """Note that it was handed these tasks; return the sequence number of the first."""
        first_seq = self.last_seq + 1
        count = len(task.indices)
        self.last_seq += count
        self.held_count += count
        self.held.append(Batch(first_seq, scheduler, task.job, task.epoch, task.indices, task.attempts, task.spec))
        return first_seq

    def started(self, now: float, seq: int) -> None:
        """Note that ``seq`` was the last to start so far: those before it are over, whether or not this is known."""
        if seq != self.started_seq:
            self.started_seq, self.started_at = seq, now

    @property
    def knows_running(self) -> bool:
        """Whether the last task that it holds is the one that runs, or is about to: nothing else can be."""
        return self.held_count == 1 or (self.held_count > 1 and self.held[-1].last_seq == self.started_seq)

    def clock(self) -> tuple[float, float]:
        """Return the timeout (0: none) of the task that runs, as far as is known, and since when it does."""
        if not self.held:
            return 0.0, 0.0
        if self.held_count > 1 and self.knows_running:  # results are under way, or the task keeps its slot from sending
            return self.held[-1].spec.timeout_s, self.started_at
        return self.held[0].spec.timeout_s, self.progress_at

    def holder(self, seq: int) -> Batch | None:
        """Return the batch that task ``seq`` is held in, None if it is not held (any more)."""
        return next((batch for batch in self.held if batch.first_seq <= seq <= batch.last_seq), None)

    def forget_settled(self) -> None:
        """Drop kills of tasks that have ended, and the interrupt of one."""
        if self.interrupted and self.holder(self.interrupted) is None:
            self.interrupted = 0
        left = {(batch.job, batch.epoch, index) for batch in self.held for index in batch.indices}
        self.kills = {task: grace_s for task, grace_s in self.kills.items() if task in left}

    def forget_late_kills(self) -> None:
        """Nothing that has not started is held any more: only the last task can still be ended, the others are over."""
        if self.held:
            batch = self.held[-1]
            last = (batch.job, batch.epoch, batch.indices[-1])
            self.kills = {task: grace_s for task, grace_s in self.kills.items() if task == last}

    def settle(self, first_seq: int, count: int) -> list[tuple[Batch, list[int], list[int], int]]:
        """Results for ``count`` tasks from ``first_seq`` on came: take them from what is held.

        Returns (batch, indices, attempts, offset of the first within the results). Results of tasks that were
        reclaimed or given up meanwhile match nothing.
        """
        settled = []
        self.sated = False
        last = first_seq + count - 1
        while self.held and self.held[0].first_seq <= last:
            batch = self.held[0]
            end = min(last + 1, batch.first_seq + len(batch.indices))
            start = max(first_seq, batch.first_seq)
            n = end - start
            skipped = start - batch.first_seq
            if n > 0:
                indices = batch.indices[skipped : skipped + n]
                settled.append((batch, indices, batch.attempts[skipped : skipped + n], start - first_seq))
            done = max(0, end - batch.first_seq)
            self.held_count -= done
            if done >= len(batch.indices):
                self.held.popleft()
            else:
                batch.first_seq += done
                batch.indices = batch.indices[done:]
                batch.attempts = batch.attempts[done:]
                break
        return settled

    def cut(self, after_seq: int) -> list[Batch]:
        """Take out what comes after ``after_seq``: it never starts. Returns it as batches."""
        unstarted: list[Batch] = []
        self.sated = False
        while self.held:
            batch = self.held[-1]
            keep = min(len(batch.indices), max(0, after_seq + 1 - batch.first_seq))
            if keep == len(batch.indices):
                break
            rest = Batch(
                batch.first_seq + keep, batch.scheduler, batch.job, batch.epoch, batch.indices[keep:],
                batch.attempts[keep:], batch.spec,
            )  # fmt: skip
            unstarted.append(rest)
            self.held_count -= len(rest.indices)
            if keep:
                batch.indices = batch.indices[:keep]
                batch.attempts = batch.attempts[:keep]
                break
            self.held.pop()
        unstarted.reverse()
        return unstarted

    def respawn_after_s(self) -> float:
        """Return how long to wait before its process is started again: longer with each crash in vain."""
        if self.crashes <= 1:
            return 0.0
        return min(RESPAWN_S_MAX, RESPAWN_S_MIN * 2.0 ** min(self.crashes - 2, 10))


@dataclass(slots=True)
class Pace:
    """How long a job's tasks take here. ``window`` doubles while they prove shorter than a round trip."""

    window: int = 1
    service_s: float = 0.0  # moving average; 0: nothing known


class Paces:
    """The pace of the jobs seen last."""

    def __init__(self, limit: int, window_max: int, window_s: float) -> None:
        self.usual_s = 0.0  # what no task of the last reports has taken longer than; 0: too few to tell
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._limit = limit
        self._window_max = window_max
        self._window_s = window_s

    def __len__(self) -> int:
        return len(self._paces)

    def service_s(self, job: str) -> float:
        """Return the recent service time of this job's tasks, 0 if none has ended here."""
        pace = self._paces.get(job)
        return pace.service_s if pace else 0.0

    def observe(self, job: str, service_us: list[int], rtt_s: float) -> None:
        """Tasks ended: learn from the mean of this handful."""
        pace = self._paces.get(job)
        if pace is None:
            pace = self._paces[job] = Pace()
            if len(self._paces) > self._limit:
                self._paces.popitem(last=False)
        longest_s = max(1e-6, max(service_us) * 1e-6)
        recent = self._recent
        forgotten_s = recent[0] if len(recent) == RECENT else 0.0
        recent.append(longest_s)
        if len(recent) <= RECENT_MIN or forgotten_s >= self.usual_s:
            self.usual_s = max(recent) if len(recent) >= RECENT_MIN else 0.0
        elif longest_s > self.usual_s:
            self.usual_s = longest_s
        mean_s = max(1e-6, sum(service_us) * 1e-6 / len(service_us))
        pace.service_s = 0.7 * pace.service_s + 0.3 * mean_s if pace.service_s else mean_s
        pace.window = min(pace.window * 2, self._window_max) if mean_s < rtt_s else 1

    @property
    def recent_s(self) -> float:
        """What the last reports' tasks have taken in the mean (the longest of each report); 0: nothing known."""
        return sum(self._recent) / len(self._recent) if self._recent else 0.0

    def slow(self, job: str) -> None:
        """A task of this job keeps others waiting: start over with one at a time."""
        pace = self._paces.get(job)
        if pace is not None:
            pace.window = 1

    def window(self, job: str, rtt_s: float, backlog_s: float) -> int:
        """Return how many tasks to ask for: what fills a round trip, 1 + floor((rtt - backlog) / service)."""
        pace = self._paces.get(job)
        if pace is None or not pace.service_s:
            return 1
        return min(pace.window, 1 + int(max(0.0, min(rtt_s, self._window_s) - backlog_s) / pace.service_s))
