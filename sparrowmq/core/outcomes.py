"""How tasks and jobs end: reported once to their client, kept until it has them.

Owns: final states, outcomes, their way through the store and their acknowledgement, taking back what was launched in
vain, closing a job. Must not know: why something ended; that is decided by its callers (`clients`, `workers`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec.structs import replace

from sparrowmq.core.effects import Exit, SaveOutcomes
from sparrowmq.core.job import Job
from sparrowmq.core.keeping import Chunk, Keep
from sparrowmq.core.peers import Client, Worker
from sparrowmq.core.placer import Placer
from sparrowmq.core.state import State
from sparrowmq.core.transcripts import Transcripts
from sparrowmq.protocol import messages as m

OUTCOME_BYTES: Final = 16  # of an outcome beside its payload


class Outcomes:
    """Ends tasks and jobs of one scheduler."""

    def __init__(self, state: State, placer: Placer, transcripts: Transcripts) -> None:
        self._state = state
        self._placer = placer
        self._transcripts = transcripts

    # -- placing, as far as clients take what comes of it

    def place(self, now: float, job: Job) -> None:
        """Place what is unplaced, unless the job's client has no credit for more outcomes (DESIGN rule 11)."""
        if job.claims is not None:
            return  # the answers place it
        if not self.may_place(job):
            self.starve(job)
            return
        until = self._placer.place(now, job)
        if until is not None:
            self.expect_loads(until, job)

    def join(self, now: float, job: Job, worker: Worker) -> None:
        """From now on this worker may get tasks of the job: leave it its share of what is unplaced."""
        if not job.unplaced or job.claims is not None:
            return
        if self.may_place(job):
            self.expect_loads(self._placer.joined(now, job, worker), job)
        else:
            self.starve(job)

    def expect_loads(self, until: float | None, job: Job) -> None:
        """A round of load probes is out until then (None: none is)."""
        if until is not None:
            self._state.timers.add(until, ("sampling", job.id, job.epoch, job.round))

    def has_credit(self, client: Client) -> bool:
        """Whether this client takes its outcomes fast enough to be given more."""
        return client.outbox.bytes < self._state.settings.limits.client_credit_bytes

    def takes(self, job: Job) -> bool:
        """Whether more outcomes of this job are taken, by its client (a detached job needs none) and by the store."""
        if job.keep is not None and self.waits_for_store(job.keep):
            return False
        return job.detached or self.has_credit(self._state.clients[job.client])

    def may_place(self, job: Job) -> bool:
        """Whether a place may be sought: outcomes are taken, and the client has not yet to say that it is there."""
        asked = job.keep is None and not job.detached and self._state.clients[job.client].asked
        return self.takes(job) and not asked

    def waits_for_store(self, keep: Keep) -> bool:
        """Whether the store does not keep up with this durable job, or has not said whose it is."""
        return bool(keep.check) or keep.bytes >= self._state.settings.limits.client_credit_bytes

    def starve(self, job: Job) -> None:
        """Something of this job was not placed: it is once more outcomes are taken."""
        if job.keep is not None and self.waits_for_store(job.keep):
            job.keep.starved = True
        elif not job.detached:
            self._state.clients[job.client].starved = True

    def may_launch(self, job: Job) -> bool:
        """Whether the job's client is there and takes its outcomes; a detached or durable job needs none there."""
        if not self.takes(job):
            return False
        if job.detached or job.keep is not None:
            return True
        client = self._state.clients[job.client]
        return client.peer is not None and not client.asked

    def acknowledged(self, now: float, client: Client, seq: int) -> bool:
        """The client has every outcome up to ``seq``. Return whether that is news."""
        before = client.outbox.bytes
        news = client.outbox.acknowledge(seq)
        self._state.bytes -= before - client.outbox.bytes
        if client.starved and not client.asked and self.has_credit(client):
            self.resume(now, client)
        if self._state.draining:
            self.leave_if_drained()
        return news

    def resume(self, now: float, client: Client) -> None:
        """The client can take outcomes again: place what was held back."""
        client.starved = False
        for job_id in sorted(client.jobs):
            self.place(now, self._state.jobs[job_id])

    # -- tasks that end

    def report(self, job: Job, indices: list[int], statuses: bytes, payloads: list[m.Payload]) -> None:
        """Tell the client that these tasks are over; nobody, where the job is detached."""
        state = self._state
        state.count("outcomes", len(indices))
        if statuses.count(m.SUCCEEDED) != len(indices):
            state.history.failed(job, indices, statuses, payloads)
        if job.keep is not None:
            self.save(job, job.keep, indices, statuses, payloads)
        elif not job.detached:
            self.tell(job, indices, statuses, payloads)

    def tell(self, job: Job, indices: list[int], statuses: bytes, payloads: list[m.Payload]) -> None:
        """Send these outcomes to the client of a job that has one; it keeps them until they are acknowledged."""
        state, client = self._state, self._state.clients[job.client]
        size = sum(map(len, payloads)) + OUTCOME_BYTES * len(indices)
        outcome = m.Outcome(client.outbox.next_seq, job.id, job.epoch, indices, statuses, payloads)
        state.bytes += size
        state.send(client.peer, client.outbox.put(outcome, size))

    def save(
        self, job: Job, keep: Keep, indices: list[int], statuses: bytes, payloads: list[m.Payload],
        deaths: dict[int, int] | None = None,
    ) -> int:  # fmt: skip
        """Have outcomes of a durable job written before anybody is told; return the token. None at all: just ask."""
        keep.seq += 1
        outcome = m.Outcome(keep.seq, job.id, job.epoch, indices, statuses, payloads)
        size = sum(map(len, payloads)) + OUTCOME_BYTES * len(indices)
        keep.bytes += size
        self._state.bytes += size
        return self.write(job, keep, Chunk(outcome, size, job.done, deaths or {}))

    def write(self, job: Job, keep: Keep, chunk: Chunk) -> int:
        """Give outcomes to the store, for the first time or again; return the token."""
        token = self._state.book.noted(job)
        keep.held[token] = chunk
        self._state.effects.append(SaveOutcomes(token, chunk.outcome, chunk.over, chunk.deaths))
        return token

    def write_again(self, job: Job, keep: Keep, chunk: Chunk) -> int:
        """Give them to a store that has lost the job, under a new number: it may have been given others since."""
        keep.seq += 1
        return self.write(job, keep, chunk._replace(outcome=replace(chunk.outcome, seq=keep.seq)))

    def keep_promises(self, keep: Keep) -> None:
        """Answer the recalls whose outcomes wait for the store no longer."""
        first = next(iter(keep.held), 0)
        while keep.promises and (not first or keep.promises[0].token < first):
            promise = keep.promises.pop(0)
            client = self._state.client_of(promise.client, promise.answer.job)
            if client is not None:
                self._state.send(client.peer, promise.answer)

    def release(self, keep: Keep, size: int) -> None:
        """So many bytes wait for the store no longer."""
        keep.bytes -= size
        self._state.bytes -= size

    def settle(self, now: float, job: Job) -> None:
        """Some tasks of the job are over: close it if all are, withdraw reservations that have no use any more.

        A durable job is over once the store has all of it.
        """
        if job.done and job.keep is not None and job.keep.held:
            self._placer.ended(job)
        elif job.done:
            self.close(now, job, "done" if job.counts[m.CANCELLED] < job.tasks else "cancelled")
        elif job.reserved_total and not job.unplaced and not job.wanted:
            self._placer.withdraw(job)

    def end(self, now: float, job: Job, indices: list[int], status: int, payload: bytes) -> None:
        """These unfinished tasks are over without a result of their own."""
        if not indices:
            return
        workers = self._state.workers
        for index in indices:
            for attempt in job.live(index):
                if attempt.worker in workers:
                    workers[attempt.worker].launched -= 1
            job.finish(index, status, now)
        self.report(job, indices, bytes([status]) * len(indices), [payload] * len(indices))
        self.settle(now, job)

    def take_back(
        self, now: float, job: Job, worker_id: str, indices: Iterable[int], why: str, *, killed: bytes = b""
    ) -> None:
        """The attempts of these tasks at a worker are over without a result: place them again, or kill them for good.

        Where a second attempt goes on elsewhere the task just goes on. ``killed`` is the payload of those that were
        to be killed, ``why`` is for their history: "reason", or "reason: detail".
        """
        state = self._state
        doomed: list[int] = []
        worker = state.workers.get(worker_id)
        kind, _, detail = why.partition(": ")
        for index in indices:
            if worker is not None:
                worker.launched -= 1
            state.history.note(now, job, index, kind, job.attempt_at(index, worker_id), worker_id, detail)
            if job.drop(index, worker_id):
                continue
            job.put_back(index)
            if index in job.doomed:
                doomed.append(index)
            else:
                job.relaunches += 1
        self.end(now, job, doomed, m.CANCELLED, killed)

    # -- jobs that end

    def abort(self, now: float, job: Job, why: str, *, kill: bool = True) -> None:
        """Nobody wants this job any more: end what runs of it, report nothing to anyone.

        ``kill`` False: what runs is to be adopted by a later epoch of the job.
        """
        for worker_id in sorted(job.places()):
            worker = self._state.workers[worker_id]
            worker.launched -= len(job.launched_on(worker_id))
            if kill:
                self._state.send(worker.peer, m.Kill(job.id, job.epoch))
        job.abandon()
        self.close(now, job, "cancelled", why)

    def close(self, now: float, job: Job, how: str, detail: str = "") -> None:
        """The job is over: keep only its ledger and its history."""
        state = self._state
        self._placer.ended(job)
        del state.jobs[job.id]
        if not job.detached:
            state.clients[job.client].jobs.discard(job.id)
        state.tasks -= job.tasks
        state.rows -= len(job.state)
        state.bytes -= job.bytes
        if job.keep is not None:
            self.release(job.keep, job.keep.bytes)
            job.keep.held.clear()
            self.keep_promises(job.keep)
        job.how, job.ended_at, job.detail = how, now, detail
        job.release()
        self._transcripts.over(job)
        forgotten = state.history.add(job)
        if forgotten is not None and forgotten.transcript is not None:
            self._transcripts.forget(forgotten)
        if state.draining:
            self.leave_if_drained()

    def leave_if_drained(self) -> None:
        """Exit once a drain has nothing left to wait for."""
        state = self._state
        if state.draining and not state.jobs and not any(len(client.outbox) for client in state.clients.values()):
            self.leave("drained")

    def leave(self, reason: str) -> None:
        """Say goodbye and end the process."""
        for client in self._state.clients.values():
            self._state.send(client.peer, m.Goodbye("leaving"))
        self._state.effects.append(Exit(reason))
