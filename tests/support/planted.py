"""Bugs planted on purpose: the swarm must find each of them, or it is too weak to find their likes.

Each is a context manager that changes the machines while its block runs; a table names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from sparrowmq.core import client_jobs, endings
from sparrowmq.core import effects as fx
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

Bug = Callable[[], AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}


def _bug(plant: Callable[[], Iterator[None]]) -> Bug:
    bug = contextmanager(plant)
    BUGS[plant.__name__] = bug
    return bug


def _replace(kind: type, name: str, new: Callable[..., Any]) -> Any:
    """``new`` is called with the original method first."""
    old = getattr(kind, name)
    return mock.patch.object(kind, name, lambda *given, **named: new(old, *given, **named))


def _never(old: Any, *given: Any, **named: Any) -> None:
    """Do nothing."""


# -- reservations


@_bug
def skips_the_cancel_when_the_last_task_is_placed() -> Iterator[None]:
    with _replace(Placer, "withdraw", lambda old, placer, job: job.withdraw()):
        yield


@_bug
def forgets_a_reservation_on_a_no_op() -> Iterator[None]:
    """A slot waits for ever for what was answered with a no-op."""

    def receive(old: Any, monitor: NodeMonitor, now: float, peer: int, message: m.AnyMessage) -> None:
        link = monitor.connections.peers.get(peer)
        if isinstance(message, m.NoOp) and link is not None:
            link.requests.pop(message.request, None)
        else:
            old(monitor, now, peer, message)

    with _replace(NodeMonitor, "receive", receive):
        yield


@_bug
def does_not_note_that_a_reservation_was_used() -> Iterator[None]:
    with _replace(Job, "use", lambda old, job, worker, count: old(job, worker, count if count > 1 else 0)):
        yield


@_bug
def cancels_the_wrong_round() -> Iterator[None]:
    def send(old: Any, state: State, peer: Any, message: Any) -> None:
        if isinstance(message, m.Cancel) and message.round > 1:
            message = m.Cancel(message.job, message.epoch, message.round - 1)
        old(state, peer, message)

    with _replace(State, "send", send):
        yield


@_bug
def probes_more_than_it_should() -> Iterator[None]:
    from sparrowmq.placement import late_binding

    old = late_binding.reserve
    with mock.patch.object(late_binding, "reserve", lambda rng, workers, n, ratio: old(rng, workers, n, ratio + 0.5)):
        yield


@_bug
def probes_workers_that_drain() -> Iterator[None]:
    def eligible(old: Any, placer: Placer, now: float, job: Job) -> list[str]:
        return [worker.id for worker in placer._workers.values() if worker.peer is not None and worker.hello.slots]

    with _replace(Placer, "eligible", eligible):
        yield


@_bug
def loses_what_was_requested_when_a_connection_drops() -> Iterator[None]:
    """The slot goes on waiting for the answer."""
    with _replace(Connections, "forget_request", lambda old, self, link, request: link.requests.pop(request.number)):
        yield


@_bug
def keeps_the_queue_of_a_lost_scheduler_parked() -> Iterator[None]:
    with _replace(Queue, "unpark", _never):
        yield


# -- launches and attempts


@_bug
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

    with _replace(Placer, "_launch", launch):
        yield


@_bug
def wakes_a_task_that_is_over() -> Iterator[None]:
    """A task that was killed while it rested is launched again."""

    def wake(old: Any, job: Job, now: float) -> list[int]:
        due = [index for at, index in job.rests if at <= now and job.state[index] < UNPLACED]
        woken: list[int] = old(job, now)
        for index in due:
            job.counts[job.state[index]] -= 1
            job._unplace(index)
        return woken + due

    with _replace(Job, "wake", wake):
        yield


@_bug
def takes_the_result_of_any_epoch() -> Iterator[None]:
    """A scheduler takes what an earlier submission's attempts have brought."""

    def result(old: Any, workers: Workers, now: float, worker: Any, message: m.Result) -> None:
        job = workers._state.jobs.get(message.job)
        if job is not None and job.epoch > message.epoch:
            message = m.Result(
                message.seq, message.job, job.epoch, message.indices, message.attempts, message.statuses,
                message.service_us, message.payloads,
            )  # fmt: skip
        old(workers, now, worker, message)

    with _replace(Workers, "result", result):
        yield


@_bug
def accepts_a_lower_epoch() -> Iterator[None]:
    with _replace(NodeMonitor, "_stale", lambda old, *given: False):
        yield


@_bug
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
        from sparrowmq.core.job import Attempt

        for index in taken:
            del job.wanted[index]
            first = Attempt(job.place[index], job.attempts[index], job.launch_times[index])
            job.attempts[index] += 1
            job.twins[index] = [first, Attempt(worker, job.attempts[index], now)]
        job.hedges += len(taken)
        return taken

    with _replace(Job, "take_second", take_second):
        yield


@_bug
def hedges_again_and_again() -> Iterator[None]:
    """A task may get a third attempt while two are live."""

    def find(old: Any, hedging: Hedging, job: Job, since: float) -> None:
        for index in job.launched_tasks():
            if job.launch_times[index] <= since:
                job.wanted[index] = None

    with _replace(Hedging, "_find", find):
        yield


@_bug
def counts_launched_tasks_wrong() -> Iterator[None]:
    """A task that is given back still counts as launched where it was."""

    def drop(old: Any, workers: Workers, now: float, job: Job, index: int, worker: Any) -> bool:
        worker.launched += 1
        return bool(old(workers, now, job, index, worker))

    with _replace(Workers, "_goes_on", drop):
        yield


@_bug
def tries_again_once_too_often() -> Iterator[None]:
    def weigh(old: Any, job: Job, settled: Any, index: int, attempt: int, status: int, now: float) -> Any:
        if status == m.RETRY and job.failures.get(index, 0) == job.spec.retries and attempt == job.spec.retries + 1:
            job.failures[index] -= 1
        return old(job, settled, index, attempt, status, now)

    with _replace(Job, "_weigh", weigh):
        yield


# -- results and outcomes


@_bug
def never_acknowledges_results() -> Iterator[None]:
    def send(old: Any, state: State, peer: Any, message: Any) -> None:
        if not isinstance(message, m.ResultAck):
            old(state, peer, message)

    with _replace(State, "send", send):
        yield


@_bug
def forgets_results_when_a_connection_drops() -> Iterator[None]:
    def disconnected(old: Any, connections: Connections, now: float, link: Link) -> None:
        link.outbox.acknowledge(link.outbox.next_seq)
        old(connections, now, link)

    with _replace(Connections, "_disconnected", disconnected):
        yield


@_bug
def shows_outcomes_twice_after_a_resubmission() -> Iterator[None]:
    def deliver(old: Any, jobs: Any, job: Any, indices: list[int], statuses: bytes, payloads: list[Any]) -> None:
        if job.submit.epoch:
            jobs._effects.append(fx.Deliver(job.submit.job, indices, statuses, payloads))
        old(jobs, job, indices, statuses, payloads)

    with _replace(client_jobs.ClientJobs, "_deliver", deliver):
        yield


@_bug
def keeps_the_epoch_at_a_fail_over() -> Iterator[None]:
    with _replace(client_jobs.Job, "unfinished", lambda old, job, epoch: old(job, job.submit.epoch)):
        yield


@_bug
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

    with _replace(Workplace, "_answer_recalls", answer):
        yield


# -- losses


def _taking_nothing_back(where: Callable[[str], bool]) -> AbstractContextManager[Any]:
    def take_back(
        old: Any, outcomes: Outcomes, now: float, job: Job, worker: str, indices: Any, why: str, **named: Any
    ):
        if not where(why):
            old(outcomes, now, job, worker, indices, why, **named)

    return _replace(Outcomes, "take_back", take_back)


@_bug
def forgets_what_the_inventory_does_not_have() -> Iterator[None]:
    with _taking_nothing_back(lambda why: why == "returned: lost on the way"):
        yield


@_bug
def buries_without_a_relaunch() -> Iterator[None]:
    with _taking_nothing_back(lambda why: why.startswith("lost:")):
        yield


@_bug
def buries_whoever_reconnects() -> Iterator[None]:
    """A worker that comes back within the grace has lost its tasks all the same."""

    def lost(old: Any, workers: Workers, now: float, worker: Any) -> None:
        old(workers, now, worker)
        workers.bury(now, worker, "its connection was lost")

    with _replace(Workers, "lost", lost):
        yield


@_bug
def does_not_move_jobs_at_a_fail_over() -> Iterator[None]:
    with _replace(client_jobs.ClientJobs, "move", _never):
        yield


@_bug
def gives_up_no_lost_client() -> Iterator[None]:
    from sparrowmq.core.clients import Clients

    with _replace(Clients, "forget", _never):
        yield


# -- slots


@_bug
def hands_a_task_to_a_busy_slot() -> Iterator[None]:
    """An eager task goes to a slot that runs something."""
    with _replace(Workplace, "idle", lambda old, place: next((slot for slot in place.slots if slot.ready), None)):
        yield


@_bug
def ignores_timeouts() -> Iterator[None]:
    with _replace(endings.Endings, "watch_clock", _never):
        yield


@_bug
def blames_the_wrong_task_of_a_batch() -> Iterator[None]:
    """The task after the one that crashed is reported as crashed."""

    def exited(old: Any, place: Workplace, now: float, number: int, cause: str, current_seq: int) -> None:
        held = place.slots[number].held_count
        old(place, now, number, cause, current_seq + 1 if current_seq and held > 1 else current_seq)

    with _replace(Workplace, "exited", exited):
        yield


@_bug
def forgets_events_of_the_history() -> Iterator[None]:
    with _replace(History, "hedged", _never):
        yield
