"""The keeper of a simulated scheduler: brings its durable jobs to the store, in order, and takes orphans over.

Owns: what is written when, what is tried again and what is given up, who is looked at for orphans. Must not know: what
the store makes of it (`kept`), or what becomes of a job (core/durable.py).

As store/keeper.py does it: nothing overtakes, outcomes are never given up, a submission is given up while the store is
away. An answer may be lost although the store has written: what is said again is recognised there.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sparrowmq.core.durable import FENCED, GONE
from sparrowmq.core.effects import ForgetJob, SaveJob, SaveOutcomes
from sparrowmq.core.keeping import Orphan
from sparrowmq.core.orphans import SCAN_JOBS_MAX, SCAN_S, TAKE_MAX, Owners, owner_of
from sparrowmq.protocol import messages as m
from sparrowmq.sim.kept import KeptJob, Reply
from sparrowmq.sim.store import UP, Record, SimStore

if TYPE_CHECKING:
    from sparrowmq.sim.node import Node

GIVE_UP_S: Final = 0.8  # a submission that could not be sent
REPLY_S: Final = 2.0  # an answer that has not come by then does not count
RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 0.5
ABSENT_S: Final = 6.0  # after an outage, before the absence of a record says anything
AWAY: Final = "the store does not answer"


class _Op:
    """Something to be written."""

    __slots__ = ("answered", "effect", "epoch", "error", "known", "sent")

    def __init__(self, effect: SaveJob | SaveOutcomes | ForgetJob) -> None:
        self.effect = effect
        self.answered = self.sent = False
        self.error, self.epoch = "", 0
        self.known: list[m.Outcome] = []

    @property
    def impatient(self) -> bool:
        """Whether it is a submission whose client waits for an answer."""
        return isinstance(self.effect, SaveJob) and not self.effect.patient


class Keeper:
    """One thread of one start of a scheduler's process: it asks the store one thing after the other.

    ``unanswered``: the share of answers that are lost with their connection.
    """

    def __init__(self, node: Node, store: SimStore, rng: random.Random, unanswered: float) -> None:
        self._node = node
        self._store = store
        self._rng = rng
        self._unanswered = unanswered
        self._starts = node.starts
        self._me = owner_of(node.id, node.starts)
        self._queue: deque[_Op] = deque()
        self._asking = False
        self._down = False
        self._wait_s = 0.0
        self._owners = Owners()
        self._absence_counts_from = 0.0
        self._taken: dict[str, int] = {}  # jobs that were perhaps taken over, with the epoch they then have
        self._scan_due = False
        self._scan_later()

    def _then(self, what: Callable[[], None]) -> None:
        """Go on with this, unless the process is gone; when it is stopped, once it goes on."""
        node = self._node
        if node.up and node.starts == self._starts:
            if node.paused:
                node.hold(lambda: self._then(what))
            else:
                what()

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._node.cluster.later(delay_s, self._then, what)

    def write(self, effect: SaveJob | SaveOutcomes | ForgetJob) -> None:
        """Carry this out after what came before; `Scheduler.saved` follows, except for `ForgetJob`."""
        op = _Op(effect)
        if op.impatient:
            self._later(GIVE_UP_S, lambda: self._overdue(op))
        self._queue.append(op)
        self._later(0.0, self._refuse_submissions if self._down else self._turn)

    def stop(self) -> None:
        """The process ends: write what is left. Nobody hears what comes of it."""
        left = list(self._queue)

        def act() -> None:
            for op in left:
                if not op.answered:
                    self._carry_out(op)

        self._store.call(act, lambda done, nothing: None)

    def _overdue(self, op: _Op) -> None:
        if not op.sent:
            self._answer(op, AWAY)

    # -- asking the store

    def _ask(self, act: Callable[[], object], then: Callable[[Any], None]) -> None:
        """Have the store do something; ``then`` gets what came of it, None where no answer has come."""
        self._asking = True
        waits = True

        def hear(done: bool, reply: object) -> None:
            nonlocal waits
            if waits:
                waits = False
                gone = self._store.state != UP or (self._unanswered and self._rng.random() < self._unanswered)
                there = done and not gone  # else it was written, and the connection has broken
                self._then(lambda: heard(reply if there else None))

        def heard(reply: object) -> None:
            self._asking = False
            then(reply)

        self._store.call(act, hear)
        self._node.cluster.later(REPLY_S, hear, False, None)

    def _turn(self) -> None:
        """Write the next thing; if there is none, look for orphans when it is time."""
        if self._asking or self._down:
            return
        while self._queue and self._queue[0].answered:  # it was given up
            self._queue.popleft()
        if self._queue:
            op = self._queue[0]
            self._ask(lambda: self._carry_out(op), lambda reply: self._written(op, reply))
        elif self._scan_due:
            self._scan_due = False
            self._scan()

    def _carry_out(self, op: _Op) -> Reply:
        """In the store."""
        kept, effect = self._store.jobs, op.effect
        if isinstance(effect, SaveJob):
            return kept.save(self._me, effect.client, effect.submit, effect.tasks, effect.submitted_unix_s)
        if isinstance(effect, SaveOutcomes):
            return kept.append(self._me, effect.outcome, effect.over, effect.deaths)
        return kept.forget(self._me, effect.job, effect.epoch)

    def _written(self, op: _Op, reply: Reply | None) -> None:
        if reply is None:
            self._outage()
            return
        self._queue.popleft()
        op.sent = True
        if isinstance(op.effect, SaveJob):
            self._taken.pop(op.effect.submit.job, None)  # it is known here
        code, *more = reply
        if code == 0:
            op.error, op.epoch = FENCED, more[0]
        elif code == -1:
            op.error = GONE
        elif op.impatient and more[0]:
            self._read(op)
            return
        self._finish(op)
        self._turn()

    def _read(self, op: _Op) -> None:
        """The store has outcomes of a job that is submitted again: those count."""
        submit = op.effect.submit  # type: ignore[union-attr]
        wanted = set(submit.indices or range(submit.count))

        def act() -> list[m.Outcome]:
            job = self._store.jobs.jobs.get(submit.job)
            entries = job.entries if job is not None else []
            return [entry.outcome for entry in entries if not wanted.isdisjoint(entry.outcome.indices)]

        def read(known: list[m.Outcome] | None) -> None:
            if known is None:
                op.error = AWAY
            else:
                op.known = known
            self._finish(op)
            self._turn()

        self._ask(act, read)

    def _finish(self, op: _Op, *, undo: bool = False) -> None:
        """Answer. A submission that was given up and may be in the store all the same is removed again."""
        late = not self._answer(op, op.error)
        effect = op.effect
        in_vain = op.sent and op.error != FENCED and (late or bool(op.error))
        if isinstance(effect, SaveJob) and op.impatient and (undo or in_vain):
            self._queue.append(_Op(ForgetJob(effect.submit.job, effect.submit.epoch)))

    def _answer(self, op: _Op, error: str) -> bool:
        """Answer, unless it was answered; return whether this was the answer."""
        if op.answered:
            return False
        op.answered = True
        if not isinstance(op.effect, ForgetJob):
            self._node.step(self._node.machine.saved, op.effect.token, error, op.epoch, op.known)
        return True

    # -- while it is away

    def _outage(self) -> None:
        self._down = True
        self._wait_s = min(self._wait_s * 2 or RETRY_S_MIN, RETRY_S_MAX)
        self._absence_counts_from = self._node.cluster.now + ABSENT_S
        self._later(self._wait_s, lambda: self._ask(lambda: True, self._tried))
        self._refuse_submissions()

    def _tried(self, there: bool | None) -> None:
        if there is None:
            self._outage()
        else:
            self._down, self._wait_s = False, 0.0
            self._turn()

    def _refuse_submissions(self) -> None:
        refused = [op for op in self._queue if op.impatient]
        self._queue = deque(op for op in self._queue if not op.impatient)
        for op in refused:
            op.error = AWAY
            self._finish(op, undo=True)

    # -- orphans

    def _scan_later(self) -> None:
        self._later(SCAN_S * self._rng.uniform(0.5, 1.5), self._time_to_scan)

    def _time_to_scan(self) -> None:
        self._scan_due = True
        self._scan_later()
        self._turn()

    def _scan(self) -> None:
        """Take over unfinished jobs whose scheduler is gone."""
        if not self._node.machine.may_adopt():
            return
        kept, records = self._store.jobs, self._store.records
        self._ask(lambda: (kept.open()[:SCAN_JOBS_MAX], dict(records)), self._looked)

    def _looked(self, found: tuple[list[tuple[str, KeptJob]], dict[str, Record]] | None) -> None:
        if found is None:
            self._outage()
            return
        jobs = [(id, job.owner, job.epoch) for id, job in found[0]]
        records = found[1]
        owners = {owner for _, owner, _ in jobs} - {self._me}
        counts = self._node.cluster.now >= self._absence_counts_from
        gone = self._owners.gone(owners, records, lambda id: self._listens(records[id].address), counts=counts)
        mine = [(id, self._me, epoch) for id, epoch in self._taken.items()]
        orphans = [job for job in jobs if job[1] in gone or job in mine]
        self._rng.shuffle(orphans)  # schedulers that look at the same time try different ones
        self._take(deque(orphans[:TAKE_MAX]), [])

    def _listens(self, address: str) -> bool:
        """A process that stands still does."""
        node = self._node.cluster.nodes[address.rpartition(":")[0]]
        return node.up and node.address == address

    def _take(self, orphans: deque[tuple[str, str, int]], taken: list[Orphan]) -> None:
        """Try one after the other, and tell of those that are to be had."""
        if not orphans or not self._node.machine.may_adopt():
            if taken:
                self._node.step(self._node.machine.orphaned, taken)
            self._turn()
            return
        id, owner, epoch = orphans.popleft()
        kept = self._store.jobs
        self._taken.pop(id, None)

        def act() -> tuple[Reply, Orphan | None]:
            reply = kept.take(self._me, id, owner, epoch)
            return reply, kept.left(id) if reply[0] == 1 else None

        def heard(found: tuple[Reply, Orphan | None] | None) -> None:
            reply, orphan = found or ((0,), None)
            if found is None:
                self._taken[id] = epoch + 1
            elif orphan is not None:
                taken.append(orphan)
            elif reply[0] == 1:  # all of it has ended: it is over
                end(m.Outcome(1, id, reply[1], [], b"", []))
                return
            self._take(orphans, taken)

        def end(last: m.Outcome) -> None:
            def ended(reply: Reply | None) -> None:
                if reply is None:
                    self._taken[id] = last.epoch
                self._take(orphans, taken)

            self._ask(lambda: kept.append(self._me, last, True, {}), ended)

        self._ask(act, heard)
