"""What a user can say about a job besides its tasks.

Owns: the options, their defaults and checks, and the words that tell them from a function's own keyword
arguments. Must not know: clients or connections.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final, TypedDict, Unpack

import msgspec

from sparrowmq import limits, placement
from sparrowmq.client import retrying
from sparrowmq.errors import UsageError
from sparrowmq.protocol import messages as m

PYTHON_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


class JobOptions(TypedDict, total=False):
    """The options that `Client.options`, `map`, `starmap`, `imap`, `run_commands` and `sleep` take.

    policy: "late-binding" (default), "assisted", "batch", "per-task" or "random".
    probe_ratio: probes a task, any real from 1 to 100 (default 2).
    name: shown by ``sparrowmq job list`` (default: the function's or command's name).
    timeout_s: a task that runs longer is killed and raises `TaskTimedOut` (default: no limit).
    max_attempts: a task whose workers died so often is lost and raises `TaskLost` (default 3).
    retries: a task that fails is tried again so often, 0 (default) to 100.
    backoff_s: seconds before the first retry, doubled before each further one, up to 300 (default 0).
    retry_on: which failures are tried again: an exception class, its name ("ValueError", "module.Class",
        "TaskCrashed"), or several of them; subclasses count. None (default): any failure.
    hedge_after: a task that has run so long gets a second attempt on another worker, and the first result counts (so
        it may run twice): seconds, or "p95" (any quantile) of the job's finished tasks. None (default): never.
    at_most_once: no task is ever started twice: one that may have started when its worker or scheduler died raises
        `TaskLost` (default: False, it is started again).
    durable: the job and its results are kept in Redis: it goes on when its client or its scheduler dies, and
        `Client.attach` has its results, for ``store.results_ttl_s`` after its end (default: False).
    """

    policy: str
    probe_ratio: float
    name: str
    timeout_s: float | None
    max_attempts: int
    retries: int
    backoff_s: float
    retry_on: retrying.Failures
    hedge_after: str | float | None
    at_most_once: bool
    durable: bool


OPTION_NAMES: Final = frozenset(JobOptions.__annotations__)
_DEFAULTS: Final = m.JobSpec()
_SECONDS_MAX: Final = 86_400.0
_QUANTILE: Final = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


def make_spec(base: m.JobSpec = _DEFAULTS, **options: Unpack[JobOptions]) -> m.JobSpec:
    """Return ``base`` changed by ``options``. Raises UsageError for an unknown option or a value out of range."""
    for name in sorted(options.keys() - OPTION_NAMES):
        raise UsageError(f"unknown option {name!r}", hint=did_you_mean(name, OPTION_NAMES, "the options are"))
    changes: dict[str, Any] = {}
    for name, value in options.items():
        changes |= _CHECKS[name](value)
    return msgspec.structs.replace(base, **changes)


def did_you_mean(given: str, known: Iterable[str], otherwise: str) -> str:
    """Return a hint: the known word that was surely meant, if there is one, and all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(given, words, 1)
    listed = f"{otherwise} {', '.join(words)}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed


def seconds(name: str, value: float) -> float:
    """Return a number of seconds that a call was given, 0 to a day; raise UsageError naming it otherwise."""
    return _number(name, value, 0.0, _SECONDS_MAX)


def _policy(value: object) -> dict[str, Any]:
    return {"policy": placement.canonical(_text("policy", value))}


def _timeout(value: object) -> dict[str, Any]:
    if value is None:
        return {"timeout_s": 0.0}
    timeout_s = _number("timeout_s", value, 0.0, limits.TIMEOUT_S_MAX)
    if not timeout_s:
        raise UsageError("timeout_s: expected a number greater than 0, got 0", hint="None means no timeout")
    return {"timeout_s": timeout_s}


def _hedge(value: object) -> dict[str, Any]:
    if value is None:
        return {"hedge_quantile": 0.0, "hedge_after_s": 0.0}
    if isinstance(value, str):
        match = _QUANTILE.fullmatch(value)
        percent = float(match[1]) if match else 0.0
        if not 0.0 < percent < 100.0:
            hint = 'give a quantile from "p1" to "p99", seconds, or None'
            raise UsageError(f"hedge_after: {value[:40]!r} is no quantile", hint=hint)
        return {"hedge_quantile": percent / 100.0, "hedge_after_s": 0.0}
    after_s = _number("hedge_after", value, 0.0, limits.TIMEOUT_S_MAX)
    if not after_s:
        raise UsageError("hedge_after: expected a number greater than 0, got 0", hint="None means no second attempts")
    return {"hedge_quantile": 0.0, "hedge_after_s": after_s}


_CHECKS: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "policy": _policy,
    "probe_ratio": lambda value: {"probe_ratio": _number("probe_ratio", value, 1.0, limits.PROBE_RATIO_MAX)},
    "name": lambda value: {"name": _text("name", value)},
    "timeout_s": _timeout,
    "max_attempts": lambda value: {"max_attempts": _whole("max_attempts", value, 1, limits.ATTEMPTS_MAX)},
    "retries": lambda value: {"retries": _whole("retries", value, 0, limits.RETRIES_MAX)},
    "backoff_s": lambda value: {"backoff_s": _number("backoff_s", value, 0.0, _SECONDS_MAX)},
    "retry_on": lambda value: {"retry_on": retrying.names(value)},
    "hedge_after": _hedge,
    "at_most_once": lambda value: {"at_most_once": _flag("at_most_once", value)},
    "durable": lambda value: {"durable": _flag("durable", value)},
}


def for_kind(spec: m.JobSpec, kind: int, default_name: str) -> m.JobSpec:
    """Return ``spec`` for tasks of this kind, named ``default_name`` unless it has a name.

    Raises UsageError for options that make no sense together.
    """
    if not spec.retries and (spec.retry_on or spec.backoff_s):
        given = "retry_on" if spec.retry_on else "backoff_s"
        raise UsageError(f"{given} without retries: nothing would be tried again", hint="add retries=3, for example")
    if spec.at_most_once and (spec.retries or spec.hedge_after_s or spec.hedge_quantile):
        given = "retries" if spec.retries else "hedge_after"
        raise UsageError(f"{given} with at_most_once: that would start a task twice", hint="leave one of them out")
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


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}: expected True or False, got {value!r}")
    return value


def _number(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {value:g}")
    return float(value)


def _whole(name: str, value: object, low: int, high: int) -> int:
    _number(name, value, low, high)
    if not isinstance(value, int):
        raise UsageError(f"{name}: expected a whole number, got {value!r}")
    return value
