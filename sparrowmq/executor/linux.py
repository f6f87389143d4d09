"""What the kernel does for us: adopting orphans, dying with the parent, naming processes.

Owns: prctl, /proc, resource limits. Must not know: slots, tasks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections import deque
from typing import Final

_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_SET_CHILD_SUBREAPER: Final = 36
_NAME_BYTES_MAX: Final = 15
_OOM_SCORE_MAX: Final = 1000
_STOP_ROUNDS_MAX: Final = 100
_CHILDREN_LISTED: Final = os.path.exists("/proc/thread-self/children")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

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


def children(pid: int | str = "self") -> list[int]:
    """Return the pids of a process's children, orphans it adopted and zombies among them; none if it is gone."""
    if not _CHILDREN_LISTED:
        return _children_by_search(pid)
    try:
        with os.scandir(f"/proc/{pid}/task") as threads:
            lists = [_read(f"{thread.path}/children") for thread in threads]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for text in lists for child in text.split()]


def _children_by_search(pid: int | str) -> list[int]:
    """Return the same on a kernel without CONFIG_PROC_CHILDREN."""
    import psutil  # here, since it costs 30 ms at every start

    try:
        return [child.pid for child in psutil.Process(os.getpid() if pid == "self" else int(pid)).children()]
    except psutil.NoSuchProcess:
        return []


def descendants(pid: int, limit: int) -> set[int]:
    """Return all that descends from ``pid``; stops looking once it has found more than ``limit``."""
    found: set[int] = set()
    parents = deque([pid])
    while parents and len(found) <= limit:
        fresh = set(children(parents.popleft())) - found
        found |= fresh
        parents.extend(fresh)
    return found


def end_tree(pid: int) -> None:
    """Kill a child and all that descends from it, however fast they fork: each is stopped before its children are read.

    The child adopts the orphans below it, or it is one of ours and we do, so that none gets away.
    """
    stopped: set[int] = set()
    for _ in range(_STOP_ROUNDS_MAX):
        fresh = _stop_all(pid, stopped)
        stopped |= fresh
        if not fresh:
            break
    for one in stopped:
        _signal(one, signal.SIGKILL)


def _stop_all(pid: int, stopped: set[int]) -> set[int]:
    """Stop ``pid`` and what descends from it; return those that were not ``stopped`` before."""
    fresh: set[int] = set()
    parents = deque([pid])
    while parents:
        one = parents.popleft()
        if one not in stopped and one not in fresh:
            _signal(one, signal.SIGSTOP)
            fresh.add(one)
        parents.extend(children(one))
    return fresh


def act_at_once() -> None:
    """Be run before all ordinary processes, where this one may ask for that; its children are ordinary again."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def be_first_when_memory_is_short() -> None:
    """Have the kernel's out-of-memory killer choose this process, and what descends from it, before all others."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(_OOM_SCORE_MAX))


def limit_memory(more_bytes: int) -> None:
    """Let this process's data grow by so much and no further; what descends from it gets the same limit."""
    data_bytes = int(_statm()[5]) * _PAGE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = data_bytes + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def resident_bytes() -> int:
    """Return the size of this process in memory, as ps shows it."""
    return int(_statm()[1]) * _PAGE_BYTES


def _statm() -> list[bytes]:
    with open("/proc/self/statm", "rb", buffering=0) as file:
        return file.read(256).split()


def kill(pid: int) -> None:
    """SIGKILL ``pid``, a child that has not been waited for; it may have ended already."""
    _signal(pid, signal.SIGKILL)


def interrupt(pid: int) -> None:
    """SIGINT ``pid``, a child that has not been waited for; it may have ended already."""
    _signal(pid, signal.SIGINT)


def _signal(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


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
    except (ProcessLookupError, FileNotFoundError):  # that thread has just ended
        return ""


def _prctl(option: int, value: object) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
