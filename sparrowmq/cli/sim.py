"""sim: simulated clusters, the paper's figures, replays of traces.

Owns: the commands and what their options mean together. Must not know: how points are run (experiments/), which set-ups
make a figure (sim/figures.py), what becomes of results (simulating.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sparrowmq.cli.base import Globals, Group, pass_globals
from sparrowmq.cli.detectors import detectors
from sparrowmq.cli.simulating import (
    NAMES,
    Decorator,
    Fields,
    Files,
    Study,
    carry_out,
    common,
    field_option,
    loads_option,
    policies_option,
)
from sparrowmq.cli.swarm import swarm
from sparrowmq.errors import UsageError

if TYPE_CHECKING:
    from sparrowmq.sim.setup import Setup
    from sparrowmq.sim.trace import Trace

FILE_BYTES_MAX: Final = 1024 * 1024  # of a set-up

_workers = field_option("--workers", "workers", "Number of workers.")
_slots = field_option("--slots", "slots", "Tasks at once a worker.")
_schedulers = field_option("--schedulers", "schedulers", "Number of schedulers.")
_COSTS: Final = (
    ("--scheduler-cost", "scheduler_cost_s", "CPU time of a message at a scheduler."),
    ("--worker-cost", "worker_cost_s", "CPU time of a message at a worker."),
)
_NETWORK: Final = (
    ("--latency", "latency_s", "Of a message, one way."),
    ("--latency-law", "latency_law", "constant, uniform or lognormal."),
)
_PLACEMENT: Final = (
    ("--probe-ratio", "probe_ratio", "Probes a task."),
    ("--cancellation", "cancellation", "Withdraw reservations that are no longer needed."),
    ("--eager", "eager", "Give a task at once to a worker that seems idle."),
    ("--beats", "beats_s", "Interval of beats and hints; 0: no assistant."),
)
_CLUSTER: Final = (
    ("--workers", "workers", "Number of workers."),
    ("--slots", "slots", "Tasks at once a worker."),
    ("--schedulers", "schedulers", "Number of schedulers."),
)
_WORKLOAD: Final = (
    ("--arrivals", "workload.arrivals", "poisson or deterministic."),
    ("--tasks", "workload.tasks", "Tasks of a job."),
    ("--tasks-law", "workload.tasks_law", "constant or exponential."),
    ("--duration", "workload.duration_s", "Mean of a task."),
    ("--duration-law", "workload.duration_law", "constant, exponential-job, exponential-task or bimodal."),
    ("--long-share", "workload.long_share", "bimodal: share of the jobs that are long."),
    ("--long-duration", "workload.long_duration_s", "bimodal: of a task of these."),
)
_TIME: Final = (
    ("--warm-up", "warm_up_s", "Jobs of this time do not count."),
    ("--horizon", "horizon_s", "Stop at this time; a load of 1 or more needs it."),
)
_TASKS: Final = (("--tasks", "workload.tasks", "Tasks of a job."), _PLACEMENT[2])
_REPLAY: Final = (*_CLUSTER, *_PLACEMENT, *_NETWORK, *_COSTS)
_RUN: Final = (*_CLUSTER, *_PLACEMENT, *_TIME, *_WORKLOAD, *_NETWORK, *_COSTS)


def _options(fields: Sequence[tuple[str, str, str]]) -> Decorator:
    """Return options for these fields; the two that are yes or no take --no- as well."""

    def add(command: Any) -> Any:
        for flag, field, help in reversed(fields):
            if field in ("cancellation", "eager"):
                command = click.option(f"{flag}/--no-{flag[2:]}", field, default=None, help=help)(command)
            else:
                command = field_option(flag, field, help)(command)
        return command

    return add


def _replaced(base: Setup, given: Mapping[str, Any]) -> Setup:
    from msgspec.structs import replace

    return replace(base, **{field: value for field, value in given.items() if value is not None})


@click.group(cls=Group)
def sim() -> None:
    """Simulate clusters: the very schedulers and workers that run, in virtual time.

    Results are kept below ~/.cache/sparrowmq/sim: a command that is repeated, or was interrupted, runs only what is
    missing.
    """


@sim.command()
@policies_option("those of the paper")
@loads_option("0.3,0.5,0.7,0.8,0.9,0.95")
@_workers
@_slots
@_schedulers
@common
@pass_globals
def fig3(options: Globals, /, policies: Any, loads: Any, jobs: int | None, files: Files, **cluster: Any) -> int:
    """Response times of the policies over load (SOSP 2013, Fig 3), beside the paper's.

    10,000 workers with 4 slots, jobs of 100 tasks; 10,000 jobs a point, 30,000 from load 0.9 on.
    """
    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import figures, setup

    base = _replaced(figures.FIG3, cluster)
    setups = figures.fig3(base, policies or setup.PAPER_POLICIES, loads or figures.FIG3_LOADS, jobs)
    return carry_out(options, Study(setups, tables.fig3, plot.fig3, NAMES), files)


@sim.command()
@policies_option("late-binding")
@loads_option("0.8,0.9")
@click.option("--ratios", type=Fields("probe_ratio"), help="Probes a task.  [default: 1,1.1,1.2,1.5,2,3]")
@_workers
@_slots
@_schedulers
@_options(_COSTS)
@common
@pass_globals
def ratio(
    options: Globals, /, policies: Any, loads: Any, ratios: Any, jobs: int | None, files: Files, **cluster: Any
) -> int:
    """Response times over the probe ratio (SOSP 2013, Fig 14), where messages cost CPU time.

    110 workers with 8 slots, 10 schedulers, jobs of 10 tasks of 100 ms; 10,000 jobs a point.
    """
    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import figures

    base = _replaced(figures.RATIO, cluster)
    setups = figures.ratio(
        base, policies or ("late-binding",), loads or figures.RATIO_LOADS, ratios or figures.RATIOS, jobs
    )
    names = {**NAMES, "probe_ratio": "--ratios", **{field: flag for flag, field, _ in _COSTS}}
    return carry_out(options, Study(setups, tables.ratio, plot.ratio, names), files)


@sim.command()
@loads_option("0.8,0.9,0.95")
@_workers
@_slots
@_schedulers
@common
@pass_globals
def cancel(options: Globals, /, loads: Any, jobs: int | None, files: Files, **cluster: Any) -> int:
    """Late binding with and without cancellation (SOSP 2013, section 3.6), and its messages.

    On the cluster of fig3, with as many jobs.
    """
    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import figures

    setups = figures.cancel(_replaced(figures.FIG3, cluster), loads or figures.CANCEL_LOADS, jobs)
    return carry_out(options, Study(setups, tables.cancel, plot.cancel, NAMES), files)


@sim.command()
@policies_option("late-binding")
@loads_option("0.8")
@click.option("--slots", type=Fields("slots"), help="Tasks at once a worker.  [default: 4,16]")
@click.option("--long-durations", type=Fields("workload.long_duration_s"), help="Of long tasks.  [default: 10,100]")
@click.option("--long-shares", type=Fields("workload.long_share"), help="Of the jobs.  [default: 0.1,0.5]")
@_workers
@_schedulers
@common
@pass_globals
def hetero(
    options: Globals,
    /,
    policies: Any,
    loads: Any,
    slots: Any,
    long_durations: Any,
    long_shares: Any,
    jobs: int | None,
    files: Files,
    **cluster: Any,
) -> int:
    """Short jobs beside long ones (SOSP 2013, heterogeneous durations), against the ideal.

    10,000 workers; short jobs have 10 tasks of 100 ms, long ones of 10 or 100 s. 10,000 jobs a point,
    after a warm-up of five long tasks.
    """
    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import figures

    setups = figures.hetero(
        _replaced(figures.HETERO, cluster),
        policies or ("late-binding",),
        loads or figures.HETERO_LOADS,
        jobs,
        slots=slots or figures.HETERO_SLOTS,
        long_s=long_durations or figures.HETERO_LONG_S,
        shares=long_shares or figures.HETERO_SHARES,
    )
    return carry_out(options, Study(setups, tables.hetero, plot.hetero, NAMES), files)


@sim.command()
@loads_option("0.9")
@click.option("--beats", "beats_s", type=Fields("beats_s"), help="Intervals of beats.  [default: 0.01,0.05,0.1,0.2]")
@click.option("--schedulers", type=Fields("schedulers"), help="Numbers of schedulers.  [default: 1,10]")
@_workers
@_slots
@_options(_TASKS)
@common
@pass_globals
def hints(
    options: Globals,
    /,
    loads: Any,
    beats_s: Any,
    schedulers: Any,
    tasks: int | None,
    jobs: int | None,
    files: Files,
    **cluster: Any,
) -> int:
    """Scheduling delays by load hints (policy assisted), beside late binding's.

    1,000 workers with 4 slots, jobs of 20 tasks; 10,000 jobs a point. Beats go to the store, from there to an
    assistant, and hints from it to the schedulers, each on its own time.
    """
    from msgspec.structs import replace

    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import figures

    base = _replaced(figures.HINTS, cluster)
    if tasks is not None:
        base = replace(base, workload=replace(base.workload, tasks=tasks))
    setups = figures.hints(
        base,
        loads or figures.HINTS_LOADS,
        jobs,
        beats_s=beats_s or figures.HINTS_BEATS_S,
        schedulers=schedulers or figures.HINTS_SCHEDULERS,
    )
    names = {**NAMES, "beats_s": "--beats", "workload.tasks": "--tasks", "eager": "--eager"}
    return carry_out(options, Study(setups, tables.hints, plot.hints, names), files)


@sim.command()
@click.option("--file", "path", type=click.Path(path_type=Path), metavar="FILE", help="A set-up in TOML; flags win.")
@policies_option("late-binding")
@loads_option("0.8")
@_options(_RUN)
@common
@pass_globals
def run(options: Globals, /, path: Path | None, policies: Any, loads: Any, files: Files, **given: Any) -> int:
    """Any set-up; several policies or loads make a grid.

    Times are seconds, or like 500ms, 14s, 2m. docs/simulator.md has the fields, their defaults and the TOML file.
    """
    from msgspec.structs import replace

    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import setup as setups

    values = setups.read(_text(path), str(path)) if path is not None else {}
    names = {field: f"{path}: {field}" for field in values}
    ctx = click.get_current_context()
    flags = {field.rpartition(".")[2]: (field, flag) for flag, field, _ in _RUN} | {
        "jobs": ("jobs", "--job-count"),
        "seed": ("seed", "--seed"),
    }
    for dest, (field, flag) in flags.items():
        said = ctx.get_parameter_source(dest) is not click.core.ParameterSource.DEFAULT
        if said:
            values[field] = given[dest]
        if said or field not in names:
            names[field] = flag
    base = setups.make(values)
    names |= {field: NAMES[field] for field, many in (("policy", policies), ("load", loads)) if many}
    points = [
        replace(base, policy=policy, load=load)
        for policy in policies or (base.policy,)
        for load in loads or (base.load,)
    ]
    return carry_out(options, Study(points, tables.run, plot.run, names), files)


def _text(path: Path) -> str:
    """Return the text of a set-up's file. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise UsageError(f"--file {path} is larger than {FILE_BYTES_MAX:,} bytes; that is no set-up")
        return content.decode()
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"--file {path} is not UTF-8 text (byte {error.start})") from None


@sim.command()
@click.argument("path", metavar="TRACE", type=click.Path(path_type=Path))
@policies_option("the recorded one, or late-binding")
@_options(_REPLAY)
@common
@pass_globals
def replay(options: Globals, /, path: Path, policies: Any, jobs: int | None, files: Files, **given: Any) -> int:
    """Run a recorded trace, on the recorded cluster or another one.

    Beside its response times stand the recorded ones, if the trace has them, and those of a central queue that knows
    everything ("omniscient"). docs/trace.md has the format.
    """
    from sparrowmq.experiments import plot, tables
    from sparrowmq.sim import setup as setups

    trace = _trace(path)
    work = trace.jobs[:jobs] if jobs else trace.jobs
    values = _recorded(trace, str(path)) | {field: value for field, value in given.items() if value is not None}
    for field in ("workers", "slots"):
        if field not in values:
            in_all = trace.meta.get("slots_in_all", "")
            told = f"; it says {in_all} slots in all" if in_all else ""
            raise UsageError(f"{path} does not say how many {field}{told}", hint=f"say it with --{field}")
    base = setups.make({"eager": True, **values, "warm_up_s": 0.0, "jobs": len(work)})  # as clusters are by default
    wanted = policies or (base.policy,)
    points = [_replaced(base, {"policy": policy}) for policy in dict.fromkeys((*wanted, setups.OMNISCIENT))]
    tabulate = partial(tables.replay, load=tables.asked_load(work, base.workers * base.slots), meta=trace.meta)
    names = {**NAMES, **{field: flag for flag, field, _ in _REPLAY}}
    return carry_out(options, Study(points, tabulate, plot.replay, names, work), files)


def _trace(path: Path) -> Trace:
    from sparrowmq.sim import trace

    try:
        with path.open(encoding="utf-8") as lines:
            return trace.read(lines, str(path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None


def _recorded(trace: Trace, name: str) -> dict[str, Any]:
    """Return what a trace's header says of its cluster. Raises UsageError for a value that is none."""
    from sparrowmq.sim import setup as setups

    said = {field: trace.meta[field] for field in ("workers", "slots", "schedulers", "policy", "probe_ratio")
            if trace.meta.get(field)}  # fmt: skip
    return setups.parse(said, name)


sim.add_command(swarm)
sim.add_command(detectors)
