"""The arguments of calls, as JSON: from options, from files of lines, and onto the cluster.

Owns: how a JSON document becomes a call's arguments, and errors that name option, or file and line. Must not know:
jobs, results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sparrowmq.errors import NotSerializable, TooLarge, UsageError

if TYPE_CHECKING:
    from sparrowmq.client.client import Client
    from sparrowmq.client.handle import Detached

STDIN = "-"
LINE_BYTES_MAX = 64 * 1024 * 1024
SHOWN_CHARS = 60
_KINDS = {str: "a text", bool: "a boolean", type(None): "null", int: "a number", float: "a number"}


class Call(NamedTuple):
    """One call's arguments, and where they were said."""

    args: list[Any]
    kwargs: dict[str, Any]
    where: str


def parse(text: str, where: str) -> Call:
    """Return the call that a JSON document means.

    A list is positional arguments; an object is keyword arguments, or {"args": [...], "kwargs": {...}}. Raises
    UsageError beginning with ``where``.
    """
    shown = text if len(text) <= SHOWN_CHARS else text[:SHOWN_CHARS] + "..."
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON: {error}: {shown}", hint='[1, "two"] or {"x": 1}') from None
    if isinstance(value, list):
        return Call(value, {}, where)
    if not isinstance(value, dict):
        kind = _KINDS[type(value)]
        raise UsageError(
            f"{where}: expected a list or an object of arguments, got {kind}: {shown}", hint=f"write [{shown}]"
        )
    if value and value.keys() <= {"args", "kwargs"}:
        args, kwargs = value.get("args", []), value.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            wrong, expected = ("args", "a list") if not isinstance(args, list) else ("kwargs", "an object")
            raise UsageError(f"{where}: {wrong} is not {expected}", hint='{"args": [1], "kwargs": {"x": 2}}')
        return Call(args, kwargs, where)
    return Call([], value, where)


def from_options(texts: Sequence[str]) -> list[Call]:
    """Return a call for each ``--args``; without any, one without arguments."""
    return [parse(text, "--args") for text in texts] or [Call([], {}, "--call")]


def from_file(path: str) -> Iterator[Call]:
    """Yield the calls of a file of JSON lines, as they are read; empty lines are passed over. "-" is standard input."""
    name = "standard input" if path == STDIN else path
    try:
        stream = sys.stdin.buffer if path == STDIN else open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise UsageError(f"--args-file {path}: {error.strerror}") from None
    try:
        number = 0
        while line := stream.readline(LINE_BYTES_MAX + 1):
            number += 1
            if len(line) > LINE_BYTES_MAX:
                raise UsageError(f"{name}:{number}: a line of more than {LINE_BYTES_MAX:,} bytes")
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as error:
                raise UsageError(f"{name}:{number}: not UTF-8 text (byte {error.start} of the line)") from None
            if text:
                yield parse(text, f"{name}:{number}")
    except OSError as error:  # a directory, a disk that fails
        raise UsageError(f"--args-file {path}: {error.strerror}") from None
    finally:
        if stream is not sys.stdin.buffer:
            stream.close()


def repeated(calls: Iterable[Call], count: int) -> Iterator[Call]:
    """Yield each call ``count`` times."""
    for call in calls:
        for _ in range(count):
            yield call


def send(target: Client | Detached, function: str, calls: Sequence[Call], options: dict[str, Any]) -> Any:
    """Submit the calls as one job; return what ``target`` makes of it: a `Job` or a `JobHandle`.

    Raises UsageError naming where a call was said whose arguments cannot be sent.
    """
    from sparrowmq.client import options as opts, submission

    maker = submission.Calls(opts.make_spec(**options))
    payloads: list[bytes] = []
    last: Call | None = None
    distinct = 0
    for call in calls:
        if call is not last:
            try:
                spec, named, payload = maker.call(function, tuple(call.args), call.kwargs)
            except (NotSerializable, TooLarge) as error:
                raise UsageError(f"{call.where}: {error}", hint=error.hint) from None
            last, distinct = call, distinct + 1
        payloads.append(payload)
    shared = payloads[:1] if distinct == 1 else payloads  # the same call many times travels once
    return target.send(submission.Work(spec, named, shared, len(payloads)))
