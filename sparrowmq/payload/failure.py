"""Why a task did not succeed, as bytes.

Owns: the msgpack map {"type", "message", "traceback", "pickle", ...} and its way back to an exception.
``type`` is the bare name of a class in sparrowmq.errors when sparrowmq itself speaks (a crash, a limit), and
else the name of the exception the task raised. Must not know: who reports it, or to whom.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

import msgpack

from sparrowmq import errors, limits
from sparrowmq.payload import python

TRACEBACK_CHARS_MAX: Final = 64 * 1024
EXCEPTION_BYTES_MAX: Final = 1024 * 1024  # a larger exception travels as text only
_OWN_FRAMES: Final = ("sparrowmq.executor", "sparrowmq.payload")
_REMOTE_TYPES: Final = ("RemoteError", "CommandFailed")


def make(kind: type[errors.SparrowError], message: str, *, traceback_text: str = "", **extra: object) -> bytes:
    """Return a failure that sparrowmq reports itself. ``extra`` are further plain fields."""
    return _pack(kind.__name__, message, traceback_text, None, extra)


def command_failed(message: str, *, status: int, stdout: bytes, stderr: bytes) -> bytes:
    """Return the failure of a command. ``status`` is negative for a signal, as in subprocess."""
    return make(errors.CommandFailed, message, status=status, stdout=stdout, stderr=stderr)


def dump(error: BaseException, *, allow_pickle: bool = True) -> bytes:
    """Return what a task raised: name, message, traceback text and, where allowed and possible, the exception."""
    pickled = _pickled(error) if allow_pickle and isinstance(error, Exception) else None
    return _pack(type_name(error), message_of(error), traceback_text(error), pickled, {})


def load(data: bytes | bytearray | memoryview, *, allow_pickle: bool = True) -> Exception:
    """Return the exception that tells of the failure in ``data``; never raises.

    The original exception, with a `RemoteError` that holds the remote traceback as its ``__cause__``, where it
    can be rebuilt; `TaskCrashed`, `CommandFailed` and the like where sparrowmq spoke; else a `RemoteError`.
    """
    try:
        fields = msgpack.unpackb(data, strict_map_key=False)
        kind, message, text = str(fields["type"]), str(fields["message"]), str(fields.get("traceback", ""))
    except Exception as error:  # truncated, not msgpack, no map: each its own type
        return errors.RemoteError(f"the task failed, and its report cannot be read: {type(error).__name__}: {error}")
    if kind in _REMOTE_TYPES or "." in kind or not hasattr(errors, kind):
        return _raised_by_task(kind, message, text, fields, allow_pickle)
    return _said_by_sparrowmq(kind, message, text)


def type_name(error: BaseException) -> str:
    """Return the exception's name as a traceback would print it; a bare name is a builtin's."""
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def traceback_text(error: BaseException) -> str:
    """Return the traceback as Python prints it, from the task's own code on."""
    return "".join(traceback.format_exception(type(error), error, _user_frames(error.__traceback__)))


def message_of(error: BaseException) -> str:
    """Return str(error), or what can be said where that raises."""
    try:
        return str(error)
    except Exception as broken:  # a user's __str__ can raise anything
        return f"<no message: {type(broken).__name__} in __str__>"


def _raised_by_task(kind: str, message: str, text: str, fields: dict[str, Any], allow_pickle: bool) -> Exception:
    if kind == "CommandFailed":
        output = {name: bytes(fields.get(name) or b"") for name in ("stdout", "stderr")}
        status = fields.get("status")
        return errors.CommandFailed(message, status=status if isinstance(status, int) else 1, **output)
    if allow_pickle and isinstance(fields.get("pickle"), bytes):
        try:
            original = python.load(fields["pickle"])
        except Exception:  # a class that is not here, or one whose constructor wants more than it kept
            original = None
        if isinstance(original, Exception):
            original.__cause__ = errors.RemoteError("in the task process:", remote_traceback=text.rstrip())
            return original
    shown = message if kind == "RemoteError" else f"{kind}: {message}" if message else kind
    return errors.RemoteError(shown, remote_traceback=text.rstrip())


def _said_by_sparrowmq(kind: str, message: str, text: str) -> Exception:
    cls = getattr(errors, kind)
    if not (isinstance(cls, type) and issubclass(cls, errors.SparrowError)):
        return errors.RemoteError(f"{kind}: {message}", remote_traceback=text)
    try:
        error: Exception = cls(message)
    except TypeError:  # a class that needs more than a message
        return errors.RemoteError(f"{kind}: {message}", remote_traceback=text)
    if text:
        error.__cause__ = errors.RemoteError("in the task process:", remote_traceback=text.rstrip())
    return error


def _pack(kind: str, message: str, text: str, pickled: bytes | None, extra: dict[str, object]) -> bytes:
    if len(text) > TRACEBACK_CHARS_MAX:
        half = TRACEBACK_CHARS_MAX // 2
        text = f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
    fields = {"type": kind, "message": message[: limits.DETAIL_CHARS_MAX], "traceback": text, "pickle": pickled}
    # What people write may hold lone surrogates (file names do): keep the rest readable.
    packed: bytes = msgpack.packb(fields | extra, unicode_errors="backslashreplace")
    return packed


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of sparrowmq that called the task."""
    inner = frames
    while inner is not None and str(inner.tb_frame.f_globals.get("__name__", "")).startswith(_OWN_FRAMES):
        inner = inner.tb_next
    return inner


def _pickled(error: Exception) -> bytes | None:
    try:
        data = python.dump_result(error)
    except Exception:  # the text says enough
        return None
    return data if len(data) <= EXCEPTION_BYTES_MAX else None
