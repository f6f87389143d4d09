"""What became of each task, once all is over: what slots, schedulers and clients saw, held against the model.

Owns: putting together what is known of each task, and what must be true of histories. Must not know: how a scenario is
played, or what a task may end as (`model`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import msgspec

from sparrowmq.core import effects as fx
from sparrowmq.core.history import payload_bytes
from sparrowmq.core.job import ABSENT
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.swarm import model
from sparrowmq.sim.swarm.ledger import Ledger
from sparrowmq.sim.swarm.scenario import Job, Scenario


class Submitted:
    """A job of the scenario that was submitted: its id, and what was asked to be done to it."""

    def __init__(self, job: Job, id: str, now: float) -> None:
        self.job = job
        self.id = id
        self.submitted_s = now
        self.killed: set[int] = set()
        self.recalled: set[int] = set()


@dataclass
class Deeds:
    """What was done to a cluster."""

    submitted: dict[int, Submitted] = field(default_factory=dict)  # by number
    pauses: defaultdict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    fallen: list[float] = field(default_factory=list)  # when a scheduler died
    headless: bool = False  # at some time no scheduler was up


def check(scenario: Scenario, cluster: Cluster, deeds: Deeds, ledger: Ledger) -> None:
    """Hold every task and every history against what may be."""
    burials: defaultdict[str, list[float]] = defaultdict(list)
    shown_at: dict[tuple[str, int], float] = {}
    for at_s, _, effect in cluster.told:
        if isinstance(effect, fx.Deliver):
            shown_at.update(((effect.job, index), at_s) for index in effect.indices)
        elif isinstance(effect, fx.Log) and effect.event == "worker lost":
            burials[str(effect.fields["worker"])].append(at_s)
    assert not (burials and scenario.quiet), f"workers were given up, and none was lost: {dict(burials)}"
    adopts = scenario.adopts and not deeds.headless
    crashes = _crashes(cluster, deeds)
    world = model.World(scenario.quiet, burials, crashes, deeds.pauses, deeds.fallen, adopts)
    for one in deeds.submitted.values():
        for task in _tasks(cluster, one):
            key = (one.id, task.index)
            outcome = cluster.history.outcomes.get(key)
            if outcome is not None:
                epoch = cluster.history.reported[key].get(outcome)
                task.shown = model.Shown(shown_at[key], outcome[0], payload_bytes(outcome[1]), epoch)
            else:
                task.shown = ledger.outcome(*key)
            task.lost = ledger.was_lost(one.id)
            model.check(task, world)
    for id in scenario.schedulers:
        _check_history(scenario, cluster, id)


def _tasks(cluster: Cluster, one: Submitted) -> list[model.Task]:
    """Return what is known of each task of a job, beside its outcome."""
    spec = m.JobSpec(**one.job.spec)
    if spec.at_most_once:  # whatever else it says
        spec = msgspec.structs.replace(spec, retries=0, hedge_after_s=0.0, hedge_quantile=0.0)
    return [
        model.Task(
            f"task {index} of {one.id}", work, spec,
            [model.Start(*start) for start in cluster.starts.get((one.id, index), ())], None,
            index in one.killed, index in one.recalled, one.submitted_s, index,
        )
        for index, work in enumerate(one.job.works)
    ]  # fmt: skip


def _crashes(cluster: Cluster, deeds: Deeds) -> dict[str, list[float]]:
    """Return when tasks crashed, by worker."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for one in deeds.submitted.values():
        for index, work in enumerate(one.job.works):
            if work.end == "crash":
                for at_s, worker, _, _ in cluster.starts.get((one.id, index), ()):
                    found[worker].append(at_s + work.service_s)
    return found


def _check_history(scenario: Scenario, cluster: Cluster, id: str) -> None:
    """What a scheduler tells of tasks agrees with itself."""
    history = cluster.scheduler(id).state.history
    for job in history:
        for index in range(len(job.state)):
            if job.state[index] == ABSENT:
                continue
            (row,) = history.rows(job, [index])
            assert row.events[-1].kind == row.state, f"the history of a task ends otherwise: {row}"
            if scenario.scheduler.limits.history_bytes < 1_000_000:
                continue  # events may have been left out
            times = [event.unix_s for event in row.events]
            assert times == sorted(times), f"the history of a task goes back in time: {row}"
            launches = [event for event in row.events if event.kind in ("launched", "hedged", "adopted")]
            last = 0
            for event in launches:  # what is adopted may leave out what ended under a former scheduler
                follows = event.attempt > last if event.kind == "adopted" else event.attempt == last + 1
                assert follows, f"launches are missing in the history: {row}"
                last = event.attempt
            assert last == row.attempts, f"launches are missing in the history: {row}"
            hedged = sum(event.kind == "hedged" for event in row.events)
            over = sum(event.kind in ("returned", "lost", "failed") for event in row.events)
            assert len(launches) <= 1 + hedged + over, f"it was launched again without a reason: {row}"
