"""Bugs in what concerns durable jobs: schedulers, their keepers, and the store's scripts. See `planted`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparrowmq.core.clients import Clients
from sparrowmq.core.durable import Durable
from sparrowmq.core.effects import ForgetJob, SaveJob
from sparrowmq.core.job import Job
from sparrowmq.core.keeping import Waiting
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.protocol import messages as m
from sparrowmq.sim.keeper import Keeper
from sparrowmq.sim.kept import KeptJobs
from tests.support.planting import BUGS, bug, never, replace

_BEFORE = set(BUGS)


@bug
def takes_a_job_over_without_raising_the_epoch() -> Iterator[None]:
    def take(old: Any, kept: KeptJobs, owner: str, id: str, before: str, epoch: int) -> Any:
        job = kept.jobs.get(id)
        if job is None or (job.epoch, job.owner, job.state) != (epoch, before, "open"):
            return old(kept, owner, id, before, epoch)
        job.epoch -= 1
        reply = old(kept, owner, id, before, epoch - 1)
        return reply

    with replace(KeptJobs, "take", take):
        yield


@bug
def accepts_a_job_before_it_is_written() -> Iterator[None]:
    def submit(old: Any, durable: Durable, now: float, client: str, submit: m.Submit, size: int) -> Any:
        refusal = old(durable, now, client, submit, size)
        if refusal is None:
            durable._state.send(durable._state.clients[client].peer, m.Accepted(submit.job, submit.epoch, 1))
        return refusal

    with replace(Durable, "submit", submit):
        yield


@bug
def tells_an_outcome_before_it_is_written() -> Iterator[None]:
    def save(old: Any, outcomes: Outcomes, job: Job, keep: Any, indices: list[int], *given: Any, **named: Any) -> Any:
        token = old(outcomes, job, keep, indices, *given, **named)
        if indices and not job.detached:
            outcomes.tell(job, indices, *given[:2])
        return token

    with replace(Outcomes, "save", save):
        yield


@bug
def writes_an_outcome_twice_whose_answer_was_lost() -> Iterator[None]:
    """The store does not look at the number."""

    def append(old: Any, kept: KeptJobs, owner: str, outcome: m.Outcome, *given: Any) -> Any:
        job = kept.jobs.get(outcome.job)
        if job is not None and (job.epoch, job.owner) == (outcome.epoch, owner):
            job.seq = outcome.seq - 1
        return old(kept, owner, outcome, *given)

    with replace(KeptJobs, "append", append):
        yield


@bug
def launches_what_was_taken_over_while_it_stood_still() -> Iterator[None]:
    with replace(Durable, "ask", never):
        yield


@bug
def takes_what_it_was_not_answered_for_written() -> Iterator[None]:
    """While the store is away outcomes are confirmed."""

    def outage(old: Any, keeper: Keeper) -> None:
        old(keeper)
        done = [op for op in keeper._queue if not isinstance(op.effect, SaveJob | ForgetJob)]
        for op in done:
            keeper._queue.remove(op)
            keeper._answer(op, "")

    with replace(Keeper, "_outage", outage):
        yield


@bug
def leaves_a_submission_in_the_store_that_it_has_given_up() -> Iterator[None]:
    def finish(old: Any, keeper: Keeper, op: Any, *, undo: bool = False) -> None:
        old(keeper, op, undo=undo)
        if keeper._queue and isinstance(keeper._queue[-1].effect, ForgetJob):
            keeper._queue.pop()

    with replace(Keeper, "_finish", finish):
        yield


@bug
def ends_a_durable_job_with_its_client() -> Iterator[None]:
    def give_up(old: Any, clients: Clients, now: float, client: Any, job: Job, why: str) -> None:
        clients._outcomes.abort(now, job, why)

    with replace(Clients, "_give_up", give_up):
        yield


@bug
def runs_again_what_the_store_has_outcomes_of() -> Iterator[None]:
    with replace(Durable, "settled_before", never):
        yield


@bug
def waits_for_its_outcomes_at_a_scheduler_that_tells_nobody() -> Iterator[None]:
    """A client that comes to the epoch of a take-over is told that its job is accepted, and nothing more."""

    def submit(old: Any, clients: Clients, now: float, client: Any, submit: m.Submit) -> None:
        known = clients._state.jobs.get(submit.job)
        if known is not None and known.keep is not None and known.epoch == submit.epoch and known.client == client.id:
            clients._accept(now, client, known)
        else:
            old(clients, now, client, submit)

    with replace(Clients, "submit", submit):
        yield


@bug
def leaves_a_submission_unanswered_whose_job_it_has_taken_over_meanwhile() -> Iterator[None]:
    def saved(old: Any, clients: Clients, now: float, waiting: Waiting, *given: Any) -> None:
        known = clients._state.jobs.get(waiting.submit.job)
        if known is None or known.epoch < waiting.submit.epoch:
            old(clients, now, waiting, *given)

    with replace(Clients, "saved", saved):
        yield


OF_STORE = frozenset(set(BUGS) - _BEFORE)  # seeds without durable jobs cannot show these
