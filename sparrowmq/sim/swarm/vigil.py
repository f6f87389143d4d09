"""What must be true of deaths in a whole simulated cluster: who is declared dead, by whom, and what comes of it.

Owns: the checks that need more than one machine: terms and verdicts, nodes that were declared dead and live, nodes that
stand still and are not declared dead, schedulers that go on after they stood still. Must not know: how a scenario is
played, or how any machine decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sparrowmq.core import effects as fx
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.judge import ALIVE, DEAD, REARM_S_MAX
from sparrowmq.core.orphans import owner_of
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.node import Machine, Node
from sparrowmq.sim.store import UP
from sparrowmq.sim.swarm.ledger import Ledger
from sparrowmq.sim.swarm.scenario import Scenario

SETTLED_S: Final = 2.5  # after which a node is known, and an outage forgotten
SLACK_S: Final = 0.15
LATER_S: Final = (5.0, 7.5)  # after which the death of a node is looked at again: another one may lead by then
UNSEEN_BEATS: Final = 3.0  # of silence beside the detector's margin: the one awaited, and what adaptive ones add
LEARN_GAPS: Final = ("bertier", "phi-accrual")  # detectors that allow for the variance of what they have seen
_STOPPING: Final = {"crash", "pause", "drain", "freeze", "fail_over", "store", "unwatch"}


class Vigil:
    """One run of one scenario. `Play` tells it of every event and of what is done to nodes and store."""

    def __init__(self, scenario: Scenario, cluster: Cluster, ledger: Ledger) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._cluster = cluster
        self._owners: dict[int, str] = {}  # term -> the assistant that has spoken under it
        self._well_since: dict[str, float] = {}  # node -> since when it was up and not paused
        self._calm_since = cluster.now  # the store was up all the time
        self._moved: dict[Machine, set[tuple[str, int]]] = {}  # scheduler -> jobs (with epochs) that it may not launch
        self._epochs: dict[tuple[Machine, str], int] = {}  # session, job -> as it was last submitted
        self._emptied = False
        self._lease_until = 0.0  # a lease that was given before the store's clock went back may last until then
        detectors, interval_s = scenario.assistant, scenario.worker.beat_interval_s
        beats = UNSEEN_BEATS + detectors.detection_beats + detectors.confirm_beats
        self.bound_s = beats * interval_s + 2 * detectors.canary_interval_s + SLACK_S  # from silence to death
        if set(scenario.kinds) & {"store", "unwatch"}:
            self.bound_s += detectors.margin_s_max

    # -- what is done to the cluster

    def disturbed(self, id: str) -> None:
        """A node was started, stopped, or goes on."""
        self._well_since[id] = self._cluster.now

    def store_disturbed(self, *, emptied: bool = False, jump_s: float = 0.0) -> None:
        """Something is done to the store."""
        self._calm_since = self._cluster.now
        self._emptied = self._emptied or emptied
        self._lease_until = max(self._lease_until, self._cluster.now - jump_s)

    def paused(self, node: Node) -> None:
        """A node stands still from now on: it must be declared dead in time."""
        cluster = self._cluster
        if self._scenario.assistants and node.kind in ("worker", "scheduler") and self._well(node.id):
            for after_s in (self.bound_s, *LATER_S):
                cluster.later(after_s, self._must_be_dead, node, node.starts, node.pauses, cluster.now)

    def resumed(self, node: Node, paused_s: float) -> None:
        """A node is about to go on. A scheduler that stood still for long must not act for clients that have moved."""
        settings = self._scenario.scheduler
        asks_after_s = settings.thaw_s + (settings.beat_interval_s or settings.ping_interval_s) + 0.01
        if node.kind != "scheduler" or paused_s < asks_after_s or not node.machine.state.workers:
            return
        moved = self._moved.setdefault(node.machine, set())
        for job in node.machine.state.jobs.values():
            if job.keep is not None:
                if self._ledger.moved(job.id, job.epoch, owner_of(node.id, node.starts)):
                    moved.add((job.id, job.epoch))
                continue
            client = self._cluster.nodes.get(job.client)
            if job.detached or client is None or client.kind != "client" or not client.up:
                continue
            mine = client.machine.jobs.get(job.id)
            if mine is None or mine.submit.epoch > job.epoch:
                moved.add((job.id, job.epoch))

    def _well(self, id: str) -> bool:
        return self._cluster.now - self._well_since.get(id, self._cluster.now) >= SETTLED_S

    # -- what machines do

    def step(self, machine: Machine, effects: Sequence[fx.AnyEffect]) -> None:
        """A machine has taken an event."""
        if isinstance(machine, Assistant):
            self._check_assistant(machine, effects)
        elif isinstance(machine, Session):
            self._check_session(machine, effects)
        elif isinstance(machine, Scheduler) and machine in self._moved:
            for effect in effects:
                if isinstance(effect, fx.Send) and isinstance(effect.message, m.Task):
                    task = effect.message
                    stale = (task.job, task.epoch) in self._moved[machine]
                    assert not stale, f"{machine.id} stood still, and launches {task.job}, which its client has moved"

    def _check_session(self, session: Session, effects: Sequence[fx.AnyEffect]) -> None:
        """DESIGN rule 7: what a session shows its present scheduler has decided, not one that it has left."""
        for effect in effects:
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Submit):
                self._epochs[session, effect.message.job] = effect.message.epoch
            elif isinstance(effect, fx.Deliver):
                epoch = self._epochs.get((session, effect.job), 0)
                for index, status, payload in zip(effect.indices, effect.statuses, effect.payloads, strict=True):
                    reported = self._cluster.history.reported[effect.job, index].get((status, payload))
                    old = reported is not None and reported < epoch
                    assert not old, f"{session.id} shows task {index} of {effect.job} of epoch {reported} in {epoch}"

    def _check_assistant(self, assistant: Assistant, effects: Sequence[fx.AnyEffect]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Send) and isinstance(effect.message, m.Verdict | m.Hints):
                term, what = effect.message.term, type(effect.message).__name__
                owner = self._owners.setdefault(term, assistant.id)
                assert owner == assistant.id, f"{assistant.id} speaks under term {term} of {owner}"
                held = any(who == assistant.id and given == term for _, who, given in self._cluster.store.terms)
                assert held, f"{assistant.id} sends {what} under term {term}, which it never had"
            elif isinstance(effect, fx.Log) and effect.event in ("worker is dead", "scheduler is dead"):
                self._check_death(assistant, str(effect.fields["id"]))
            elif isinstance(effect, fx.Log) and effect.event.endswith("is suspect"):
                undisturbed = not set(self._scenario.kinds) & _STOPPING
                assert not undisturbed, f"{assistant.id}: {effect.event}: {effect.fields}, and nothing ever happened"

    def _check_death(self, assistant: Assistant, id: str) -> None:
        """Who is up and was not stopped for long is not dead, whatever becomes of the store and of assistants."""
        node, now = self._cluster.nodes[id], self._cluster.now
        if node.up and not node.paused:
            well_s = now - self._well_since.get(id, 0.0)
            assert well_s <= self.bound_s, f"{assistant.id} declares {id} dead, which is well since {well_s:.3f} s"

    def _must_be_dead(self, node: Node, starts: int, pauses: int, since_s: float) -> None:
        """It has stood still since then; was an assistant there to see it all the time?"""
        cluster = self._cluster
        if not node.paused or (node.starts, node.pauses) != (starts, pauses):
            return
        leader = self._leader(since_s)
        if leader is None:
            return
        name, judge = leader.machine.id, leader.machine.judge
        judged = [known for known in judge if known.beat.id == node.id and known.beat.incarnation == starts]
        silent = f"{node.id} stands still for {cluster.now - since_s:.3f} s"
        assert judged or self._emptied, f"{silent}, and {name} does not know it"
        if not judged:
            return
        settings, rule_s = self._scenario.assistant, judged[0].detector.deadline_s
        confirmed_s = rule_s + settings.confirm_beats * judged[0].interval_s + 2 * settings.canary_interval_s + SLACK_S
        if settings.detector in LEARN_GAPS and confirmed_s > cluster.now:
            return  # gaps that it has had before, or those that are assumed of a node just met, make its rule
        assert judged[0].state == DEAD, f"{silent}, and {name} takes it for {judged[0].state}"
        if node.kind == "scheduler":
            record = cluster.store.records.get(node.id)
            assert record is None or record.incarnation != starts or record.dead, f"{silent}, and is not marked as dead"
        elif self._scenario.disturbances <= {"freeze", "fail_over", "crash_client"} and not self._scenario.wire.loss:
            for other in cluster.nodes.values():
                if other.kind == "scheduler" and other.up and not other.paused and self._well(other.id):
                    known = other.machine.state.workers.get(node.id)
                    assert known is None or known.incarnation != starts, f"{silent}, and {other.id} counts on it"

    def _leader(self, since_s: float) -> Node | None:
        """Return the assistant that leads, if nothing has happened to it and to the store for long enough.

        That is: from before the silence on, or for longer than a new one needs.
        """
        store, now = self._cluster.store, self._cluster.now
        if not store.terms or store.state != UP:
            return None
        at_s, id, term = store.terms[-1]
        node = self._cluster.nodes[id]
        quiet_since = max(at_s, self._well_since.get(id, 0.0), self._calm_since)
        long = quiet_since <= since_s - SETTLED_S or now - quiet_since > self.bound_s + REARM_S_MAX
        return node if node.up and not node.paused and node.machine.term == term and long else None

    # -- the end

    def check_end(self) -> None:
        """Terms have risen; where all is well, an assistant leads, and it and the schedulers suspect nobody."""
        terms = [term for _, _, term in self._cluster.store.terms]
        assert terms == sorted(set(terms)), f"terms do not rise: {terms}"
        if not self._scenario.assistants:
            return
        leaders = [id for id in self._scenario.assistants if self._cluster.assistant(id).term]
        if not leaders and self._lease_until > self._cluster.now:
            return  # its holder has died
        assert len(leaders) == 1, f"assistants {leaders} lead"
        leader = self._cluster.assistant(leaders[0])
        assert leader.term == terms[-1], f"{leader.id} leads under term {leader.term}, the last is {terms[-1]}"
        wrong = [known.beat.id for known in leader.judge if known.state != ALIVE]
        assert not wrong, f"{leader.id} takes {wrong} for dead, and all is well"
        for id in self._scenario.schedulers:
            state = self._cluster.scheduler(id).state
            assert state.term == leader.term, (
                f"{id} listens to term {state.term}, {leader.id} leads under {leader.term}"
            )
            suspects = [worker.id for worker in state.workers.values() if worker.suspect or worker.condemned]
            assert not suspects, f"{id} takes {suspects} for suspect, and all is well"
            record = self._cluster.store.records.get(id)
            if state.draining:
                continue
            assert record is not None, f"{id} is not in the registry"
            assert not record.dead, f"{id} is marked as dead, and all is well"
