"""From calls to jobs on the wire: payloads, and jobs cut to what one message and one job may hold.

Owns: which task kind a call becomes and where a job is split. Must not know: connections, sessions, futures.
Everything is turned into bytes before anything is sent: a call that cannot be sent sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from sparrowmq import limits
from sparrowmq.client import options
from sparrowmq.errors import NotSerializable, TooLarge, UsageError
from sparrowmq.payload import command, functions, plain, python
from sparrowmq.protocol import codec, messages as m

# A part leaves room in its message for what stands beside the payloads: framing, task numbers, deaths.
PART_BYTES_MAX: Final = limits.JOB_BYTES_MAX // 4 - 4 * 1024 * 1024
PART_BLOBS_MAX: Final = limits.FRAMES_MAX - 24
_OPTIONS_MAX: Final = 256  # sets of options whose single calls are remembered ...
_SPECS_MAX: Final = 256  # ... and functions in each

Argv = Sequence[str]


class Work(NamedTuple):
    """Tasks of one kind, as bytes. ``payloads``: one a task, or one that all ``tasks`` share."""

    spec: m.JobSpec
    function: bytes
    payloads: list[bytes]
    tasks: int


class Recipe(NamedTuple):
    """How calls of one function travel: what they share, and how arguments become bytes."""

    spec: m.JobSpec
    function: bytes
    dump: Callable[[tuple[Any, ...]], bytes]

    @classmethod
    def of(cls, spec: m.JobSpec, fn: Callable[..., object] | str) -> Recipe:
        """Raises UsageError for what is no function, NotSerializable for one that cannot be sent."""
        if isinstance(fn, str):
            return cls(options.for_kind(spec, m.CALL, fn), _reference(fn), _plain_call)
        return cls(options.for_kind(spec, m.PYTHON, _name(fn)), _function(fn), _python_call)


def calls(spec: m.JobSpec, fn: Callable[..., object] | str, arguments: Iterable[tuple[Any, ...]]) -> Work:
    """Return one call of ``fn`` a row of positional arguments. Raises NotSerializable or TooLarge naming the task."""
    recipe = Recipe.of(spec, fn)
    payloads: list[bytes] = []
    try:
        payloads.extend(map(recipe.dump, arguments))
    except (NotSerializable, TooLarge) as error:
        raise type(error)(f"task {len(payloads)}: {error}", hint=error.hint) from error
    return Work(recipe.spec, recipe.function, payloads, len(payloads))


_calls: dict[bytes, Calls] = {}


def mapped(spec: m.JobSpec, fn: Callable[..., object] | str, iterables: Sequence[Iterable[Any]]) -> Work:
    """Return one call of ``fn`` for the first items, the second items, ... of ``iterables``."""
    return calls(spec, fn, rows(iterables))


def rows(iterables: Sequence[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    """Return the first items, the second items, ..., up to the end of the shortest. Raises UsageError for none."""
    if not iterables:
        raise UsageError("map needs at least one iterable of arguments", hint="submit(fn) runs fn() once")
    return zip(*iterables)  # noqa: B905  # as the builtin map


class Calls:
    """Single calls under one set of options: what they share is made once for each name."""

    def __init__(self, spec: m.JobSpec) -> None:
        self._spec = spec
        self._specs: dict[tuple[int, str], m.JobSpec] = {}

    @classmethod
    def under(cls, spec: m.JobSpec) -> Calls:
        """Return the calls of all that has these options: views made for one call each share what they make."""
        key = msgspec.msgpack.encode(spec)
        known = _calls.get(key)
        if known is None:
            if len(_calls) >= _OPTIONS_MAX:
                _calls.clear()
            known = _calls[key] = cls(spec)
        return known

    def call(
        self, fn: Callable[..., object] | str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[m.JobSpec, bytes, bytes]:
        """Return (spec, function, payload) of a single call. Raises NotSerializable naming the argument."""
        if isinstance(fn, str):
            return self._spec_for(m.CALL, fn), _reference(fn), _plain(args, kwargs)
        if kwargs:
            options.check_kwargs(fn, kwargs)
        payload = python.dump_call(args, kwargs)
        return self._spec_for(m.PYTHON, _name(fn)), _function(fn), payload

    def _spec_for(self, kind: int, name: str) -> m.JobSpec:
        spec = self._specs.get((kind, name))
        if spec is None:
            spec = options.for_kind(self._spec, kind, name)
            codec.check_submit(m.Submit("", 0, spec, 1, [b""]))
            if len(self._specs) >= _SPECS_MAX:
                self._specs.clear()
            self._specs[kind, name] = spec
        return spec


def commands(
    spec: m.JobSpec,
    argvs: Argv | Sequence[Argv],
    n: int,
    env: Mapping[str, str] | None,
    cwd: str,
    stdin: bytes,
) -> Work:
    """Return ``n`` runs of one command, or of each of several. Raises UsageError for what is no command."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise UsageError(f"n: expected a whole number of at least 1, got {n!r}")
    if isinstance(argvs, str) or not argvs:
        raise UsageError("expected a list of words such as ['sleep', '0.1'], or a list of such lists")
    rows = [argvs] if all(isinstance(word, str) for word in argvs) else argvs
    payloads = [command.dumps(command.Command(_argv(row), dict(env or {}), cwd, stdin)) for row in rows]
    count = len(payloads) * n
    if len(payloads) > 1:
        payloads = [payload for payload in payloads for _ in range(n)]
    return Work(options.for_kind(spec, m.COMMAND, " ".join(_argv(rows[0]))), b"", payloads, count)


def sleeps(spec: m.JobSpec, seconds: Iterable[float]) -> Work:
    """Return one sleep for each of ``seconds``; equal ones share their payload. Raises UsageError for no number."""
    durations = list(seconds)
    for position, value in enumerate(durations):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= limits.TIMEOUT_S_MAX:
            most = f"{limits.TIMEOUT_S_MAX:,.0f}"
            raise UsageError(f"seconds[{position}]: expected a number from 0 to {most}, got {value!r:.80}")
    shared = len(set(durations)) == 1
    payloads = [plain.dumps(float(value)) for value in (durations[:1] if shared else durations)]
    return Work(options.for_kind(spec, m.SLEEP, "sleep"), b"", payloads, len(durations))


def parts(work: Work) -> Iterator[tuple[int, list[m.Payload]]]:
    """Cut ``work`` into (tasks, payloads) that each fit one job and its message."""
    payloads = work.payloads
    largest = max(map(len, payloads), default=0)
    if len(payloads) < work.tasks:  # one for all
        for start in range(0, work.tasks, limits.TASKS_PER_JOB_MAX):
            yield min(limits.TASKS_PER_JOB_MAX, work.tasks - start), [wrap(payloads[0])]
    elif largest <= limits.INLINE_BYTES_MAX and largest * work.tasks <= PART_BYTES_MAX:
        for start in range(0, work.tasks, limits.TASKS_PER_JOB_MAX):
            part: list[m.Payload] = list(payloads[start : start + limits.TASKS_PER_JOB_MAX])
            yield len(part), part
    else:
        yield from _cut(payloads)


def wrap(payload: bytes) -> m.Payload:
    """Give a large payload a frame of its own."""
    return payload if len(payload) <= limits.INLINE_BYTES_MAX else m.Blob(payload, len(payload))


def _cut(payloads: list[bytes]) -> Iterator[tuple[int, list[m.Payload]]]:
    part: list[m.Payload] = []
    size = blobs = 0
    for payload in payloads:
        is_blob = len(payload) > limits.INLINE_BYTES_MAX
        full = size + len(payload) > PART_BYTES_MAX or blobs + is_blob > PART_BLOBS_MAX
        if part and (full or len(part) >= limits.TASKS_PER_JOB_MAX):
            yield len(part), part
            part, size, blobs = [], 0, 0
        part.append(wrap(payload))
        size += len(payload)
        blobs += is_blob
    if part:
        yield len(part), part


def _python_call(args: tuple[Any, ...]) -> bytes:
    return python.dump_call(args, {})


def _plain_call(args: tuple[Any, ...]) -> bytes:
    return _plain(args, {})


def _plain(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        return plain.dumps([list(args), kwargs], "arguments")
    except NotSerializable:
        plain.dumps(list(args), "args")  # raises the same by the name that the caller knows
        plain.dumps(kwargs, "kwargs")
        raise


def _function(fn: Callable[..., object]) -> bytes:
    if not callable(fn):
        raise UsageError(f"a {type(fn).__name__} cannot be called", hint="give a callable or 'module:function'")
    return functions.dump(fn)


def _reference(text: str) -> bytes:
    module, colon, name = text.partition(":")
    words = [*module.split("."), *name.split(".")]
    if not colon or not all(word.isidentifier() for word in words) or len(text) > limits.TEXT_CHARS_MAX:
        before, dot, last = text.rpartition(".")
        dotted = dot and not colon and all(word.isidentifier() for word in (*before.split("."), last))
        meant = f"did you mean '{before}:{last}'? " if dotted and len(text) < limits.TEXT_CHARS_MAX else ""
        raise UsageError(
            f"{text[: limits.TEXT_CHARS_MAX]!r} names no function",
            hint=f"{meant}expected 'module:function', e.g. 'math:sqrt'",
        )
    return text.encode()


def _name(fn: object) -> str:
    name = getattr(fn, "__qualname__", None) or getattr(getattr(fn, "func", None), "__qualname__", None)
    return name if isinstance(name, str) else type(fn).__name__


def _argv(row: object) -> list[str]:
    words = list(row) if isinstance(row, Sequence) and not isinstance(row, str | bytes) else []
    if not words or not all(isinstance(word, str) for word in words) or not words[0]:
        raise UsageError(f"expected a command as a list of words, got {row!r:.80}")
    return words
