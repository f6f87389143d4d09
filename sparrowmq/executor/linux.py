"""What the kernel does for us: adopting orphans, dying with the parent, naming processes.

Owns: prctl and /proc. Must not know: slots, tasks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from typing import Final

_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_SET_CHILD_SUBREAPER: Final = 36
_NAME_BYTES_MAX: Final = 15

_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the new parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent's thread that forked this process ends; end at once if it has already."""
    _prctl(_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent_pid:
        os._exit(1)


def set_name(name: str) -> None:
    """Set what ps and top show for this process; cut to 15 bytes."""
    _prctl(_SET_NAME, ctypes.c_char_p(name.encode()[:_NAME_BYTES_MAX]))


def children() -> list[int]:
    """Return the pids of this process's children, orphans it adopted and zombies among them."""
    try:
        with os.scandir("/proc/self/task") as threads:
            lists = [_read(f"{thread.path}/children") for thread in threads]
    except FileNotFoundError:  # a kernel without CONFIG_PROC_CHILDREN
        import psutil  # here, since it costs 30 ms at every start

        return [child.pid for child in psutil.Process().children()]
    return [int(pid) for text in lists for pid in text.split()]


def kill(pid: int) -> None:
    """SIGKILL ``pid``, a child that has not been waited for; it may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def outsiders() -> list[int]:
    """Return the children that are in another session: orphans that this process adopted, or made so."""
    ours = os.getsid(0)
    return [pid for pid in children() if _session(pid) not in (ours, None)]


def kill_outsiders(spare: int) -> None:
    """Kill and collect all `outsiders` but ``spare``; their own children become outsiders in turn."""
    for pid in outsiders():
        if pid != spare:
            kill(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def explain_exit(wait_status: int) -> str:
    """Return "exit status 3" or "killed by signal 9 (SIGKILL)"."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:  # real-time signals have no names
        return f"killed by signal {-code}"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except ProcessLookupError:  # that thread has just ended
        return ""


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
