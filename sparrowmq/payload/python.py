"""Python objects and bytes: functions, arguments and results as pickles.

Owns: the choice between pickle (fast) and cloudpickle (functions and classes by value), what becomes of large buffers
(`buffers`), and the words for what cannot be pickled. Must not know: tasks, messages, processes. Loading runs code of
whoever made the bytes: only the client and the task process do it.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

import cloudpickle

from sparrowmq.errors import NotSerializable, TooLarge
from sparrowmq.payload import buffers, culprit, names, size

BUFFER_BYTES_MIN: Final = 16 * 1024  # smaller ones are copied into the pickle
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
        return _dump(function, "function")
    except TooLarge:
        raise
    except Exception as error:  # __reduce__ and __getstate__ of any class can raise anything
        name = getattr(function, "__name__", type(function).__name__)
        raise _not_serializable({str(name): function}, error) from error


def dump_call(args: tuple[object, ...], kwargs: Mapping[str, object]) -> bytes:
    """Return the arguments of one call as bytes.

    Raises NotSerializable naming the culprit (``args[1].lock``), TooLarge beyond one frame.
    """
    try:
        return _dump((args, dict(kwargs)), "arguments")
    except TooLarge:
        raise
    except Exception as error:  # see dump_function
        raise _not_serializable({"args": args, "kwargs": dict(kwargs)}, error) from error


def dump_result(value: object) -> bytes:
    """Return what a task returned as bytes. Raises NotSerializable and TooLarge like `dump_call`."""
    try:
        return _dump(value, "result")
    except TooLarge:
        raise
    except Exception as error:  # see dump_function
        raise _not_serializable({"result": value}, error) from error


def load(data: bytes | bytearray | memoryview) -> Any:
    """Return the object in ``data``. Raises whatever its classes raise; the bytes must be trusted.

    Arrays with large buffers look into ``data`` itself where that is writable, and then own it; they are writable.
    """
    if not buffers.is_packed(data):
        return pickle.loads(data)
    pickled, views = buffers.unpack(data)
    return pickle.loads(pickled, buffers=views)


def load_call(data: bytes | bytearray | memoryview) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (args, kwargs). Raises whatever loading raises, TypeError when it is no call."""
    args, kwargs = load(data)
    if type(args) is not tuple or type(kwargs) is not dict:
        raise TypeError(f"expected a tuple and a dict, got {type(args).__name__} and {type(kwargs).__name__}")
    return args, kwargs


def load_function(data: bytes | bytearray | memoryview) -> Callable[..., Any]:
    """Return the function in ``data``. Raises whatever loading raises, TypeError when it cannot be called."""
    function = load(data)
    if not callable(function):
        raise TypeError(f"expected a function, got {type(function).__name__}")
    return function  # type: ignore[no-any-return]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles functions and classes of ``__main__`` by value, and memoryviews, which nobody else does."""

    dispatch_table: ClassVar[Any] = ChainMap({}, *cloudpickle.Pickler.dispatch_table.maps)


def _reduce_view(view: memoryview) -> tuple[Callable[..., memoryview], tuple[Any, ...]]:
    if view.c_contiguous and view.nbytes:
        flat = view.cast("B")
    else:
        data = view.tobytes()
        flat = memoryview(data if view.readonly else bytearray(data))
    return _load_view, (pickle.PickleBuffer(flat), view.format, list(view.shape or ()))


_Pickler.dispatch_table[memoryview] = _reduce_view


def _load_view(buffer: Any, format: str, shape: list[int]) -> memoryview:
    flat: Any = memoryview(buffer)
    view: memoryview
    if flat.nbytes:
        view = flat.cast(format, shape)
    else:  # a view of nothing cannot be cast
        some: Any = memoryview(bytearray(struct.calcsize(format)))
        view = some.cast(format)[:0]
    return view.toreadonly() if flat.readonly else view


def _dump(value: object, what: str) -> bytes:
    """Return ``value`` as a pickle, or as a container where it has large buffers."""
    if cloudpickle.list_registry_pickle_by_value():  # modules that the user wants to travel along
        return _with_buffers(_by_value, value, what)
    seen: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=seen.append)
    except Exception:  # lambdas and local classes fail here; cloudpickle then tells what really fails
        return _with_buffers(_by_value, value, what)
    if names.mentions(data, _BY_REFERENCE):
        return _with_buffers(_by_value, value, what)
    return _with_buffers(_by_reference, value, what) if seen else size.checked(data, what)


InBand = Callable[[pickle.PickleBuffer], bool]


def _with_buffers(pickled: Callable[[object, InBand], bytes], value: object, what: str) -> bytes:
    """Return what ``pickled`` makes of ``value``, with large buffers beside it."""
    kept: list[memoryview] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < BUFFER_BYTES_MIN:
            return True
        kept.append(view)
        return False

    data = pickled(value, in_band)
    if not kept:
        return size.checked(data, what)
    size.check(buffers.size(data, kept), what)
    return buffers.pack(data, kept)


def _by_reference(value: object, in_band: InBand) -> bytes:
    return pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=in_band)


def _by_value(value: object, in_band: InBand | None = None) -> bytes:
    file = io.BytesIO()
    _Pickler(file, PICKLE_PROTOCOL, buffer_callback=in_band).dump(value)
    return file.getvalue()


def _trial(value: object) -> Exception | None:
    try:
        _by_value(value)
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
