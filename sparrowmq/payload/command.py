"""What a COMMAND task carries: the command line and what it needs, and what comes back.

Owns: the msgpack layout of both. Must not know: how a command is run.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sparrowmq.errors import NotSerializable, UsageError
from sparrowmq.payload.size import checked


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A command line. ``env`` is added to the worker's environment; ``cwd`` "" is the worker's directory."""

    argv: Annotated[list[str], Meta(min_length=1)]
    env: dict[str, str] = {}
    cwd: str = ""
    stdin: bytes = b""


_decoder = msgspec.msgpack.Decoder(Command)


def dumps(command: Command) -> bytes:
    """Return the task's payload. Raises UsageError where the system could not run it, TooLarge beyond one frame."""
    if not command.argv or not command.argv[0]:
        raise UsageError("command: nothing to run", hint="give the program and its arguments")
    for text in (*command.argv, *command.env, *command.env.values(), command.cwd):
        if "\0" in text:
            raise UsageError(f"command: {text[:80]!r} contains a NUL character, which no program can be given")
    try:
        return checked(msgspec.msgpack.encode(command), "command")
    except UnicodeEncodeError as error:
        raise UsageError(f"command: a text that is not valid Unicode: {error}") from error


def loads(data: bytes | bytearray | memoryview) -> Command:
    """Return the command in ``data``. Raises NotSerializable saying which field is wrong."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotSerializable(f"not a command: {error}") from error
