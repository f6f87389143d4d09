"""A machine held against its invariants event by event, at a cost that does not grow with all that it knows.

Owns: what was seen of a machine before, so that only what has changed is looked at again; the invariants that concern
what a machine does rather than what it holds. Must not know: who drives the machine.

After every event: the effects (I4, I10, I11, I22, epochs at a worker), sums over the tables, the jobs whose counts have
changed since the last event, all of a session, and all of a node monitor that did more than answer a ping (every
``IDLE_EVERY``-th event where it did not). Everything that
`invariants` knows (tables of all jobs, what is remembered, stuck tasks: such faults stay once they are there) after
every ``FULL_EVERY``-th event, when `Watch.full` is called (at faults, and at the end), and when a machine starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.job import LAUNCHED, Job
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.peers import Worker
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.core.slots import Slot
from sparrowmq.core.workplace import AHEAD_S
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.protocol import messages as m

FULL_EVERY: Final = 128
IDLE_EVERY: Final = 16  # events of a node monitor that made it do nothing but answer pings
EFFECTS_BASE: Final = 500  # of one event, beside those for the workers, clients and tasks that there are
EFFECTS_EACH: Final = 8

_RAN: Final = (m.SUCCEEDED, m.TIMED_OUT, m.LOST)  # nobody gets such an outcome of a task that was never launched


class Watch:
    """One machine, from its start on. Call `step` with what each `take_effects` returned.

    ``returns(job)``: whether the store has lost this job. Its later epochs may be given again, with the same attempts
    (docs/guarantees.md, Known limits).
    """

    def __init__(
        self, machine: Scheduler | NodeMonitor | Session | Assistant, returns: Callable[[str], bool] = lambda job: False
    ) -> None:
        self._machine = machine
        self._now = 0.0
        self._events = 0
        self._part: _SchedulerWatch | _NodeMonitorWatch | _AssistantWatch | _SessionWatch
        if isinstance(machine, Scheduler):
            self._part = _SchedulerWatch(machine)
        elif isinstance(machine, NodeMonitor):
            self._part = _NodeMonitorWatch(machine, returns)
        elif isinstance(machine, Assistant):
            self._part = _AssistantWatch(machine)
        else:
            self._part = _SessionWatch(machine)

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        """Hold the machine against its invariants after an event at ``now`` that had these effects."""
        assert now >= self._now, f"{self._machine.id}: time went back from {self._now} to {now}"
        self._now = now
        self._events += 1
        self._part.step(now, effects)
        if self._events % FULL_EVERY == 1:
            self.full()

    def full(self) -> None:
        """Check everything that can be seen of the machine."""
        invariants.check(self._machine)


class _Launches:
    """What a scheduler has launched and decided of one epoch of a job."""

    __slots__ = ("attempts", "decided")

    def __init__(self) -> None:
        self.attempts: dict[int, int] = {}  # task -> its last attempt
        self.decided: dict[int, int] = {}  # task -> the status that its client was told


class _SchedulerWatch:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seen: dict[str, tuple[object, ...]] = {}  # job -> its counts at the last look
        self._open: dict[str, int] = {}  # job -> unfinished tasks at the last look
        self._launches: dict[tuple[str, int], _Launches] = {}
        self._lost_at: dict[str, float] = {}  # worker -> since when its connection is gone
        self._known: dict[str, Worker] = {}
        self._suspects: set[str] = set()
        self._term = 0
        self._now = 0.0

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        self._now = now
        state = self._scheduler.state
        room = EFFECTS_BASE + EFFECTS_EACH * (len(state.workers) + len(state.clients) + state.tasks)
        room += sum(self._open.values())
        assert len(effects) <= room, f"{state.id}: {len(effects):,} effects of one event"
        if effects:
            invariants.check_placements(self._scheduler, effects)
            self._check_sends(effects)
            self._check_burials(now, effects)
        self._check_sums()
        assert state.term >= self._term, f"{state.id} listens to term {state.term} after {self._term}"
        self._term = state.term
        self._suspects = {worker.id for worker in state.workers.values() if worker.suspect}

    def _check_sums(self) -> None:
        """I1, I5, I14: the sums over all jobs, and the jobs that have changed."""
        state = self._scheduler.state
        tasks = size = live = 0
        for job in state.jobs.values():
            tasks += job.tasks
            size += job.bytes + (job.keep.bytes if job.keep is not None else 0)
            seen = (
                job.epoch, job.unplaced, job.launched, job.resting, job.reserved_total, job.no_ops, *job.counts,
                job.relaunches, job.hedges, job.retries, len(job.wanted),
            )  # fmt: skip
            if self._seen.get(job.id) != seen:
                self._seen[job.id] = seen
                invariants.check_job(job)
                self._open[job.id] = job.unplaced + job.launched + job.resting
            live += job.launched
            if job.twins:
                live += sum(len(two) - 1 for index, two in job.twins.items() if job.state[index] == LAUNCHED)
        for client in state.clients.values():
            size += client.outbox.bytes
        assert tasks == state.tasks, f"{state.id}: {state.tasks} tasks are counted, there are {tasks}"
        assert size == state.bytes, f"{state.id}: {state.bytes} bytes are counted, there are {size}"
        launched = 0
        for worker in state.workers.values():
            launched += worker.launched
            self._known[worker.id] = worker
            if worker.lost_at is not None:
                self._lost_at[worker.id] = worker.lost_at
        assert launched == live, f"{state.id}: {launched} tasks are counted as launched, {live} are"
        if len(self._seen) > len(state.jobs):
            for job_id in self._seen.keys() - state.jobs.keys():
                del self._seen[job_id], self._open[job_id]

    def _check_sends(self, effects: Sequence[fx.AnyEffect]) -> None:
        probed: dict[tuple[str, int], dict[fx.Peer, int]] = {}
        launched: dict[str, int] = {}
        joined: set[fx.Peer] = set()  # they get their share of what is unplaced beside any round
        closed = {effect.peer for effect in effects if type(effect) is fx.Close}
        for effect in effects:
            if type(effect) is not fx.Send:
                continue
            message = effect.message
            if type(message) is m.Task or type(message) is m.Probe:
                self._check_target(effect.peer, message, closed)
            if type(message) is m.Task:
                self._check_launch(message)
                launched[message.job] = launched.get(message.job, 0) + len(message.indices)
            elif type(message) is m.Outcome:
                self._check_outcome(effect.peer, message)
            elif type(message) is m.Welcome:
                joined.add(effect.peer)
            elif type(message) is m.Probe and message.count and effect.peer not in joined:
                counts = probed.setdefault((message.job, message.round), {})
                assert effect.peer not in counts, f"job {message.job}: two probes of round {message.round} to a worker"
                counts[effect.peer] = message.count
        for (job_id, round), counts in probed.items():
            job = self._scheduler.state.jobs.get(job_id)
            if job is not None:
                self._check_probes(job, round, list(counts.values()), launched.get(job_id, 0))

    def _check_burials(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        """DESIGN rule 8: a worker whose connection drops has its grace, one that was heard lately has its veto."""
        grace_s = self._scheduler.state.settings.reconnect_grace_s
        for effect in effects:
            if type(effect) is fx.Log and effect.fields.get("why") == "its connection was lost":
                lost_at = self._lost_at.get(str(effect.fields["worker"]), now)
                assert now - lost_at >= grace_s - 1e-6, (
                    f"{effect.fields} after {now - lost_at:g} s, the grace is {grace_s:g} s"
                )
            elif type(effect) is fx.Log and str(effect.fields.get("why")).startswith("the assistant declared it dead"):
                worker, veto_s = self._known.get(str(effect.fields["worker"])), self._scheduler._workers._veto_s
                if worker is not None and worker.lost_at is None:
                    silent_s = now - worker.heard_at
                    assert silent_s >= veto_s - 1e-6, f"{effect.fields} {silent_s:g} s after it was heard"

    def _check_target(self, peer: fx.Peer, message: m.Task | m.Probe, closed: set[fx.Peer]) -> None:
        """I11, I12: nothing goes to workers that were given up, and none that is suspect is sampled, unless all are."""
        state = self._scheduler.state
        worker = state.peers.get(peer)
        if worker is None:
            assert peer in closed, f"{state.id}: a {type(message).__name__.lower()} for a worker that is gone"
        elif worker.id in self._suspects and worker.suspect and type(message) is m.Probe:  # type: ignore[union-attr]
            others = [
                other.id
                for other in state.workers.values()
                if other.id not in self._suspects and not other.suspect and other.peer is not None
                and not other.draining and other.hello.slots > 0 and other.full_until <= self._now
            ]  # fmt: skip
            assert not others, f"{state.id}: a probe for {worker.id}, which is suspect; {others} are not"

    def _check_launch(self, task: m.Task) -> None:
        """I4: the numbers of a task's attempts rise, those that were adopted among them; I2: what is over stays so."""
        launches = self._launches.setdefault((task.job, task.epoch), _Launches())
        for index, attempt in zip(task.indices, task.attempts, strict=True):
            last = launches.attempts.get(index, 0)
            follows = attempt > last if task.epoch else attempt == last + 1
            assert follows, f"task {index} of {task.job}: attempt {attempt} follows {last}"
            assert index not in launches.decided, f"task {index} of {task.job} is over, and launched again"
            launches.attempts[index] = attempt

    def _check_outcome(self, peer: fx.Peer, outcome: m.Outcome) -> None:
        """I2, I4: how a task ended is decided once, and by an attempt that was issued."""
        launches = self._launches.setdefault((outcome.job, outcome.epoch), _Launches())
        for index, status in zip(outcome.indices, outcome.statuses, strict=True):
            known = launches.decided.setdefault(index, status)
            assert known == status, f"task {index} of {outcome.job} ends as {status}, and has ended as {known}"
            assert status not in _RAN or index in launches.attempts or outcome.epoch, (
                f"task {index} of {outcome.job} ends as {status}, and was never launched"
            )

    def _check_probes(self, job: Job, round: int, counts: list[int], launched: int) -> None:
        """I10: ceil(d x m) probes a round at the most, spread evenly: on distinct workers where there are enough."""
        assert 0 < round <= job.round, f"job {job.id}: a probe of round {round} in round {job.round}"
        tasks = max(self._open.get(job.id, job.tasks), job.unplaced + launched)
        limit = probes(tasks, job.spec.probe_ratio)
        assert sum(counts) <= limit, f"job {job.id}: {sum(counts)} probes in a round for {tasks} tasks"
        assert max(counts) - min(counts) <= 1, f"job {job.id}: probes spread as {counts}"


class _SessionWatch:
    """All of a session, and what it tells the next scheduler: deaths are counted over epochs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        session = self._session
        invariants.check_session(session)
        for effect in effects:
            if type(effect) is fx.Send and type(effect.message) is m.Submit and effect.message.epoch:
                submit = effect.message
                job = session.jobs.get(submit.job)
                if job is not None and job.submit.epoch == submit.epoch and any(job.deaths.values()):
                    deaths = [job.deaths.get(index, 0) for index in submit.indices or range(submit.count)]
                    told = submit.deaths or [0] * len(deaths)
                    assert told == deaths, f"{session.id}: {submit.job} goes on with deaths {told}, there were {deaths}"


class _AssistantWatch:
    """Terms rise, only who leads speaks, and what is known is bounded."""

    def __init__(self, assistant: Assistant) -> None:
        self._assistant = assistant
        self._term = 0
        self._seen_s = 0.0

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        assistant = self._assistant
        name, judge = assistant.id, assistant.judge
        if assistant.term:
            assert assistant.term >= self._term, f"{name} leads under term {assistant.term} after {self._term}"
            self._term = assistant.term
        assert self._seen_s <= judge.seen_s <= now, f"{name} has seen all up to {judge.seen_s}, at {now}"
        self._seen_s = judge.seen_s
        for effect in effects:
            if type(effect) is fx.Send and isinstance(effect.message, m.Verdict | m.Hints):
                term = effect.message.term
                assert term == assistant.term > 0, f"{name} speaks under term {term}, and leads under {assistant.term}"
            elif type(effect) is fx.Condemn:
                assert assistant.term, f"{name} condemns {effect.scheduler} and does not lead"


class _Before(NamedTuple):
    """A slot at the end of the event before: the first task that it held (0: none), what it had asked for."""

    first_seq: int
    asked: int
    reclaiming: bool


class _NodeMonitorWatch:
    def __init__(self, monitor: NodeMonitor, returns: Callable[[str], bool]) -> None:
        self._monitor = monitor
        self._returns = returns
        self._unchecked = 0
        self._epochs: dict[str, int] = {}
        self._before = [_Before(0, 0, False)] * len(monitor.place.slots)
        self._last_seq = [0] * len(monitor.place.slots)
        self._handed: set[tuple[str, int, int, int]] = set()

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        monitor = self._monitor
        place = monitor.place
        room = EFFECTS_BASE + EFFECTS_EACH * (len(place.queue) + place.queue.tasks + len(monitor.links))
        assert len(effects) <= room, f"{monitor.id}: {len(effects):,} effects of one event"
        self._unchecked += 1
        if self._unchecked >= IDLE_EVERY or any(not _is_pong(effect) for effect in effects):
            self._unchecked = 0
            invariants.check_node_monitor(monitor)
            self._check_epochs()
        for effect in effects:
            if type(effect) is fx.StartTasks:
                self._check_start(effect)
                self._check_slot(place.slots[effect.slot], effects)
        self._before = [_Before(slot.held[0].first_seq if slot.held else 0, slot.asked_count, slot.reclaiming)
                        for slot in place.slots]  # fmt: skip

    def _check_epochs(self) -> None:
        """DESIGN rule 7: a new epoch removes what is queued of older ones."""
        monitor, place = self._monitor, self._monitor.place
        for entry in place.queue:
            if entry.count:
                known = place._epochs.get(entry.job, -1)
                assert entry.epoch >= known, f"{monitor.id}: {entry.job} waits in epoch {entry.epoch} of {known}"

    def _check_slot(self, slot: Slot, effects: Sequence[fx.AnyEffect]) -> None:
        """I8, DESIGN rule 3: what a slot that runs something is handed it has asked for, or its work is soon done."""
        name, before = f"{self._monitor.id}: slot {slot.number}", self._before[slot.number]
        again = any(type(effect) is fx.ReclaimSlot and effect.slot == slot.number for effect in effects)
        unsure = before.reclaiming and slot.reclaiming and not again
        assert not unsure, f"{name} is being reclaimed, and was handed tasks"
        if before.first_seq and before.first_seq == slot.held[0].first_seq and not before.asked:
            paces = self._monitor.place._paces
            expected_s = paces.service_s(slot.held[0].job) or paces.usual_s
            assert 0 < expected_s < AHEAD_S, f"{name} runs something that takes {expected_s:g} s, and was handed more"

    def _check_start(self, start: fx.StartTasks) -> None:
        """DESIGN rule 7: no task of an epoch that is over; I4: no attempt twice; sequence numbers without a gap."""
        name, known = self._monitor.id, self._epochs.get(start.job, 0)
        assert start.epoch >= known, f"{name}: {start.job} starts in epoch {start.epoch} after {known}"
        self._epochs[start.job] = start.epoch
        last = self._last_seq[start.slot]
        assert start.first_seq == last + 1, f"{name}: slot {start.slot} is handed {start.first_seq} after {last}"
        self._last_seq[start.slot] = last + len(start.indices)
        for index, attempt in zip(start.indices, start.attempts, strict=True):
            task = (start.job, start.epoch, index, attempt)
            again = task in self._handed and not (start.epoch and self._returns(start.job))
            assert not again, f"{name}: attempt {attempt} of task {index} of {start.job} starts twice"
            self._handed.add(task)


def _is_pong(effect: fx.AnyEffect) -> bool:
    return type(effect) is fx.Send and type(effect.message) is m.Pong
