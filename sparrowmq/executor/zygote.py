"""The zygote: a process that forks the slot processes, collects them, and leaves nothing behind.

Owns: the zygote's own loop, its handle in the node monitor, and the orders between them. Must not know: tasks,
or what a slot does.

It never runs user code and has one thread, so that it can fork at any time; what it has imported, its slots
share. It adopts the orphans of its slots (PR_SET_CHILD_SUBREAPER). Each slot adopts those of its own tasks while
it lives, so a child of the zygote that is no slot is a dead slot's, and is killed. When its control socket
closes, however the node monitor ended, it kills everything below it until nothing is left.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

import msgspec

from sparrowmq.errors import SparrowError, UsageError
from sparrowmq.executor import linux, page, slot
from sparrowmq.executor.options import SlotOptions

_ORDER: Final = struct.Struct("<BQ")  # operation, slot process
_REPORT: Final = struct.Struct("<BQI")  # event, slot process, wait status or errno
_SPAWN: Final = 1
_KILL: Final = 2
_INTERRUPT: Final = 3
_COUNT: Final = 4
EXITED: Final = 1
FAILED: Final = 2
CROWDED: Final = 3
_CONTROL_FD: Final = 3  # in the zygote, and the socket to the node monitor in a slot
CLEAN_EXIT: Final = "exit status 0"  # of a zygote: nothing of it is left
_REPORTS_PER_READ: Final = 256
COUNT_EVERY_MS: Final = 100  # the descendants of slots that have any
COUNT_OFTEN_MS: Final = 10
_KILL_PAUSE_S: Final = 0.001
_BROKEN_STATUS: Final = 70  # a fault of sparrowmq itself in a zygote or slot; its traceback is on stderr


class Report(NamedTuple):
    """What happened to slot process ``token``.

    EXITED (value: its wait status), FAILED to fork (errno), CROWDED: killed for having too many descendants (how many).
    """

    event: int
    token: int
    value: int


class Zygote:
    """The node monitor's handle of its zygote. ``sock`` is readable when there are reports, or it has ended."""

    def __init__(self, pid: int, sock: socket.socket, options: SlotOptions) -> None:
        self.pid = pid
        self.sock = sock
        self.options = options

    @classmethod
    def start(cls, options: SlotOptions | None = None) -> Zygote:
        """Fork the zygote from this process, which must have no other thread yet.

        This process becomes the parent of last resort of all that descends from the zygote. Raises UsageError
        when there are threads, SparrowError where the system is not Linux.
        """
        if sys.platform != "linux":
            raise SparrowError(f"workers need Linux, this is {sys.platform}", hint="run the worker in a container")
        if threading.active_count() > 1:
            raise UsageError("the zygote must be started before any thread")
        options = options or SlotOptions()
        linux.adopt_orphans()
        ours, theirs = _control_pair()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # what is buffered would be written twice
        pid = os.fork()
        if pid == 0:
            _guarded(lambda: _main(theirs.detach(), options))
        theirs.close()
        return cls(pid, ours, options)

    @classmethod
    def restart(cls, options: SlotOptions) -> Zygote:
        """Start a zygote from scratch, as a new program: this process may have threads by now."""
        ours, theirs = _control_pair()
        with theirs:
            theirs.set_inheritable(True)
            fd = theirs.fileno()
            call = f"zygote.run({fd}, {msgspec.json.encode(options)!r})"
            code = f"import sys; sys.path[:] = {sys.path!r}; from sparrowmq.executor import zygote; {call}"
            pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ)
        return cls(pid, ours, options)

    def spawn(self, token: int, sock_fd: int, page_fd: int) -> None:
        """Have a slot process forked that owns these descriptors. Raises BlockingIOError, OSError."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock_fd, page_fd]))
        self.sock.sendmsg([_ORDER.pack(_SPAWN, token)], [rights])

    def kill(self, token: int) -> None:
        """Have slot process ``token`` killed with its descendants. Raises BlockingIOError, OSError."""
        self.sock.send(_ORDER.pack(_KILL, token))

    def interrupt(self, token: int) -> None:
        """Have SIGINT sent to slot process ``token``. Raises BlockingIOError, OSError."""
        self.sock.send(_ORDER.pack(_INTERRUPT, token))

    def count(self, token: int) -> None:
        """Have the descendants of slot process ``token`` counted; too many are killed. Raises like `kill`."""
        self.sock.send(_ORDER.pack(_COUNT, token))

    def reports(self) -> list[Report]:
        """Return what has been reported. Raises EOFError when the zygote has ended."""
        reports: list[Report] = []
        for _ in range(_REPORTS_PER_READ):
            try:
                data = self.sock.recv(_REPORT.size)
            except BlockingIOError:
                break
            except ConnectionError:
                data = b""
            if not data:
                if reports:
                    break
                raise EOFError
            reports.append(Report(*_REPORT.unpack(data)))
        return reports

    def close(self, timeout_s: float) -> str:
        """End it and all that descends from it; wait at most ``timeout_s``. Return how it ended."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self.sock.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + timeout_s
        watched = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(watched, select.POLLIN)
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                linux.kill(self.pid)
        finally:
            os.close(watched)
        self.sock.close()
        return linux.explain_exit(os.waitpid(self.pid, 0)[1])


def run(control_fd: int, options: bytes) -> NoReturn:
    """Be a zygote, in a program of its own (see `Zygote.restart`)."""
    _guarded(lambda: _main(control_fd, msgspec.json.decode(options, type=SlotOptions)))


def _control_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _guarded(main: Callable[[], NoReturn]) -> NoReturn:
    """Run ``main`` in a forked process: nothing may return or raise into the code of the parent."""
    try:
        main()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(_BROKEN_STATUS)


def _main(control_fd: int, options: SlotOptions) -> NoReturn:
    os.setsid()  # a terminal's ^C is for the node monitor, which then drains
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    linux.adopt_orphans()
    linux.set_name("sparrowmq-zygote")
    linux.act_at_once()  # it sleeps nearly always, and is what ends a task that multiplies
    _keep_only(control_fd)
    gc.freeze()  # memory shared with the slots stays shared: no collector writes to it
    _Zygote(socket.socket(fileno=_CONTROL_FD), options).serve()


def _keep_only(fd: int) -> None:
    """Move ``fd`` to 3 and close all the rest but stdout and stderr; read nothing from a terminal."""
    if fd == _CONTROL_FD:
        os.set_inheritable(fd, False)
    else:
        os.dup2(fd, _CONTROL_FD, inheritable=False)
    os.closerange(_CONTROL_FD + 1, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


class _Zygote:
    def __init__(self, control: socket.socket, options: SlotOptions) -> None:
        self._control = control
        self._options = options
        self._tokens: dict[int, int] = {}  # pid of a slot -> its token
        self._pids: dict[int, int] = {}  # and back
        self._parents: set[int] = set()  # tokens of slots whose descendants are to be counted
        self._count_at = 0.0
        self._count_every_ms = COUNT_EVERY_MS
        self._wake, wake_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)

    def serve(self) -> NoReturn:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                for fd, _ in poll.poll(self._count_every_ms if self._parents else None):
                    if fd == self._wake:
                        os.read(self._wake, 4096)
                        self._collect()
                    else:
                        self._obey()
                self._count_again()
        _kill_everything()
        os._exit(0)

    def _obey(self) -> None:
        fds = array.array("i")
        data, ancillary, _flags, _address = self._control.recvmsg(
            _ORDER.size, socket.CMSG_LEN(2 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise EOFError
        operation, token = _ORDER.unpack(data)
        for _level, _kind, content in ancillary:
            fds.frombytes(content)
        if operation == _SPAWN:
            try:
                self._spawn(token, fds)
            except OSError as error:
                self._control.send(_REPORT.pack(FAILED, token, error.errno or 0))
            for fd in fds:
                os.close(fd)
        elif token in self._pids:  # else it has ended, and the report is on its way
            pid = self._pids[token]
            if operation == _KILL:
                linux.end_tree(pid)
            elif operation == _INTERRUPT:
                linux.interrupt(pid)
            else:
                if not self._parents:
                    self._count_at = 0.0  # at once; else with the others
                self._parents.add(token)

    def _count(self, token: int) -> int:
        """Count the descendants of a slot; end it, and them, where there are too many."""
        limit = self._options.task_processes
        found = len(linux.descendants(self._pids[token], limit))
        if found > limit:
            self._control.send(_REPORT.pack(CROWDED, token, found))
            linux.end_tree(self._pids[token])
        if found:
            self._parents.add(token)
        else:
            self._parents.discard(token)
        return found

    def _count_again(self) -> None:
        """Count what slots have below them, asked or not: tasks can leave processes that multiply.

        More often where there are many: from an eighth of the limit it is not far to the limit.
        """
        if self._parents and (now := time.monotonic()) >= self._count_at:
            most = max((self._count(token) for token in self._parents & self._pids.keys()), default=0)
            many = most > self._options.task_processes // 8
            self._count_every_ms = COUNT_OFTEN_MS if many else COUNT_EVERY_MS
            self._count_at = now + self._count_every_ms / 1000

    def _spawn(self, token: int, fds: Sequence[int]) -> None:
        if len(fds) != 2:  # the kernel drops the descriptors for which this process has no room
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        own_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            _guarded(lambda: _become_slot(own_pid, fds[0], fds[1], self._options))
        self._tokens[pid] = token
        self._pids[token] = pid

    def _collect(self) -> None:
        """Take leave of the children that ended, kill those that are orphans, report the slots."""
        exits = []
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                token = self._tokens.pop(ended[0], None)
                if token is not None:
                    del self._pids[token]
                    self._parents.discard(token)
                    exits.append((token, ended[1]))
        for pid in linux.children():
            if pid not in self._tokens:
                linux.end_tree(pid)
        for token, status in exits:
            self._control.send(_REPORT.pack(EXITED, token, status))


def _kill_everything() -> None:
    """Kill the children, adopt theirs, and again, until the system says that there are none."""
    while True:
        for pid in linux.children():
            linux.end_tree(pid)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(_KILL_PAUSE_S)


def _become_slot(zygote_pid: int, sock_fd: int, page_fd: int, options: SlotOptions) -> NoReturn:
    linux.die_with_parent(zygote_pid)
    linux.adopt_orphans()
    linux.set_name("sparrowmq-slot")
    linux.be_first_when_memory_is_short()
    os.setsid()  # a task that signals its process group reaches no other slot
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    shared = page.Page(page_fd)
    _keep_only(sock_fd)
    slot.main(socket.socket(fileno=_CONTROL_FD), shared, options)
