"""Python objects and bytes: functions, arguments and results as pickles.

Owns: the choice between pickle (fast) and cloudpickle (functions and classes by value), and the words for what
cannot be pickled. Must not know: tasks, messages, processes. Loading runs code of whoever made the bytes: only
the client and the task process do it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import Any, Final

import cloudpickle

from sparrowmq.errors import NotSerializable
from sparrowmq.payload import culprit
from sparrowmq.payload.size import checked

PICKLE_PROTOCOL: Final = 5
# Plain pickle names things of __main__ by reference, and the other side's __main__ is another program.
_BY_REFERENCE: Final = b"__main__"


def dump_function(function: Callable[..., object]) -> bytes:
    """Return ``function`` as bytes, by value where its module is ``__main__``.

    Raises NotSerializable naming what it drags along that cannot be pickled, TooLarge beyond one frame.
    """
    if not callable(function):
        raise NotSerializable(f"function: expected something callable, got {type(function).__name__}")
    try:
        data = _dump(function)
    except Exception as error:  # __reduce__ and __getstate__ of any class can raise anything
        name = getattr(function, "__name__", type(function).__name__)
        raise _not_serializable({str(name): function}, error) from error
    return checked(data, "function")


def dump_call(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
    """Return the arguments of one call as bytes.

    Raises NotSerializable naming the culprit (``args[1].lock``), TooLarge beyond one frame.
    """
    try:
        data = _dump((args, dict(kwargs)))
    except Exception as error:  # see dump_function
        raise _not_serializable({"args": args, "kwargs": dict(kwargs)}, error) from error
    return checked(data, "arguments")


def dump_result(value: object) -> bytes:
    """Return what a task returned as bytes. Raises NotSerializable and TooLarge like `dump_call`."""
    try:
        data = _dump(value)
    except Exception as error:  # see dump_function
        raise _not_serializable({"result": value}, error) from error
    return checked(data, "result")


def load(data: bytes | bytearray | memoryview) -> Any:
    """Return the object in ``data``. Raises whatever its classes raise; the bytes must be trusted."""
    return pickle.loads(data)


def load_call(data: bytes | bytearray | memoryview) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs). Raises whatever loading raises, TypeError when it is no call."""
    args, kwargs = pickle.loads(data)
    if type(args) is not tuple or type(kwargs) is not dict:
        raise TypeError(f"expected a tuple and a dict, got {type(args).__name__} and {type(kwargs).__name__}")
    return args, kwargs


def load_function(data: bytes | bytearray | memoryview) -> Callable[..., Any]:
    """Return the function in ``data``. Raises whatever loading raises, TypeError when it cannot be called."""
    function = pickle.loads(data)
    if not callable(function):
        raise TypeError(f"expected a function, got {type(function).__name__}")
    return function  # type: ignore[no-any-return]


def _dump(value: object) -> bytes:
    if cloudpickle.list_registry_pickle_by_value():  # modules that the user wants to travel along
        return bytes(cloudpickle.dumps(value, PICKLE_PROTOCOL))
    try:
        data = pickle.dumps(value, PICKLE_PROTOCOL)
    except Exception:  # lambdas and local classes fail here; cloudpickle then tells what really fails
        data = cloudpickle.dumps(value, PICKLE_PROTOCOL)
    else:
        if _BY_REFERENCE in data:
            data = cloudpickle.dumps(value, PICKLE_PROTOCOL)
    return data


def _trial(value: object) -> Exception | None:
    try:
        cloudpickle.dumps(value, PICKLE_PROTOCOL)
    except Exception as error:
        return error
    return None


def _not_serializable(roots: dict[str, object], error: Exception) -> NotSerializable:
    for name, root in roots.items():
        reason = _trial(root)
        if reason is not None:
            path, part, reason = culprit.find(name, root, _trial, reason)
            text = f"{path} cannot be pickled: {reason}" if str(reason) else f"{path} cannot be pickled"
            return NotSerializable(
                f"{text} ({type(part).__name__})", hint="create it inside the function, or pass what it is made from"
            )
    return NotSerializable(f"cannot be pickled: {type(error).__name__}: {error}")
