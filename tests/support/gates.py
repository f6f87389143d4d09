"""Tasks that wait until a test lets them go, for clusters of real processes.

A gate is a file: tasks run in processes of their own.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from sparrowmq import Client
from sparrowmq.protocol import messages as m

TIMEOUT_S = 30.0


class Gate:
    """Tasks wait until it opens."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        self.path.touch()


def wait_for(path: Path, value: Any = None) -> Any:
    """Run as a task, or here: wait until the gate is open; return ``value``, or raise it."""
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise AssertionError("nobody opened the gate")
        time.sleep(0.005)
    if isinstance(value, Exception):
        raise value
    return value


def mark(path: Path) -> None:
    """Run as a task: leave a trace."""
    path.touch()


def busy(executor: Executor, gate: Gate, slots: int) -> list[Future[Any]]:
    """Occupy all slots until the gate opens; what is submitted later does not start."""
    started = [gate.path.with_name(f"started-{n}") for n in range(slots)]
    futures: list[Future[Any]] = [executor.submit(_start_and_wait, path, gate.path) for path in started]
    for path in started:
        wait_for(path)
    return futures


def _start_and_wait(started: Path, gate: Path) -> None:
    started.touch()
    wait_for(gate)


def jobs(client: Client) -> list[m.JobStatus]:
    """Every job the cluster knows, oldest first."""
    rows = [row for status in client.query("jobs") for row in status.jobs]
    return sorted(rows, key=lambda row: row.id)
