"""What must be true of load hints: whose share a worker is, and that places are sought by hints and by the books.

Owns: that shares do not overlap and name nobody dead, that old hints are forgotten, that a round of probes goes where
the policy `assisted` says. Must not know: how shares are divided, or how workers are looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sparrowmq.core import effects as fx
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.job import Job
from sparrowmq.core.judge import DEAD
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.placement import POLICIES
from sparrowmq.placement.assisted import LOOKS_MIN
from sparrowmq.placement.load import expected_wait
from sparrowmq.protocol import messages as m

_SHARE, _OTHERS, _WAITING = range(3)  # in which order workers are taken
Place = tuple[int, float]


def check(machine: Assistant | Scheduler, now: float, effects: Sequence[fx.AnyEffect]) -> None:
    """Hold what a machine does in one event against what must be true of hints."""
    if isinstance(machine, Assistant):
        _check_shares(machine, effects)
    else:
        _check_round(machine, now, effects)


def _check_shares(assistant: Assistant, effects: Sequence[fx.AnyEffect]) -> None:
    """No two schedulers are given the same worker at the same time, and none is given a dead one."""
    told = [effect.message for effect in effects if isinstance(effect, fx.Send) and isinstance(effect.message, m.Hints)]
    if not told:
        return
    named = Counter(worker for hints in told for worker in hints.workers)
    twice = [worker for worker, count in named.items() if count > 1]
    assert not twice, f"{assistant.id} gives {twice} to several schedulers"
    dead = [known.beat.id for known in assistant.judge if known.state == DEAD and known.beat.id in named]
    assert not dead, f"{assistant.id} gives away {dead}, which are dead"
    uneven = [hints for hints in told if len(hints.workers) != len(hints.waits_us)]
    assert not uneven, f"{assistant.id}: {uneven}"


def _check_round(scheduler: Scheduler, now: float, effects: Sequence[fx.AnyEffect]) -> None:
    """The last round of probes, if probes are all that was sent, goes to those where its tasks start soonest.

    There may be several: an event is all that came over a connection at once.
    """
    state = scheduler.state
    rounds: dict[tuple[str, int], dict[str, int]] = {}
    for effect in effects:
        message = effect.message if isinstance(effect, fx.Send) else None
        if isinstance(message, m.Task | m.Cancel | m.Welcome):
            return  # the books were others when it was decided
        if isinstance(effect, fx.Send) and isinstance(message, m.Probe) and message.count:
            rounds.setdefault((message.job, message.round), {})[state.peers[effect.peer].id] = message.count
    if not rounds:
        return
    (id, _), counts = rounds.popitem()
    job = state.jobs.get(id)
    if job is not None and POLICIES[job.spec.policy].hinted and not job.epoch and not _hedged(job):
        _check_places(scheduler, now, job, counts)


def _check_places(scheduler: Scheduler, now: float, job: Job, counts: dict[str, int]) -> None:
    placer = scheduler._placer
    hints, workers = placer._hints, placer.eligible(now, job)
    assert not hints._share or now <= hints._stale_at, f"{scheduler.id} goes by hints that are old"
    if len(workers) > LOOKS_MIN or set(counts) - set(workers):
        return  # not all were looked at
    each = sum(counts.values()) // len(workers)
    places = {worker: _place(scheduler, now, worker, counts.get(worker, 0)) for worker in workers}
    chosen = [places[worker] for worker in workers if counts.get(worker, 0) > each]
    spoke = {worker for worker in workers if scheduler.state.workers[worker].heard_at >= now}
    left = [places[worker] for worker in workers if counts.get(worker, 0) <= each and worker not in spoke]
    assert not chosen or not left or max(chosen) <= min(left), (
        f"{scheduler.id} leaves {counts} for {job.id}, and places were {places}"
    )


def _place(scheduler: Scheduler, now: float, id: str, count: int) -> Place:
    """Return where in order this worker stood before so many probes were left there.

    One that has just spoken may have stood worse: what it gave back or ended after that is not in the books any more.
    """
    hints, worker = scheduler._placer._hints, scheduler.state.workers[id]
    reserved, slots = worker.reserved - count, worker.hello.slots
    mine = (worker.launched + reserved) / slots
    if hints._mine and id not in hints._mine:
        return (_OTHERS, 0.0) if mine <= 0.0 else (_WAITING, mine)
    busy = hints._until.get(id, 0.0) > now
    wait = 1.0 + mine if busy else expected_wait(reserved, worker.launched, slots)
    return (_SHARE if wait <= 0.0 else _WAITING), wait


def _hedged(job: Job) -> bool:
    return bool(job.wanted or job.spec.hedge_after_s or job.spec.hedge_quantile)
