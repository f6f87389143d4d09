"""What a user can say about a job besides its tasks.

Owns: the options, their defaults and checks, and the words that tell them from a function's own keyword
arguments. Must not know: clients or connections.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Collection
from typing import Any, Final, TypedDict, Unpack

import msgspec

from sparrowmq import limits, placement
from sparrowmq.errors import UsageError
from sparrowmq.protocol import messages as m

PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class JobOptions(TypedDict, total=False):
    """The options that `Client.options`, `map`, `map_job`, `run_commands` and `sleep` take.

    policy: "late-binding" (default), "batch", "per-task" or "random".
    probe_ratio: probes a task, any real from 1 to 100 (default 2).
    name: shown by ``sparrowmq job list`` (default: the function's or command's name).
    timeout_s: a task that runs longer is killed and raises `TaskTimedOut` (default: no limit).
    max_attempts: a task whose workers died so often is lost and raises `TaskLost` (default 3).
    """

    policy: str
    probe_ratio: float
    name: str
    timeout_s: float | None
    max_attempts: int


OPTION_NAMES: Final = frozenset(JobOptions.__annotations__)
_DEFAULTS: Final = m.JobSpec()


def make_spec(base: m.JobSpec = _DEFAULTS, **options: Unpack[JobOptions]) -> m.JobSpec:
    """Return ``base`` changed by ``options``. Raises UsageError for an unknown option or a value out of range."""
    unknown = options.keys() - OPTION_NAMES
    if unknown:
        known = ", ".join(sorted(OPTION_NAMES))
        raise UsageError(f"unknown option {min(unknown)!r}", hint=f"the options are {known}")
    changes: dict[str, Any] = dict(options)
    if "policy" in changes:
        changes["policy"] = placement.canonical(_text("policy", changes["policy"]))
    if "name" in changes:
        _text("name", changes["name"])
    if "timeout_s" in changes:
        timeout_s = changes["timeout_s"]
        changes["timeout_s"] = 0.0 if timeout_s is None else _number("timeout_s", timeout_s, 0.0, limits.TIMEOUT_S_MAX)
        if timeout_s is not None and not timeout_s:
            raise UsageError("timeout_s: expected a number greater than 0, got 0", hint="None means no timeout")
    if "probe_ratio" in changes:
        changes["probe_ratio"] = _number("probe_ratio", changes["probe_ratio"], 1.0, limits.PROBE_RATIO_MAX)
    if "max_attempts" in changes:
        attempts = changes["max_attempts"]
        _number("max_attempts", attempts, 1, limits.ATTEMPTS_MAX)
        if not isinstance(attempts, int):
            raise UsageError(f"max_attempts: expected a whole number, got {attempts!r}")
    return msgspec.structs.replace(base, **changes)


def for_kind(spec: m.JobSpec, kind: int, default_name: str) -> m.JobSpec:
    """Return ``spec`` for tasks of this kind, named ``default_name`` unless it has a name."""
    return msgspec.structs.replace(
        spec,
        kind=kind,
        name=spec.name or default_name[: limits.TEXT_CHARS_MAX].encode(errors="replace").decode(),
        python=PYTHON_VERSION if kind == m.PYTHON else "",
    )


def check_kwargs(fn: Callable[..., object], names: Collection[str]) -> None:
    """Raise UsageError where a keyword argument for ``fn`` was surely meant as an option of the job."""
    meant = OPTION_NAMES.intersection(names)
    if not meant:
        return
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins tell nothing: let the task find out
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in sorted(meant):
        if name not in parameters:
            raise UsageError(
                f"{getattr(fn, '__name__', fn)!s} takes no argument {name!r}: keyword arguments go to the function",
                hint=f"options of the job: client.options({name}=...).submit(...)",
            )


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > limits.TEXT_CHARS_MAX:
        shown = f"{len(value):,} characters" if isinstance(value, str) else type(value).__name__
        raise UsageError(f"{name}: expected a text of at most {limits.TEXT_CHARS_MAX} characters, got {shown}")
    return value


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {value:g}")
    return float(value)
