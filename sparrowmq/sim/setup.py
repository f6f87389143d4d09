"""One simulated experiment as plain values: what it has, where it comes from, and whether it can be run.

Owns: `Setup`, its ranges, what of it is impossible together, and its TOML form. Must not know: how it is run, which
set-ups make a figure, files (a text and its name are handed in).

A field is named as in the Struct, those of the workload with its name in front: ``load``, ``workload.tasks``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

import msgspec

from sparrowmq import placement
from sparrowmq.errors import UsageError
from sparrowmq.limits import INT_MAX, PROBE_RATIO_MAX, TASKS_PER_JOB_MAX, SchedulerLimits, WorkerLimits
from sparrowmq.sim.workload import Workload, check as check_workload, mean_job_s

OMNISCIENT: Final = "omniscient"  # the central queue of sim/omniscient.py
PAPER_POLICIES: Final = ("random", "per-task", "batch", "late-binding", OMNISCIENT)  # as SOSP 2013, Fig 3, lists them
POLICIES: Final = (*PAPER_POLICIES[:-1], "assisted", OMNISCIENT)
JOBS_MAX: Final = 10_000_000  # with those of the warm-up
OPEN_JOBS_MAX: Final = 100_000  # of a scheduler that gets more than it can place
SLOTS_MAX: Final = 1_000_000  # of all workers
WINDOW_S: Final = 0.02  # workers ask for tasks that are shorter by the dozen (`WorkerSettings.window_s`)
_SHOWN_CHARS_MAX: Final = 64


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment: a cluster, its policy, and the load that it is put under."""

    policy: str = "late-binding"  # one of POLICIES
    load: float = 0.8  # share of all slots that the work keeps busy in the long run
    workers: int = 1000
    slots: int = 4  # of each worker
    schedulers: int = 1
    jobs: int = 10_000  # jobs that count; those before warm_up_s are run and not counted
    probe_ratio: float = 2.0
    cancellation: bool = True  # withdraw reservations when the last task is placed (SOSP 2013, section 3.6)
    eager: bool = False  # give a task at once to a worker that seems idle (not in the paper)
    beats_s: float = 0.0  # between two beats, and two hints of an assistant; 0: there are none
    seed: int = 1
    warm_up_s: float = 0.5
    horizon_s: float = 0.0  # stop at this virtual time; 0: when all jobs are over
    latency_s: float = 0.0005  # of a message, one way
    latency_law: Literal["constant", "uniform", "lognormal"] = "constant"
    scheduler_cost_s: float = 0.0  # CPU time of a message received or sent at a scheduler, which queues there
    worker_cost_s: float = 0.0  # the same at a node monitor
    workload: Workload = Workload()


class _Range(NamedTuple):
    low: float
    high: float
    above: bool = False  # the low end itself is none of it

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low, high = f"{self.low:,.16g}", f"{self.high:,.16g}"
        return f"above {low} and up to {high}" if self.above else f"from {low} to {high}"


_DURATION_S: Final = _Range(0.0, 86_400.0, above=True)
_RANGES: Final[Mapping[str, _Range]] = {
    "load": _Range(0.0, 10.0, above=True),
    "workers": _Range(1, SchedulerLimits().workers),
    "slots": _Range(1, 4096),
    "schedulers": _Range(1, WorkerLimits().schedulers),
    "jobs": _Range(1, JOBS_MAX),
    "probe_ratio": _Range(1.0, PROBE_RATIO_MAX),
    "beats_s": _Range(0.0, 10.0),
    "seed": _Range(-INT_MAX, INT_MAX),
    "warm_up_s": _Range(0.0, 1e6),
    "horizon_s": _Range(0.0, 1e7),
    "latency_s": _Range(0.0, 0.1),  # beyond, the machines' own time-outs take it for a loss
    "scheduler_cost_s": _Range(0.0, 10.0),
    "worker_cost_s": _Range(0.0, 10.0),
    "workload.tasks": _Range(1, TASKS_PER_JOB_MAX),
    "workload.duration_s": _DURATION_S,
    "workload.long_share": _Range(0.0, 1.0),
    "workload.long_duration_s": _DURATION_S,
}


def policy_name(text: str) -> str:
    """Return the name in POLICIES. Raises UsageError, with the nearest name, for what is none."""
    if text.strip().lower() == OMNISCIENT:
        return OMNISCIENT
    try:
        return placement.canonical(text)
    except UsageError:
        shown, known = text[:_SHOWN_CHARS_MAX], ", ".join(POLICIES)
        hint = f"use one of {known}"
        if near := difflib.get_close_matches(shown.lower(), POLICIES, n=1):
            hint = f"Did you mean {near[0]!r}?"
        raise UsageError(f"unknown policy {shown!r}; the policies are {known}", hint=hint) from None


def rate_jobs_per_s(setup: Setup) -> float:
    """Return the rate of submissions that keeps ``load`` of all slots busy."""
    return setup.load * setup.workers * setup.slots / mean_job_s(setup.workload)


# -- what can be run


def check(setup: Setup, names: Mapping[str, str] | None = None, *, drawn: bool = True) -> None:
    """Raise UsageError for a set-up that cannot be run, naming the field and what is expected.

    ``names`` has what people call a field, such as ``{"jobs": "--job-count"}``. Without ``drawn`` its jobs come from a
    trace: load, workload and what follows from them do not count.
    """
    checker = _Checker(setup, names or {})
    checker.check_fields()
    checker.check_cluster()
    if drawn:
        checker.check_time()
        checker.check_workload()
        checker.check_rates()


class _Checker:
    def __init__(self, setup: Setup, names: Mapping[str, str]) -> None:
        self._setup = setup
        self._names = names

    def _bad(self, field: str, reason: str, hint: str = "") -> UsageError:
        return UsageError(f"{self._names.get(field, field)}: {reason}", hint=hint)

    def check_fields(self) -> None:
        """Each by itself: its type (a Struct does not check what it is made from) and its range."""
        for field in FIELDS:
            if reason := wrong(field, value_of(self._setup, field)):
                raise self._bad(field, reason)
        name = policy_name(self._setup.policy)
        if name != self._setup.policy:
            raise self._bad("policy", f"expected {name!r}, got {self._setup.policy!r}")

    def check_cluster(self) -> None:
        setup = self._setup
        slots = setup.workers * setup.slots
        if slots > SLOTS_MAX:
            reason = (
                f"{setup.workers:,} workers x {setup.slots:,} slots are {slots:,} slots; the limit is {SLOTS_MAX:,}"
            )
            raise self._bad("slots", reason)

    def check_time(self) -> None:
        setup = self._setup
        if setup.load >= 1.0 and not setup.horizon_s:
            reason = (
                f"at {setup.load:g} more work comes than {setup.workers * setup.slots:,} slots do, and queues only grow"
            )
            horizon = self._names.get("horizon_s", "" if self._names else "horizon_s")
            raise self._bad("load", reason, f"stay below 1{f', or say with {horizon} when to stop' if horizon else ''}")
        if setup.horizon_s and setup.horizon_s <= setup.warm_up_s:
            reason = (
                f"expected more than the warm-up of {setup.warm_up_s:g} s, got {setup.horizon_s:g}: no job would count"
            )
            raise self._bad("horizon_s", reason)

    def check_workload(self) -> None:
        try:
            check_workload(self._setup.workload)
        except UsageError as error:
            field, _, reason = str(error).partition(": ")
            raise self._bad(f"workload.{field}", reason, error.hint) from None

    def check_rates(self) -> None:
        """What the rate of submissions leads to must fit into the machines' limits."""
        setup = self._setup
        rate = rate_jobs_per_s(setup)
        all_jobs = setup.jobs + rate * setup.warm_up_s
        if all_jobs > JOBS_MAX:
            reason = f"{rate * setup.warm_up_s:,.0f} jobs come before they count; the limit of all jobs is {JOBS_MAX:,}"
            raise self._bad("warm_up_s", reason)
        held = (setup.load - 1.0) * rate * setup.horizon_s / setup.schedulers
        if setup.policy != OMNISCIENT and held > OPEN_JOBS_MAX:
            many = f"{held:,.0f} jobs; the limit is {OPEN_JOBS_MAX:,}"
            reason = f"after {setup.horizon_s:g} s each scheduler would hold {many}"
            raise self._bad("horizon_s", reason)
        if setup.policy != OMNISCIENT and not setup.horizon_s and setup.workload.duration_s >= WINDOW_S:
            self._check_cost("scheduler_cost_s", setup.scheduler_cost_s, setup.schedulers)
            self._check_cost("worker_cost_s", setup.worker_cost_s, setup.workers)

    def _check_cost(self, field: str, cost_s: float, nodes: int) -> None:
        """A node has a message for each task at the very least."""
        messages_per_s = rate_jobs_per_s(self._setup) * self._setup.workload.tasks / nodes
        if messages_per_s * cost_s >= 1.0:
            reason = f"{cost_s:g} s a message, {messages_per_s:,.0f} of them a second or more: a node never catches up"
            raise self._bad(field, reason, f"expected less than {1.0 / messages_per_s:.2g}")


# -- fields, and TOML


def _fields() -> dict[str, Any]:
    hints = get_type_hints(Setup)
    own = {name: kind for name, kind in hints.items() if kind is not Workload}
    return own | {f"workload.{name}": kind for name, kind in get_type_hints(Workload).items()}


FIELDS: Final[Mapping[str, Any]] = _fields()  # with their types


def value_of(setup: Setup, field: str) -> Any:
    """Return the value of a field of FIELDS."""
    outer, _, inner = field.partition(".")
    return getattr(getattr(setup, outer), inner) if inner else getattr(setup, outer)


def make(values: Mapping[str, object]) -> Setup:
    """Return a Setup from values by field (see FIELDS); what is not there has its default. Nothing is checked."""
    own: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for field, value in values.items():
        outer, _, name = field.partition(".")
        whole_as_float = FIELDS[field] is float and isinstance(value, int)
        (inner if name else own)[name or outer] = float(cast(int, value)) if whole_as_float else value
    return Setup(**own, workload=Workload(**inner))


def read(text: str, name: str) -> dict[str, object]:
    """Return the values by field that a TOML text gives; ``name`` is its file's.

    Raises UsageError naming file, field and what is expected. What does not fit together is for `check`.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of the numbers and the nesting that it cannot take, too
        raise UsageError(f"{name} is not TOML: {error}") from None
    values: dict[str, object] = {}
    for key, value in document.items():
        if key == "workload" and isinstance(value, dict):
            values |= {f"workload.{inner}": item for inner, item in value.items()}
        else:
            values[key] = value
    for field, value in values.items():
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(FIELDS)}"
            raise UsageError(f"{name}: there is no field {field[:_SHOWN_CHARS_MAX]}", hint=hint)
        if field == "policy" and isinstance(value, str):
            values[field] = value = _named(value, name)
        if reason := wrong(field, value):
            raise UsageError(f"{name}: {field}: {reason}")
    return values


def parse(texts: Mapping[str, str], name: str) -> dict[str, object]:
    """Return the values that these texts are, by field; errors are those of `read`."""
    values: dict[str, object] = {}
    for field, text in texts.items():
        values[field] = _named(text, name) if field == "policy" else number(field, text)
        if reason := wrong(field, values[field]):
            raise UsageError(f"{name}: {field}: {reason}")
    return values


def number(field: str, text: str) -> object:
    """Return the number that a text is where the field has numbers, otherwise the text itself."""
    kind = FIELDS[field]
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def _named(policy: str, file: str) -> str:
    try:
        return policy_name(policy)
    except UsageError as error:
        raise UsageError(f"{file}: policy: {error}", hint=error.hint) from None


def wrong(field: str, value: object) -> str:
    """Return what is wrong with a value of this field by itself, "" for nothing."""
    kind = FIELDS[field]
    got = f"got {repr(value)[:_SHOWN_CHARS_MAX]}"
    if get_origin(kind) is Literal:
        return "" if value in get_args(kind) else f"expected one of {', '.join(get_args(kind))}, {got}"
    if kind is bool:
        return "" if isinstance(value, bool) else f"expected true or false, {got}"
    if kind is str:
        return "" if isinstance(value, str) else f"expected a text, {got}"
    what = "a whole number" if kind is int else "a number"
    allowed = _RANGES[field]
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not fits or value not in allowed:
        return f"expected {what} {allowed}, {got}"
    return ""
