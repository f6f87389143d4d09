"""Which part of a value cannot be turned into bytes.

Owns: descending from a value that fails to the smallest part that fails by itself, and naming the way there.
Must not know: which format it is; the caller passes the trial.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

DEPTH_MAX: Final = 32
TRIALS_MAX: Final = 2000  # parts that are tried before the search settles for what it has

Trial = Callable[[object], "Exception | None"]


def find(path: str, value: object, trial: Trial, reason: Exception) -> tuple[str, object, Exception]:
    """Return (path, part, reason) of the deepest failing part of ``value``, which fails with ``reason``.

    ``trial`` returns why a part fails, or None when it does not. The path reads as in Python: ``args[1].lock``.
    """
    left = TRIALS_MAX
    seen = {id(value)}
    for _ in range(DEPTH_MAX):
        for part_path, part in _parts(path, value):
            if id(part) in seen:
                continue
            left -= 1
            if left < 0:
                return path, value, reason
            failure = trial(part)
            if failure is not None:
                path, value, reason = part_path, part, failure
                seen.add(id(part))
                break
        else:
            return path, value, reason
    return path, value, reason


def _parts(path: str, value: Any) -> Iterator[tuple[str, object]]:
    """What a pickler would visit below ``value``, with the names a reader of the code knows."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield f"{path}[{key!r:.80}]", item
            yield f"a key of {path}", key
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield f"{path}[{number}]", item
    elif isinstance(value, set | frozenset):
        for item in value:
            yield f"an item of {path}", item
    elif isinstance(value, functools.partial):
        yield f"{path}.func", value.func
        yield f"{path}.args", value.args
        yield f"{path}.keywords", value.keywords
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    elif isinstance(value, types.FunctionType):
        yield from _variables(path, value)
    elif not isinstance(value, type | types.ModuleType):
        for name in _attributes(value):
            yield f"{path}.{name}", getattr(value, name, None)


def _attributes(value: object) -> list[str]:
    names = list(getattr(value, "__dict__", ()))
    for cls in type(value).__mro__:
        slots = getattr(cls, "__slots__", ())
        names.extend([slots] if isinstance(slots, str) else slots)
    return [name for name in names if isinstance(name, str) and name not in ("__dict__", "__weakref__")]


def _variables(path: str, function: types.FunctionType) -> Iterator[tuple[str, object]]:
    """What travels with a function: the closure's variables, the globals it names, the defaults."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield f"the variable {name!r} of {path}", cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f"the global {name!r} of {path}", function.__globals__[name]
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield f"a default of {path}", default
