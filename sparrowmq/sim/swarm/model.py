"""What may become of a task: a small sequential model, without messages, workers' queues or placement.

Owns: which outcomes a task may have and how often it may have started, given its job's spec, its `Work`, and what
clients and faults did to it. Must not know: any machine. It sees starts (as slots made them), burials (a scheduler gave
a worker up) and what was shown, and goes through the attempts of a task in order: all but one before it (but two, if
tasks are hedged) must be over when one starts, and some attempt must explain the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from sparrowmq import errors
from sparrowmq.core.workplace import STUCK_S
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.retries import names_of, wants_retry
from sparrowmq.sim.slot import Work

# The result of a short task waits in its slot while the next one runs, until its node monitor loses patience; as long
# may the clock of that next one stand still.
UNSENT_S: Final = 2 * STUCK_S + 0.01
SLACK_S: Final = 0.002  # from a slot to its node monitor and back
UNTOLD_S: Final = 0.1  # a scheduler that dies may have had a result for so long that its client never gets
_TEXTS: Final = {b"": "", b"killed": "killed", b"interrupted": "interrupted"}


class Start(NamedTuple):
    """A slot began a task."""

    at_s: float
    worker: str
    epoch: int
    attempt: int


class Shown(NamedTuple):
    """An outcome. ``epoch``: of the scheduler that decided it, None if the client did."""

    at_s: float
    status: int
    payload: bytes
    epoch: int | None


@dataclass
class Task:
    """All that is known of one task."""

    name: str
    work: Work
    spec: m.JobSpec
    starts: Sequence[Start] = ()
    shown: Shown | None = None  # None: nobody was
    killed: bool = False
    recalled: bool = False
    submitted_s: float = 0.0
    index: int = 0
    lost: bool = False  # the store had lost its job: epochs may have been given again


@dataclass
class World:
    """What happened to the cluster. ``quiet``: no connection broke, and no process was stopped."""

    quiet: bool
    burials: Mapping[str, Sequence[float]] = field(default_factory=dict)  # worker -> when some scheduler gave it up
    crashes: Mapping[str, Sequence[float]] = field(default_factory=dict)  # worker -> when tasks ended a slot's process
    pauses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)  # worker -> from, to
    fallen: Sequence[float] = ()  # when schedulers died
    adopts: bool = False  # nothing else ever happened


def check(task: Task, world: World) -> None:
    """Raise AssertionError if the model does not allow what became of this task."""
    by_epoch: dict[int, list[Start]] = {}
    for start in task.starts:
        by_epoch.setdefault(start.epoch, []).append(start)
    if task.spec.at_most_once:
        assert len(task.starts) <= 1, f"{task.name} is to start once at most: {list(task.starts)}"
    if world.adopts:
        _check_adopted(task, world)
    for epoch, starts in by_epoch.items() if not task.lost else ():
        _check_starts(task, world, epoch, starts)
    if task.shown is not None:
        _check_shown(task, world, by_epoch)


def _check_adopted(task: Task, world: World) -> None:
    """What ran while its scheduler died goes on under the next one."""
    ordered = sorted(task.starts)
    for before, start in pairwise(ordered):
        ended_s = before.at_s + task.work.service_s
        untold = any(ended_s - SLACK_S <= at_s <= ended_s + UNTOLD_S for at_s in world.fallen)
        other = task.spec.retries or _hedged(task) or _lost(task, world, before, start.at_s)
        assert untold or other or start.epoch == before.epoch, f"{task.name} was not adopted: {ordered}"


def _check_starts(task: Task, world: World, epoch: int, starts: list[Start]) -> None:
    """No attempt starts twice; all but one (but two, if hedged) of those before it are over when one starts."""
    attempts = [start.attempt for start in starts]
    assert len(set(attempts)) == len(attempts), f"{task.name}: an attempt of epoch {epoch} started twice: {starts}"
    assert epoch == 0 or not world.quiet, f"{task.name} started in epoch {epoch}, and nothing was ever lost"
    ordered = sorted(starts, key=lambda start: start.attempt)  # one lost with a frozen worker may start after the next
    for number, start in enumerate(ordered):
        over = sum(_lost(task, world, s, start.at_s) or _tried_again(task, s, start.at_s) for s in ordered[:number])
        assert number - over <= _hedged(task), f"{task.name} started again without a reason: {ordered}"
    failed = [s for s in starts if _must_fail(task, s) and not _lost(task, world, s, math.inf)]
    assert len(failed) <= task.spec.retries + 1 + _hedged(task), f"{task.name} was tried too often: {ordered}"


def _lost(task: Task, world: World, start: Start, until_s: float) -> bool:
    """Whether an attempt's worker was given up, or its slot's process crashed before its result had left it."""
    if any(task.submitted_s <= at_s <= until_s for at_s in world.burials.get(start.worker, ())):
        return True
    ended_s = start.at_s + task.work.service_s
    return any(ended_s <= at_s <= ended_s + UNSENT_S for at_s in world.crashes.get(start.worker, ()))


def _tried_again(task: Task, start: Start, until_s: float) -> bool:
    """Whether this attempt may have failed by then, in a way that is tried again."""
    took_s = min(task.work.service_s, task.spec.timeout_s or task.work.service_s)
    return start.at_s + took_s <= until_s and any(_may_fail(task, start).values())


def _must_fail(task: Task, start: Start) -> bool:
    timeout_s, work = task.spec.timeout_s, task.work
    return work.end == "crash" or work.fails(start.attempt) or 0 < timeout_s < work.service_s - UNSENT_S


def _may_fail(task: Task, start: Start) -> dict[str, bool]:
    """Return the errors that this attempt may end with, and whether it is then tried again."""
    timeout_s, work = task.spec.timeout_s, task.work
    kinds = []
    if 0 < timeout_s <= work.service_s + SLACK_S:
        kinds.append("TaskTimedOut")
    if work.end == "crash":
        kinds.append("TaskCrashed")
    elif work.fails(start.attempt):
        kinds.append("RemoteError")
    return {kind: wants_retry(task.spec, names_of(getattr(errors, kind))) for kind in kinds}


def _check_shown(task: Task, world: World, by_epoch: dict[int, list[Start]]) -> None:
    shown, work = task.shown, task.work
    assert shown is not None
    text = _TEXTS.get(shown.payload, "?") if shown.status == m.CANCELLED else ""
    known = msgspec.structs.replace(work, output=work.output[:9])
    what = f"{task.name} {m.STATUS_NAMES[shown.status]} {text} with {known} {task.spec}, {list(task.starts)}, {shown}"
    epoch = shown.epoch if shown.epoch is not None else -1
    starts = by_epoch.get(epoch, [])
    adopted = [start for start in task.starts if start.epoch <= epoch]  # or it may be
    if shown.status == m.SUCCEEDED:
        done = [s for s in adopted if not work.fails(s.attempt) and s.at_s + work.service_s <= shown.at_s]
        assert done, f"{what}: no attempt can have succeeded"
        assert work.end != "crash", f"{what}: none can"
        late = 0 < task.spec.timeout_s < work.service_s - UNSENT_S
        assert not late or any(_paused(world, start) for start in done), f"{what}: it ran longer than its timeout"
    elif shown.status == m.CANCELLED:
        assert text != "?", what
        assert task.killed or (task.recalled and not text), f"{what}: nobody wanted that"
        assert text or shown.epoch is not None or not task.starts, f"{what}: no scheduler had it, said its client"
        if not text and epoch >= 0 and not (task.killed and _hedged(task)):  # it may be the other attempt that had not
            begun = [
                s for s in starts if not _tried_again(task, s, shown.at_s) and not _lost(task, world, s, shown.at_s)
            ]
            assert not begun, f"{what}: it had started"
    elif shown.status == m.LOST:
        _check_lost(task, world, what)
    else:
        _check_failed(task, world, shown, adopted, what)


def _check_lost(task: Task, world: World, what: str) -> None:
    """So many workers have died, in all epochs; what may start once only is lost with any, or with its scheduler."""
    given_up = sum(len(times) for times in world.burials.values())
    if task.spec.at_most_once:
        assert not world.quiet, f"{what}: nothing was ever lost"
    else:
        assert given_up >= task.spec.max_attempts, f"{what}: {given_up} workers were given up"


def _check_failed(task: Task, world: World, shown: Shown, starts: list[Start], what: str) -> None:
    """It failed as its work does, as often as its spec demands; a kill ends the retries."""
    kind = msgspec.msgpack.decode(shown.payload)["type"]
    if kind == "Unavailable":
        assert not world.quiet, f"{what}: workers were there all the time"
        return
    tries = [again for start in starts for name, again in _may_fail(task, start).items() if name == kind]
    assert tries, f"{what}: no attempt can have failed so"
    assert shown.status == m.FAILED or kind == "TaskTimedOut", f"{what}: the error of another status"
    assert shown.status == m.FAILED or not any(tries), f"{what}: it is to be tried again"
    needed = task.spec.retries + 1 if all(tries) and not task.killed else 1
    failed = sum(bool(_may_fail(task, start)) for start in starts)
    assert failed >= needed, f"{what}: {needed} attempts must fail, {failed} may"


def _hedged(task: Task) -> bool:
    spec = task.spec
    return bool(spec.hedge_after_s or spec.hedge_quantile) and spec.max_attempts > 1 and not spec.at_most_once


def _paused(world: World, start: Start) -> bool:
    """Whether the worker was stopped at a time when it should have watched this attempt's clock."""
    return any(start.at_s <= to_s for from_s, to_s in world.pauses.get(start.worker, ()))
