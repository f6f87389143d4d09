"""A foreign program with a time limit, of which nothing is left afterwards.

Owns: starting it, the time limit, finding and ending whatever it started. Must not know: what it does.

Programs that make themselves daemons leave sessions, process groups and parents behind, but not their environment:
it carries a mark by which all of them, and nobody else's, are found.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "SPARROWMQ_BENCH_MARK"
_END_S: Final = 10.0
_POLL_S: Final = 0.05
_TAIL_BYTES: Final = 2000


def run(command: Sequence[str], *, environment: Mapping[str, str], log_path: Path, timeout_s: float) -> int | None:
    """Run ``command`` to its end; return its exit status, None where ``timeout_s`` was over.

    Its output goes to ``log_path``; the end of its standard input tells it that this process is gone.
    """
    mark = secrets.token_hex(16)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**environment, MARK: mark},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)
        _end_marked(mark)


def tail(log_path: Path) -> str:
    """Return the end of a log; "" where there is none."""
    try:
        return log_path.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


def marked(mark: str) -> list[psutil.Process]:
    """Return all processes with this mark, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, or somebody else's
    found.pop(os.getpid(), None)
    return list(found.values())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the program to end, which is its chance to end well what it started."""
    process.terminate()
    try:
        process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _end_marked(mark: str) -> None:
    """Kill all with this mark, and those that they start meanwhile. What has ended by itself needs nothing."""
    deadline = time.monotonic() + _END_S
    while (left := marked(mark)) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(_POLL_S)
