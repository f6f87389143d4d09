"""The ZeroMQ context of a process or of a client, by a name that other rooms may use.

Owns: its making. Must not know: sockets.
"""

from __future__ import annotations

from typing import Any

import zmq

Context = zmq.Context[Any]


def new_context() -> Context:
    """Return a context with one I/O thread; call its ``term`` when all of its sockets are closed."""
    return zmq.Context()
