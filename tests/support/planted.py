"""Bugs planted on purpose: the swarm must find each of them, or it is too weak to find their likes.

Each is a context manager that changes the machines while its block runs; a table names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from sparrowmq.core import client_jobs, effects as fx, endings
from sparrowmq.core.connections import Connections
from sparrowmq.core.hedging import Hedging
from sparrowmq.core.history import History
from sparrowmq.core.job import UNPLACED, Job
from sparrowmq.core.links import Link
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.placer import Placer
from sparrowmq.core.queue import Queue
from sparrowmq.core.state import State
from sparrowmq.core.workers import Workers
from sparrowmq.core.workplace import Workplace
from sparrowmq.protocol import messages as m
from tests.support import planted_deaths, planted_durable, planted_hints, planted_keys
from tests.support.planting import BUGS, bug, never, replace

__all__ = ["BUGS", "NEEDS"]

# What a scenario needs that it can show a bug, where that is something which most have not.
NEEDS = {
    **dict.fromkeys(planted_deaths.OF_ASSISTANTS, "assistants"),
    **dict.fromkeys(planted_keys.OF_KEYS, "keys"),
    **dict.fromkeys(planted_hints.OF_HINTS, "hinted"),
    **dict.fromkeys(planted_durable.OF_STORE, "durable"),
}

# -- reservations


@bug
def skips_the_cancel_when_the_last_task_is_placed() -> Iterator[None]:
    with replace(Placer, "withdraw", lambda old, placer, job: job.withdraw()):
        yield


@bug
def forgets_a_reservation_on_a_no_op() -> Iterator[None]:
    """A slot waits for ever for what was answered with a no-op."""

    def receive(old: Any, monitor: NodeMonitor, now: float, peer: int, message: m.AnyMessage) -> None:
        link = monitor.connections.peers.get(peer)
        if isinstance(message, m.NoOp) and link is not None:
            link.requests.pop(message.request, None)
        else:
            old(monitor, now, peer, message)

    with replace(NodeMonitor, "receive", receive):
        yield


@bug
def does_not_note_that_a_reservation_was_used() -> Iterator[None]:
    with replace(Job, "use", lambda old, job, worker, count: old(job, worker, count if count > 1 else 0)):
        yield


@bug
def cancels_the_wrong_round() -> Iterator[None]:
    def send(old: Any, state: State, peer: Any, message: Any) -> None:
        if isinstance(message, m.Cancel) and message.round > 1:
            message = m.Cancel(message.job, message.epoch, message.round - 1)
        old(state, peer, message)

    with replace(State, "send", send):
        yield


@bug
def probes_more_than_it_should() -> Iterator[None]:
    from sparrowmq.placement import late_binding

    old = late_binding.reserve
    with mock.patch.object(late_binding, "reserve", lambda rng, workers, n, ratio: old(rng, workers, n, ratio + 0.5)):
        yield


@bug
def probes_workers_that_drain() -> Iterator[None]:
    def eligible(old: Any, placer: Placer, now: float, job: Job) -> list[str]:
        return [worker.id for worker in placer._workers.values() if worker.peer is not None and worker.hello.slots]

    with replace(Placer, "eligible", eligible):
        yield


@bug
def loses_what_was_requested_when_a_connection_drops() -> Iterator[None]:
    """The slot goes on waiting for the answer."""
    with replace(Connections, "forget_request", lambda old, self, link, request: link.requests.pop(request.number)):
        yield


@bug
def keeps_the_queue_of_a_lost_scheduler_parked() -> Iterator[None]:
    with replace(Queue, "unpark", never):
        yield


# -- launches and attempts


@bug
def launches_twice() -> Iterator[None]:
    """The same attempts are sent to a second worker, too."""

    def launch(old: Any, placer: Placer, now: float, job: Job, worker: Any, *given: Any, **named: Any) -> int:
        effects = placer._emit.__self__.effects  # type: ignore[attr-defined]
        first = len(effects)
        count = old(placer, now, job, worker, *given, **named)
        others = [other for other in placer._workers.values() if other.peer is not None and other is not worker]
        for effect in effects[first:]:
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Task) and others and job.round % 3 == 2:
                task = effect.message
                placer._emit(
                    others[0].peer,
                    m.Task(
                        0, task.job, task.epoch, task.spec, task.indices, task.attempts, task.payloads, job.function
                    ),
                )
        return int(count)

    with replace(Placer, "_launch", launch):
        yield


@bug
def wakes_a_task_that_is_over() -> Iterator[None]:
    """A task that was killed while it rested is launched again."""

    def wake(old: Any, job: Job, now: float) -> list[int]:
        due = [index for at, index in job.rests if at <= now and job.state[index] < UNPLACED]
        woken: list[int] = old(job, now)
        for index in due:
            job.counts[job.state[index]] -= 1
            job._unplace(index)
        return woken + due

    with replace(Job, "wake", wake):
        yield


@bug
def ends_a_task_by_a_kill_of_another_attempt() -> Iterator[None]:
    """An attempt that was replaced, adopted elsewhere or given up is killed: its task counts as cancelled."""

    def results(old: Any, job: Job, message: m.Result, worker: str, now: float) -> Any:
        for index, attempt, status in zip(message.indices, message.attempts, message.statuses, strict=True):
            if status == m.CANCELLED:
                job.doomed.setdefault(index, 0.0)
                job.astray[index, attempt] = worker  # believed, whoever it was given to
        return old(job, message, worker, now)

    with replace(Job, "results", results):
        yield


@bug
def accepts_a_lower_epoch() -> Iterator[None]:
    with replace(NodeMonitor, "_stale", lambda old, *given: False):
        yield


@bug
def hedges_on_the_same_worker() -> Iterator[None]:
    def take_second(old: Any, job: Job, now: float, count: int, worker: str) -> list[int]:
        real = {index: job.place[index] for index in job.wanted}
        for index in real:
            job.place[index] = f"not {worker}"
        taken = list(job.wanted)[:count]
        for index in real:
            job.place[index] = real[index]
        return (
            old(job, now, count, worker) if any(real[i] != worker for i in taken) else _forced(job, now, taken, worker)
        )

    def _forced(job: Job, now: float, taken: list[int], worker: str) -> list[int]:
        from sparrowmq.core.attempts import Attempt

        for index in taken:
            del job.wanted[index]
            first = Attempt(job.place[index], job.attempts[index], job.launch_times[index])
            job.attempts[index] += 1
            job.twins[index] = [first, Attempt(worker, job.attempts[index], now)]
        job.hedges += len(taken)
        return taken

    with replace(Job, "take_second", take_second):
        yield


@bug
def hedges_again_and_again() -> Iterator[None]:
    """A task may get a third attempt while two are live."""

    def find(old: Any, hedging: Hedging, job: Job, since: float) -> None:
        for index in job.launched_tasks():
            if job.launch_times[index] <= since:
                job.wanted[index] = None

    with replace(Hedging, "_find", find):
        yield


@bug
def counts_launched_tasks_wrong() -> Iterator[None]:
    """A task that is given back still counts as launched where it was."""

    def drop(old: Any, workers: Workers, now: float, job: Job, index: int, worker: Any) -> bool:
        worker.launched += 1
        return bool(old(workers, now, job, index, worker))

    with replace(Workers, "_goes_on", drop):
        yield


@bug
def tries_again_once_too_often() -> Iterator[None]:
    def weigh(old: Any, job: Job, settled: Any, index: int, attempt: int, status: int, now: float) -> Any:
        if status == m.RETRY and job.failures.get(index, 0) == job.spec.retries and attempt == job.spec.retries + 1:
            job.failures[index] -= 1
        return old(job, settled, index, attempt, status, now)

    with replace(Job, "_weigh", weigh):
        yield


# -- results and outcomes


@bug
def never_acknowledges_results() -> Iterator[None]:
    def send(old: Any, state: State, peer: Any, message: Any) -> None:
        if not isinstance(message, m.ResultAck):
            old(state, peer, message)

    with replace(State, "send", send):
        yield


@bug
def forgets_results_when_a_connection_drops() -> Iterator[None]:
    def disconnected(old: Any, connections: Connections, now: float, link: Link) -> None:
        link.outbox.acknowledge(link.outbox.next_seq)
        old(connections, now, link)

    with replace(Connections, "_disconnected", disconnected):
        yield


@bug
def shows_outcomes_twice_after_a_resubmission() -> Iterator[None]:
    def deliver(old: Any, jobs: Any, job: Any, indices: list[int], statuses: bytes, payloads: list[Any]) -> None:
        if job.submit.epoch:
            jobs._effects.append(fx.Deliver(job.submit.job, indices, statuses, payloads))
        old(jobs, job, indices, statuses, payloads)

    with replace(client_jobs.ClientJobs, "_deliver", deliver):
        yield


@bug
def keeps_the_epoch_at_a_fail_over() -> Iterator[None]:
    with replace(client_jobs.Job, "unfinished", lambda old, job, epoch: old(job, job.submit.epoch)):
        yield


@bug
def cancels_what_has_started_on_a_recall() -> Iterator[None]:
    """A recalled task counts as cancelled at once, whether or not it runs."""

    def answer(old: Any, place: Workplace, number: int) -> None:
        for recall in place._recalls:
            known = {index for index, _ in recall.found}
            for slot in place.slots:
                for batch in slot.held:
                    if place._concerns(recall, batch):
                        pairs = zip(batch.indices, batch.attempts, strict=True)
                        recall.found += [pair for pair in pairs if pair[0] in recall.wanted - known]
        old(place, number)

    with replace(Workplace, "_answer_recalls", answer):
        yield


# -- losses


def _taking_nothing_back(where: Callable[[str], bool]) -> AbstractContextManager[Any]:
    def take_back(
        old: Any, outcomes: Outcomes, now: float, job: Job, worker: str, indices: Any, why: str, **named: Any
    ):
        if not where(why):
            old(outcomes, now, job, worker, indices, why, **named)

    return replace(Outcomes, "take_back", take_back)


@bug
def forgets_what_the_inventory_does_not_have() -> Iterator[None]:
    with _taking_nothing_back(lambda why: why == "returned: lost on the way"):
        yield


@bug
def buries_without_a_relaunch() -> Iterator[None]:
    with _taking_nothing_back(lambda why: why.startswith("lost:")):
        yield


@bug
def buries_whoever_reconnects() -> Iterator[None]:
    """A worker that comes back within the grace has lost its tasks all the same."""

    def lost(old: Any, workers: Workers, now: float, worker: Any) -> None:
        old(workers, now, worker)
        workers.bury(now, worker, "its connection was lost")

    with replace(Workers, "lost", lost):
        yield


@bug
def does_not_move_jobs_at_a_fail_over() -> Iterator[None]:
    with replace(client_jobs.ClientJobs, "move", never):
        yield


@bug
def gives_up_no_lost_client() -> Iterator[None]:
    from sparrowmq.core.clients import Clients

    with replace(Clients, "forget", never):
        yield


# -- slots


@bug
def hands_a_task_to_a_busy_slot() -> Iterator[None]:
    """An eager task goes to a slot that runs something."""
    with replace(Workplace, "idle", lambda old, place: next((slot for slot in place.slots if slot.ready), None)):
        yield


@bug
def ignores_timeouts() -> Iterator[None]:
    with replace(endings.Endings, "watch_clock", never):
        yield


@bug
def blames_the_wrong_task_of_a_batch() -> Iterator[None]:
    """The task after the one that crashed is reported as crashed."""

    def exited(old: Any, place: Workplace, now: float, number: int, cause: str, current_seq: int) -> None:
        held = place.slots[number].held_count
        old(place, now, number, cause, current_seq + 1 if current_seq and held > 1 else current_seq)

    with replace(Workplace, "exited", exited):
        yield


@bug
def forgets_events_of_the_history() -> Iterator[None]:
    with replace(History, "hedged", never):
        yield
