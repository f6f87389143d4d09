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

Queue = queue.SimpleQueue[Callable[[], object]]

_lock = threading.Lock()
_queue: Queue | None = None  # None: no thread serves it


def run(call: Callable[[], object]) -> None:
    """Run ``call`` soon, after those given before."""
    global _queue
    with _lock:
        if _queue is None:
            _queue = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(_queue,), name="sparrowmq-callbacks", daemon=True).start()
        _queue.put(call)


def _serve(calls: Queue) -> None:
    while True:
        call = calls.get()
        try:
            call()
        except BaseException:  # futures catch Exception; SystemExit would end the thread, and all callbacks with it
            logging.getLogger("sparrowmq.client").exception("a future's callback failed")
        del call  # or it would live until the next one comes


def _forget_thread() -> None:
    global _lock, _queue
    _lock, _queue = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_thread)
