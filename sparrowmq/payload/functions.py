"""Functions that were turned into bytes before, and have not changed since.

Owns: the cache, and the proof that the bytes still are what pickling would give. Must not know: what asks.

A function of an importable module travels by its name. One of ``__main__``, a lambda or a local one travels with its
code and everything that the code names, and any of that may be another thing at the next call. So an entry holds a
witness: each place that was looked at and what was there. Bytes are kept only where everything there is immutable, or
travels by name itself; and they are used only while all of it is still in its place. Entries keep their functions
alive; a function comes in when it is seen for the second time, so that lambdas made for one call do not.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Final, NamedTuple

import cloudpickle

from sparrowmq.payload import python

ENTRIES_MAX: Final = 256
BYTES_MAX: Final = 64 * 1024  # of one entry
_NAMES_MAX: Final = 200  # that one entry depends on
_SCALARS: Final = frozenset((int, float, complex, bool, str, bytes, type(None)))
_MISSING: Final = object()


class _Place(NamedTuple):
    """Somewhere a name is looked up, and what it was."""

    names: MutableMapping[str, Any]
    name: str
    value: object


class _Parts(NamedTuple):
    """What a function that travels by value is made of."""

    function: Any  # a types.FunctionType; as a field of that type it would be a method to a checker
    code: types.CodeType
    defaults: tuple[Any, ...] | None
    annotations: dict[str, Any]
    cells: tuple[tuple[types.CellType, object], ...]

    def unchanged(self) -> bool:
        function = self.function
        return (
            function.__code__ is self.code
            and function.__defaults__ is self.defaults
            and function.__kwdefaults__ is None
            and not function.__dict__
            and function.__annotations__ == self.annotations
            and not any(_content(cell) is not value for cell, value in self.cells)
        )


class _Entry(NamedTuple):
    function: Callable[..., object]
    data: bytes
    places: list[_Place]
    parts: list[_Parts]
    modules: tuple[int, str] | None  # `_modules` where the code names a package

    def still_holds(self) -> bool:
        for names, name, value in self.places:
            if names.get(name, _MISSING) is not value:
                return False
        for part in self.parts:
            if not part.unchanged():
                return False
        return self.modules is None or self.modules == _modules()


class _Unprovable(Exception):
    """Something that may change without a trace."""


_lock = threading.RLock()  # held to change the tables; to look something up it is not needed
_entries: dict[int, _Entry] = {}
_seen: dict[int, weakref.ref[Callable[..., object]]] = {}  # once


def dump(function: Callable[..., object]) -> bytes:
    """Return ``function`` as `python.dump_function` does, without pickling where an earlier result still holds.

    Raises what that raises.
    """
    entry = _entries.get(id(function))
    if entry is not None and entry.still_holds() and not cloudpickle.list_registry_pickle_by_value():
        return entry.data
    data = python.dump_function(function)
    if type(function) in (types.FunctionType, types.BuiltinFunctionType) and len(data) <= BYTES_MAX:
        with _lock:
            _note(function, data)
    return data


def _note(function: Callable[..., object], data: bytes) -> None:
    key = id(function)
    _entries.pop(key, None)
    before = _seen.pop(key, None)
    if before is None or before() is not function:
        _make_room(_seen)
        _seen[key] = weakref.ref(function)
        return
    places: list[_Place] = []
    parts: list[_Parts] = []
    with contextlib.suppress(_Unprovable):
        _witness(function, places, parts)
        packages = any(isinstance(place.value, types.ModuleType) and _is_package(place.value) for place in places)
        _make_room(_entries)
        _entries[key] = _Entry(function, data, places, parts, _modules() if packages else None)


def _make_room(table: dict[int, Any]) -> None:
    while len(table) >= ENTRIES_MAX:
        del table[next(iter(table))]


def _modules() -> tuple[int, str]:
    """What changes when a module is imported: then more of a package may travel along than before."""
    return len(sys.modules), next(reversed(sys.modules))


def _is_package(module: types.ModuleType) -> bool:
    return hasattr(module, "__path__")


def _witness(value: object, places: list[_Place], parts: list[_Parts]) -> None:
    """Add what the pickle of ``value`` depends on. Raises _Unprovable where that cannot be told."""
    if len(places) > _NAMES_MAX:
        raise _Unprovable
    if _is_constant(value):
        return
    if isinstance(value, types.ModuleType):
        if sys.modules.get(value.__name__) is not value or value.__name__ == "__main__":
            raise _Unprovable
        places.append(_Place(sys.modules, value.__name__, value))
    elif (by_name := _by_name(value)) is not None:
        places.extend(by_name)
    elif isinstance(value, types.FunctionType):
        if not any(value is part.function for part in parts):
            _witness_function(value, places, parts)
    else:
        raise _Unprovable


def _witness_function(function: types.FunctionType, places: list[_Place], parts: list[_Parts]) -> None:
    cells = tuple((cell, _content(cell)) for cell in function.__closure__ or ())
    annotations = dict(function.__annotations__)
    part = _Parts(function, function.__code__, function.__defaults__, annotations, cells)
    if not part.unchanged():  # keyword defaults, attributes of its own: those can change inside
        raise _Unprovable
    parts.append(part)
    for value in (function.__defaults__, *annotations.values(), *(content for _, content in cells)):
        _witness(value, places, parts)
    for name in set(_names(function.__code__)):
        value = function.__globals__.get(name, _MISSING)
        places.append(_Place(function.__globals__, name, value))
        if value is not _MISSING:
            _witness(value, places, parts)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names of globals in ``code`` and the functions in it, and some that are attributes only."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_constant(value: object) -> bool:
    if type(value) is tuple:
        return all(map(_is_constant, value))
    return type(value) in _SCALARS


def _by_name(value: object) -> list[_Place] | None:
    """Return the places by which a function or class is found on the other side, too; None where it is not."""
    if not isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return None
    module = sys.modules.get(str(getattr(value, "__module__", None)))
    name = value.__qualname__
    if module is None or module.__name__ == "__main__" or module.__name__ not in sys.modules:
        return None
    places = [_Place(sys.modules, str(value.__module__), module), _Place(vars(module), name, value)]
    return places if all(place.names.get(place.name, _MISSING) is place.value for place in places) else None


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # still empty
        return _MISSING


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread that the fork does not have may have held it
