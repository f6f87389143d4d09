"""One job at its scheduler: the state of every task, and where its reservations are.

Owns: the task table (unplaced -> launched -> over, by way of resting where a failure is tried again) and its
counts, the ledger of the job. Must not know: messages to anybody, policies, time beyond the numbers handed in.

A task is in exactly one state; `over` states are the protocol's statuses and final. Lists are indexed by the
task's number in the job, so that the hot paths are slices, not objects. What happens to few tasks (retries, deaths,
kills, second attempts) stands in dictionaries that stay empty for most jobs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import compress, islice
from typing import TYPE_CHECKING, Final

from sparrowmq.core.attempts import Attempt, Settled
from sparrowmq.protocol import messages as m

if TYPE_CHECKING:
    from sparrowmq.core.keeping import Keep
    from sparrowmq.core.transcripts import Transcript

UNPLACED: Final = 100
LAUNCHED: Final = 101
RESTING: Final = 102  # an attempt failed, and the next one waits for its back-off
ABSENT: Final = 255  # not part of this submission: it was over before the fail-over
QUANTILES: Final = 1000  # of a job's times, that its ledger is made from
BACKOFF_S_MAX: Final = 300.0

_UNPLACED: Final = bytes([UNPLACED])
_LAUNCHED: Final = bytes([LAUNCHED])
_SUCCEEDED: Final = bytes([m.SUCCEEDED])
_ABANDONED: Final = bytes(m.CANCELLED if UNPLACED <= state <= RESTING else state for state in range(256))
_RAN: Final = bytes(status in (m.SUCCEEDED, m.FAILED, m.TIMED_OUT) for status in range(256))

Launch = tuple[list[int], list[int], list[m.Payload]]  # task numbers, attempts, payloads (a single one: all share it)


class Job:
    """The scheduler's record of one job."""

    # What most jobs never change stands here: a job of one task must be cheap to make.
    launched = 0
    resting = 0
    round = 0
    withdrawn = 0  # the reservations of rounds up to this one have been withdrawn
    reserved_total = 0
    ever_eligible = False
    rest_due = 0.0  # the deadline that is set for resting tasks; 0: none
    payer = ""  # the key by whose limits it is placed
    how = ""  # "done" or "cancelled" once it is over; then with
    ended_at = 0.0
    detail = ""
    urgent = False  # tasks were lost with a worker: their reservations go ahead of others
    claims: set[str] | None = None  # workers whose answer is awaited: what they hold of earlier epochs
    unheard: frozenset[str] = frozenset()  # those that had not answered in time, and still have not
    slow: tuple[int, float] | None = None  # beyond which service time (s) a task is, and how many had ended then
    transcript: Transcript | None = None  # what its tasks printed
    keep: Keep | None = None  # of a durable job: what the store has not confirmed
    # The ledger that `job show` prints.
    probes = 0
    no_ops = 0
    cancels = 0
    relaunches = 0
    retries = 0
    hedges = 0
    _cursor = 0
    _again: deque[int] | None = None  # relaunches go first
    _samples: tuple[list[float], list[float]] | None = None  # of its times, once it is over

    def __init__(self, submit: m.Submit, client: str, now: float) -> None:
        count = submit.count
        indices = submit.indices
        size = max(indices) + 1 if indices else count
        self.id = submit.job
        self.epoch = submit.epoch
        self.spec = submit.spec
        self.client = client
        self.detached = submit.detached
        self.submitted_at = now
        self.function = submit.function
        self.tasks = self.unplaced = count
        self.counts = [0] * len(m.STATUS_NAMES)
        self.bytes = sum(map(len, submit.payloads)) + len(submit.function)
        self._shared = len(submit.payloads) == 1  # one payload stands for all tasks
        self._payloads: list[m.Payload | None] = list(submit.payloads)
        self._fresh: Sequence[int] = indices or range(count)
        self.state = bytearray(_UNPLACED * size)
        if indices:
            self.state = bytearray([ABSENT]) * size
            for index in indices:
                self.state[index] = UNPLACED
            if not self._shared:
                self._payloads = [None] * size
                for index, payload in zip(indices, submit.payloads, strict=True):
                    self._payloads[index] = payload
        # One entry a task, for as long as its history is kept. Times are monotonic seconds, 0.0: not yet.
        self.attempts = [0] * size
        self.place: list[str] = [""] * size  # the worker of the last launch
        self.launch_times = [0.0] * size
        self.end_times = [0.0] * size
        self.service_us = [0] * size
        # Reservations: how many this job still has in each worker's queue.
        self.reserved: dict[str, int] = {}
        self.workers: set[str] = set()  # that may have reservations or tasks of this job
        self.function_at: set[str] = set()  # workers that were sent the function on their present connection
        # What happens to few tasks, by number.
        self.deaths: dict[int, int] = {}
        self.stories: dict[int, list[str]] = {}  # how each of its workers was lost
        self.doomed: dict[int, float] = {}  # launched and to be killed, with this grace: never launched again
        self.astray: dict[tuple[int, int], str] = {}  # (task, attempt) whose worker was given up: it may end there yet
        self.failures: dict[int, int] = {}  # attempts that failed and may be tried again
        self.rests: list[tuple[float, int]] = []  # heap: until when a task rests
        # Given a second attempt: those that are live, at last the one that won.
        self.twins: dict[int, list[Attempt]] = {}
        self.wanted: dict[int, None] = {}  # slow tasks that wait for a second attempt
        self.events: dict[int, list[m.Event]] = {}
        self.endings: dict[int, str] = {}  # how the running ones were cancelled
        self.failed: dict[int, bytes] = {}  # the first that did not succeed, with their failures
        if submit.deaths:
            self.deaths = {i: n for i, n in zip(self._fresh, submit.deaths, strict=True) if n}

    @property
    def done(self) -> bool:
        """Whether every task is over."""
        return not self.unplaced and not self.launched and not self.resting

    @property
    def needed(self) -> int:
        """How many reservations have a use: those of unplaced tasks and of tasks that want a second attempt."""
        return self.unplaced + len(self.wanted)

    @property
    def status(self) -> str:
        """ "waiting" (for a worker that can run it), "running", "done" or "cancelled"."""
        return self.how or ("running" if self.ever_eligible else "waiting")

    # -- launching

    def take(self, now: float, count: int, worker: str) -> Launch:
        """Launch up to ``count`` unplaced tasks on ``worker``, relaunches first."""
        fresh, first = self._fresh, self._cursor
        if not self._again and type(fresh) is range:
            end = min(first + count, len(fresh))
            if self.state.count(_UNPLACED, first, end) == end - first:
                return self._take_run(now, first, end, worker)
        taken: list[int] = []
        state, again = self.state, self._again
        while again and len(taken) < count:
            index = again.popleft()
            if state[index] == UNPLACED:
                state[index] = LAUNCHED  # one that was adopted before may stand below, too
                taken.append(index)
        while len(taken) < count and self._cursor < len(fresh):
            chunk = fresh[self._cursor : self._cursor + count - len(taken)]
            self._cursor += len(chunk)
            taken += [index for index in chunk if state[index] == UNPLACED]
        for index in taken:
            state[index] = LAUNCHED
            self.attempts[index] += 1
            self.place[index] = worker
            self.launch_times[index] = now
        self.unplaced -= len(taken)
        self.launched += len(taken)
        return taken, [self.attempts[index] for index in taken], self.payloads_of(taken)

    def _take_run(self, now: float, first: int, end: int, worker: str) -> Launch:
        """Launch tasks ``first`` to ``end`` - 1, none of which was launched before."""
        n = end - first
        if n <= 0:
            return [], [], []
        self._cursor = end
        if n == 1:  # as below
            self.state[first] = LAUNCHED
            self.attempts[first], self.place[first], self.launch_times[first] = 1, worker, now
            self.unplaced -= 1
            self.launched += 1
            return [first], [1], [self._payloads[0 if self._shared else first]]  # type: ignore[list-item]
        attempts = [1] * n
        self.state[first:end] = _LAUNCHED * n
        self.attempts[first:end] = attempts
        self.place[first:end] = [worker] * n
        self.launch_times[first:end] = [now] * n
        self.unplaced -= n
        self.launched += n
        payloads = self._payloads if self._shared else self._payloads[first:end]
        return list(range(first, end)), attempts, list(payloads)  # type: ignore[arg-type]  # kept until they are over

    def take_second(self, now: float, count: int, worker: str) -> list[int]:
        """Launch second attempts on ``worker``, of up to ``count`` tasks that want one and run elsewhere."""
        taken = list(islice((index for index in self.wanted if self.place[index] != worker), count))
        for index in taken:
            del self.wanted[index]
            first = Attempt(self.place[index], self.attempts[index], self.launch_times[index])
            self.attempts[index] += 1
            self.twins[index] = [first, Attempt(worker, self.attempts[index], now)]
        self.hedges += len(taken)
        return taken

    def payloads_of(self, indices: list[int]) -> list[m.Payload]:
        """Return the payloads of these unfinished tasks: one each, or the single one that all share."""
        table = self._payloads
        if self._shared:
            return [table[0]]  # type: ignore[list-item]  # kept until the job is over
        return [table[index] for index in indices]  # type: ignore[misc]  # only tasks that are over lose theirs

    def adopt(self, now: float, index: int, attempt: int, worker: str) -> bool:
        """Take over an attempt of an earlier epoch that ``worker`` has, unless the task has a place, or its number."""
        if index >= len(self.state) or self.state[index] != UNPLACED or attempt <= self.attempts[index]:
            return False
        self.state[index] = LAUNCHED
        self.attempts[index], self.place[index], self.launch_times[index] = attempt, worker, now
        self.unplaced -= 1
        self.launched += 1
        return True

    # -- attempts that end

    def settle_run(self, message: m.Result, worker: str, now: float) -> bool:
        """Apply results of the usual kind: a run of tasks that ``worker`` was given and that have all succeeded.

        Returns False, with nothing changed, for any others: they are for `results`.
        """
        indices = message.indices
        n = len(indices)
        if not n or self.twins or message.statuses != _SUCCEEDED * n:
            return False
        first = indices[0]
        end = first + n
        if (
            end > len(self.state)
            or self.state.count(_LAUNCHED, first, end) != n
            or self.attempts[first:end] != message.attempts
            or self.place[first:end] != [worker] * n
            or (n > 1 and indices != list(range(first, end)))
        ):
            return False
        self.state[first:end] = message.statuses
        self.end_times[first:end] = [now] * n
        self.service_us[first:end] = message.service_us
        if not self._shared:
            self._payloads[first:end] = [None] * n
        self.counts[m.SUCCEEDED] += n
        self.launched -= n
        if self.wanted:
            for index in indices:
                self.wanted.pop(index, None)
        return True

    def results(self, message: m.Result, worker: str, now: float) -> Settled:
        """Apply a worker's results: the first of an attempt that this worker was given wins, others are ignored."""
        settled = Settled()
        state, size = self.state, len(self.state)
        rows = zip(message.indices, message.attempts, message.statuses, message.service_us, strict=True)
        for position, (index, attempt, status, service_us) in enumerate(rows):
            if index >= size or not UNPLACED <= state[index] <= RESTING or not self._given(index, attempt, worker):
                settled.ignored += 1
                continue
            if status == m.CANCELLED and index not in self.doomed and self.attempt_at(index, worker) != attempt:
                settled.ignored += 1  # it was ended since another attempt has replaced it
                continue
            final: int | None = status
            if status == m.RETRY or index in self.twins:
                final = self._weigh(settled, index, worker, attempt, status, now)
            elif state[index] == LAUNCHED:
                settled.places.append(self.place[index])
            if final is not None:
                self.finish(index, final, now)
                self.service_us[index] = service_us
                settled.over.append(position)
                settled.statuses.append(final)
        return settled

    def _given(self, index: int, attempt: int, worker: str) -> bool:
        """Whether an attempt is this worker's: it is live there, or was when the worker was thought to be gone."""
        there = self.attempt_at(index, worker) == attempt or self.astray.get((index, attempt)) == worker
        return attempt > 0 and there

    def _weigh(self, settled: Settled, index: int, worker: str, attempt: int, status: int, now: float) -> int | None:
        """Return how the task ends by this result, None if it goes on: in another attempt, now or later."""
        live = self.live(index)
        mine = next((one for one in live if (one.worker, one.number) == (worker, attempt)), None)  # numbers may recur
        others = [one for one in live if one is not mine]
        if status == m.RETRY:
            if mine is None:
                settled.ignored += 1
                return None
            failures = self.failures[index] = self.failures.get(index, 0) + 1
            if failures > self.spec.retries or index in self.doomed:
                status = m.FAILED
            else:
                self.retries += 1
                settled.failed.append((index, attempt, mine.worker))
                settled.places.append(mine.worker)
                if not self.drop(index, mine.worker):
                    self._rest(index, failures, now)
                return None
        elif status == m.CANCELLED and mine is not None and others:
            settled.places.append(mine.worker)
            self.drop(index, mine.worker)
            return None
        settled.places += [one.worker for one in live]
        if mine is not None and index in self.twins:
            self.twins[index] = [mine]
            self.place[index], self.launch_times[index] = mine.worker, mine.at
        if index not in self.doomed:  # those are being killed already, with their grace
            settled.losers += [(one.worker, index) for one in others]
        return status

    def _rest(self, index: int, failures: int, now: float) -> None:
        """A launched task has failed: it waits for its back-off, which doubles with each failure."""
        delay_s = min(BACKOFF_S_MAX, self.spec.backoff_s * 2.0 ** (failures - 1))
        self.put_back(index)
        if delay_s > 0.0:
            self._again.pop()  # type: ignore[union-attr]  # where it was just put
            self.unplaced -= 1
            self.state[index] = RESTING
            self.resting += 1
            heappush(self.rests, (now + delay_s, index))

    def wake(self, now: float) -> list[int]:
        """The back-off of some tasks is over: they are unplaced again. Returns their numbers."""
        woken: list[int] = []
        while self.rests and self.rests[0][0] <= now:
            _, index = heappop(self.rests)
            if self.state[index] == RESTING:  # else it ended meanwhile
                self.resting -= 1
                self._unplace(index)
                woken.append(index)
        return woken

    def put_back(self, index: int) -> None:
        """No attempt of a launched task goes on, and it is not over: it is unplaced again, ahead of the others."""
        self.launched -= 1
        self.twins.pop(index, None)
        self.wanted.pop(index, None)
        self._unplace(index)

    def _unplace(self, index: int) -> None:
        self.state[index] = UNPLACED
        self.unplaced += 1
        if self._again is None:
            self._again = deque()
        self._again.append(index)

    def drop(self, index: int, worker: str) -> bool:
        """The attempt at ``worker`` is over and the task is not; return whether another attempt goes on."""
        left = [one for one in self.twins.get(index, ()) if one.worker != worker]
        if left:
            self.twins[index] = left
            self.place[index], self.launch_times[index] = left[0].worker, left[0].at
        return bool(left)

    def finish(self, index: int, status: int, now: float) -> None:
        """Make an unfinished task final with ``status`` and drop its payload."""
        state = self.state[index]
        if state == LAUNCHED:
            self.launched -= 1
        elif state == UNPLACED:
            self.unplaced -= 1
        else:
            self.resting -= 1
        self.state[index] = status
        self.end_times[index] = now
        self.counts[status] += 1
        if not self._shared:
            self._payloads[index] = None
        if self.wanted:
            self.wanted.pop(index, None)

    # -- looking

    def live(self, index: int) -> list[Attempt]:
        """Return the attempts of a task that may be running: one if it is launched, or two."""
        if self.state[index] != LAUNCHED:
            return []
        one = Attempt(self.place[index], self.attempts[index], self.launch_times[index])
        return self.twins.get(index) or [one]

    def attempt_at(self, index: int, worker: str) -> int:
        """Return the number of the attempt of a task that is live at ``worker``, 0 if none is."""
        if index >= len(self.state) or self.state[index] != LAUNCHED:
            return 0
        if index in self.twins:
            return next((one.number for one in self.twins[index] if one.worker == worker), 0)
        return self.attempts[index] if self.place[index] == worker else 0

    def launched_on(self, worker: str) -> list[int]:
        """Return the tasks that have a live attempt on ``worker``."""
        state = self.state
        found = [i for i, place in enumerate(self.place) if place == worker and state[i] == LAUNCHED]
        if self.twins:
            others = ((i, live[-1].worker) for i, live in self.twins.items() if state[i] == LAUNCHED)
            found += [i for i, other in others if other == worker and self.place[i] != worker]
        return found

    def launched_tasks(self) -> Iterator[int]:
        """Yield the tasks that are launched."""
        index = self.state.find(_LAUNCHED)
        while index >= 0:
            yield index
            index = self.state.find(_LAUNCHED, index + 1)

    def places(self) -> set[str]:
        """Return the workers that have live attempts."""
        found = {self.place[index] for index in self.launched_tasks()}
        for index, live in self.twins.items():
            if self.state[index] == LAUNCHED:
                found.update(one.worker for one in live)
        return found

    def unfinished(self, indices: Iterable[int] = ()) -> list[int]:
        """Return those of ``indices`` (none given: of all tasks) that are not over."""
        state = self.state
        wanted = list(indices) or range(len(state))
        return [i for i in wanted if i < len(state) and UNPLACED <= state[i] <= RESTING]

    def times(self) -> tuple[list[float], list[float]]:
        """Return queueing and service times in seconds of tasks that ran to an end: QUANTILES at most, evenly taken."""
        if self._samples is not None:
            return self._samples
        ran = self.state.translate(_RAN)
        step = max(1, -(-sum(ran) // QUANTILES))
        service_s = [us * 1e-6 for us in islice(compress(self.service_us, ran), 0, None, step)]
        ends = islice(compress(self.end_times, ran), 0, None, step)
        since = self.submitted_at
        samples = [max(0.0, at - since - s) for at, s in zip(ends, service_s, strict=True)], service_s
        if self.how:
            self._samples = samples
        return samples

    # -- the end

    def abandon(self) -> None:
        """Nobody wants this job any more: what is not over counts as cancelled."""
        self.counts[m.CANCELLED] += self.unplaced + self.launched + self.resting
        self.unplaced = self.launched = self.resting = 0
        self.state = self.state.translate(_ABANDONED)
        self.twins.clear()
        self.wanted.clear()

    def release(self) -> None:
        """The job is over: keep what its ledger and the history of its tasks need."""
        self._payloads, self._fresh, self._again, self.function = [], (), None, b""
        self.workers.clear()
        self.function_at.clear()
        if self.stories or self.doomed or self.failures or self.rests or self.deaths or self.astray:
            for kept in (self.stories, self.doomed, self.failures, self.deaths, self.astray):
                kept.clear()
            self.rests.clear()

    def forget_rows(self) -> None:
        """Keep no history of single tasks any more."""
        self._samples = self.times()
        self.state, self.attempts, self.place = bytearray(), [], []
        self.launch_times, self.end_times, self.service_us = [], [], []
        self.events, self.endings, self.failed, self.twins = {}, {}, {}, {}

    # -- reservations

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
        self.withdrawn = self.round
        self.reserved_total = 0
        return withdrawn
