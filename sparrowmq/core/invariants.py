"""What must be true of the machines after every event, and once all work is done. For tests and simulation.

Owns: the checks, each a plain function that raises AssertionError saying what is wrong. Must not know: how a
machine came into its state; nothing here changes one.

`check` holds one machine against what is always true, `check_rest` against what is true when no job is left, and
`check_agreement` a scheduler and a worker against each other while nothing is under way between them. What clients
were shown is `shown`'s business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sparrowmq.core import effects as fx
from sparrowmq.core.clients import RECALLS_MAX
from sparrowmq.core.history import weight
from sparrowmq.core.job import ABSENT, LAUNCHED, RESTING, UNPLACED, Job
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.peers import Advisor, Worker
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.core.slots import Slot
from sparrowmq.core.workplace import AHEAD_JOBS
from sparrowmq.placement import POLICIES
from sparrowmq.protocol import messages as m

if TYPE_CHECKING:
    from sparrowmq.core.assistant import Assistant


def check(machine: Scheduler | NodeMonitor | Session | Assistant, effects: Iterable[fx.AnyEffect] = ()) -> None:
    """Hold a machine against its invariants, after `take_effects` has returned ``effects``."""
    if isinstance(machine, Scheduler):
        check_scheduler(machine)
        check_placements(machine, effects)
    elif isinstance(machine, NodeMonitor):
        check_node_monitor(machine)
    elif isinstance(machine, Session):
        check_session(machine)
    else:
        check_assistant(machine)


def check_rest(machine: Scheduler | NodeMonitor | Session | Assistant) -> None:
    """Every job is over and acknowledged, and nothing is under way: the machine must hold nothing of any job."""
    if isinstance(machine, Scheduler):
        _scheduler_at_rest(machine)
    elif isinstance(machine, NodeMonitor):
        _node_monitor_at_rest(machine)
    elif isinstance(machine, Session):
        _same(f"jobs of {machine.id}", list(machine.jobs), [])
        _same(f"recalls of {machine.id}", machine._work.recalls, {})
        _same(f"jobs of {machine.id} with schedulers", machine._work._lane.under_way, 0)


def _same(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: {found!r}, expected {expected!r}"


def _at_most(what: str, found: int, limit: int) -> None:
    assert 0 <= found <= limit, f"{what}: {found:,}, the limit is {limit:,}"


# -- scheduler


def check_scheduler(scheduler: Scheduler) -> None:
    """I1, I5, I6, I9, I14, I15: tables agree with each other, are bounded, and no task is stuck."""
    state, limits = scheduler.state, scheduler.state.settings.limits
    name = scheduler.id
    for job in state.jobs.values():
        check_job(job)
        if not job.detached:
            assert job.client in state.clients, f"job {job.id} has no client"
            assert job.id in state.clients[job.client].jobs, f"{job.client} does not know its job {job.id}"
        gone = (set(job.reserved) | job.workers | job.function_at) - set(state.workers)
        assert not gone, f"job {job.id} counts on workers that are gone: {gone}"
        _check_not_stuck(scheduler, job)
    launched = Counter(
        live.worker for job in state.jobs.values() for index in job.launched_tasks() for live in job.live(index)
    )
    unknown = set(launched) - set(state.workers)
    assert not unknown, f"tasks are launched on workers that are gone: {unknown}"
    reserved = Counter[str]()
    for job in state.jobs.values():
        reserved.update(job.reserved)
    for worker in state.workers.values():
        _same(f"launched on {worker.id}", worker.launched, launched[worker.id])
        _same(f"reserved at {worker.id}", worker.reserved, reserved[worker.id])
        assert (worker.peer is None) == (worker.lost_at is not None), f"{worker.id}: {worker.peer} {worker.lost_at}"
    for client in state.clients.values():
        assert client.jobs <= set(state.jobs), f"{client.id} has jobs that are over"
        assert all(map(client.owns, client.jobs)), f"{client.id} has jobs of another owner"
        assert (client.peer is None) == (client.gone_at is not None), f"{client.id}: {client.peer} {client.gone_at}"
    for peer, sender in state.peers.items():
        _same(f"the connection of {sender.id}", sender.peer, peer)
        if isinstance(sender, Advisor):
            assert state.advisor is sender, f"{sender.id} is connected and not listened to"
            continue
        known = state.workers if isinstance(sender, Worker) else state.clients
        assert known.get(sender.id) is sender, f"{sender.id} is connected and not known"
    advisor = state.advisor
    assert advisor is None or (advisor.term == state.term and state.peers.get(advisor.peer) is advisor), f"{advisor}"
    if advisor is None:
        suspects = [worker.id for worker in state.workers.values() if worker.suspect or worker.condemned]
        assert not suspects, f"{name} suspects {suspects}, and no assistant is there to take it back"
    _same("tasks of unfinished jobs", state.tasks, sum(job.tasks for job in state.jobs.values()))
    _same("rows of unfinished jobs", state.rows, sum(len(job.state) for job in state.jobs.values()))
    payload_bytes = sum(job.bytes + (job.keep.bytes if job.keep is not None else 0) for job in state.jobs.values())
    _same("bytes", state.bytes, payload_bytes + sum(client.outbox.bytes for client in state.clients.values()))
    _at_most(f"jobs of {name}", len(state.jobs), limits.jobs)
    _at_most(f"rows of {name}", state.rows, limits.tasks)
    _at_most(f"workers of {name}", len(state.workers), limits.workers)
    _at_most(f"clients of {name}", len(state.clients), limits.clients)
    _check_remembered(scheduler)
    _at_most(f"subscriptions of {name}", len(scheduler._statuses.subscriptions), limits.clients)
    recalls = scheduler._clients._recalls
    _at_most(f"recalls of {name}", len(recalls), RECALLS_MAX)
    for recall in recalls.values():
        connected = {worker.id for worker in state.workers.values() if worker.peer is not None}
        assert recall.waiting, "a recall that waits for nobody"
        assert recall.waiting <= connected, f"a recall waits for {recall.waiting - connected}"


def _check_remembered(scheduler: Scheduler) -> None:
    """I14: what is kept of finished jobs, of tasks' histories and of output is bounded, and counted right."""
    state, limits, name = scheduler.state, scheduler.state.settings.limits, scheduler.id
    history, transcripts = state.history, scheduler._transcripts
    everything = [*history, *state.jobs.values()]
    _at_most(f"finished jobs of {name}", len(history.finished), limits.finished_jobs)
    _at_most(f"tasks in the history of {name}", history.tasks, limits.history_tasks)
    _same(f"tasks in the history of {name}", history.tasks, sum(len(job.state) for job in history))
    _at_most(f"bytes in the history of {name}", history.bytes, limits.history_bytes)
    _same(f"bytes in the history of {name}", history.bytes, sum(map(weight, everything)))
    _same(f"jobs with events in the history of {name}", history._noted, sum(1 for job in history if weight(job)))
    for job in history:
        assert job.how, f"job {job.id} is in the history and not over"
        held = (job._payloads, job.function, job.doomed, job.rests, job.stories, job.workers, job.reserved)
        assert not any(map(len, held)), f"job {job.id} is over and holds {held}"
        _same(f"job {job.id}: tasks by status", job.tasks, sum(job.counts))
    kept = [job.transcript for job in everything if job.transcript is not None]
    _same(f"output of {name}", transcripts.bytes, sum(map(len, kept)))
    _same(f"transcripts of {name}", len(transcripts._jobs), len(kept))
    _at_most(f"output of {name}", transcripts.bytes, limits.output_bytes)
    for transcript in kept:
        _at_most(f"output of a job of {name}", len(transcript), limits.job_output_bytes)
    following = [peer for followers in transcripts._followers.values() for peer in followers]
    _same(f"followers of {name}", transcripts._following, len(following))
    assert set(following) <= set(state.peers), f"{name} has followers that are gone"
    assert set(transcripts._followers) <= set(state.jobs), f"{name} has followers of jobs that are over"


def check_job(job: Job) -> None:
    """I1, I5, I6, I9: each task is in exactly one state, and the counts agree with the table."""
    found = Counter(job.state)
    name = f"job {job.id}"
    _same(f"{name}: unplaced", job.unplaced, found[UNPLACED])
    _same(f"{name}: launched", job.launched, found[LAUNCHED])
    _same(f"{name}: resting", job.resting, found[RESTING])
    _same(f"{name}: ended", job.counts, [found[status] for status in range(len(m.STATUS_NAMES))])
    _same(f"{name}: tasks", job.tasks, len(job.state) - found[ABSENT])
    _same(f"{name}: ledger", job.tasks, job.unplaced + job.resting + job.launched + sum(job.counts))
    unsaved = job.keep is not None and job.keep.held
    assert not job.done or unsaved, f"{name} is over and still in the table"
    for index in job.launched_tasks():
        if index in job.twins or index in job.wanted:
            _check_attempts(job, index)
        else:  # most of them: as there
            assert job.attempts[index] > 0, f"{name}: task {index} has no attempt"
            where = job.place[index]
            assert where in job.workers, f"{name}: task {index} is at {where}, which is not a worker of its job"
    _same(f"{name}: reservations", job.reserved_total, sum(job.reserved.values()))
    assert all(count > 0 for count in job.reserved.values()), f"{name}: reservations {job.reserved}"
    assert set(job.reserved) <= job.workers, f"{name}: reservations at others than its workers"
    assert all(len(story) <= job.spec.max_attempts + 1 for story in job.stories.values()), f"{name}: {job.stories}"
    waiting = [index for index in job._again or () if job.state[index] == UNPLACED]
    fresh = [index for index in job._fresh[job._cursor :] if job.state[index] == UNPLACED]
    if not job.epoch:  # else what was adopted without having been taken may stand in both
        _same(f"{name}: tasks to be relaunched", len(waiting) + len(fresh), len({*waiting, *fresh}))
    _same(f"{name}: tasks that can be taken", len({*waiting, *fresh}), job.unplaced)
    resting = sorted(index for _, index in job.rests if job.state[index] == RESTING)
    _same(f"{name}: tasks that rest", resting, [i for i, state in enumerate(job.state) if state == RESTING])
    assert all(n <= job.spec.retries + 1 for n in job.failures.values()), f"{name}: retries {job.failures}"


def _check_attempts(job: Job, index: int) -> None:
    """I5: a launched task has one live attempt, or two at different workers if it was hedged."""
    name, live = f"job {job.id}: task {index}", job.live(index)
    numbers = [attempt.number for attempt in live]
    assert 1 <= len(live) <= 1 + (index in job.twins), f"{name} has {len(live)} live attempts"
    _same(f"{name}: attempts in order", numbers, sorted(set(numbers)))
    assert 0 < numbers[0] <= numbers[-1] <= job.attempts[index], f"{name} has attempts {numbers}"
    assert len({attempt.worker for attempt in live}) == len(live), f"{name} has both attempts at one worker"
    for attempt in live:
        assert attempt.worker in job.workers, f"{name} is at {attempt.worker}, which is not a worker of its job"
    assert index not in job.wanted or len(live) == 1, f"{name} has a second attempt and wants one"


def _check_not_stuck(scheduler: Scheduler, job: Job) -> None:
    """I15: an unplaced task has a reservation or a sample coming, unless no worker or no credit is there."""
    state, placer = scheduler.state, scheduler._placer
    now = max((worker.heard_at for worker in state.workers.values()), default=0.0)
    usable = [
        worker.id
        for worker in state.workers.values()
        if worker.peer is not None and not worker.draining and worker.full_until <= now and worker.hello.slots > 0
        and job.spec.python in ("", worker.hello.python) and worker.id not in job.unheard
    ]  # fmt: skip
    sampling = placer._sampling.get(job.id)
    if sampling is not None:
        connected = {worker.id for worker in state.workers.values() if worker.peer is not None}
        assert sampling.waiting, f"job {job.id} waits for no load"
        assert sampling.waiting <= connected, f"job {job.id} waits for loads of {sampling.waiting - connected}"
    due = state.timers.next()
    if job.rests:
        assert any(what[0] == "rested" for _, _, what in state.timers._heap), f"job {job.id} rests for ever"
    if job.claims is not None:
        assert job.claims, f"job {job.id} waits for nobody's claim"
        assert any(what[0] == "claimed" for _, _, what in state.timers._heap), f"job {job.id} is claimed for ever"
        return
    starved = (not job.detached and state.clients[job.client].starved) or (job.keep is not None and job.keep.starved)
    if not job.unplaced or not usable or starved or (due is not None and due <= now):
        return
    if placer.waits(job):
        assert any(what == ("overdue", job.payer) for _, _, what in state.timers._heap), f"{job.id} waits for ever"
        return
    if POLICIES[job.spec.policy].late:
        assert job.reserved_total >= job.unplaced, (
            f"job {job.id}: {job.unplaced} unplaced tasks, {job.reserved_total} reservations {job.reserved}"
        )
    else:
        assert sampling is not None, f"job {job.id}: {job.unplaced} unplaced tasks, and no loads are awaited"


def check_placements(scheduler: Scheduler, effects: Iterable[fx.AnyEffect]) -> None:
    """I11: probes and tasks go to connected workers that do not drain, can run them, and have answered the claim."""
    for effect in effects:
        if not isinstance(effect, fx.Send) or not isinstance(effect.message, m.Probe | m.Task):
            continue
        worker = scheduler.state.peers.get(effect.peer)
        what = type(effect.message).__name__.lower()
        if worker is None:
            continue  # it left in the same turn
        assert isinstance(worker, Worker), f"a {what} for {worker.id}, which is no worker"
        assert not worker.draining, f"a {what} for {worker.id}, which drains"
        job = scheduler.state.jobs.get(effect.message.job)
        if job is not None:
            assert job.spec.python in ("", worker.hello.python), f"{worker.id} cannot run a {what} of {job.id}"
            assert worker.id not in job.unheard, f"a {what} for {worker.id}, which may hold something of {job.id}"


def _scheduler_at_rest(scheduler: Scheduler) -> None:
    state = scheduler.state
    _same(f"jobs of {scheduler.id}", list(state.jobs), [])
    _same(f"tasks of {scheduler.id}", state.tasks, 0)
    _same(f"bytes of {scheduler.id}", state.bytes, 0)
    _same(f"submissions that wait for the store at {scheduler.id}", (len(state.book), state.book.bytes), (0, 0))
    _same(f"what {scheduler.id} has asked of the store", state.book._outcomes, {})
    _same(f"samples of {scheduler.id}", list(scheduler._placer._sampling), [])
    _same(f"recalls of {scheduler.id}", scheduler._clients._recalls, {})
    _same(f"messages that wait at {scheduler.id}", len(scheduler._turns), 0)
    _same(f"jobs of {scheduler.id} that wait for their key", any(scheduler._placer._overdue.values()), False)
    for worker in state.workers.values():
        _same(f"launched on {worker.id} by {scheduler.id}", worker.launched, 0)
    for client in state.clients.values():
        _same(f"outcomes that {client.id} has not acknowledged", len(client.outbox), 0)


# -- node monitor


def check_node_monitor(monitor: NodeMonitor) -> None:
    """I7, I8, I14, I15: slots, requests and queue agree, are bounded, and nothing waits in vain."""
    place, limits = monitor.place, monitor.settings.limits
    queue, name = place.queue, monitor.id
    for slot in place.slots:
        _check_slot(name, slot)
    asked: Counter[tuple[int, str]] = Counter()
    for link in monitor.links.values():
        for request in link.requests.values():
            assert request.count > 0, f"{name}: request {request.number} is answered and still waited for"
            asked[request.slot, request.job] += request.count
    waiting = {(slot.number, job): count for slot in place.slots for job, count in slot.asked.items()}
    _same(f"{name}: requests by scheduler and by slot", dict(asked), waiting)
    for slot in place.slots:
        _same(f"{name}: tasks asked for slot {slot.number}", slot.asked_count, sum(slot.asked.values()))
    _same(f"{name}: reservations", queue.reservations, sum(e.count for e in queue if e.tasks is None))
    _same(f"{name}: queued tasks", queue.tasks, sum(e.count for e in queue if e.tasks is not None))
    unknown = {entry.scheduler for entry in queue} - set(monitor.links)
    assert not unknown, f"{name}: the queue holds entries of unknown schedulers {unknown}"
    peers = monitor.connections.peers
    for link in monitor.links.values():
        parked = link.scheduler in queue.parked
        assert not (link.usable and parked), f"{name}: the entries of {link.scheduler} are parked, and it answers"
        mine = any(entry.scheduler == link.scheduler for entry in queue.entries)
        assert link.usable or not mine, f"{name}: the entries of {link.scheduler} block the queue"
        assert link.welcomed <= bool(link.peer), f"{name}: {link.scheduler} is welcomed and not connected"
        assert not link.peer or peers.get(link.peer) is link, f"{name}: connection {link.peer} is unknown"
        pending = any(what[:2] == ("connect", link.scheduler) for _, _, what in monitor._timers._heap)
        assert link.peer or pending or monitor.draining, f"{name}: {link.scheduler} is never tried again"
        assert not link.requests or link.waiting, f"{name}: requests to {link.scheduler} are not watched"
    _same(f"{name}: connections", len(peers), sum(bool(link.peer) for link in monitor.links.values()))
    assert set(queue.parked) <= set(monitor.links), f"{name}: {set(queue.parked)} are parked and unknown"
    _at_most(f"{name}: queued tasks", queue.tasks, limits.queued_tasks)
    asked_at_most = (AHEAD_JOBS + 1) * len(place.slots)  # what a lost connection leaves unanswered goes back
    _at_most(f"{name}: queue", len(queue), limits.queue_entries + asked_at_most + 1)
    _at_most(f"{name}: schedulers", len(monitor.links), limits.schedulers)
    _at_most(f"{name}: functions", len(place._functions), limits.functions)
    _same(f"{name}: bytes of functions", place._function_bytes, sum(map(len, place._functions.values())))
    assert place._function_bytes <= limits.function_bytes or len(place._functions) <= 1, f"{name}: too many functions"
    _at_most(f"{name}: epochs", len(place._epochs), limits.job_records)
    _at_most(f"{name}: paces", len(place._paces), limits.job_records)
    reclaiming = {slot.number for slot in place.slots if slot.reclaiming}
    for slot in place.slots:
        assert not slot.kills or slot.reclaiming or slot.interrupted or slot.verdict, (
            f"{name}: tasks are to be killed at slot {slot.number}, and nothing is done about it"
        )
    assert len(monitor._outputs) <= 2 * sum(slot.held_count for slot in place.slots), f"{name}: output of no task"
    for recall in place._recalls:
        assert recall.waiting, f"{name}: a recall that waits for nothing"
        assert recall.waiting <= reclaiming, f"{name}: a recall waits for slots {recall.waiting - reclaiming}"
    full = sum(link.outbox.bytes for link in monitor.links.values()) > limits.unacked_bytes
    if not monitor.draining and not full and queue.head() is not None:
        idle = [slot.number for slot in place.slots if slot.ready and not slot.held_count and not slot.asked]
        assert not idle, f"{name}: slots {idle} are idle, and the queue is not empty"


def _check_slot(name: str, slot: Slot) -> None:
    where = f"{name}: slot {slot.number}"
    _same(f"{where}: tasks", slot.held_count, sum(len(batch.indices) for batch in slot.held))
    last = 0
    for batch in slot.held:
        _same(f"{where}: attempts", len(batch.attempts), len(batch.indices))
        assert batch.indices, f"{where} holds an empty batch"
        assert batch.first_seq > last, f"{where} holds {batch.first_seq} after {last}"
        last = batch.first_seq + len(batch.indices) - 1
    assert last <= slot.last_seq, f"{where} holds {last}, and was handed {slot.last_seq} at the last"
    assert slot.pid or not slot.held, f"{where} holds tasks without a process"
    left = {(batch.job, batch.epoch, index) for batch in slot.held for index in batch.indices}
    assert set(slot.kills) <= left, f"{where} is to end {set(slot.kills) - left}, which it does not hold"
    assert not slot.interrupted or slot.holder(slot.interrupted), f"{where}: the task that was interrupted has ended"
    assert slot.pid or not slot.reclaiming, f"{where} is being reclaimed without a process"
    assert slot.held_count <= 1 or slot.watched, f"{where} holds {slot.held_count} tasks and is not watched"


def _node_monitor_at_rest(monitor: NodeMonitor) -> None:
    place, name = monitor.place, monitor.id
    _same(f"{name}: queue", [entry for entry in place.queue if entry.count], [])
    _same(f"{name}: tasks at slots", [slot.held_count for slot in place.slots], [0] * len(place.slots))
    _same(f"{name}: requests", [slot.asked for slot in place.slots], [{}] * len(place.slots))
    _same(f"{name}: recalls", place._recalls, [])
    _same(f"{name}: kills", [slot.kills for slot in place.slots], [{}] * len(place.slots))
    _same(f"{name}: interrupted", [slot.interrupted for slot in place.slots], [0] * len(place.slots))
    _same(f"{name}: output left out and not told", len(monitor._outputs), 0)
    for link in monitor.links.values():
        if link.welcomed:
            _same(f"{name}: results that {link.scheduler} has not acknowledged", len(link.outbox), 0)


def check_agreement(scheduler: Scheduler, monitor: NodeMonitor, *, orphans: bool = False) -> None:
    """I9: nothing is under way between these two, which are connected: they believe the same of each other.

    ``orphans``: the worker may have reservations of jobs that are over. When its queue is full a scheduler gives up all
    that a job has there; what was there before ends as no-ops.
    """
    worker = scheduler.state.workers.get(monitor.id)
    link = monitor.links.get(scheduler.id)
    if worker is None or worker.peer is None or link is None or not link.welcomed or link.requests:
        return
    actual: Counter[str] = Counter()
    for entry in monitor.place.queue:
        if entry.scheduler == scheduler.id and entry.tasks is None:
            actual[entry.job] += entry.count
    held = {(h.job, h.epoch, index, attempt) for h in monitor.connections.held_by(link)
            for index, attempt in zip(h.indices, h.attempts, strict=True)}  # fmt: skip
    taken_back = {(r.message.job, index) for r in monitor.place._recalls for index, _ in r.found}
    for job in scheduler.state.jobs.values():
        if monitor.place._epochs.get(job.id, -1) > job.epoch:
            continue  # another scheduler has it by now
        believed = job.reserved.get(worker.id, 0)
        assert believed <= actual[job.id], (
            f"{scheduler.id} counts on {believed} reservations of {job.id} at {monitor.id}; there are {actual[job.id]}"
        )
        for index in job.launched_on(worker.id):
            attempt = (job.id, job.epoch, index, job.attempt_at(index, worker.id))
            there = attempt in held or (job.id, index) in taken_back
            assert there, f"task {index} of {job.id} is not at {monitor.id}, where {scheduler.id} believes it"
    over = [job_id for job_id, count in actual.items() if count and job_id not in scheduler.state.jobs]
    assert orphans or not over, f"{monitor.id} has reservations of jobs that are over: {over}"


# -- assistant


def check_assistant(assistant: Assistant) -> None:
    """I14, I15: nodes and connections are bounded, and a scheduler that is not connected is tried again."""
    limits, name = assistant._settings.limits, assistant.id
    _at_most(f"{name}: nodes", len(assistant.judge), limits.nodes)
    _at_most(f"{name}: schedulers", len(assistant._links), limits.schedulers)
    for link in assistant._links.values():
        assert not link.peer or assistant.term, f"{name} does not lead, and is connected to {link.scheduler}"
        assert not link.peer or assistant._peers.get(link.peer) is link, f"{name}: connection {link.peer} is unknown"
        pending = any(what[:2] == ("connect", link.scheduler) for _, _, what in assistant._timers._heap)
        assert link.peer or pending or not assistant.term, f"{name}: {link.scheduler} is never tried again"
    _same(f"{name}: connections", len(assistant._peers), sum(bool(link.peer) for link in assistant._links.values()))


# -- session


def check_session(session: Session) -> None:
    """I1, I15: what is open is counted, sent or about to be sent, and an attempt to connect is under way."""
    links, name = session._links, session.id
    for job_id, job in session.jobs.items():
        _same(f"{name}: open tasks of {job_id}", job.left, sum(job.open))
        assert job.left, f"{name}: job {job_id} is over and still there"
        assert job.left <= job.submit.count, f"{name}: {job.left} of {job.submit.count} tasks of {job_id} are open"
        assert not (job.queued and job.sent), f"{name}: {job_id} waits for its turn, and was sent"
        assert not job.queued or job_id in job.lane.queue, f"{name}: {job_id} waits for a turn that never comes"
    for lane in {job.lane for job in session.jobs.values()}:
        mine = [job for job in session.jobs.values() if job.lane is lane]
        _same(f"{name}: jobs under way", lane.under_way, sum(not job.queued for job in mine))
        _at_most(f"{name}: jobs under way", lane.under_way, lane.limit)
        assert lane.under_way == lane.limit or not any(job.queued for job in mine), f"{name}: jobs wait for nothing"
    if session._left:
        return
    home = session._home
    if home is not None:
        assert links.get(home.peer) is home, f"{name}: its home is no connection"
        _same(f"{name}: where new jobs go", session._work.home, home.peer)
        lost = [job_id for job_id, job in session.jobs.items() if job.peer and job.peer not in links]
        assert not lost, f"{name}: {lost} were not moved to {home.scheduler}"
    elif session._known:
        assert session._connecting(), f"{name}: no scheduler, and no attempt to find one"
    waiting = [job_id for job_id, job in session.jobs.items() if not job.queued and job.peer not in links]
    unanswered, there = session._work._pace._unanswered, session._work.home
    lost = [job_id for job_id in unanswered if job_id not in session.jobs or session.jobs[job_id].peer != there]
    assert not lost, f"{name}: {lost} hold others up and wait for no answer"
    if waiting and session._homeless_since is None and not unanswered:
        timers = {what[0] for _, _, what in session._timers._heap}
        assert timers & {"resubmit", "resume"}, f"{name}: {waiting} wait for a scheduler without end"
    for _, peer in session._work.recalls.values():
        assert peer in links, f"{name}: a recall waits for a connection that is gone"
