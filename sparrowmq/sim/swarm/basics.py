"""The first part of what a seed means: a random topology, a workload, a schedule of faults, and deaths.

Owns: what may be drawn of these, and how often. Must not know: what is drawn after them (`drawing`).

Beats, assistants, the store's faults and what else concerns deaths are drawn last and from a generator of their own: a
seed that has none of them is what it was without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from sparrowmq.limits import SchedulerLimits, WorkerLimits
from sparrowmq.placement import POLICIES
from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.slot import Work
from sparrowmq.sim.swarm.faults import DEATHS, KINDS, LOSS_MAX, Faults
from sparrowmq.sim.swarm.scenario import CALM, DISTURBING, Job, Scenario, Step

JOBS_MAX: Final = 70
SLOTS_MAX: Final = 4
TASKS_MAX: Final = 150  # of a job; a queue has room for one
TASKS_PER_S: Final = 10  # of all jobs, at the least: with fewer a seed says too little
TASKS_PER_S_ALONE: Final = 20  # where they have one client, which dies with them now and then, and nobody beats
_HARMLESS: Final = {"submit", "recall", "kill", "kill_as_anybody", "ask"}
_BEATING: Final = {"unwatch", "store"}


class Basics(Faults):
    """A scenario without what is drawn later (`drawing`)."""

    def __init__(self, seed: int, workers: int, duration_s: float) -> None:
        self.rng = rng = random.Random(seed)
        self.scenario = scenario = Scenario(seed, duration_s)
        scenario.schedulers = [f"scheduler-{n}" for n in range(1, rng.randint(1, 3) + 1)]
        count = max(1, round(workers * rng.uniform(0.6, 1.4)))
        most = rng.randint(1, SLOTS_MAX)
        scenario.workers = {f"worker-{n}": rng.randint(1, most) for n in range(1, count + 1)}
        scenario.clients = [f"client-{n}" for n in range(1, rng.randint(1, 3) + 1)]
        self._settings()
        scenario.kinds = sorted(kind for kind in KINDS if rng.random() < 0.5) if rng.random() < 0.85 else []
        if "wires" in scenario.kinds:
            scenario.wire = self._wire(rng.choice([0.0, 0.0, 0.05, LOSS_MAX]))
        self._workload()
        for kind in scenario.kinds:
            self._faults(KINDS[kind])
        self._more_work()
        self.rng = random.Random(f"the deaths of {seed}")
        self._deaths()
        scenario.steps.sort(key=lambda step: step.at_s)

    def _settings(self) -> None:
        rng, scenario = self.rng, self.scenario
        small = rng.random() < 0.3
        scheduler_limits = SchedulerLimits(
            jobs=rng.choice([3, 20]), finished_jobs=rng.choice([5, 30]), history_tasks=rng.choice([50, 1000]),
            history_bytes=rng.choice([3_000, 100_000]), client_credit_bytes=rng.choice([300, 5_000]),
            job_output_bytes=rng.choice([1_000, 100_000]), output_bytes=rng.choice([3_000, 100_000]),
        )  # fmt: skip
        worker_limits = WorkerLimits(
            queue_entries=rng.choice([3, 30]), queued_tasks=rng.choice([TASKS_MAX, 2 * TASKS_MAX]),
            functions=rng.choice([1, 3]), unacked_bytes=rng.choice([100, 5_000]), window_tasks=rng.choice([1, 8]),
        )  # fmt: skip
        scenario.scheduler = SchedulerSettings(
            eager=rng.random() < 0.5,
            reconnect_grace_s=rng.choice([0.0, 0.05, 0.05, 1.0]),
            client_lease_s=rng.choice([1.0, 10.0]),
            ping_interval_s=1.0,
            silent_after_s=rng.choice([2.5, 10.0]),
            limits=scheduler_limits if small else SchedulerLimits(),
        )
        scenario.worker = WorkerSettings(
            request_timeout_s=rng.choice([0.1, 1.0]),
            scheduler_grace_s=rng.choice([0.5, 5.0]),
            silent_after_s=rng.choice([2.5, 10.0]),
            recycle_tasks=rng.choice([0, 0, 0, 3]),
            limits=worker_limits if small and rng.random() < 0.7 else WorkerLimits(),
        )
        scenario.client = ClientSettings(
            silent_after_s=rng.choice([2.5, 5.0]), jobs_in_flight=rng.choice([2, 10, 5000, 5000])
        )

    def _deaths(self) -> None:
        """Beats and assistants, what can befall them, and what is done about the death of schedulers."""
        rng, scenario = self.rng, self.scenario
        if rng.random() < 0.3:
            return
        kinds = [kind for kind in DEATHS if rng.random() < 0.5]
        if rng.random() < 0.35:
            self._calm()
            kinds = rng.choice([[], ["unwatch", "store"], ["unwatch", "store"], ["freeze"], ["fail_over"]])
        scenario.beats = rng.random() < 0.7
        if scenario.beats:
            scenario.assistants = [f"assistant-{n}" for n in range(1, rng.choice([0, 1, 1, 2, 3]) + 1)]
        interval_s = rng.choice([0.1, 0.2, 0.4]) if scenario.beats else 0.0
        scenario.expiring = rng.random() < 0.5
        scenario.scheduler = replace(
            scenario.scheduler, beat_interval_s=interval_s, cancellation=rng.random() < 0.8,
            claim_timeout_s=rng.choice([0.05, 0.05, 0.5]), thaw_s=rng.choice([0.1, 0.3]),
        )  # fmt: skip
        scenario.worker = replace(scenario.worker, beat_interval_s=interval_s)
        scenario.assistant = AssistantSettings(
            detector=rng.choice(["chen", "chen", "fixed", "bertier", "phi-accrual", "self-tuning"]),
            detection_beats=rng.choice([2.0, 3.0]), confirm_beats=rng.choice([1.0, 2.0]),
            hint_interval_s=rng.choice([0.0, 0.2]), canary_interval_s=rng.choice([0.05, 0.1]),
            lease_s=rng.choice([0.6, 0.9]),
        )  # fmt: skip
        if rng.random() < 0.4:
            for number, job in enumerate(scenario.jobs):
                if rng.random() < 0.5:
                    scenario.jobs[number] = job._replace(spec=job.spec | {"at_most_once": True})
        for kind in kinds:
            if kind in _BEATING and not scenario.assistants:
                continue
            scenario.kinds.append(kind)
            self._faults(DEATHS[kind])

    def _calm(self) -> None:
        """Nothing disturbs the cluster: what one kind of fault does by itself then shows best."""
        scenario = self.scenario
        scenario.kinds = [kind for kind in scenario.kinds if kind not in DISTURBING]
        scenario.steps = [step for step in scenario.steps if step.what in _HARMLESS]
        scenario.wire = CALM

    # -- the workload

    def _workload(self) -> None:
        rng, scenario = self.rng, self.scenario
        self.features = {name for name in ("retries", "hedges", "timeouts", "bad ends", "output") if rng.random() < 0.6}
        self.policies = [*rng.sample(sorted(POLICIES), rng.randint(1, len(POLICIES))), "late-binding"]
        self.detached = rng.choice([0.0, 0.0, 0.2])
        scenario.jobs += [self._job() for _ in range(rng.randint(JOBS_MAX // 3, JOBS_MAX))]
        bursts = [rng.uniform(0.0, scenario.duration_s * 0.95) for _ in range(rng.randint(1, 12))]
        for number in range(len(scenario.jobs)):
            at_s = rng.choice(bursts) + rng.expovariate(5.0) if rng.random() < 0.5 else self._time()
            scenario.steps.append(Step(min(at_s, scenario.duration_s), "submit", (number,)))

    def _more_work(self) -> None:
        """Add jobs where there are few tasks. Drawn last, so that nothing changes where there are enough."""
        scenario = self.scenario
        tasks = sum(len(job.works) for job in scenario.jobs)
        alone = len(scenario.clients) == 1 and "crash_client" in scenario.kinds and not scenario.assistants
        while tasks < (TASKS_PER_S_ALONE if alone else TASKS_PER_S) * scenario.duration_s:
            job = self._job()
            scenario.steps.append(Step(self._time(), "submit", (len(scenario.jobs),)))
            scenario.jobs.append(job)
            tasks += len(job.works)

    def _job(self) -> Job:
        detached = self.rng.random() < self.detached
        owner = self.rng.choice(self.scenario.schedulers if detached else self.scenario.clients)
        return Job(owner, self._works(), self._spec(), detached)

    def _works(self) -> tuple[Work, ...]:
        rng, features = self.rng, self.features
        mean_s = rng.choice([0.0, 0.0005, 0.01, 0.1, 0.1, 1.0])
        ends = ["ok"] * 16 + (["fail", "fail 1", "fail 2", "crash"] if "bad ends" in features else [])
        output = rng.choice([b"", b"line\n", b"x" * 3_000]) if "output" in features else b""
        count = (
            rng.choice([1, 1, 2, 5, 10, 20]) if mean_s > 0.05 else rng.choice([1, 2, 10, 40, 1, 2, 10, 40, TASKS_MAX])
        )
        long = 0.15 if rng.random() < 0.25 else 0.0  # the share of stragglers, which nobody expects
        return tuple(
            Work(
                0.05 if rng.random() < long else round(rng.expovariate(1 / mean_s), 6) if mean_s else 0.0,
                rng.choice(ends), output, rng.random() < 0.3,
            )
            for _ in range(count)
        )  # fmt: skip

    def _spec(self) -> dict[str, Any]:
        rng, features = self.rng, self.features
        spec: dict[str, Any] = {
            "policy": rng.choice(self.policies),
            "probe_ratio": rng.choice([1.0, 1.1, 1.5, 2.0, 2.0, 3.0]),
            "max_attempts": rng.choice([1, 2, 3, 3]),
        }
        if "timeouts" in features:
            spec["timeout_s"] = rng.choice([0.0, 0.0, 0.05, 1.5])
        if "retries" in features and rng.random() < 0.5:
            spec |= {"retries": rng.choice([1, 3]), "backoff_s": rng.choice([0.0, 0.01, 0.3])}
            spec["retry_on"] = rng.choice([[], [], [], ["TaskCrashed"], ["RemoteError", "TaskTimedOut"]])
        if "hedges" in features and rng.random() < 0.5:
            spec |= rng.choice([{"hedge_after_s": 0.005}, {"hedge_after_s": 0.2}, {"hedge_quantile": 0.9}])
        return spec

    def _faults(self, fault: Callable[[Faults, float], list[Step]]) -> None:
        """Some of one kind: about as many a second as this seed likes, often all at the same few moments."""
        rng, duration_s = self.rng, self.scenario.duration_s
        rate = rng.choice([0.1, 0.3, 1.0])
        count = max(1, round(rate * duration_s * rng.uniform(0.5, 1.5)))
        moments = [rng.choice(self.scenario.steps).at_s for _ in range(rng.randint(1, 5))]
        for _ in range(count):
            near = rng.random() < 0.5
            at_s = rng.choice(moments) + rng.expovariate(20.0) if near else self._time()
            self.scenario.steps += fault(self, round(min(at_s, duration_s), 4))
