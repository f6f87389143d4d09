"""Processes that work for this one: started, heard, ended.

Owns: that Ctrl-C in the terminal is for this process alone, and that none outlives it unless it is killed. Must not
know: what they do, or what is said over the pipes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

_INTERRUPT_S: Final = 0.2  # Ctrl-C may come to the bar's thread while this one waits: then nothing wakes this one


def start(target: Callable[..., None], *arguments: Any) -> tuple[Connection, SpawnProcess]:
    """Start a process that runs ``target(connection, parent's pid, *arguments)``; return this end of its pipe.

    Raises OSError where it cannot be started.
    """
    context = multiprocessing.get_context("spawn")  # the bar's thread may hold a lock when a fork would copy it
    with uninterrupted():  # the child inherits that
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, os.getpid(), *arguments), daemon=True)
        try:
            process.start()
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
    return ours, process


def heard(connections: Iterable[Connection]) -> Iterator[Connection]:
    """Wait a moment; yield those that have something to say, or have ended."""
    for connection in wait(list(connections), timeout=_INTERRUPT_S):
        assert isinstance(connection, Connection)
        yield connection


def gone(connection: Connection, process: SpawnProcess) -> None:
    """Clear away a process whose end of the pipe is closed."""
    with uninterrupted():
        connection.close()
        process.join()


def end(processes: dict[Connection, SpawnProcess]) -> None:
    """Kill what still runs."""
    with uninterrupted():
        for process in processes.values():
            process.kill()
        for connection, process in processes.items():
            gone(connection, process)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait for the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
