"""What a seed means: a random topology, a workload and a schedule of faults, drawn before anything runs.

Owns: what may be drawn, and how often. Must not know: how a scenario is played, or what must be true of it.

Swarm testing (Groce et al., ISSTA 2012): each seed leaves out some kinds of faults and features altogether, since what
is always on hides what only shows without it. Everything is drawn at once from the seed, so that what one
event does to the cluster never changes what is done to it later, and the schedule can be read.

Beats, assistants, the store's faults and what else concerns deaths are drawn last and from a generator of their own: a
seed that has none of them is what it was without them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from sparrowmq.limits import SchedulerLimits, WorkerLimits
from sparrowmq.placement import POLICIES
from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.slot import Work
from sparrowmq.sim.wires import Latency, LogNormal, Uniform, Wire

JOBS_MAX: Final = 70
SLOTS_MAX: Final = 4
TASKS_MAX: Final = 150  # of a job; a queue has room for one
TASKS_PER_S: Final = 10  # of all jobs, at the least: with fewer a seed says too little
TASKS_PER_S_ALONE: Final = 20  # where they have one client, which dies with them now and then, and nobody beats
LOSS_MAX: Final = 0.3
CALM: Final = Wire()
FREEZES_S: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)  # around when a node counts as dead
OUTAGES_S: Final = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the store


class Step(NamedTuple):
    """Something is done to the cluster at ``at_s`` seconds: `play` has a method for each ``what``."""

    at_s: float
    what: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:9.4f} {self.what} {' '.join(map(str, self.arguments))}"


class Job(NamedTuple):
    """A job of the workload. ``owner``: the client that submits it, or the scheduler that gets it detached."""

    owner: str
    works: tuple[Work, ...]
    spec: dict[str, Any]
    detached: bool = False


@dataclass
class Scenario:
    """All that a seed decides."""

    seed: int
    duration_s: float
    schedulers: list[str] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)  # id -> slots
    clients: list[str] = field(default_factory=list)
    assistants: list[str] = field(default_factory=list)
    beats: bool = False
    expiring: bool = False  # the records of schedulers that stand still
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    assistant: AssistantSettings = field(default_factory=AssistantSettings)
    wire: Wire = CALM
    kinds: list[str] = field(default_factory=list)  # of what happens beside the workload
    jobs: list[Job] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)  # ascending

    @property
    def quiet(self) -> bool:
        """Whether no connection can break and no process can stop: then the model allows much less."""
        return not self.disturbances and not self.wire.loss

    @property
    def adopts(self) -> bool:
        """Whether nothing but the death of schedulers disturbs it, and others are there: then nothing is run twice."""
        return self.disturbances == {"fail_over"} and not self.wire.loss and len(self.schedulers) > 1

    @property
    def disturbances(self) -> set[str]:
        """The kinds of faults that break connections or stop processes with tasks."""
        return set(self.kinds) & _DISTURBING

    def lines(self) -> list[str]:
        """Describe it for people."""
        slots = " ".join(f"{id}:{slots}" for id, slots in self.workers.items())
        return [
            f"seed {self.seed}: {len(self.schedulers)} schedulers, {len(self.clients)} clients, workers {slots}",
            f"scheduler {self.scheduler}",
            f"worker {self.worker}",
            f"client {self.client}",
            f"assistants {len(self.assistants)}, beats {self.beats}, expiring {self.expiring}, {self.assistant}",
            f"wire {self.wire}; kinds {' '.join(self.kinds)}",
            *(f"job {n} of {job.owner}{' detached' * job.detached}: {len(job.works)} tasks, {job.spec}, {job.works[:3]}"
              for n, job in enumerate(self.jobs)),
            *map(str, self.steps),
        ]  # fmt: skip


def draw(seed: int, *, workers: int = 20, duration_s: float = 30.0) -> Scenario:
    """Return the scenario of a seed: about so many workers, and so many seconds of workload and faults."""
    return _Drawing(seed, workers, duration_s).scenario


class _Drawing:
    def __init__(self, seed: int, workers: int, duration_s: float) -> None:
        self.rng = rng = random.Random(seed)
        self.scenario = scenario = Scenario(seed, duration_s)
        scenario.schedulers = [f"scheduler-{n}" for n in range(1, rng.randint(1, 3) + 1)]
        count = max(1, round(workers * rng.uniform(0.6, 1.4)))
        most = rng.randint(1, SLOTS_MAX)
        scenario.workers = {f"worker-{n}": rng.randint(1, most) for n in range(1, count + 1)}
        scenario.clients = [f"client-{n}" for n in range(1, rng.randint(1, 3) + 1)]
        self._settings()
        scenario.kinds = sorted(kind for kind in _KINDS if rng.random() < 0.5) if rng.random() < 0.85 else []
        if "wires" in scenario.kinds:
            scenario.wire = self._wire(rng.choice([0.0, 0.0, 0.05, LOSS_MAX]))
        self._workload()
        for kind in scenario.kinds:
            self._faults(_KINDS[kind])
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
        kinds = [kind for kind in _DEATHS if rng.random() < 0.5]
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
            self._faults(_DEATHS[kind])

    def _calm(self) -> None:
        """Nothing disturbs the cluster: what one kind of fault does by itself then shows best."""
        scenario = self.scenario
        scenario.kinds = [kind for kind in scenario.kinds if kind not in _DISTURBING]
        scenario.steps = [step for step in scenario.steps if step.what in _HARMLESS]
        scenario.wire = CALM

    def _wire(self, loss: float) -> Wire:
        rng = self.rng
        laws: list[Latency] = [
            Uniform(0.0001, 0.0003), Uniform(0.0, 0.02), LogNormal(0.0005, 1.0), LogNormal(0.01, 0.5),
        ]  # fmt: skip
        latency = rng.choice(laws)
        return Wire(latency, loss * rng.random(), rng.choice([0.0, 0.3]), rng.choice([0.0, 0.3]))

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

    # -- what happens beside it

    def _time(self) -> float:
        return round(self.rng.uniform(0.0, self.scenario.duration_s), 4)

    def _faults(self, fault: Callable[[_Drawing, float], list[Step]]) -> None:
        """Some of one kind: about as many a second as this seed likes, often all at the same few moments."""
        rng, duration_s = self.rng, self.scenario.duration_s
        rate = rng.choice([0.1, 0.3, 1.0])
        count = max(1, round(rate * duration_s * rng.uniform(0.5, 1.5)))
        moments = [rng.choice(self.scenario.steps).at_s for _ in range(rng.randint(1, 5))]
        for _ in range(count):
            near = rng.random() < 0.5
            at_s = rng.choice(moments) + rng.expovariate(20.0) if near else self._time()
            self.scenario.steps += fault(self, round(min(at_s, duration_s), 4))

    def _some(self, *kinds: str) -> str:
        """One node of these kinds, each kind equally often."""
        return str(self.rng.choice(list(getattr(self.scenario, self.rng.choice(kinds)))))

    def _link(self) -> tuple[str, str]:
        """Two nodes that may have a connection, the scheduler last."""
        return self._some("workers", "workers", "clients"), self._some("schedulers")

    def _for_s(self) -> float:
        return float(self.rng.choice([0.001, 0.02, 0.2, 1.0, 3.0, 8.0]))

    def _number(self, at_s: float) -> int:
        """A job that was submitted shortly before then, by its number; the first if there is none."""
        before = [step for step in self.scenario.steps if step.what == "submit" and step.at_s <= at_s]
        before.sort(key=lambda step: step.at_s)
        return int(self.rng.choice(before[-4:]).arguments[0]) if before else 0

    def _indices(self, number: int) -> tuple[int, ...]:
        count = len(self.scenario.jobs[number].works)
        return tuple(sorted(self.rng.sample(range(count), self.rng.randint(1, count))))

    def _soon(self, at_s: float, number: int) -> float:
        """Mostly a moment while this job is likely to run."""
        submitted = [s.at_s for s in self.scenario.steps if s.what == "submit" and s.arguments[0] == number]
        return round(submitted[0] + self.rng.expovariate(10.0), 4) if self.rng.random() < 0.8 else at_s

    def crash(self, at_s: float) -> list[Step]:
        id = self._some("workers", "schedulers")
        return [Step(at_s, "crash", (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def crash_client(self, at_s: float) -> list[Step]:
        id = self._some("clients")
        what = self.rng.choice(["crash", "leave"])
        return [Step(at_s, what, (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def pause(self, at_s: float) -> list[Step]:
        id = self._some("workers", "workers", "schedulers", "clients")
        return [Step(at_s, "pause", (id,)), Step(at_s + self._for_s(), "resume", (id,))]

    def freeze(self, at_s: float) -> list[Step]:
        rng, assistants = self.rng, self.scenario.assistants
        if assistants and rng.random() < 0.25:  # a scheduler and an assistant at about the same time
            id, other, later_s = self._some("schedulers"), rng.choice(assistants), rng.uniform(0.0, 1.2)
            steps = [Step(at_s, "pause", (id,)), Step(at_s + 9.0, "resume", (id,))]
            return [*steps, Step(at_s + later_s, "crash", (other,)), Step(at_s + self._for_s(), "restart", (other,))]
        id = self._some("workers", "workers", "schedulers")
        return [Step(at_s, "pause", (id,)), Step(at_s + rng.choice(FREEZES_S), "resume", (id,))]

    def fail_over(self, at_s: float) -> list[Step]:
        id = self._some("schedulers")
        return [Step(at_s, "crash", (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def unwatch(self, at_s: float) -> list[Step]:
        id, for_s = self._some("assistants"), self._for_s()
        begin, end = self.rng.choice([("crash", "restart"), ("pause", "resume")])
        return [Step(at_s, begin, (id,)), Step(at_s + for_s, end, (id,))]

    def store(self, at_s: float) -> list[Step]:
        rng, for_s = self.rng, self.rng.choice(OUTAGES_S)
        if rng.random() < 0.2:
            return [Step(at_s, "clock", (rng.choice([-3600.0, -0.5, 0.5, 3600.0]),))]
        steps = [Step(at_s, "store", (rng.choice(["down", "hung"]),)), Step(at_s + for_s, "store", ("up",))]
        return [steps[0], Step(at_s, "store_emptied"), steps[1]] if rng.random() < 0.4 else steps

    def reset(self, at_s: float) -> list[Step]:
        return [Step(at_s, "reset", self._link())]

    def drain(self, at_s: float) -> list[Step]:
        id, grace_s = self._some("workers", "workers", "schedulers"), self.rng.choice([0.05, 2.0])
        by = self.rng.choice(["drain", "drain_by_message"]) if id in self.scenario.workers else "drain"
        return [Step(at_s, by, (id, grace_s)), Step(at_s + grace_s + 1.0, "restart", (id,))]

    def cut(self, at_s: float) -> list[Step]:
        one, other = self.rng.sample(self._link(), 2)
        cut = Step(at_s, "cut", (one, other, self.rng.random() < 0.5))
        return [cut, Step(at_s + self._for_s(), "heal", (one, other))]

    def wires(self, at_s: float) -> list[Step]:
        one, other = self._link() if self.rng.random() < 0.8 else ("", "")
        wire = Step(at_s, "wire", (one, other, self._wire(LOSS_MAX)))
        return [wire, Step(at_s + self._for_s(), "wire", (one, other, self.scenario.wire))]

    def recall(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        return [Step(self._soon(at_s, number), "recall", (number, self._indices(number)))]

    def kill(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        indices = self._indices(number) if self.rng.random() < 0.7 else ()
        what = self.rng.choice(["kill", "kill", "kill_as_anybody"])
        return [Step(self._soon(at_s, number), what, (number, indices, self.rng.choice([0.0, 0.02, 1.0])))]

    def ask(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        return [Step(self._soon(at_s, number), "ask", (number,))]


_KINDS: Final[dict[str, Callable[[_Drawing, float], list[Step]]]] = {
    "crash": _Drawing.crash,
    "crash_client": _Drawing.crash_client,
    "pause": _Drawing.pause,
    "reset": _Drawing.reset,
    "drain": _Drawing.drain,
    "cut": _Drawing.cut,
    "wires": _Drawing.wires,
    "recall": _Drawing.recall,
    "kill": _Drawing.kill,
    "ask": _Drawing.ask,
}
_DEATHS: Final[dict[str, Callable[[_Drawing, float], list[Step]]]] = {
    "freeze": _Drawing.freeze,
    "fail_over": _Drawing.fail_over,
    "unwatch": _Drawing.unwatch,
    "store": _Drawing.store,
}
_HARMLESS: Final = {"submit", "recall", "kill", "kill_as_anybody", "ask"}
_BEATING: Final = {"unwatch", "store"}
_DISTURBING: Final = {"crash", "crash_client", "pause", "reset", "drain", "cut", "wires", "freeze", "fail_over"}
