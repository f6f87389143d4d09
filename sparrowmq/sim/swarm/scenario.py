"""A scenario: all that a seed decides, drawn before anything runs.

Owns: what there is in one, and what follows from that. Must not know: how it is drawn (`drawing`, `faults`), how it is
played, or what must be true of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.slot import Work
from sparrowmq.sim.wires import Wire

CALM: Final = Wire()
LIMITED: Final = 3.0  # so many times what a key may have a second is asked for: retries, fail-overs, refusals
DISTURBING: Final = {"crash", "crash_client", "pause", "reset", "drain", "cut", "wires", "freeze", "fail_over"}


class Step(NamedTuple):
    """Something is done to the cluster at ``at_s`` seconds: `play` has a method for each ``what``."""

    at_s: float
    what: str
    arguments: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at_s:9.4f} {self.what} {' '.join(map(str, self.arguments))}"


class Job(NamedTuple):
    """A job of the workload. ``owner``: the client that submits it, or the scheduler that gets it detached.

    ``released``: its client waits for it no longer than until it is accepted.
    """

    owner: str
    works: tuple[Work, ...]
    spec: dict[str, Any]
    detached: bool = False
    released: bool = False

    def __str__(self) -> str:
        how = f"{' detached' * self.detached}{' released' * self.released}"
        return f"{self.owner}{how}: {len(self.works)} tasks, {self.spec}, {self.works[:3]}"


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
    durable: bool = False  # schedulers keep jobs in the store ...
    unanswered: float = 0.0  # ... and so many of its answers are lost
    hinted: bool = False  # an assistant gives load hints, and most jobs go by them
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)  # client -> its key, and the tag of its jobs
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
    def observers(self) -> dict[str, str]:
        """One for each owner: its id, and the tag of its jobs."""
        owners = sorted({"", *(owner for _, owner in self.keys.values())})
        return {f"observer-{n}": owner for n, owner in enumerate(owners, 1)}

    @property
    def limited_s(self) -> float:
        """How much longer all may take since each key has only so much done a second."""
        limits = self.scheduler.limits
        probes = sum(len(job.works) * float(job.spec["probe_ratio"]) for job in self.jobs)
        rates = ((len(self.jobs), limits.submits_per_s), (probes, limits.probes_per_s))
        return sum(LIMITED * count / rate for count, rate in rates if rate)

    @property
    def adopts(self) -> bool:
        """Whether nothing but the death of schedulers disturbs it, and others are there: then nothing is run twice.

        Not so where jobs are kept: what ends before an orphan is taken over, and after its scheduler died, runs again.
        """
        alone = self.disturbances != {"fail_over"} or len(self.schedulers) == 1
        return not (alone or self.wire.loss or self.durable)

    @property
    def disturbances(self) -> set[str]:
        """The kinds of faults that break connections or stop processes with tasks."""
        return set(self.kinds) & DISTURBING

    def lines(self) -> list[str]:
        """Describe it for people."""
        slots = " ".join(f"{id}:{slots}" for id, slots in self.workers.items())
        return [
            f"seed {self.seed}: {len(self.schedulers)} schedulers, {len(self.clients)} clients, workers {slots}",
            f"scheduler {self.scheduler}",
            f"worker {self.worker}",
            f"client {self.client}",
            f"assistants {len(self.assistants)}, beats {self.beats}, expiring {self.expiring}, {self.assistant}",
            f"durable {self.durable}, unanswered {self.unanswered}, hinted {self.hinted}, keys {self.keys}",
            f"wire {self.wire}; kinds {' '.join(self.kinds)}",
            *(f"job {n} of {job}" for n, job in enumerate(self.jobs)),
            *map(str, self.steps),
        ]  # fmt: skip
