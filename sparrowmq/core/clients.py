"""A scheduler's dealings with clients: jobs in, recalls, kills, leases.

Owns: what a client may ask for and what it is answered. Must not know: workers beyond sending them recalls and
kills, or how tasks are placed.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sparrowmq import limits
from sparrowmq.core import report
from sparrowmq.core.effects import Peer
from sparrowmq.core.hedging import Hedging
from sparrowmq.core.job import LAUNCHED, Job
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.peers import Client, Recall
from sparrowmq.core.placer import Placer
from sparrowmq.core.state import State
from sparrowmq.errors import UsageError
from sparrowmq.placement import POLICIES, canonical
from sparrowmq.protocol import messages as m

RECALLS_MAX: Final = 10_000


class Clients:
    """The client side of one scheduler."""

    def __init__(self, state: State, placer: Placer, outcomes: Outcomes, hedging: Hedging) -> None:
        self._state = state
        self._placer = placer
        self._outcomes = outcomes
        self._hedging = hedging
        self._recalls: dict[int, Recall] = {}
        self._recall_number = 0

    def hello(self, now: float, peer: Peer, hello: m.Hello, welcome: m.Welcome) -> None:
        """A client came, or came back: tell it which of its jobs live on, and what it has not acknowledged."""
        state = self._state
        client = state.clients.get(hello.id)
        if client is not None and hello.incarnation > client.incarnation:
            self.forget(now, client, "its client was restarted")
            client = None
        if client is None:
            client = state.clients[hello.id] = Client(hello.id, hello.incarnation, peer)
        client.peer, client.gone_at, client.connection = peer, None, hello.connection
        state.peers[peer] = client
        wanted = set(hello.jobs)
        for job_id in sorted(client.jobs - wanted):
            self._outcomes.abort(now, state.jobs[job_id], "its client has moved it elsewhere")
        known = (client.jobs | {outcome.job for outcome in client.outbox}) & wanted
        known |= {job_id for job_id in wanted if self._detached(client, job_id)}
        state.send(peer, msgspec.structs.replace(welcome, jobs=sorted(known)))
        for outcome in client.outbox:
            state.send(peer, outcome)
        if client.starved:
            self._outcomes.resume(now, client)
        if state.draining:
            state.send(peer, m.Goodbye("draining"))

    def submit(self, now: float, client: Client, submit: m.Submit) -> None:
        """Take a job, or say why not. The same job again is the same job; a later epoch replaces it."""
        state = self._state
        known = state.jobs.get(submit.job)
        if known is not None and known.client == client.id:
            if submit.epoch == known.epoch:
                self._accept(now, client, known)
                return
            if submit.epoch < known.epoch:
                state.send(client.peer, m.Stale(known.id, known.epoch))
                return
        if submit.detached and known is None:
            over = state.history.finished.get(submit.job)
            if over is not None and over.client == client.id and over.epoch == submit.epoch:
                self._accept(now, client, over)  # it ended before its client had the answer
                return
        refusal = self._refusal(client, submit, known)
        if refusal is not None:
            state.count("rejected")
            state.send(client.peer, refusal)
            return
        if known is not None:
            self._outcomes.abort(now, known, "its client has resubmitted it")
        job = Job(submit, client.id, now)
        if submit.spec.policy not in POLICIES:
            job.spec = msgspec.structs.replace(submit.spec, policy=canonical(submit.spec.policy))
        state.jobs[job.id] = job
        if not job.detached:
            client.jobs.add(job.id)
        state.tasks += job.tasks
        state.bytes += job.bytes
        state.count("jobs")
        state.count("tasks", job.tasks)
        self._accept(now, client, job)
        self._outcomes.place(now, job)
        if not job.ever_eligible:
            state.timers.add(now + state.settings.unschedulable_after_s, ("unschedulable", job.id, job.epoch))
        self._hedging.watch(now, job)

    def _accept(self, now: float, client: Client, job: Job) -> None:
        self._state.send(client.peer, m.Accepted(job.id, job.epoch, len(self._placer.eligible(now, job))))

    def _refusal(self, client: Client, submit: m.Submit, known: Job | None) -> m.Rejected | None:
        """Return why this job cannot be taken, or None."""
        state = self._state
        if known is not None and known.client != client.id:
            return m.Rejected(submit.job, submit.epoch, "conflict", f"another client has a job {submit.job}")
        spec = submit.spec
        if spec.kind in (m.PYTHON, m.CALL) and not len(submit.function):
            return m.Rejected(submit.job, submit.epoch, "invalid", "a job of this kind needs a function")
        if spec.policy not in POLICIES:
            try:
                canonical(spec.policy)
            except UsageError as error:
                return m.Rejected(submit.job, submit.epoch, "invalid", str(error))
        if state.draining:
            return m.Rejected(submit.job, submit.epoch, "draining", f"{state.id} is shutting down", 0.1)
        size = sum(map(len, submit.payloads)) + len(submit.function)
        if size > limits.JOB_BYTES_MAX:
            detail = f"{size:,} payload bytes in one job: the limit is {limits.JOB_BYTES_MAX:,}; split the job"
            return m.Rejected(submit.job, submit.epoch, "too_large", detail)
        return self._no_room(submit, size)

    def _no_room(self, submit: m.Submit, size: int) -> m.Rejected | None:
        state, bounds = self._state, self._state.settings.limits
        if (
            len(state.jobs) < bounds.jobs
            and state.tasks + submit.count <= bounds.tasks
            and state.bytes + size <= bounds.payload_bytes
        ):
            return None
        for what, have, more, limit in (
            ("unfinished jobs", len(state.jobs), 1, bounds.jobs),
            ("unfinished tasks", state.tasks, submit.count, bounds.tasks),
            ("payload bytes", state.bytes, size, bounds.payload_bytes),
        ):
            if more > limit:
                detail = f"{more:,} {what} in one job: the limit of {state.id} is {limit:,}; split the job"
                return m.Rejected(submit.job, submit.epoch, "too_large", detail)
            if have + more > limit:
                detail = f"{have + more:,} {what} would exceed the limit of {limit:,} of {state.id}"
                return m.Rejected(submit.job, submit.epoch, "busy", detail, 0.5)
        return None

    def _own_job(self, client: Client, job_id: str, epoch: int) -> Job | None:
        job = self._state.jobs.get(job_id)
        return job if job is not None and job.client == client.id and job.epoch == epoch else None

    def _detached(self, client: Client, job_id: str) -> bool:
        """Whether this is a detached job of the client's, unfinished or not."""
        job = self._state.job(job_id)
        return job is not None and job.detached and job.client == client.id

    def _unfinished(self, job: Job, indices: list[int]) -> tuple[list[int], dict[str, list[int]]]:
        """Split the unfinished ones of ``indices`` (empty: all) into those that wait here and those at each worker."""
        waiting: list[int] = []
        at: dict[str, list[int]] = {}
        for index in job.unfinished(dict.fromkeys(indices)):
            if job.state[index] != LAUNCHED:
                waiting.append(index)
            for attempt in job.live(index):
                at.setdefault(attempt.worker, []).append(index)
        return waiting, at

    def recall(self, now: float, client: Client, message: m.Recall) -> None:
        """Cancel what has not started: here at once, at workers as soon as they have given it back."""
        state = self._state
        job = self._own_job(client, message.job, message.epoch)
        if job is None or len(self._recalls) >= RECALLS_MAX or not message.indices:
            state.send(client.peer, m.Returned(message.request, message.job, message.epoch, []))
            return
        waiting, at = self._unfinished(job, message.indices)
        self._recall_number += 1
        recall = Recall(client.id, message.request, job.id, set(at), list(waiting))  # the outcome's list must not grow
        self._recalls[self._recall_number] = recall
        for worker_id, indices in at.items():
            worker = state.workers[worker_id]
            if worker.peer is None:
                recall.waiting.discard(worker_id)  # its fate is open: too late for this recall
            state.send(worker.peer, m.Recall(self._recall_number, job.id, job.epoch, indices))
        self._outcomes.end(now, job, waiting, m.CANCELLED, b"")
        self._answer(self._recall_number)

    def waits_for(self, number: int, worker: str, job_id: str) -> bool:
        """Return whether a recall of this job waits for this worker's answer."""
        recall = self._recalls.get(number)
        return recall is not None and recall.job == job_id and worker in recall.waiting

    def recalled(self, number: int, worker: str, indices: list[int]) -> None:
        """A worker gave these back (none: all had started); they are cancelled."""
        recall = self._recalls[number]
        recall.waiting.discard(worker)
        recall.cancelled += indices
        self._answer(number)

    def worker_gone(self, worker: str) -> None:
        """This worker will not answer any recall any more."""
        for number in [number for number, recall in self._recalls.items() if worker in recall.waiting]:
            self.recalled(number, worker, [])

    def _answer(self, number: int) -> None:
        recall = self._recalls[number]
        if recall.waiting:
            return
        del self._recalls[number]
        client = self._state.clients.get(recall.client)
        if client is not None:
            self._state.send(client.peer, m.Returned(recall.request, recall.job, 0, recall.cancelled))

    def kill(self, now: float, client: Client, message: m.Kill) -> None:
        """End tasks, running ones too, of anybody's job; their outcome is what the worker reports, mostly `cancelled`.

        Whoever knows a job's full id and epoch may end it.
        """
        job = self._state.jobs.get(message.job)
        if job is None or job.epoch != message.epoch:
            return
        waiting, at = self._unfinished(job, message.indices)
        for worker_id, indices in at.items():
            job.doomed.update(dict.fromkeys(indices, message.grace_s))
            self._state.send(self._state.workers[worker_id].peer, m.Kill(job.id, job.epoch, indices, message.grace_s))
            for index in indices:
                job.wanted.pop(index, None)
        self._outcomes.end(now, job, waiting, m.CANCELLED, b"")
        if job.id in self._state.jobs:
            self._outcomes.settle(now, job)

    def drain(self, now: float, client: Client, message: m.Drain) -> None:
        """Have a worker leave; the answer is its row, or none where it is not connected here."""
        state = self._state
        worker = state.workers.get(message.worker)
        rows: list[m.WorkerStatus] = []
        if worker is not None and worker.peer is not None:
            state.send(worker.peer, message)
            rows = [report.worker_status(worker, report.reservations(state).get(worker.id, 0))]
        state.send(client.peer, report.status(state, now, message, rows))

    def forget(self, now: float, client: Client, why: str) -> None:
        """The client is gone for good: so are its jobs."""
        state = self._state
        state.dismiss(client.peer)
        client.peer = None
        for job_id in sorted(client.jobs):
            self._outcomes.abort(now, state.jobs[job_id], why)
        state.bytes -= client.outbox.bytes
        state.clients.pop(client.id, None)
        self._outcomes.leave_if_drained()
