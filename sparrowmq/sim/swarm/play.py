"""A scenario played on a cluster: safety while faults go on, then liveness once they have healed.

Owns: carrying out a scenario's steps, the two phases, and what is checked when. Must not know: what a seed means
(`drawing`), what a task may end as (`model`), processes, files.

While faults go on every machine is held against `core.watch` after each event, and at each fault schedulers and workers
against each other; `vigil` watches over deaths. Then everything heals and what is down comes back; all jobs must end
in bounded time, and then nothing may be left of them. Last, what schedulers, clients and slots saw of each task is held
against `model`.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from sparrowmq import ids
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.watch import Watch
from sparrowmq.limits import WorkerLimits
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.node import Machine
from sparrowmq.sim.store import DOWN, UP
from sparrowmq.sim.swarm import borders, histories, shares
from sparrowmq.sim.swarm.borders import Borders
from sparrowmq.sim.swarm.histories import Deeds, Submitted
from sparrowmq.sim.swarm.ledger import Ledger
from sparrowmq.sim.swarm.scenario import CALM, Scenario
from sparrowmq.sim.swarm.vigil import Vigil

HEALED_S: Final = 90.0  # within which all is over after the last fault, beside the work that is left
REST_S: Final = 30.0  # within which nothing is left of it: leases, graces, silence
WORKED: Final = 3.0  # so many times the work that there is, shared by all slots


class Verdict(msgspec.Struct, frozen=True):
    """How a seed went. ``failure`` "": well; else what was wrong, found by ``found_by`` at ``at_s``."""

    seed: int
    events: int
    virtual_s: float
    jobs: int
    tasks: int
    digest: str
    failure: str = ""
    found_by: str = ""
    at_s: float = 0.0


class Play:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, journal: Journal | None = None) -> None:
        self.scenario = scenario
        self.cluster = cluster = Cluster(
            scenario.seed, wire=scenario.wire, journal=journal, check=self._check,
            scheduler=scenario.scheduler, worker=scenario.worker, client=scenario.client,
            assistant=scenario.assistant, beats=scenario.beats, expiring=scenario.expiring,
            durable=scenario.durable, unanswered=scenario.unanswered,
        )  # fmt: skip
        self._watches: dict[Machine, Watch] = {}
        self._deeds = Deeds()
        self._submitted = self._deeds.submitted
        self._healed = False
        self._orphans = (
            scenario.worker.limits.queue_entries < WorkerLimits().queue_entries or not scenario.scheduler.cancellation
        )
        self._ledger = Ledger(cluster)
        self._vigil = Vigil(scenario, cluster, self._ledger)
        self._borders = Borders(scenario, cluster)
        self._begin_s = cluster.now
        for id in scenario.schedulers:
            cluster.add_scheduler(id)
        for id, slots in scenario.workers.items():
            cluster.add_worker(id, slots=slots)
        for id in scenario.clients:
            key, owner = scenario.keys.get(id, ("", ""))
            cluster.add_client(id, key=key, owner=owner)
        for id in scenario.assistants:
            cluster.add_assistant(id)
        for id in cluster.nodes:
            self._vigil.disturbed(id)
        for id, owner in scenario.observers.items():
            cluster.add_observer(id, key=id if scenario.keys else "", owner=owner)

    def run(self) -> Verdict:
        """Play it to the end; return how it went. Only KeyboardInterrupt and the like come through."""
        failure = found_by = ""
        try:
            self._play()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            found_by = _finder(error)
        cluster = self.cluster
        at_s = cluster.now - self._begin_s
        tasks = sum(len(one.job.works) for one in self._submitted.values())
        return Verdict(
            self.scenario.seed, cluster.events, round(at_s, 6), len(self._submitted), tasks, self._digest(),
            failure, found_by, round(at_s, 6) if failure else 0.0,
        )  # fmt: skip

    def _play(self) -> None:
        cluster, scenario = self.cluster, self.scenario
        if scenario.quiet:
            cluster.run(1.0)
        begin_s = cluster.now
        for step in scenario.steps:
            cluster.later(begin_s + step.at_s - cluster.now, self._step, step.what, step.arguments)
        cluster.run(scenario.duration_s + 1e-3)
        self._heal()
        self._end()
        histories.check(scenario, cluster, self._deeds, self._ledger)

    def _digest(self) -> str:
        """Hash what was executed, shown and decided, and when."""
        cluster = self.cluster
        digest = hashlib.blake2b(digest_size=8)
        for what in (cluster.events, cluster.now, sorted(cluster.sent.items()), list(cluster.starts.items())):
            digest.update(repr(what).encode())
        for at_s, id, effect in cluster.told:
            digest.update(f"{at_s!r} {id} {effect!r}".encode())
        return digest.hexdigest()

    # -- invariants

    def _check(self, machine: Machine, effects: Sequence[fx.AnyEffect]) -> None:
        self._watch(machine).step(self.cluster.now, effects)
        self._vigil.step(machine, effects)
        self._borders.step(machine, effects)
        if self.scenario.durable:
            self._ledger.step(machine, effects)
        if self.scenario.hinted and isinstance(machine, Assistant | Scheduler):
            shares.check(machine, self.cluster.now, effects)

    def _watch(self, machine: Machine) -> Watch:
        watch = self._watches.get(machine)
        if watch is None:
            returns = self._ledger.was_lost
            watch = self._watches[machine] = Watch(machine, returns)  # type: ignore[arg-type]  # no observers
        return watch

    def _check_all(self) -> None:
        """Look at all that is known of every scheduler, and at what it and its workers believe of each other."""
        nodes = self.cluster.nodes
        for id in self.scenario.schedulers:
            node = nodes[id]
            if not node.up or node.paused:
                continue
            self._watch(node.machine).full()
            for end in node.connections.values():
                worker = end.other.node
                calm = end.calm and not worker.paused
                if calm and worker.kind == "worker":
                    invariants.check_agreement(node.machine, worker.machine, orphans=self._orphans)

    # -- steps

    def _step(self, what: str, arguments: tuple[Any, ...]) -> None:
        if self._healed:
            return
        act: Callable[..., None] = getattr(self, f"_do_{what}")
        act(*arguments)
        if what != "submit":
            self._check_all()

    def _up(self, id: str) -> bool:
        return self.cluster.nodes[id].up

    def _do_submit(self, number: int) -> None:
        job, cluster = self.scenario.jobs[number], self.cluster
        if job.detached:
            id = cluster.detach(job.works, job.owner, **job.spec)
        elif self._up(job.owner):
            id = cluster.submit(job.works, client=job.owner, detached=job.released, **job.spec)
        else:
            return
        self._submitted[number] = Submitted(job, id, cluster.now)

    def _do_recall(self, number: int, indices: tuple[int, ...]) -> None:
        one = self._submitted.get(number)
        if one is not None and not one.job.detached and self._up(one.job.owner):
            one.recalled.update(indices)
            self.cluster.recall(one.id, indices, client=one.job.owner)

    def _do_kill(self, number: int, indices: tuple[int, ...], grace_s: float) -> None:
        one = self._submitted.get(number)
        if one is not None and not one.job.detached and self._up(one.job.owner):
            one.killed.update(indices or range(len(one.job.works)))
            self.cluster.kill(one.id, indices, grace_s=grace_s, client=one.job.owner)

    def _do_kill_as_anybody(self, number: int, indices: tuple[int, ...], grace_s: float) -> None:
        one = self._submitted.get(number)
        if one is not None:
            one.killed.update(indices or range(len(one.job.works)))
            for epoch in (0, 1):
                self._say(one, m.Kill(one.id, epoch, list(indices), grace_s))

    def _do_ask(self, number: int) -> None:
        one = self._submitted.get(number)
        if one is not None:
            self._say(one, m.Follow(number, one.id, True))
            for what in ("tasks", "failures", "job", "workers"):
                self._say(one, m.Query(number, what, one.id))

    def _do_pry(self, number: int) -> None:
        """Whoever is not of the job's owner tries to learn of it, to end it and to take it."""
        one = self._submitted.get(number)
        mine = ids.owner_of(one.id) if one is not None else ""
        for observer, owner in self.scenario.observers.items():
            if one is not None and owner != mine:
                for message in borders.prying(number, one.id, len(one.job.works)):
                    self.cluster.say(message, observer=observer)

    def _say(self, one: Submitted, message: m.AnyMessage) -> None:
        """Have an observer of the job's owner say this to all schedulers."""
        mine = ids.owner_of(one.id)
        observer = next(id for id, owner in self.scenario.observers.items() if owner == mine)
        self.cluster.say(message, observer=observer)

    def _do_crash(self, id: str) -> None:
        if self._up(id):
            self._forget(id)
            self._vigil.disturbed(id)
            if id in self.scenario.schedulers:
                self._deeds.fallen.append(self.cluster.now)
            self.cluster.crash(id)
            self._deeds.headless = self._deeds.headless or not any(map(self._up, self.scenario.schedulers))

    def _do_leave(self, id: str) -> None:
        node = self.cluster.nodes[id]
        if node.up and not node.paused:
            self._forget(id)
            node.step(node.machine.leave)
            self.cluster.crash(id)

    def _forget(self, id: str) -> None:
        """What a client that ends has open is shown to nobody."""
        for one in self._submitted.values():
            if one.job.owner == id and not one.job.detached:
                self.cluster.history.abandoned(one.id)

    def _do_restart(self, id: str) -> None:
        if not self._up(id):
            self._vigil.disturbed(id)
            self.cluster.restart(id)

    def _do_pause(self, id: str) -> None:
        node = self.cluster.nodes[id]
        if node.up and not node.paused:
            self._deeds.pauses[id].append((self.cluster.now, float("inf")))
            self.cluster.pause(id)
            self._vigil.paused(node)
            self._vigil.disturbed(id)

    def _do_resume(self, id: str) -> None:
        node, now = self.cluster.nodes[id], self.cluster.now
        if node.paused:
            since_s = self._deeds.pauses[id][-1][0]
            self._deeds.pauses[id][-1] = (since_s, now)
            self._vigil.resumed(node, now - since_s)
            self._vigil.disturbed(id)
            self.cluster.resume(id)

    def _do_reset(self, one: str, other: str) -> None:
        self.cluster.reset(one, other)

    def _do_drain(self, id: str, grace_s: float) -> None:
        if self._up(id):
            self._vigil.disturbed(id)
            self.cluster.drain(id, grace_s)

    def _do_drain_by_message(self, id: str, grace_s: float) -> None:
        self.cluster.say(m.Drain(1, id, grace_s))

    def _do_cut(self, one: str, other: str, both: bool) -> None:
        self.cluster.cut(one, other, both=both)

    def _do_heal(self, one: str, other: str) -> None:
        self.cluster.heal(one, other)

    def _do_wire(self, one: str, other: str, wire: Any) -> None:
        self.cluster.set_wire(one, other, wire)

    def _do_store(self, state: str) -> None:
        self._vigil.store_disturbed()
        self.cluster.turn_store(state)

    def _do_store_emptied(self) -> None:
        if self.cluster.store.state != UP:  # it comes back empty
            self._vigil.store_disturbed(emptied=True)
            self._ledger.lost()
            self.cluster.turn_store(DOWN)
            self.cluster.empty_store()

    def _do_clock(self, jump_s: float) -> None:
        self._vigil.store_disturbed(jump_s=jump_s)
        self.cluster.store.skew_s += jump_s

    # -- liveness

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.heal()
        cluster.set_wire("", "", CALM)
        self._do_store(UP)
        for id in cluster.nodes:
            self._do_resume(id)
            self._do_restart(id)
        self._healed = True

    def _end(self) -> None:
        """All jobs end in bounded time, and a bounded time later nothing is left of them."""
        cluster, scenario = self.cluster, self.scenario
        work_s = sum(work.service_s for one in self._submitted.values() for work in one.job.works)
        until_s = cluster.now + HEALED_S + WORKED * work_s / sum(scenario.workers.values()) + scenario.limited_s
        while not self._over():
            assert cluster.now < until_s, self._left()
            self._restart_all()
            cluster.run(1.0, until=self._over)
        until_s = cluster.now + REST_S
        while True:
            self._restart_all()  # a drain may end late
            cluster.run(1.0)
            try:
                cluster.check_rest()
                self._vigil.check_end()  # an assistant that could not reach a scheduler tries again a second later
                break
            except AssertionError:
                if cluster.now >= until_s:
                    raise
        cluster.check_agreement()
        self._check_all()
        self._borders.check_end()
        if scenario.durable:
            self._ledger.check_end()
            self._ledger.check_shown()

    def _left(self) -> str:
        return f"not all is over: {self.cluster.history.open()} {self._ledger.open()}; {self.cluster.state()}"

    def _restart_all(self) -> None:
        for id in self.cluster.nodes:
            self._do_restart(id)

    def _over(self) -> bool:
        nodes = self.cluster.nodes
        busy = any(nodes[id].up and nodes[id].machine.state.jobs for id in self.scenario.schedulers)
        return not busy and self.cluster.history.complete() and not self._ledger.open()


def _finder(error: Exception) -> str:
    """Return the name of the check that failed: the innermost function that is no helper."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return next((name for name in reversed(names) if name not in ("_same", "_at_most")), "?")
