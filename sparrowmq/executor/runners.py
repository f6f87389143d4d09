"""How each kind of task is run: payload in, result bytes out.

Owns: the kinds, and the failures that are not the task's own doing. Must not know: sockets, pages, sequence
numbers. What a task may use of its slot comes in `Surroundings`.
"""

from __future__ import annotations

import functools
import importlib
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sparrowmq import errors
from sparrowmq.executor import allow, commands, linux
from sparrowmq.executor.interrupts import Interrupts
from sparrowmq.executor.streams import Streams
from sparrowmq.payload import command, failure, plain, python
from sparrowmq.payload.command import Command
from sparrowmq.protocol import messages as m

Buffer = bytes | bytearray
# Runs one task: (payload, index in the job, attempt) -> result. Raises what the task raises, or Failed.
Runner = Callable[[Buffer, int, int], bytes]

_SLEEP_S_MAX: Final = 30 * 86_400.0


class Failed(Exception):
    """The task cannot succeed, and the report of it is ready. ``kind`` None: no other attempt would either."""

    def __init__(self, report: bytes, kind: type[errors.SparrowError] | None) -> None:
        super().__init__()
        self.report = report
        self.kind = kind


class Cancelled(Exception):
    """The task was interrupted before it had begun."""


class Surroundings(NamedTuple):
    """What the slot has for its tasks."""

    interrupts: Interrupts
    streams: Streams
    allow: frozenset[str] = frozenset()  # empty: everything; see `allow`


def make(kind: int, job: str, function: Buffer, surroundings: Surroundings) -> Runner:
    """Return the runner of a job's tasks. Loads ``function``, which runs user code, unless the allow-list refuses it.

    A function that is refused or cannot be loaded gives a runner that fails each task with the reason. Raises
    KeyboardInterrupt where that interrupts the loading.
    """
    name = bytes(function).decode(errors="replace") if kind == m.CALL else ""
    refusal = allow.refusal(surroundings.allow, kind, name)
    if refusal:
        return _failing(refusal)
    if kind == m.COMMAND:
        return functools.partial(_run_command, job, surroundings)
    if kind == m.SLEEP:
        return _run_sleep
    what = f"function {name[:100]!r}" if kind == m.CALL else "job's function"
    try:
        if kind == m.CALL:
            resolved = _resolve(name)
            refusal = allow.refusal_of_import(surroundings.allow, name, resolved)
            return _failing(refusal) if refusal else functools.partial(_run_call, resolved)
        return _python_runner(python.load_function(function))
    except KeyboardInterrupt:
        raise  # the next task loads it
    except BaseException as error:  # importing and unpickling run user code, which may even call sys.exit
        text = f"the {what} cannot be loaded by this worker: {failure.type_name(error)}: {_text(error)}"
        return functools.partial(_run_nothing, _report(errors.TaskError, text, error))


def _python_runner(function: Callable[..., Any]) -> Runner:
    load_call, dump_result = python.load_call, python.dump_result

    def run(payload: Buffer, _index: int, _attempt: int) -> bytes:
        try:
            args, kwargs = load_call(payload)
        except Exception as error:
            text = f"the arguments cannot be loaded by this worker: {failure.type_name(error)}: {_text(error)}"
            raise Failed(_report(errors.TaskError, text, error), errors.TaskError) from error
        value = function(*args, **kwargs)
        try:
            return dump_result(value)
        except (errors.NotSerializable, errors.TooLarge) as error:
            raise Failed(failure.make(type(error), str(error)), type(error)) from error

    return run


def _run_call(function: Callable[..., Any], payload: Buffer, _index: int, _attempt: int) -> bytes:
    args, kwargs = _call_arguments(payload)
    value = function(*args, **kwargs)
    try:
        return plain.dumps(value, "result")
    except (errors.NotSerializable, errors.TooLarge) as error:
        raise Failed(failure.make(type(error), str(error)), type(error)) from error


def _call_arguments(payload: Buffer) -> tuple[list[Any], dict[str, Any]]:
    try:
        call = plain.loads(payload)
    except errors.NotSerializable as error:
        raise _task_error(f"the arguments are {error}") from error
    match call:
        case [list() as args, dict() as kwargs] if all(isinstance(name, str) for name in kwargs):
            return args, kwargs
    raise _task_error("the arguments are not a list [args, kwargs] of a list and a map")


def _run_command(job: str, surroundings: Surroundings, payload: Buffer, index: int, attempt: int) -> bytes:
    try:
        order = command.loads(payload)
    except errors.NotSerializable as error:
        raise _task_error(f"the payload is {error}") from error
    environment = {"SPARROWMQ_JOB": job, "SPARROWMQ_TASK": str(index), "SPARROWMQ_ATTEMPT": str(attempt)}
    try:
        ended = commands.run(order, environment, surroundings.interrupts, surroundings.streams.write)
    except (OSError, ValueError) as error:
        raise Failed(_not_started(order, error), errors.CommandFailed) from error
    if ended.interrupted:
        raise KeyboardInterrupt
    if ended.status == 0:
        return plain.dumps([ended.status, ended.stdout, ended.stderr], "output")
    cause = linux.explain_exit(-ended.status) if ended.status < 0 else f"exit status {ended.status}"
    message = f"{order.argv[0]!r}: {cause}"
    report = failure.command_failed(message, status=ended.status, stdout=ended.stdout, stderr=ended.stderr)
    raise Failed(report, errors.CommandFailed)


def _not_started(order: Command, error: Exception) -> bytes:
    """Report a command that did not start, with the status that a shell would give it."""
    status = 127 if isinstance(error, FileNotFoundError) else 126
    message = f"{order.argv[0]!r} cannot be started on this worker: {error}"
    return failure.command_failed(message, status=status, stdout=b"", stderr=b"")


def _run_sleep(payload: Buffer, _index: int, _attempt: int) -> bytes:
    try:
        duration_s = plain.loads(payload)
    except errors.NotSerializable as error:
        raise _task_error(f"the duration is {error}") from error
    number = isinstance(duration_s, int | float) and not isinstance(duration_s, bool)
    if not (number and math.isfinite(duration_s) and 0 <= duration_s <= _SLEEP_S_MAX):
        text = f"the duration must be a number of seconds from 0 to {_SLEEP_S_MAX:,.0f}, got {duration_s!r:.80}"
        raise _task_error(text)
    time.sleep(duration_s)
    return _NIL


def _failing(reason: str) -> Runner:
    return functools.partial(_run_nothing, failure.make(errors.TaskError, reason))


def _run_nothing(report: bytes, _payload: Buffer, _index: int, _attempt: int) -> bytes:
    raise Failed(report, None)


def _task_error(message: str) -> Failed:
    return Failed(failure.make(errors.TaskError, message), errors.TaskError)


def _resolve(name: str) -> Callable[..., Any]:
    """Import "module:function" (the function may be a dotted path within the module)."""
    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ValueError("expected 'module:function'")
    target: Any = importlib.import_module(module_name)
    for part in path.split("."):
        target = getattr(target, part)
    if not callable(target):
        raise TypeError(f"{path} is a {type(target).__name__}, which cannot be called")
    resolved: Callable[..., Any] = target
    return resolved


def _report(kind: type[errors.SparrowError], message: str, error: BaseException) -> bytes:
    return failure.make(kind, message, traceback_text=failure.traceback_text(error))


def _text(error: BaseException) -> str:
    return failure.message_of(error)


_NIL: Final = plain.dumps(None)
