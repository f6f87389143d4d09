"""Jobs that come from another scheduler: what workers still run of them is adopted, not run again (DESIGN rule 13).

Owns: who is asked, how long answers are waited for, what becomes of tasks that nobody has. Must not know: clients, or
how tasks are placed.

A worker that answers keeps what it has of earlier epochs, under the new one: what runs or waits in a slot, and results
that the dead scheduler has not acknowledged. The rest of the job is placed as if it were new.

A worker that has not answered in time gets nothing of the job before it does: it may have the very task, and a kill
of the one would end the other.
"""

from __future__ import annotations

from sparrowmq.core import report
from sparrowmq.core.job import UNPLACED, Job
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.peers import Worker
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m


class Claims:
    """The claims of one scheduler."""

    def __init__(self, state: State, outcomes: Outcomes) -> None:
        self._state = state
        self._outcomes = outcomes

    def begin(self, now: float, job: Job) -> None:
        """Ask every worker what it has of this job; nothing of it is placed before they have answered."""
        state = self._state
        asked = [worker for worker in state.workers.values() if worker.peer is not None]
        for worker in asked:
            state.send(worker.peer, m.Claim(job.id, job.epoch))
        job.claims = {worker.id for worker in asked}
        if job.claims:
            state.timers.add(now + state.settings.claim_timeout_s, ("claimed", job.id, job.epoch))
        else:
            self._finish(now, job)

    def joined(self, worker: Worker) -> None:
        """A worker has come while jobs are being claimed: it may have something of them, too."""
        for job in self._state.jobs.values():
            if job.claims is not None:
                job.claims.add(worker.id)
            elif worker.id not in job.unheard:
                continue
            self._state.send(worker.peer, m.Claim(job.id, job.epoch))

    def answered(self, now: float, worker: Worker, message: m.Claimed) -> None:
        """A worker has told what it has."""
        job = self._state.jobs.get(message.job)
        if job is None or job.epoch != message.epoch or not job.epoch:  # nobody was asked about a new job
            return
        self.adopt(now, worker, job, message)
        if worker.id in job.unheard:
            job.unheard -= {worker.id}
            self._outcomes.join(now, job, worker)
        self._gone(now, job, worker.id)

    def adopt(self, now: float, worker: Worker, job: Job, told: m.Claimed | m.Held) -> None:
        """Take over what a worker has told of; end what there is no use for."""
        unwanted: list[int] = []
        adopted = 0
        for index, attempt in zip(told.indices, told.attempts, strict=False):
            if job.adopt(now, index, attempt, worker.id):
                adopted += 1
                self._state.history.adopted(now, job, index)
            elif job.attempt_at(index, worker.id) != attempt:
                unwanted.append(index)
        worker.launched += adopted
        if adopted:
            job.workers.add(worker.id)
            self._state.count("adopted", adopted)
        if unwanted:  # over, given up by the client, or launched elsewhere since the time was up
            self._state.send(worker.peer, m.Kill(job.id, job.epoch, unwanted))

    def worker_gone(self, now: float, worker: str) -> None:
        """This worker will not answer any more, unless it comes back."""
        for job in list(self._state.jobs.values()):
            if job.claims is not None and worker in job.claims:
                job.unheard |= {worker}
                self._gone(now, job, worker)

    def _gone(self, now: float, job: Job, worker: str) -> None:
        if job.claims is not None:
            job.claims.discard(worker)
            if not job.claims:
                self._finish(now, job)

    def due(self, now: float, job_id: str, epoch: int) -> None:
        """Who has not answered by now is not waited for."""
        job = self._state.jobs.get(job_id)
        if job is not None and job.epoch == epoch and job.claims is not None:
            job.unheard |= job.claims
            self._finish(now, job)

    def _finish(self, now: float, job: Job) -> None:
        job.claims = None
        if job.spec.at_most_once:
            missing = [index for index in job.unfinished() if job.state[index] == UNPLACED]
            text = (
                f"its scheduler died, no worker has it, and it may have run: it is not started again "
                f"(at most once; job {job.id}, epoch {job.epoch})"
            )
            self._outcomes.end(now, job, missing, m.LOST, report.failure("TaskLost", text))
        if job.id in self._state.jobs:
            self._outcomes.place(now, job)
