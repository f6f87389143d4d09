"""Durable jobs: what the store has confirmed is said, what it has not waits, and what is another's is let go.

Owns: the order of writing and telling, ownership, and a job that the store has lost. Must not know: clients' sessions,
how tasks are placed, or how the store keeps anything.

A job is accepted once its submission is written, and an outcome is told once it is written. Every write is fenced by
owner and epoch, so that of two schedulers that have a job only one is ever believed. A scheduler that has stood still
asks first whether a job is its own still (DESIGN rule 7): no client could tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sparrowmq.core.effects import ForgetJob, SaveJob
from sparrowmq.core.job import Job
from sparrowmq.core.keeping import PROMISES_MAX, Keep, Promise, Waiting
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.state import State
from sparrowmq.protocol import messages as m

FENCED: Final = "fenced"  # another scheduler has the job, at the epoch beside
GONE: Final = "gone"  # the store has come back without the job
LOOK_S: Final = 2.0  # how often it is found out whether jobs that nothing is written of have been taken over


class Durable:
    """The durable jobs of one scheduler."""

    def __init__(self, state: State, outcomes: Outcomes) -> None:
        self._state = state
        self._outcomes = outcomes
        self._looking = False

    def submit(self, now: float, client: str, submit: m.Submit, size: int) -> m.Rejected | None:
        """Have a submission written; `Scheduler.saved` follows. Returns why that cannot be, None if it can."""
        state = self._state
        if state.book.waits(client, submit.job, submit.epoch):
            return None
        if not state.book.has_room(size):
            detail = (
                f"{len(state.book):,} jobs of {state.book.bytes:,} bytes wait for Redis, which is all {state.id} takes"
            )
            return m.Rejected(submit.job, submit.epoch, "busy", detail, 0.1)
        token = state.book.submitted(Waiting(client, submit, size))
        tasks = max(submit.indices) + 1 if submit.indices else submit.count
        state.effects.append(SaveJob(token, client, submit, tasks, state.unix_offset_s + now))
        return None

    def ask(self, job: Job, keep: Keep) -> None:
        """Launch nothing more of this job before the store has said whose it is."""
        keep.check = self._outcomes.save(job, keep, [], b"", [])

    def entered(self, now: float) -> None:
        """There is a durable job: look at those there are from time to time."""
        if not self._looking:
            self._looking = True
            self._state.timers.add(now + LOOK_S, ("owned",))

    def due_owned(self, now: float) -> None:
        """A job may be another's by now, with all that runs of it: then nothing of it ever comes here again."""
        self._looking = False
        for job in list(self._state.jobs.values()):
            keep = job.keep
            if keep is None:
                continue
            if keep.idle and not keep.held:
                self._outcomes.save(job, keep, [], b"", [])
            keep.idle = True
            self.entered(now)

    def answered(self, now: float, token: int, error: str, epoch: int) -> None:
        """The store has written outcomes of a job, or says why not."""
        job_id, of_epoch = self._state.book.take_job(token)
        job = self._state.jobs.get(job_id)
        if job is None or job.epoch != of_epoch or job.keep is None:
            return  # it was let go meanwhile
        if error == GONE:
            self._restore(now, job, job.keep, token)
        elif error:
            self._let_go(now, job, epoch)
        else:
            self._confirmed(now, job, job.keep, token)

    def _confirmed(self, now: float, job: Job, keep: Keep, token: int) -> None:
        keep.idle = False
        if token == keep.check:
            keep.check = 0
        if token == keep.restore:
            keep.restore = 0
        chunk = keep.held.pop(token, None)
        if chunk is not None:
            self._outcomes.release(keep, chunk.size)
            outcome = chunk.outcome
            if outcome.indices and not job.detached:
                self._outcomes.tell(job, outcome.indices, outcome.statuses, outcome.payloads)
        self._outcomes.keep_promises(keep)
        if job.done:
            self._outcomes.settle(now, job)
        elif keep.starved and not self._outcomes.waits_for_store(keep):
            keep.starved = False
            self._outcomes.place(now, job)

    def promise(self, keep: Keep, client: str, answer: m.Returned) -> bool:
        """Send this once the outcomes that wait for the store have been told; return False if none do."""
        if not keep.held or len(keep.promises) >= PROMISES_MAX:
            return False
        keep.promises.append(Promise(next(reversed(keep.held)), client, answer))
        return True

    def _let_go(self, now: float, job: Job, epoch: int) -> None:
        """Another scheduler has it. A client that waits for outcomes here goes past that epoch."""
        state = self._state
        state.count("fenced")
        client = state.clients.get(job.client)
        if client is not None and not job.detached:
            state.send(client.peer, m.Stale(job.id, epoch))
        self._outcomes.abort(now, job, "another scheduler has it, as the store says", kill=False)

    def _restore(self, now: float, job: Job, keep: Keep, token: int) -> None:
        """The store knows nothing of this job: what is left of it is written again, then what was to be written."""
        state = self._state
        if not keep.restore:
            left = job.unfinished()
            keep.restore = state.book.noted(job)
            submit = m.Submit(
                job.id, job.epoch, job.spec, len(left), job.payloads_of(left) if left else [], job.function, left,
                [job.deaths.get(index, 0) for index in left] if job.deaths else [],
                job.detached and not keep.released,
            )  # fmt: skip
            at_unix_s = state.unix_offset_s + job.submitted_at
            state.effects.append(SaveJob(keep.restore, job.client, submit, len(job.state), at_unix_s, patient=True))
            state.count("restored")
            state.log("warning", "a durable job was lost by Redis and is written anew", job=job.id, tasks=len(left))
        chunk = keep.held.pop(token, None)
        again = self._outcomes.write_again(job, keep, chunk) if chunk is not None else 0
        if token == keep.check:
            keep.check = again
        keep.promises = [one._replace(token=again) if one.token == token else one for one in keep.promises]

    def refused(self, submit: m.Submit, error: str) -> m.Rejected:
        """Return the answer to a submission that could not be written. Of a later epoch it is tried again: it runs."""
        retry_after_s = 0.5 if submit.epoch else 0.0
        return m.Rejected(submit.job, submit.epoch, "store_unavailable", error[:1000], retry_after_s)

    def forget(self, submit: m.Submit) -> None:
        """It was written, and is not taken after all."""
        self._state.effects.append(ForgetJob(submit.job, submit.epoch))

    def settled_before(self, now: float, job: Job, outcomes: Sequence[m.Outcome]) -> None:
        """The store has these of an earlier epoch: what of them is open here is over, and the client is told."""
        for known in outcomes:
            open_ = set(job.unfinished(known.indices)) if known.indices else set()
            rows = [row for row in zip(known.indices, known.statuses, known.payloads, strict=True) if row[0] in open_]
            for index, status, _ in rows:
                job.finish(index, status, now)
            if rows and not job.detached:
                self._outcomes.tell(
                    job, [row[0] for row in rows], bytes(row[1] for row in rows), [row[2] for row in rows]
                )
