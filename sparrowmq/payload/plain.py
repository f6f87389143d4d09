"""Plain data and bytes: nil, booleans, integers, floats, texts, bytes, lists and maps, as msgpack.

Owns: which values count as plain (exactly these types: what comes out equals what went in), and the words for
those that do not. Must not know: tasks, messages. Safe to decode anywhere, in any language.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from sparrowmq.errors import NotSerializable
from sparrowmq.payload import culprit
from sparrowmq.payload.size import checked

_ADVICE: Final = {"tuple": "a list", "set": "a list", "frozenset": "a list", "bytearray": "bytes"}


def dumps(value: object, what: str = "value") -> bytes:
    """Return ``value`` as msgpack.

    Raises NotSerializable naming the part that is not plain data (``what[2]['when']``), TooLarge beyond one frame.
    """
    try:
        data: bytes = msgpack.packb(value, strict_types=True)
    except Exception as error:  # TypeError, OverflowError, ValueError (depth), UnicodeEncodeError
        raise _not_serializable(what, value, error) from error
    return checked(data, what)


def loads(data: bytes | bytearray | memoryview) -> Any:
    """Return the value in ``data``. Raises NotSerializable when it is not msgpack of plain data."""
    try:
        return msgpack.unpackb(data, strict_map_key=False, ext_hook=_refuse_extension)
    except Exception as error:  # truncated, trailing bytes, bad text, unhashable keys: each its own type
        raise NotSerializable(f"not msgpack of plain data: {type(error).__name__}: {error}") from error


def _refuse_extension(code: int, _data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def _trial(value: object) -> Exception | None:
    try:
        msgpack.packb(value, strict_types=True)
    except Exception as error:
        return error
    return None


def _not_serializable(what: str, value: object, error: Exception) -> NotSerializable:
    path, part, reason = culprit.find(what, value, _trial, error)
    name = type(part).__name__
    if isinstance(reason, TypeError):
        advice = _ADVICE.get(name)
        text = f"{path} is a {name}, which is not plain data" + (f": pass {advice}" if advice else "")
    else:
        text = f"{path} cannot be encoded: {reason}"
    return NotSerializable(
        text, hint="plain data: None, bool, int (64 bits), float, str, bytes, lists, and dicts of these"
    )
