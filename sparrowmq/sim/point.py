"""One experiment, run: the machines of the runtime at the size and under the load of a `Setup`, and what came of it.

Owns: building the cluster, submitting jobs at their times, the figures of a `Row`. Must not know: which figure a row
is for, processes, files.

A client sits beside each scheduler, without a network in between, as the paper's frontends do: responses count from the
submission to the moment when the scheduler has the last result; those of the omniscient queue end with the last task,
as in the paper. Bounds that a single scheduler of ten thousand workers
would meet (unfinished jobs and the like) are lifted; every decision is the runtime's.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Final

import msgspec

from sparrowmq import ids, limits
from sparrowmq.core import effects as fx
from sparrowmq.errors import SparrowError
from sparrowmq.protocol import messages as m
from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim import omniscient, workload
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.setup import JOBS_MAX, OMNISCIENT, Setup, rate_jobs_per_s
from sparrowmq.sim.slot import Work
from sparrowmq.sim.wires import Constant, Latency, LogNormal, Uniform, Wire
from sparrowmq.sim.workload import Job

SETTLE_S: Final = 0.5  # until everybody is connected
SETTLE_S_MAX: Final = 60.0
PATIENCE_S: Final = 3600.0  # of virtual time after the last submission, beside what the work itself takes
REPORTS: Final = 100  # calls of ``progress``
_JOB_RECORDS: Final = 256  # jobs that a worker remembers: what came in seconds, and a fraction of the memory
_PING_S: Final = 60.0  # nobody disappears here: pings would be most of the events of a long run
_SILENT_S: Final = 10 * _PING_S
_WITHOUT_END: Final = 10**9
_BESIDE: Final = Wire(Constant(0.0))

Progress = Callable[[int], None]


class Row(msgspec.Struct, frozen=True):
    """What came of one set-up. Times are of jobs, in milliseconds, from submission to the last result."""

    policy: str
    load: float
    jobs: int  # that count
    median_ms: float | None  # None, here and below: no job counts
    p95_ms: float | None
    p99_ms: float | None
    delay_p50_ms: float | None  # median of response - the job's longest task
    probe_ratio: float
    cancellation: bool
    short_median_ms: float | None  # of jobs whose tasks are not the long ones of a bimodal workload
    short_p95_ms: float | None
    messages_per_task: float  # between schedulers and workers
    tasks: int  # of all jobs
    unfinished: int  # jobs that count and were not over at the horizon
    virtual_s: float
    events: int
    delay_p95_ms: float | None = None


class _Tally:
    """Which jobs are open, and how long the others took."""

    def __init__(self, setup: Setup, warm_up_s: float, progress: Progress | None, expected: int) -> None:
        workload = setup.workload
        self._long_s = workload.long_duration_s if workload.duration_law == "bimodal" else float("inf")
        self._warm_up_s = warm_up_s
        self._progress = progress
        self._every = max(1, expected // REPORTS)
        self._open: dict[str, tuple[int, Job]] = {}
        self.responses_s: list[float] = []
        self.short_s: list[float] = []
        self.delays_s: list[float] = []
        self.ended = 0
        self.tasks = 0
        self.work_s = 0.0  # of all of them
        self.longest_s = 0.0
        self.last_s = 0.0

    def submitted(self, id: str, job: Job) -> None:
        self.tasks += len(job.durations_s)
        self.work_s += sum(job.durations_s)
        self.longest_s = max(self.longest_s, max(job.durations_s))
        self._open[id] = len(job.durations_s), job

    def outcomes(self, id: str, count: int, at_s: float) -> None:
        """So many tasks of a job are over, at this time from the beginning."""
        left, job = self._open.pop(id)
        if left > count:
            self._open[id] = left - count, job
        else:
            self.over(job, at_s - job.at_s, at_s)

    def over(self, job: Job, response_s: float, at_s: float) -> None:
        self.last_s = max(self.last_s, at_s)
        if job.at_s >= self._warm_up_s:
            longest_s = max(job.durations_s)
            self.responses_s.append(response_s)
            self.delays_s.append(response_s - longest_s)
            if longest_s < self._long_s:
                self.short_s.append(response_s)
        self.ended += 1
        if self._progress is not None and self.ended % self._every == 0:
            self._progress(self.ended)

    @property
    def unfinished(self) -> int:
        return sum(job.at_s >= self._warm_up_s for _, job in self._open.values())

    @property
    def open(self) -> int:
        return len(self._open)

    @property
    def complete(self) -> bool:
        return not self._open


def run_point(setup: Setup, trace: Sequence[Job] | None = None, progress: Progress | None = None) -> Row:
    """Run one set-up, with the jobs of ``trace`` if there is one, else with jobs drawn from its workload.

    ``progress`` is called now and then with the number of jobs that are over. Of a trace all jobs count.
    """
    warm_up_s = 0.0 if trace is not None else setup.warm_up_s
    expected = len(trace) if trace is not None else setup.jobs + round(warm_up_s * rate_jobs_per_s(setup))
    tally = _Tally(setup, warm_up_s, progress, expected)
    source = iter(trace) if trace is not None else _drawn(setup)
    if setup.horizon_s:
        source = takewhile(lambda job: job.at_s < setup.horizon_s, source)
    if setup.policy == OMNISCIENT:
        _replay(setup, source, tally)
        return _row(setup, tally, 0, 0)
    with _without_collection():
        run = _Run(setup, source, tally)
        run.run()
        return _row(setup, tally, run.messages, run.cluster.events)


def _drawn(setup: Setup) -> Iterator[Job]:
    """Yield the jobs of the warm-up, then those that count."""
    rng = random.Random(setup.seed)
    drawn = workload.jobs(setup.workload, rng, rate_jobs_per_s=rate_jobs_per_s(setup), count=JOBS_MAX)
    counted = 0
    for job in drawn:
        counted += job.at_s >= setup.warm_up_s
        yield job
        if counted == setup.jobs:
            return


def _replay(setup: Setup, source: Iterable[Job], tally: _Tally) -> None:
    """Run the central queue that knows everything."""
    jobs: list[Job] = []

    def noted() -> Iterator[Job]:
        for job in source:
            jobs.append(job)
            yield job

    for number, done in enumerate(omniscient.responses(noted(), setup.workers * setup.slots, delay_s=setup.latency_s)):
        job = jobs[number]
        tally.tasks += len(job.durations_s)
        end_s = job.at_s + done.response_s
        if setup.horizon_s and end_s > setup.horizon_s:
            tally.submitted(str(number), job)
        else:
            tally.over(job, done.response_s, end_s)


class _Run:
    """One cluster under its load."""

    def __init__(self, setup: Setup, source: Iterator[Job], tally: _Tally) -> None:
        self._setup = setup
        self._source = source
        self._tally = tally
        self._rng = random.Random(f"ids {setup.seed}")
        self._homes: dict[str, str] = {}  # client by scheduler
        self._clients: list[str] = []
        self._number = 0
        self._exhausted = False
        self.cluster = Cluster(
            setup.seed,
            wire=Wire(_latency(setup)),
            pipe_s=0.0,
            encode=False,
            check=False,
            record=False,
            tell=self._tell,
            scheduler=_scheduler(setup),
            worker=_worker(setup),
            client=_client(),
            assistant=_assistant(setup),
            beats=setup.beats_s > 0.0,
            costs_s={"scheduler": setup.scheduler_cost_s, "worker": setup.worker_cost_s},
        )
        self._build()
        self._began = self.cluster.now

    def _build(self) -> None:
        """Start everything; clients until each scheduler is the home of one."""
        cluster, setup = self.cluster, self._setup
        schedulers = [cluster.add_scheduler() for _ in range(setup.schedulers)]
        for _ in range(setup.workers):
            cluster.add_worker(slots=setup.slots)
        if setup.beats_s:
            cluster.add_assistant()
        machines = [cluster.scheduler(id) for id in schedulers]
        for _ in range(int(SETTLE_S_MAX / SETTLE_S)):
            cluster.run(SETTLE_S)
            if all(len(machine.state.workers) == setup.workers for machine in machines):
                break
        while len(self._homes) < setup.schedulers:
            client = cluster.add_client()
            for scheduler in schedulers:
                cluster.set_wire(client, scheduler, _BESIDE)
            cluster.run(2 * SETTLE_S / 100)
        self._clients = [self._homes[scheduler] for scheduler in schedulers]
        gc.freeze()

    def run(self) -> None:
        """Play all jobs to their end, or to the horizon."""
        self._next()
        if self._setup.horizon_s:
            self.cluster.run(self._setup.horizon_s)
            return
        while not self._exhausted:
            self.cluster.run(1.0)
        tally = self._tally
        patience_s = PATIENCE_S + 2.0 * tally.longest_s + 4.0 * tally.work_s / (self._setup.workers * self._setup.slots)
        if not self.cluster.run(patience_s, until=lambda: tally.complete):
            raise SparrowError(
                f"{tally.open:,} jobs are not over {patience_s:,.0f} virtual seconds after the last came"
            )

    def _next(self) -> None:
        """Have the next job submitted at its time."""
        job = next(self._source, None)
        if job is None:
            self._exhausted = True
        else:
            self.cluster.at(self._began + job.at_s, self._submit, (job,))

    def _submit(self, job: Job) -> None:
        client = self.cluster.nodes[self._clients[self._number % len(self._clients)]]
        self._number += 1
        id = ids.job_id(int(self.cluster.now * 1e3), self._rng)
        durations_s = job.durations_s
        alike = durations_s.count(durations_s[0]) == len(durations_s)
        payloads: list[m.Payload] = [Work(s).payload() for s in (durations_s[:1] if alike else durations_s)]
        spec = m.JobSpec(kind=m.SLEEP, policy=self._setup.policy, probe_ratio=self._setup.probe_ratio)
        self._tally.submitted(id, job)
        client.step(client.machine.submit, m.Submit(id, 0, spec, len(durations_s), payloads))
        self._next()

    def _tell(self, node: str, effect: fx.AnyEffect) -> None:
        if type(effect) is fx.Deliver:
            if effect.statuses.count(m.SUCCEEDED) != len(effect.indices):
                raise SparrowError(f"tasks of job {effect.job} failed, which says nothing about placement")
            self._tally.outcomes(effect.job, len(effect.indices), self.cluster.now - self._began)
        elif type(effect) is fx.Linked and effect.scheduler:
            self._homes.setdefault(effect.scheduler, node)

    @property
    def messages(self) -> int:
        """How many messages schedulers and workers have exchanged about tasks."""
        sent = self.cluster.network.sent
        kinds = (m.Probe, m.Load, m.Request, m.Task, m.NoOp, m.Cancel, m.Returned, m.Result, m.ResultAck)
        return sum(sent[kind] for kind in kinds)


def _latency(setup: Setup) -> Latency:
    """Return the law of delays around ``latency_s``: that, up to half as much more or less, or a long tail."""
    if setup.latency_law == "uniform":
        return Uniform(0.5 * setup.latency_s, 1.5 * setup.latency_s)
    if setup.latency_law == "lognormal" and setup.latency_s:
        return LogNormal(setup.latency_s)
    return Constant(setup.latency_s)


def _scheduler(setup: Setup) -> SchedulerSettings:
    bounds = limits.SchedulerLimits(
        jobs=_WITHOUT_END, tasks=_WITHOUT_END, payload_bytes=_WITHOUT_END, finished_jobs=10, history_tasks=10_000
    )
    return SchedulerSettings(
        eager=setup.eager,
        cancellation=setup.cancellation,
        ping_interval_s=_PING_S,
        silent_after_s=_SILENT_S,
        beat_interval_s=setup.beats_s,
        limits=bounds,
    )


def _worker(setup: Setup) -> WorkerSettings:
    bounds = limits.WorkerLimits(job_records=_JOB_RECORDS)
    return WorkerSettings(
        ping_interval_s=_PING_S, silent_after_s=_SILENT_S, beat_interval_s=setup.beats_s, limits=bounds
    )


def _assistant(setup: Setup) -> AssistantSettings:
    return AssistantSettings(hint_interval_s=setup.beats_s)


def _client() -> ClientSettings:
    return ClientSettings(jobs_in_flight=_WITHOUT_END, ping_interval_s=_PING_S, silent_after_s=_SILENT_S)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep the cyclic collector off: it would walk millions of live objects again and again, for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
        gc.collect()


def _row(setup: Setup, tally: _Tally, messages: int, events: int) -> Row:
    responses_s, short_s, delays_s = sorted(tally.responses_s), sorted(tally.short_s), sorted(tally.delays_s)
    return Row(
        policy=setup.policy,
        load=setup.load,
        jobs=len(responses_s),
        median_ms=_quantile_ms(responses_s, 0.5),
        p95_ms=_quantile_ms(responses_s, 0.95),
        p99_ms=_quantile_ms(responses_s, 0.99),
        delay_p50_ms=_quantile_ms(delays_s, 0.5),
        delay_p95_ms=_quantile_ms(delays_s, 0.95),
        probe_ratio=setup.probe_ratio,
        cancellation=setup.cancellation,
        short_median_ms=_quantile_ms(short_s, 0.5),
        short_p95_ms=_quantile_ms(short_s, 0.95),
        messages_per_task=round(messages / tally.tasks, 3) if tally.tasks else 0.0,
        tasks=tally.tasks,
        unfinished=tally.unfinished,
        virtual_s=round(tally.last_s, 3),
        events=events,
    )


def _quantile_ms(ascending_s: Sequence[float], share: float) -> float | None:
    """Return the first value that at least this share lies below, in milliseconds; None where there is none."""
    if not ascending_s:
        return None
    return round(1e3 * ascending_s[min(len(ascending_s) - 1, int(share * len(ascending_s)))], 3)
