"""Where a scheduler puts the tasks of its jobs: probes, reservations, launches.

Owns: rounds of probes (late binding) and of load samples (early binding), which worker may get what, and the
task messages. Must not know: clients, results, or how a worker came to be known or lost; `Scheduler` tells it.

A worker that seems idle is given a task at once, to be given back if it is not: binding stays late, since nothing
starts behind anything else.

Late binding (SOSP 2013, 3.5): reservations are counted per worker, never fewer than the unplaced tasks; a
request takes tasks, the last task placed cancels the remaining reservations (3.6).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from sparrowmq.core.effects import Peer
from sparrowmq.core.hints import Hints
from sparrowmq.core.job import Job
from sparrowmq.core.peers import Worker
from sparrowmq.core.quotas import Quota
from sparrowmq.core.sampling import Sampling
from sparrowmq.limits import INT_MAX
from sparrowmq.placement import POLICIES, assisted, late_binding, uniform
from sparrowmq.placement.load import expected_wait
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.protocol import messages as m

LATER_S_MIN: Final = 0.001
SAMPLING_TIMEOUT_S: Final = 0.25  # a probed worker that has not answered by then is not waited for
IDLE_LOOKS: Final = 8  # so many random workers are looked at for one that seems idle
BUSY_PAUSE_S: Final = 0.1  # a worker that seemed idle and was not is believed busy for so long
FULL_PAUSE_S: Final = 1.0  # a worker whose queue was full is not probed for so long

Emit = Callable[[Peer, m.AnyMessage], None]
Later = Callable[[float, tuple[str, str]], None]  # when, and the deadline's name and whose it is


def suits(job: Job, worker: Worker) -> bool:
    """Return whether this worker's Python can load the job's pickles, and it has said what it has of the job."""
    return job.spec.python in ("", worker.hello.python) and worker.id not in job.unheard


class Placer:
    """Places unplaced tasks. ``workers`` is the scheduler's own table, read only here."""

    def __init__(
        self, workers: dict[str, Worker], rng: random.Random, emit: Emit, later: Later, *, eager: bool = True,
        cancellation: bool = True, probes_per_s: float = 0.0,
    ) -> None:  # fmt: skip
        self._eager = eager
        self._cancellation = cancellation
        self._workers = workers
        self._rng = rng
        self._emit = emit
        self._later = later
        self._rate = Quota(probes_per_s)  # of what is sent unasked for the jobs of one key
        self._overdue: dict[str, dict[str, None]] = {}  # jobs to be placed once their key may have more sent, by key
        self._eligible: dict[str, list[str]] = {}
        self._sampling: dict[str, Sampling] = {}
        self._hints = Hints(workers)
        self.assisted = 0  # tasks that places were looked for by hints so far: what its share is to be large enough for

    def members_changed(self) -> None:
        """Workers came, went, drain or are full: look at them anew."""
        self._eligible.clear()

    def eligible(self, now: float, job: Job) -> list[str]:
        """Return the ids of the workers that may get tasks of ``job`` now."""
        python = job.spec.python
        found = self._eligible.get(python)
        if found is None:
            found = [
                worker.id
                for worker in self._workers.values()
                if worker.peer is not None
                and not worker.draining
                and worker.full_until <= now
                and worker.hello.slots > 0
                and python in ("", worker.hello.python)
            ]
            self._eligible[python] = found = [id for id in found if not self._workers[id].suspect] or found
        return [id for id in found if id not in job.unheard] if job.unheard else found

    def hinted(self, now: float, message: m.Hints) -> None:
        """The assistant has sent load hints."""
        self._hints.heard(now, message)

    def place(self, now: float, job: Job) -> float | None:
        """Find places for what is unplaced and has none coming.

        Returns when to call `sampling_over` if a round of load probes has started.
        """
        if not job.unplaced:
            return None
        workers = self.eligible(now, job)
        if not workers:
            return None
        job.ever_eligible = True
        if self._too_soon(now, job):
            return None
        policy = POLICIES[job.spec.policy]
        if policy.late:
            missing = job.unplaced - job.reserved_total
            if missing > 0 and policy.hinted:
                self.assisted = min(self.assisted + missing, INT_MAX)
            if missing > 0 and self._eager and not job.reserved_total:
                if policy.hinted:
                    missing -= self._push_to_idle(now, job, self._free(now, job, workers))
                if missing > 0:
                    missing -= self._push_to_idle(now, job, self._look_for_idle(workers))
            if missing > 0:
                job.round += 1
                self._reserve(now, job, self._late_binding(now, job, workers, missing), first=job.urgent)
                job.urgent = False
        elif not policy.samples:
            self._push(now, job, uniform.place(self._rng, workers, job.unplaced))
        elif job.id not in self._sampling:
            job.round += 1
            sampling = Sampling(self._rng, policy, workers, job.unplaced, job.spec.probe_ratio, job.round)
            self._sampling[job.id] = sampling
            job.probes += len(sampling.asked)
            self._rate.take(now, job.payer, len(sampling.asked))
            job.workers.update(sampling.asked)
            for worker_id in sampling.asked:
                self._emit(self._workers[worker_id].peer, m.Probe(job.id, job.epoch, job.round, 0))
            return now + SAMPLING_TIMEOUT_S
        return None

    def _too_soon(self, now: float, job: Job) -> bool:
        """Whether this job's key has had as much sent as it may for now; then `overdue` is wanted later."""
        wait_s = self._rate.wait_s(now, job.payer)
        if not wait_s:
            return False
        if job.payer not in self._overdue:
            self._overdue[job.payer] = {}
            self._later(now + max(LATER_S_MIN, wait_s), ("overdue", job.payer))
        self._overdue[job.payer][job.id] = None
        return True

    def overdue(self, payer: str) -> list[str]:
        """Return the jobs of this key that are to be placed now: more may be sent for them."""
        return list(self._overdue.pop(payer, ()))

    def waits(self, job: Job) -> bool:
        """Whether this job is to be placed later, for its key's sake."""
        return job.id in self._overdue.get(job.payer, ())

    def joined(self, now: float, job: Job, worker: Worker) -> float | None:
        """A worker came while ``job`` has unplaced tasks: leave it its share (DESIGN rule 6)."""
        workers = self.eligible(now, job)
        if POLICIES[job.spec.policy].late and job.reserved_total and worker.id in workers:
            share = -(-probes(job.unplaced, job.spec.probe_ratio) // len(workers)) - job.reserved.get(worker.id, 0)
            if share > 0:
                self._reserve(now, job, {worker.id: share})
        return self.place(now, job)

    def _late_binding(self, now: float, job: Job, workers: list[str], tasks: int) -> dict[str, int]:
        """Return the reservations to leave for so many tasks, by worker."""
        ratio = job.spec.probe_ratio
        if not POLICIES[job.spec.policy].hinted:
            return late_binding.reserve(self._rng, workers, tasks, ratio)
        share, others = self._hints.pool(now, job.spec.python, workers)
        return assisted.choose(self._rng, share, others, probes(tasks, ratio), self._hints.wait)

    def _reserve(self, now: float, job: Job, counts: dict[str, int], *, first: bool = False) -> None:
        self._rate.take(now, job.payer, sum(counts.values()))
        for worker_id, count in counts.items():
            worker = self._workers[worker_id]
            self.reserved(job, worker, count)
            job.workers.add(worker_id)
            self._emit(worker.peer, m.Probe(job.id, job.epoch, job.round, count, first))

    def reserved(self, job: Job, worker: Worker, count: int) -> None:
        """So many more reservations of this job are at this worker."""
        job.reserve(worker.id, count)
        worker.reserved += count

    def used(self, job: Job, worker: Worker, count: int) -> None:
        """Up to ``count`` reservations of this job at this worker have become requests, or are gone."""
        before = job.reserved_total
        job.use(worker.id, count)
        worker.reserved -= before - job.reserved_total

    def _look_for_idle(self, workers: list[str]) -> list[str]:
        """Return the few workers to look at, in random order."""
        looked = workers if len(workers) <= IDLE_LOOKS else self._rng.sample(workers, IDLE_LOOKS)
        first = self._rng.randrange(len(looked)) if len(looked) > 1 else 0
        return looked[first:] + looked[:first]

    def _free(self, now: float, job: Job, workers: list[str]) -> list[str]:
        """Return workers that hints and this scheduler's own books say are free."""
        share, _ = self._hints.pool(now, job.spec.python, workers)
        return assisted.free(self._rng, share, job.unplaced, self._hints.wait)

    def _push_to_idle(self, now: float, job: Job, workers: list[str]) -> int:
        """Launch tasks on those of the workers that seem to have free slots, one a slot; return how many."""
        some = [self._workers[worker_id] for worker_id in workers]
        pushed = 0
        while some and job.unplaced:
            some = [w for w in some if w.launched < w.hello.slots and w.busy_until <= now]
            for worker in some[: job.unplaced]:
                pushed += self._launch(now, job, worker, 1, request=0, eager=True)
        return pushed

    def reserve_elsewhere(self, now: float, job: Job, worker_id: str, count: int) -> None:
        """Leave reservations for ``count`` second attempts of tasks that run on this worker: on others."""
        others = [other for other in self.eligible(now, job) if other != worker_id]
        if others and not self._rate.wait_s(now, job.payer):  # else they are looked for again
            job.round += 1
            self._reserve(now, job, late_binding.reserve(self._rng, others, count, job.spec.probe_ratio))

    def _push(self, now: float, job: Job, counts: dict[str, int]) -> None:
        for worker_id, count in counts.items():
            self._launch(now, job, self._workers[worker_id], count, request=0)

    def requested(self, now: float, job: Job, worker: Worker, message: m.Request, allowed: bool) -> list[int]:
        """A reservation's turn has come: launch tasks, or answer no-op for what there is no task for.

        Returns the tasks that were given their second attempt, mostly none.
        """
        count = message.count
        if message.round > job.withdrawn:  # else its reservation was withdrawn while it was under way
            self.used(job, worker, count)
        taken = 0
        seconds: list[int] = []
        if allowed and not worker.draining and suits(job, worker):
            if job.wanted:  # they have waited longest
                seconds = job.take_second(now, count, worker.id)
            taken = self._launch(now, job, worker, count, message.request, seconds)
        if taken < count:
            job.no_ops = min(job.no_ops + count - taken, INT_MAX)
            self._emit(worker.peer, m.NoOp(message.request, count - taken))
        if not job.unplaced and job.reserved_total and not job.wanted:
            self.withdraw(job)
        return seconds

    def _launch(
        self, now: float, job: Job, worker: Worker, count: int, request: int, seconds: Sequence[int] = (), *,
        eager: bool = False,
    ) -> int:  # fmt: skip
        taken, attempts, payloads = job.take(now, count - len(seconds), worker.id)
        if seconds:
            taken += seconds
            attempts += [job.attempts[index] for index in seconds]
            payloads = job.payloads_of(taken)
        if not taken:
            return 0
        worker.launched += len(taken)
        job.workers.add(worker.id)
        if not request:
            self._rate.take(now, job.payer, len(taken))
        renew = 0
        if request and job.unplaced and worker.id not in job.reserved and self._everywhere(now, job):
            renew = min(len(taken), job.unplaced)
            job.round = max(job.round, job.withdrawn + 1)
            self.reserved(job, worker, renew)
            job.probes -= renew  # it rides with the tasks: no probe is sent for it
        function: m.Payload = b""
        if worker.id not in job.function_at:
            job.function_at.add(worker.id)
            function = job.function
        task = m.Task(
            request, job.id, job.epoch, job.spec, taken, attempts, payloads, function, renew, job.round, eager
        )  # fmt: skip
        self._emit(worker.peer, task)
        return len(taken)

    def _everywhere(self, now: float, job: Job) -> bool:
        """Whether the job has reached every worker: then one that is through with its share takes more (DESIGN rule 6).

        In a larger cluster its other reservations are as good, and this one would only have to be cancelled.
        """
        return len(job.workers) >= len(self.eligible(now, job))

    def withdraw(self, job: Job) -> None:
        """Cancel every reservation that is left (SOSP 2013, 3.6); without cancellation they end as no-ops."""
        withdrawn = job.withdraw()
        for worker_id, count in withdrawn.items():
            self._workers[worker_id].reserved -= count
        if not self._cancellation:
            return
        job.cancels += sum(withdrawn.values())
        for worker_id in withdrawn:
            self._emit(self._workers[worker_id].peer, m.Cancel(job.id, job.epoch, job.round))

    def loaded(self, now: float, job: Job, worker: Worker, message: m.Load) -> None:
        """A load came in; the last one awaited places the tasks."""
        sampling = self._sampling.get(job.id)
        if sampling is None or sampling.round != message.round:
            return
        if sampling.answer(worker.id, expected_wait(message.queued, message.running, message.slots)):
            self._assign(now, job, sampling)

    def sampling_over(self, now: float, job: Job, round: int) -> bool:
        """The time for answers is up: place on those that answered; return whether that round was still open."""
        sampling = self._sampling.get(job.id)
        if sampling is None or sampling.round != round:
            return False
        self._assign(now, job, sampling)
        return True

    def _assign(self, now: float, job: Job, sampling: Sampling) -> None:
        del self._sampling[job.id]
        answered = [self._workers[worker_id] for worker_id in sampling.loads if worker_id in self._workers]
        usable = {w.id: w.hello.slots for w in answered if w.peer is not None and not w.draining and suits(job, w)}
        self._push(now, job, sampling.assign(usable))

    def gone(self, now: float, job: Job, worker_id: str) -> None:
        """A worker will not answer for ``job`` any more: its reservations and its load are not awaited."""
        worker, left = self._workers.get(worker_id), job.reserved.get(worker_id, 0)
        if worker is not None:
            self.used(job, worker, left)
        else:
            job.use(worker_id, left)
        self.unsampled(now, job, worker_id)

    def unsampled(self, now: float, job: Job, worker_id: str) -> None:
        """A worker's load is not awaited any more."""
        sampling = self._sampling.get(job.id)
        if sampling is not None and sampling.answer(worker_id, None):
            self._assign(now, job, sampling)

    def sampled(self, worker_id: str) -> list[str]:
        """Return the jobs that wait for this worker's load."""
        return [job for job, sampling in self._sampling.items() if worker_id in sampling.waiting]

    def forget_loads(self, job_id: str) -> None:
        """Wait for no loads of this job: it is placed anew, if at all."""
        self._sampling.pop(job_id, None)

    def ended(self, job: Job) -> None:
        """The job is over: withdraw what it left."""
        self._sampling.pop(job.id, None)
        if self._overdue:
            self._overdue.get(job.payer, {}).pop(job.id, None)
        if job.reserved_total:
            self.withdraw(job)
