"""What processes take of the machine: memory and processor time, as the kernel counts them.

Owns: reading /proc. Must not know: whose processes these are, or why one asks.

PSS counts a page that n processes share as a n-th for each: sums over processes are what they take together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import psutil

_MB: Final = 1e6
_RESET_PEAK: Final = "5"  # proc(5), clear_refs


class Work(NamedTuple):
    """What processes have done so far: seconds of processor time, and how often they went to sleep by themselves."""

    cpu_s: float
    sleeps: int


def mb(size_bytes: float) -> float:
    """Return bytes as MB (10**6 bytes), to the tenth."""
    return round(size_bytes / _MB, 1)


def tree(pid: int) -> list[int]:
    """Return ``pid`` and all its descendants; none if it is gone."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def children(pid: int) -> list[int]:
    """Return the children of ``pid``; none if it is gone."""
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def pss_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of ``pids`` together; one that is gone counts nothing."""
    return sum(_field_bytes(pid, "smaps_rollup", "Pss:") for pid in pids)


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the resident set size of ``pids`` together; one that is gone counts nothing."""
    return sum(_field_bytes(pid, "status", "VmRSS:") for pid in pids)


def peak_rss_bytes(pids: Iterable[int]) -> int:
    """Return the sum of each one's largest resident set size since its start or `reset_peak`."""
    return sum(_field_bytes(pid, "status", "VmHWM:") for pid in pids)


def reset_peak(pids: Iterable[int]) -> None:
    """Let the peaks of ``pids`` begin anew at what they have now. Raises OSError for processes of other users."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)


def work(pids: Iterable[int]) -> Work:
    """Return what ``pids`` have done since each one's start; one that is gone counts nothing."""
    cpu_ns = sleeps = 0
    for pid in pids:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except FileNotFoundError:
            continue
        for thread in threads:
            cpu_ns += int((_read(f"/proc/{pid}/task/{thread}/schedstat") or "0").split()[0])
            sleeps += _number(_read(f"/proc/{pid}/task/{thread}/status"), "voluntary_ctxt_switches:")
    return Work(cpu_ns / 1e9, sleeps)


def _field_bytes(pid: int, file: str, name: str) -> int:
    return _number(_read(f"/proc/{pid}/{file}"), name) * 1024


def _number(text: str, name: str) -> int:
    """Return the number behind ``name``, which begins a line of ``text``; 0 if none does."""
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def _read(path: str) -> str:
    """Return a file of /proc; "" for a process or thread that has ended."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
