"""Which failures a job wants tried again: one rule for slots, node monitors and clients.

Owns: the names of exceptions as `JobSpec.retry_on` writes them, and the match. Must not know: who asks, or when the
next attempt is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from sparrowmq import errors


class Rule(Protocol):
    """What decides: a `JobSpec` has it."""

    @property
    def retries(self) -> int:
        """How many failed attempts are tried again."""

    @property
    def retry_on(self) -> Sequence[str]:
        """The names of the exceptions that are; empty: all."""


def wants_retry(rule: Rule, names: Collection[str]) -> bool:
    """Return whether a failure with these names (see `names_of`) is to be tried again, if attempts are left."""
    return rule.retries > 0 and (not rule.retry_on or not set(rule.retry_on).isdisjoint(names))


def name_of(kind: type) -> str:
    """Return the name of an exception class: bare for builtins and sparrowmq's own, else "module.Class"."""
    bare = kind.__module__ in ("builtins", errors.__name__)
    return kind.__qualname__ if bare else f"{kind.__module__}.{kind.__qualname__}"


def names_of(kind: type[BaseException]) -> tuple[str, ...]:
    """Return all names by which a rule can mean an exception of this class: its own and those of its bases."""
    return tuple(_spellings(base for base in kind.__mro__ if base is not object))


def _spellings(classes: Iterable[type]) -> Iterable[str]:
    for cls in classes:
        yield name_of(cls)
        if cls.__module__ == errors.__name__:
            yield f"{cls.__module__}.{cls.__qualname__}"
