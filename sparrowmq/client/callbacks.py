"""The thread that runs futures' callbacks.

Owns: one daemon thread for the process, started by the first callback. Must not know: futures or connections.
A callback may submit, cancel or wait; in the connection's thread it would stop all outcomes.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable

_queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
_lock = threading.Lock()
_pid = 0  # the process whose thread runs: a fork has none


def run(call: Callable[[], object]) -> None:
    """Run ``call`` soon, after those given before."""
    global _pid
    _queue.put(call)
    if _pid != os.getpid():
        with _lock:
            if _pid != os.getpid():
                threading.Thread(target=_serve, name="sparrowmq-callbacks", daemon=True).start()
                _pid = os.getpid()


def _serve() -> None:
    while True:
        call = _queue.get()
        try:
            call()
        except Exception:
            logging.getLogger("sparrowmq").exception("a future's callback failed")
        del call  # or it would live until the next one comes
