"""Which client is meant where a caller names none.

Owns: the clients entered by ``with`` in this context, and the one that is made when there is none. Must not know:
what it is used for.
"""

from __future__ import annotations

import os
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparrowmq.client.client import Client

_entered: ContextVar[tuple[Client, ...]] = ContextVar("sparrowmq_clients", default=())
_lock = threading.Lock()
_made: tuple[int, Client] | None = None  # and the process it belongs to: a fork needs its own


def enter(client: Client) -> None:
    """A ``with`` block of ``client`` begins in this context."""
    _entered.set((*_entered.get(), client))


def leave(client: Client) -> None:
    """Its innermost ``with`` block ends; in another context than it began, there is nothing to undo."""
    entered = list(_entered.get())
    if client in entered:
        del entered[len(entered) - 1 - entered[::-1].index(client)]
        _entered.set(tuple(entered))


def current() -> Client:
    """Return the innermost client entered in this context; else one for the process, made as by ``Client()``.

    Raises what making it raises: Unavailable, saying what was tried.
    """
    global _made
    entered = _entered.get()
    if entered:
        return entered[-1]
    with _lock:
        if _made is None or _made[0] != os.getpid():
            from sparrowmq.client.client import Client

            _made = (os.getpid(), Client())
        return _made[1]


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread that the fork does not have may have held it
