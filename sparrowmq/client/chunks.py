"""Functions that run on workers for the client's adapters: several calls as one task.

Owns: those functions. Must not know: anything of the client; workers import this module and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CallEach(Generic[T]):
    """Calls a function with each of several rows of arguments; jobs of it bear the function's name."""

    def __init__(self, fn: Callable[..., T]) -> None:
        self._fn = fn
        name = getattr(fn, "__qualname__", None)
        self.__qualname__ = name if isinstance(name, str) else type(fn).__name__

    def __call__(self, *rows: tuple[Any, ...]) -> list[T]:
        fn = self._fn
        return [fn(*row) for row in rows]


def call(fn: Callable[[], T]) -> T:
    """Return ``fn()``."""
    return fn()


def packed(rows: Iterable[tuple[Any, ...]], size: int) -> Iterable[list[tuple[Any, ...]]]:
    """Yield ``rows`` in lists of ``size``; the last may be shorter."""
    pack: list[tuple[Any, ...]] = []
    for row in rows:
        pack.append(row)
        if len(pack) == size:
            yield pack
            pack = []
    if pack:
        yield pack
