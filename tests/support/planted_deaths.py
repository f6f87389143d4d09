"""Bugs in what concerns deaths: assistants and their verdicts, schedulers that fall and stand still. See `planted`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from unittest import mock

from sparrowmq.core import client_jobs, effects as fx
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.claims import Claims
from sparrowmq.core.job import Job
from sparrowmq.core.judge import Judge
from sparrowmq.core.links import Link
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.placer import Placer
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.core.workers import Workers
from sparrowmq.protocol import messages as m
from sparrowmq.sim.canary import CanaryThread
from sparrowmq.sim.store import SimStore
from tests.support.planting import bug, never, replace

# Seeds without assistants cannot show these.
OF_ASSISTANTS: Final = frozenset({
    "listens_to_an_assistant_of_an_older_term", "ignores_vetoes", "never_lifts_a_suspicion",
    "samples_workers_that_are_suspect", "leaves_the_declared_dead_where_they_are",
    "keeps_the_fencing_token_at_a_take_over", "judges_up_to_now_while_the_store_is_silent",
    "gives_nobody_time_after_an_outage_of_the_store", "tells_a_new_scheduler_nothing_of_the_dead",
    "marks_no_scheduler_as_dead_that_fell_before_it_led",
})  # fmt: skip


@bug
def listens_to_an_assistant_of_an_older_term() -> Iterator[None]:
    """A leader that was stopped, and goes on when another one leads, is obeyed."""

    def refusal(old: Any, scheduler: Scheduler, peer: Any, hello: m.Hello) -> Any:
        return None if hello.role == m.ASSISTANT else old(scheduler, peer, hello)

    with replace(Scheduler, "_hello_refusal", refusal):
        yield


@bug
def ignores_vetoes() -> Iterator[None]:
    """A worker that was heard a moment ago is buried because the assistant has not heard it."""

    def condemn(old: Any, workers: Workers, now: float, worker: Any, why: str) -> None:
        workers.bury(now, worker, f"the assistant declared it dead: {why}")

    with replace(Workers, "_condemn", condemn):
        yield


@bug
def never_lifts_a_suspicion() -> Iterator[None]:
    def suspect(old: Any, workers: Workers, now: float, worker: Any, suspect: bool) -> None:
        old(workers, now, worker, suspect or worker.suspect)

    with replace(Workers, "_suspect", suspect):
        yield


@bug
def samples_workers_that_are_suspect() -> Iterator[None]:
    def eligible(old: Any, placer: Placer, now: float, job: Job) -> list[str]:
        suspects = [worker for worker in placer._workers.values() if worker.suspect]
        for worker in suspects:
            worker.suspect = False
        found: list[str] = old(placer, now, job)
        for worker in suspects:
            worker.suspect = True
        return found

    with replace(Placer, "eligible", eligible):
        yield


@bug
def leaves_the_declared_dead_where_they_are() -> Iterator[None]:
    with replace(Workers, "_condemn", never):
        yield


@bug
def keeps_the_fencing_token_at_a_take_over() -> Iterator[None]:
    """Two assistants lead under the same term, one after the other."""

    def lease(old: Any, store: SimStore, holder: Any, lease_s: float, unix_s: float) -> int:
        first = store.terms[0][2] if store.terms else 0
        term = int(old(store, holder, lease_s, unix_s))
        if first and term and store._term != first:
            store._term = first
            store.terms[-1] = (*store.terms[-1][:2], first)
        return first if first and term else term

    with replace(SimStore, "lease", lease):
        yield


@bug
def judges_up_to_now_while_the_store_is_silent() -> Iterator[None]:
    """An assistant that has no answer from the store takes that for the silence of everybody."""

    def read(old: Any, thread: CanaryThread, sent_s: float, found: object) -> None:
        if found is None:
            now = thread._node.cluster.now
            thread._node.step(thread._node.machine.heard, now, 0.0, [])
        old(thread, sent_s, found)

    with replace(CanaryThread, "_read", read):
        yield


@bug
def gives_nobody_time_after_an_outage_of_the_store() -> Iterator[None]:
    with replace(Judge, "_rearm", never):
        yield


@bug
def tells_a_new_scheduler_nothing_of_the_dead() -> Iterator[None]:
    """What was found before an assistant led, or before a scheduler was connected, is never said."""

    def tell(old: Any, assistant: Assistant, link: Any, nodes: list[Any]) -> None:
        old(assistant, link, [node for node in nodes if node.since_s >= assistant.judge.seen_s])

    with replace(Assistant, "_tell", tell):
        yield


@bug
def forgets_deaths_at_a_fail_over() -> Iterator[None]:
    """The next scheduler counts the deaths under a task from nothing."""

    def unfinished(old: Any, job: client_jobs.Job, epoch: int) -> m.Submit:
        deaths, job.deaths = job.deaths, {}
        submit: m.Submit = old(job, epoch)
        job.deaths = deaths
        return submit

    with replace(client_jobs.Job, "unfinished", unfinished):
        yield


@bug
def claims_what_waits_as_if_it_ran() -> Iterator[None]:
    """A worker answers a claim with tasks of its queue, too, and drops them."""

    def claim(old: Any, monitor: NodeMonitor, now: float, link: Link, message: m.Claim) -> None:
        waiting = [pair for entry in monitor.place.queue if entry.job == message.job and entry.epoch < message.epoch
                   for pair in entry.waiting()]  # fmt: skip
        if waiting and link.welcomed:
            indices, attempts = [index for index, _ in waiting], [attempt for _, attempt in waiting]
            monitor._send(link, m.Claimed(message.job, message.epoch, indices, attempts))
        old(monitor, now, link, message)

    from sparrowmq.core import node_monitor

    old = node_monitor._HANDLERS[m.Claim]
    with mock.patch.dict(node_monitor._HANDLERS, {m.Claim: lambda *given: claim(old, *given)}):
        yield


@bug
def runs_again_what_it_could_adopt() -> Iterator[None]:
    """Attempts that a dead scheduler has left are killed, and launched anew."""
    with replace(Job, "adopt", lambda old, job, *given: False):
        yield


@bug
def starts_again_what_may_start_only_once() -> Iterator[None]:
    """Nobody knows whether a task had started when its scheduler died: it is started."""

    def finish(old: Any, claims: Claims, now: float, job: Job) -> None:
        job.claims = None
        claims._outcomes.place(now, job)

    with replace(Claims, "_finish", finish):
        yield


@bug
def shows_what_a_scheduler_that_it_left_says() -> Iterator[None]:
    """Outcomes of an epoch that is over are shown."""

    def current(old: Any, jobs: client_jobs.ClientJobs, peer: int, job_id: str, epoch: int) -> Any:
        return jobs.table.get(job_id)

    with (
        replace(client_jobs.ClientJobs, "_current", current),
        replace(Session, "_leave_link", _leave_late),
    ):
        yield


def _leave_late(old: Any, session: Session, now: float, link: Any) -> None:
    """Go on listening to a connection that is left."""
    old(session, now, link)
    session._effects[:] = [effect for effect in session._effects if effect != fx.Close(link.peer)]
    session._links[link.peer] = link


@bug
def launches_for_clients_that_have_gone_while_it_stood_still() -> Iterator[None]:
    with replace(Scheduler, "_thaw", never):
        yield


@bug
def marks_no_scheduler_as_dead_that_fell_before_it_led() -> Iterator[None]:
    """An assistant that takes over thinks that the one before has told everything."""

    def leads(old: Any, assistant: Assistant, now: float, term: int) -> None:
        first = len(assistant._effects)
        old(assistant, now, term)
        rest = [effect for effect in assistant._effects[first:] if not isinstance(effect, fx.Condemn)]
        assistant._effects[first:] = rest

    with replace(Assistant, "leads", leads):
        yield
