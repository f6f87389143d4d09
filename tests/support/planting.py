"""How bugs are planted: a table of context managers, each of which changes the machines while its block runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

Bug = Callable[[], AbstractContextManager[Any]]
BUGS: dict[str, Bug] = {}


def bug(plant: Callable[[], Iterator[None]]) -> Bug:
    planted = contextmanager(plant)
    BUGS[plant.__name__] = planted
    return planted


def replace(kind: type, name: str, new: Callable[..., Any]) -> Any:
    """``new`` is called with the original method first."""
    old = getattr(kind, name)
    return mock.patch.object(kind, name, lambda *given, **named: new(old, *given, **named))


def never(old: Any, *given: Any, **named: Any) -> None:
    """Do nothing."""
