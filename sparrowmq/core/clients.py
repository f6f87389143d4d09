"""A scheduler's dealings with clients: jobs in, recalls, kills, leases.

Owns: what a client may ask for and what it is answered. Must not know: workers beyond sending them recalls and
kills, or how tasks are placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sparrowmq import ids, limits
from sparrowmq.core import report
from sparrowmq.core.claims import Claims
from sparrowmq.core.durable import FENCED, Durable
from sparrowmq.core.effects import Peer
from sparrowmq.core.haste import Haste
from sparrowmq.core.hedging import Hedging
from sparrowmq.core.job import LAUNCHED, Job
from sparrowmq.core.keeping import Keep, Orphan, Waiting
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

    def __init__(
        self, state: State, placer: Placer, outcomes: Outcomes, hedging: Hedging, claims: Claims, durable: Durable
    ) -> None:
        self._state = state
        self._claims = claims
        self._durable = durable
        self._placer = placer
        self._outcomes = outcomes
        self._hedging = hedging
        self._recalls: dict[int, Recall] = {}
        self._recall_number = 0
        self.haste = Haste(state)

    def hello(self, now: float, peer: Peer, hello: m.Hello, welcome: m.Welcome) -> None:
        """A client came, or came back: tell it which of its jobs live on, and what it has not acknowledged."""
        state = self._state
        client = state.clients.get(hello.id)
        if client is not None and hello.incarnation > client.incarnation:
            self.forget(now, client, "its client was restarted")
            client = None
        if client is None:
            client = Client(hello.id, hello.incarnation, peer, key=whose(hello), owner=hello.owner)
            state.clients[hello.id] = client
        client.peer, client.gone_at, client.connection, client.asked = peer, None, hello.connection, 0
        client.warned, client.knows = 0, False
        client.unheard = client.excused = client.earned = 0
        state.peers[peer] = client
        wanted = set(hello.jobs)
        for job_id in sorted(client.jobs - wanted):
            self._give_up(now, client, state.jobs[job_id], "its client has moved it elsewhere")
        known = (client.jobs | {outcome.job for outcome in client.outbox} | state.book.of(client.id)) & wanted
        for table in (state.jobs, state.history.finished):  # few of very many that a hello may name are in either
            known |= {job_id for job_id in wanted.intersection(table) if self._detached(client, job_id)}
        state.send(peer, msgspec.structs.replace(welcome, jobs=sorted(filter(client.owns, known))))
        if client.jobs:
            self.ask(client)
        for outcome in client.outbox:
            state.send(peer, outcome)
        if client.starved and not client.asked:
            self._outcomes.resume(now, client)
        if state.draining:
            state.send(peer, m.Goodbye("draining"))

    def ask(self, client: Client) -> None:
        """Nothing of this client's is launched before it has said that it is there still.

        What it sent before does not say so, if this process has stood still meanwhile (DESIGN rule 7).
        """
        for job_id in client.jobs:
            self._placer.forget_loads(job_id)
        client.asked, client.starved = self._state.ask(client.peer), True

    def answered(self, now: float, client: Client, message: m.Pong) -> None:
        """The client is there."""
        if client.asked and message.n == client.asked:
            client.asked = 0
            if client.starved and self._outcomes.has_credit(client):
                self._outcomes.resume(now, client)

    def submit(self, now: float, client: Client, submit: m.Submit) -> None:
        """Take a job, or say why not. The same job again is the same job; a later epoch replaces it."""
        state = self._state
        foreign = state.is_foreign(client, submit.job)
        known = None if foreign else state.jobs.get(submit.job)
        if known is not None and known.client == client.id and submit.epoch <= known.epoch:
            self._answer_known(now, client, submit, known)
            return
        over = None if foreign or known is not None else state.history.finished.get(submit.job)
        if over is not None and over.client == client.id:
            if submit.detached and over.epoch == submit.epoch:
                self._accept(now, client, over)  # it ended before its client had the answer
                return
            if over.keep is not None and over.epoch >= submit.epoch:  # it had been taken over
                state.send(client.peer, m.Stale(over.id, over.epoch))
                return
        refusal = self.haste.refusal(now, client, submit) or self._refusal(client, submit, known)
        if refusal is None and self._is_durable(submit):
            refusal = self._durable.submit(now, client.id, submit, _size(submit))
            if refusal is None:
                return  # `saved` follows
        if refusal is not None:
            self._reject(now, client, refusal)
        if known is not None and (refusal is None or (known.client == client.id and known.keep is None)):
            # Its client waits for the later epoch, whoever takes that. (Of a durable one the store knows.)
            self._outcomes.abort(now, known, "its client has resubmitted it", kill=False)
        if refusal is not None:
            return
        job = self._enter(now, client.id, submit)
        self._accept(now, client, job)
        self._begin(now, job)

    def _answer_known(self, now: float, client: Client, submit: m.Submit, known: Job) -> None:
        """This very job is here, or a later epoch of it."""
        taken_over = known.keep is not None and known.keep.released and not submit.detached  # nobody is told of it
        if submit.epoch == known.epoch and not taken_over:
            self._accept(now, client, known)
        else:
            self._state.send(client.peer, m.Stale(known.id, known.epoch))

    def _is_durable(self, submit: m.Submit) -> bool:
        return submit.spec.durable or (submit.detached and self._state.durable)

    def _reject(self, now: float, client: Client | None, refusal: m.Rejected) -> None:
        self._state.count("rejected")
        if client is not None and client.peer is not None:
            self._state.send(client.peer, refusal)
            self.haste.rejected(now, client, refusal)

    def saved(self, now: float, waiting: Waiting, error: str, epoch: int, outcomes: Sequence[m.Outcome]) -> None:
        """The store has a submission now, and ``outcomes`` of its earlier epochs, or says why not."""
        state, submit = self._state, waiting.submit
        client = state.client_of(waiting.client, submit.job)  # who may have gone: the job goes on
        known = state.jobs.get(submit.job)
        if error:
            if error != FENCED:
                self._reject(now, client, self._durable.refused(submit, error))
            elif client is not None:
                state.send(client.peer, m.Stale(submit.job, epoch))
            return
        if known is not None and known.epoch >= submit.epoch:  # it was taken over before it was written
            if client is not None and known.client == client.id:
                self._answer_known(now, client, submit, known)
            return
        refusal = self._draining(submit) or self._no_room(submit, waiting.size, known)
        if refusal is not None:
            self._durable.forget(submit)
            self._reject(now, client, refusal)
            return
        if known is not None:
            self._outcomes.abort(now, known, "its client has resubmitted it", kill=False)
        job = self._enter(now, waiting.client, submit, Keep())
        if client is not None:
            self._accept(now, client, job)
        self._durable.settled_before(now, job, outcomes)
        self._begin(now, job)

    def orphaned(self, now: float, orphan: Orphan) -> None:
        """This scheduler has taken over a job whose scheduler is gone; what workers run of it goes on."""
        state, submit = self._state, orphan.submit
        known = state.jobs.get(submit.job)
        later = known is not None and known.epoch >= submit.epoch
        if state.draining or later or self._no_room(submit, _size(submit), known) is not None:
            self._durable.forget(submit)
            return
        if known is not None:
            self._outcomes.abort(now, known, "it was taken over under a later epoch", kill=False)
        keep = Keep(released=not submit.detached)
        job = self._enter(now, orphan.client, msgspec.structs.replace(submit, detached=True), keep)
        job.submitted_at = min(now, orphan.submitted_unix_s - state.unix_offset_s)
        state.count("orphans")
        state.log("info", "job taken over", job=job.id, epoch=job.epoch, tasks=job.tasks)
        self._begin(now, job)

    def _enter(self, now: float, client_id: str, submit: m.Submit, keep: Keep | None = None) -> Job:
        """Write a job into the tables. A durable one whose client has gone needs none."""
        state = self._state
        job = Job(submit, client_id, now)
        job.spec = _canonical(submit.spec)
        job.keep = keep
        if keep is not None:
            self._durable.entered(now)
        state.jobs[job.id] = job
        client = state.client_of(client_id, job.id)
        job.payer = ids.owner_of(job.id) or (client_id if client is None else client.key)  # a listed key's for good
        if not job.detached:
            if client is not None:
                client.jobs.add(job.id)
            elif keep is not None:
                job.detached = keep.released = True
        state.tasks += job.tasks
        state.rows += len(job.state)
        state.bytes += job.bytes
        state.count("jobs")
        state.count("tasks", job.tasks)
        return job

    def _begin(self, now: float, job: Job) -> None:
        """Place the tasks of a new job, once it is known what others run of it."""
        state = self._state
        if job.done and job.keep is not None:  # all of it had been saved before
            self._outcomes.save(job, job.keep, [], b"", [])
        elif job.epoch:
            self._claims.begin(now, job)
        else:
            self._outcomes.place(now, job)
        if job.id not in state.jobs:
            return
        if not job.ever_eligible:
            state.timers.add(now + state.settings.unschedulable_after_s, ("unschedulable", job.id, job.epoch))
        self._hedging.watch(now, job)

    def _accept(self, now: float, client: Client, job: Job) -> None:
        self._state.send(client.peer, m.Accepted(job.id, job.epoch, len(self._placer.eligible(now, job))))

    def _draining(self, submit: m.Submit) -> m.Rejected | None:
        if not self._state.draining:
            return None
        return m.Rejected(submit.job, submit.epoch, "draining", f"{self._state.id} is shutting down", 0.1)

    def _refusal(self, client: Client, submit: m.Submit, known: Job | None) -> m.Rejected | None:
        """Return why this job cannot be taken, or None."""
        state = self._state
        if not client.owns(submit.job):  # whether it is known here or not: a higher epoch would take it over anywhere
            return _forbidden(client, submit)
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
            return self._draining(submit)
        if spec.durable and not state.durable:
            detail = f"{state.id} has no Redis (store.url) to keep a durable job in"
            return m.Rejected(submit.job, submit.epoch, "store_unavailable", detail)
        tasks_max = state.settings.limits.tasks_per_job
        if 0 < tasks_max < submit.count:
            detail = f"{submit.count:,} tasks in one job: the limit of {state.id} is {tasks_max:,}; split the job"
            return m.Rejected(submit.job, submit.epoch, "too_large", detail)
        size, durable = _size(submit), self._is_durable(submit)
        limit = limits.DURABLE_BYTES_MAX if durable else limits.JOB_BYTES_MAX
        if size > limit:
            kind = "durable job" if durable else "job"
            detail = f"{size:,} payload bytes in one {kind}: the limit is {limit:,}; split the job"
            return m.Rejected(submit.job, submit.epoch, "too_large", detail)
        return self._no_room(submit, size, known)

    def _no_room(self, submit: m.Submit, size: int, known: Job | None) -> m.Rejected | None:
        """Return what there is no room for, or None; an earlier epoch of the job makes room for it."""
        state, bounds = self._state, self._state.settings.limits
        rows = max(submit.indices) + 1 if submit.indices else submit.count
        jobs, tasks, held = len(state.jobs), state.rows, state.bytes
        if known is not None:
            jobs, tasks, held = jobs - 1, tasks - len(known.state), held - known.bytes
        if jobs < bounds.jobs and tasks + rows <= bounds.tasks and held + size <= bounds.payload_bytes:
            return None
        for what, have, more, limit in (
            ("unfinished jobs", jobs, 1, bounds.jobs),
            ("unfinished tasks", tasks, rows, bounds.tasks),
            ("payload bytes", held, size, bounds.payload_bytes),
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
        """Whether this was submitted as a detached job by this client, unfinished or not."""
        job = self._state.job(job_id)
        released = job is not None and job.keep is not None and job.keep.released
        return job is not None and job.detached and job.client == client.id and not released

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
        foreign = state.is_foreign(client, message.job)
        job = None if foreign else self._own_job(client, message.job, message.epoch)
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
        answer = m.Returned(recall.request, recall.job, 0, recall.cancelled)
        job = self._state.jobs.get(recall.job)
        if job is not None and job.keep is not None and self._durable.promise(job.keep, recall.client, answer):
            return
        client = self._state.client_of(recall.client, recall.job)
        if client is not None:
            self._state.send(client.peer, answer)

    def kill(self, now: float, client: Client, message: m.Kill) -> None:
        """End tasks, running ones too; their outcome is what the worker reports, mostly `cancelled`.

        Whoever is of the job's owner and knows its full id and epoch may end it.
        """
        if self._state.is_foreign(client, message.job):
            return
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
        state.send(client.peer, report.status(state, now, message, client.owner, rows))

    def _give_up(self, now: float, client: Client, job: Job, why: str) -> None:
        """The client does not wait for this job: it ends, unless it is durable. If it was moved, the store knows."""
        if job.keep is None:
            self._outcomes.abort(now, job, why)
            return
        client.jobs.discard(job.id)
        job.detached = job.keep.released = True
        self._outcomes.place(now, job)

    def make_room(self, now: float) -> bool:
        """Forget one whose connection is gone and that has nothing here to come back for; return whether there was."""
        for client in self._state.clients.values():
            if client.peer is None and not client.jobs and not len(client.outbox):
                self.forget(now, client, "others need its place")
                return True
        return False

    def forget(self, now: float, client: Client, why: str) -> None:
        """The client is gone for good: so are its jobs, but for durable ones."""
        state = self._state
        state.dismiss(client.peer)
        client.peer = None
        for job_id in sorted(client.jobs):
            self._give_up(now, client, state.jobs[job_id], why)
        state.bytes -= client.outbox.bytes
        state.clients.pop(client.id, None)
        self._outcomes.leave_if_drained()


def whose(hello: m.Hello) -> str:
    """Return by whose limits a client goes: the fingerprint of its key or, where there are no keys, its id."""
    return hello.key or hello.id


def _forbidden(client: Client, submit: m.Submit) -> m.Rejected:
    may = f"end in .{client.owner}" if client.owner else "have no dot: its key is not listed"
    detail = f"job {submit.job[:80]!r} would be another owner's: ids of this client's jobs {may}"
    return m.Rejected(submit.job, submit.epoch, "forbidden", detail)


def _size(submit: m.Submit) -> int:
    return sum(map(len, submit.payloads)) + len(submit.function)


def _canonical(spec: m.JobSpec) -> m.JobSpec:
    """Return the spec with the policy's own name, and without second attempts where there may be none."""
    if spec.policy not in POLICIES:
        spec = msgspec.structs.replace(spec, policy=canonical(spec.policy))
    if spec.at_most_once:
        spec = msgspec.structs.replace(spec, max_attempts=1, retries=0, hedge_quantile=0.0, hedge_after_s=0.0)
    return spec
