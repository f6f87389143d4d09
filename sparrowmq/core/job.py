"""One job at its scheduler: the state of every task, and where its reservations are.

Owns: the task table (unplaced -> launched -> over) and its counts, the ledger of the job. Must not know:
messages to anybody, policies, time beyond the numbers handed in.

A task is in exactly one state; `over` states are the protocol's statuses and final. Lists are indexed by the
task's number in the job, so that the hot paths are slices and short loops, not objects.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from typing import Final

from sparrowmq.protocol import messages as m

UNPLACED: Final = 100
LAUNCHED: Final = 101
QUANTILES: Final = 1000  # of its times, that a finished job keeps
ABSENT: Final = 255  # not part of this submission: it was over before the fail-over


class Job:
    """The scheduler's record of one job."""

    def __init__(self, submit: m.Submit, client: str, now: float) -> None:
        self.id = submit.job
        self.epoch = submit.epoch
        self.spec = submit.spec
        self.client = client
        self.submitted_at = now
        self.function = submit.function
        self.tasks = submit.count
        indices = submit.indices or range(submit.count)
        size = (max(indices) + 1) if submit.indices else submit.count
        self.state = bytearray([ABSENT]) * size
        self.attempts = [0] * size
        self.place: list[str | None] = [None] * size  # the worker that a launched task is on
        self._payloads: list[m.Payload | None] = self._spread(submit, size)
        self.bytes = sum(map(len, submit.payloads)) + len(submit.function)
        for index in indices:
            self.state[index] = UNPLACED
        self._fresh = list(indices)
        self._cursor = 0
        self._again: deque[int] = deque()  # relaunches go first
        self.unplaced = submit.count
        self.launched = 0
        self.counts = [0] * len(m.STATUS_NAMES)
        self.deaths: dict[int, int] = {}
        if submit.deaths:
            self.deaths = {i: n for i, n in zip(indices, submit.deaths, strict=True) if n}
        self.stories: dict[int, list[str]] = {}  # per task: how each of its workers was lost
        self.doomed: set[int] = set()  # launched tasks that are to be killed: never launched again
        self.workers: set[str] = set()  # that may have reservations or tasks of this job
        self.function_at: set[str] = set()  # workers that were sent the function on their present connection
        # Reservations (late binding): how many this job still has in each worker's queue.
        self.round = 0
        self.reserved: dict[str, int] = {}
        self.reserved_total = 0
        self.ever_eligible = False
        # The ledger that `job show` prints.
        self.probes = 0
        self.no_ops = 0
        self.cancels = 0
        self.relaunches = 0
        self.queueing_s = array("f")
        self.service_s = array("f")

    @staticmethod
    def _spread(submit: m.Submit, size: int) -> list[m.Payload | None]:
        if len(submit.payloads) == 1:
            return [submit.payloads[0]]
        if not submit.indices:
            return list(submit.payloads)
        table: list[m.Payload | None] = [None] * size
        for index, payload in zip(submit.indices, submit.payloads, strict=True):
            table[index] = payload
        return table

    @property
    def done(self) -> bool:
        """Whether every task is over."""
        return not self.unplaced and not self.launched

    def payloads_of(self, indices: list[int]) -> list[m.Payload]:
        """Return the payloads of these unfinished tasks: one each, or the single shared one."""
        table = self._payloads
        if len(table) == 1:
            return [table[0]]  # type: ignore[list-item]  # kept until the job is over
        return [table[index] for index in indices]  # type: ignore[misc]  # only tasks that are over lose theirs

    def take(self, count: int, worker: str) -> list[int]:
        """Launch up to ``count`` unplaced tasks on ``worker``, relaunches first; return their numbers."""
        taken: list[int] = []
        state = self.state
        again = self._again
        while again and len(taken) < count:
            index = again.popleft()
            if state[index] == UNPLACED:
                taken.append(index)
        while len(taken) < count and self._cursor < len(self._fresh):
            chunk = self._fresh[self._cursor : self._cursor + count - len(taken)]
            self._cursor += len(chunk)
            taken += [index for index in chunk if state[index] == UNPLACED]
        attempts, place = self.attempts, self.place
        for index in taken:
            state[index] = LAUNCHED
            attempts[index] += 1
            place[index] = worker
        self.unplaced -= len(taken)
        self.launched += len(taken)
        return taken

    def put_back(self, index: int) -> None:
        """A launched task did not run, or its worker is gone: it is unplaced again, ahead of the others."""
        self.state[index] = UNPLACED
        self.place[index] = None
        self._again.append(index)
        self.launched -= 1
        self.unplaced += 1

    def finish(self, index: int, status: int) -> None:
        """Make an unfinished task final with ``status`` and drop its payload."""
        if self.state[index] == LAUNCHED:
            self.launched -= 1
        else:
            self.unplaced -= 1
        self.state[index] = status
        self.place[index] = None
        self.counts[status] += 1
        if len(self._payloads) > 1:
            self._payloads[index] = None

    def results(self, message: m.Result, now: float) -> tuple[list[int], list[str]]:
        """Apply a worker's results: the first result of an issued attempt wins, all others are ignored.

        Returns the positions within the message that counted, and for each the worker it was launched on
        ("" when it was waiting for a relaunch).
        """
        state, attempts, place, payloads = self.state, self.attempts, self.place, self._payloads
        counts, size, waited = self.counts, len(self.state), now - self.submitted_at
        shared = len(payloads) == 1
        fresh: list[int] = []
        workers: list[str] = []
        launched = 0
        rows = zip(message.indices, message.attempts, message.statuses, message.service_us, strict=True)
        for position, (index, attempt, status, service_us) in enumerate(rows):
            if index >= size:
                continue
            before = state[index]
            if before not in (UNPLACED, LAUNCHED) or not 0 < attempt <= attempts[index]:
                continue
            if before == LAUNCHED:
                launched += 1
            state[index] = status
            counts[status] += 1
            workers.append(place[index] or "")
            place[index] = None
            if not shared:
                payloads[index] = None
            fresh.append(position)
            service_s = service_us * 1e-6
            self.service_s.append(service_s)
            self.queueing_s.append(max(0.0, waited - service_s))
        self.launched -= launched
        self.unplaced -= len(fresh) - launched
        return fresh, workers

    def release(self) -> None:
        """The job is over: keep only what its ledger needs, at most QUANTILES samples of each distribution."""
        self.state, self.attempts, self.place = bytearray(), [], []
        self._payloads, self._fresh, self.function = [], [], b""
        self.stories.clear()
        self.workers.clear()
        self.function_at.clear()
        for samples in (self.queueing_s, self.service_s):
            if len(samples) > QUANTILES:
                samples[:] = array("f", sorted(samples)[:: -(-len(samples) // QUANTILES)])

    def launched_on(self, worker: str) -> list[int]:
        """Return the tasks that are launched on ``worker``."""
        return [index for index, place in enumerate(self.place) if place == worker]

    def unfinished(self, indices: Iterable[int] = ()) -> list[int]:
        """Return those of ``indices`` (none given: of all tasks) that are unplaced or launched."""
        state = self.state
        wanted = list(indices) or range(len(state))
        return [i for i in wanted if i < len(state) and state[i] in (UNPLACED, LAUNCHED)]

    def reserve(self, worker: str, count: int) -> None:
        """Note ``count`` more reservations at ``worker``."""
        self.reserved[worker] = self.reserved.get(worker, 0) + count
        self.reserved_total += count
        self.probes += count

    def use(self, worker: str, count: int) -> None:
        """Up to ``count`` reservations at ``worker`` have become requests (or are gone)."""
        have = self.reserved.get(worker, 0)
        if have <= count:
            self.reserved.pop(worker, None)
            self.reserved_total -= have
        else:
            self.reserved[worker] = have - count
            self.reserved_total -= count

    def withdraw(self) -> dict[str, int]:
        """Forget all reservations and return them per worker, for the cancels that go out."""
        withdrawn, self.reserved = self.reserved, {}
        self.cancels += self.reserved_total
        self.reserved_total = 0
        return withdrawn
