"""What comes back, turned into values and exceptions.

Owns: which decoder reads an outcome of which task kind. Must not know: futures, connections.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sparrowmq import errors
from sparrowmq.payload import failure, plain, python
from sparrowmq.protocol import messages as m


class CommandResult(NamedTuple):
    """What a command that ended with status 0 left behind: its captured output."""

    status: int
    stdout: bytes
    stderr: bytes


def view(payload: m.Payload) -> bytes | memoryview:
    """Return the payload's bytes, not copied."""
    return payload if isinstance(payload, bytes) else memoryview(payload.buffer)  # type: ignore[arg-type]


def decode(kind: int, status: int, payload: m.Payload) -> tuple[Any, BaseException | None]:
    """Return (value, None) or (None, the exception that the future raises). Never raises.

    A success that cannot be decoded here (a class that this process does not have) becomes a `RemoteError`.
    """
    data = view(payload)
    try:
        if status != m.SUCCEEDED:
            return None, failure.load(data)
        if kind == m.PYTHON:
            return python.load(data), None
        value = plain.loads(data)
        return (CommandResult(*value) if kind == m.COMMAND else value), None
    except Exception as error:  # loading runs user code: anything can come out of it
        what = "result" if status == m.SUCCEEDED else m.STATUS_NAMES[status] + " outcome"
        wrapped = errors.RemoteError(f"the task's {what} cannot be loaded here: {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return None, wrapped
