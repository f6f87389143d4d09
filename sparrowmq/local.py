"""A cluster on this machine: real scheduler, worker and assistant processes, with a Valkey server of their own.

Owns: starting the launcher process, and what a program sees of it. Must not know: how the launcher does its
work, or what is run on the cluster.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from sparrowmq import config
from sparrowmq.errors import ConfigError, Refused, SparrowError, Unavailable, UsageError
from sparrowmq.runtime import directory, state
from sparrowmq.runtime.launch import LaunchSpec, OnConnect, Order, Report
from sparrowmq.security import keyring
from sparrowmq.settings import (
    AssistantSettings,
    LogSettings,
    SchedulerSettings,
    SecuritySettings,
    StoreSettings,
    WorkerSettings,
)

MEMBERS_MAX = 1024
LOG_TAIL_BYTES = 4000
CLOSE_TIMEOUT_S = 5.0
STANDARD_ERROR = "-"
# The argument is where this package is, for programs that found it by a path of their own.
_LAUNCH = "import sys; sys.path.append(sys.argv[1]); from sparrowmq.runtime.launcher import main; sys.exit(main())"
_ERRORS: dict[int, type[SparrowError]] = {2: UsageError, 4: ConfigError, 6: Refused}


class Member(NamedTuple):
    """One process of the cluster: a scheduler, a worker or an assistant."""

    id: str
    pid: int


class LocalCluster:
    """Schedulers, workers and assistants on this machine, ready when ``with LocalCluster(...) as cluster`` begins.

    ``slots`` tasks run at once on each worker. Without ``redis_url`` it brings a Valkey server (extra
    ``local``). Everything ends with the block, or with this process, however it ends. ``restart`` replaces
    processes that fail, later each time and at most ten times in a row; one that ended in order (a
    drain, a signal, `scale`) stays away. The Valkey server is always replaced. Log lines go to ``log_path``, or to
    STANDARD_ERROR (None: to a file that goes with the cluster, and into the error when starting fails).

    ``page`` is a program of its own that starts when somebody connects to its socket, and ends with the cluster.

    With ``security.keys`` every connection between its processes is encrypted, and clients need the same keys.

    Raises Unavailable when the cluster is not ready within ``start_timeout_s``, UsageError for bad counts, ConfigError
    for addresses beyond loopback without keys or ``security.insecure``, and SecurityError for keys that cannot be used.
    """

    def __init__(
        self,
        workers: int = 4,
        slots: int = 1,
        schedulers: int = 1,
        redis_url: str | None = None,
        *,
        assistants: int = 1,
        scheduler: SchedulerSettings | None = None,
        worker: WorkerSettings | None = None,
        assistant: AssistantSettings | None = None,
        store: StoreSettings | None = None,
        security: SecuritySettings | None = None,
        log: LogSettings | None = None,
        log_path: str | Path | None = None,
        restart: bool = False,
        start_timeout_s: float = 15.0,
        detached: bool = False,
        state_path: str | Path | None = None,
        page: OnConnect | None = None,
    ) -> None:
        counts = (
            ("workers", workers, 0),
            ("slots", slots, 0),
            ("schedulers", schedulers, 1),
            ("assistants", assistants, 0),
        )
        for name, count, least in counts:
            if not least <= count <= MEMBERS_MAX:
                raise UsageError(f"{name}: expected a number from {least} to {MEMBERS_MAX:,}, got {count}")
        store = store or StoreSettings()
        security = security or SecuritySettings()
        config.check_exposure(scheduler or SchedulerSettings(), security)
        keys = os.path.abspath(security.keys) if security.keys else ""
        if keys:
            _check_keys(keys, {"worker": workers, "assistant": assistants})
        self._spec = LaunchSpec(
            directory="",
            schedulers=schedulers,
            workers=workers,
            assistants=assistants,
            scheduler=scheduler or SchedulerSettings(),
            worker=msgspec.structs.replace(worker or WorkerSettings(), slots=slots),
            assistant=assistant or AssistantSettings(),
            store=store if redis_url is None else msgspec.structs.replace(store, url=redis_url),
            log=log or LogSettings(level="warning"),
            keys=keys,
            detached=detached,
            restart=restart,
            start_timeout_s=start_timeout_s,
            state_path=str(state_path or ""),
            log_path=str(log_path or ""),
            page=page,
            python_path=[os.path.abspath(entry) for entry in sys.path],
        )
        self._directory = Path()
        self._held_fd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._changed = threading.Condition()
        self._members = _nobody()
        self._store_pid = 0
        self._outcome: Report | None = None
        self._ended = False

    # What there is.

    def __repr__(self) -> str:
        workers, schedulers = len(self.workers), len(self.schedulers)
        if self._outcome is None or not self._outcome.url or (self._ended and not self._spec.detached):
            return "<LocalCluster: not running>"
        return (
            f"<LocalCluster: {workers} workers x {self._spec.worker.slots} slots, {schedulers} schedulers, {self.url}>"
        )

    @property
    def url(self) -> str:
        """The Redis URL by which clients find the schedulers."""
        if self._outcome is None or not self._outcome.url or (self._ended and not self._spec.detached):
            raise UsageError("the local cluster is not running", hint="use it as `with LocalCluster() as cluster:`")
        return self._outcome.url

    @property
    def keys(self) -> str:
        """The directory with the keys that the cluster uses, and clients need; "" for none."""
        return self._spec.keys

    @property
    def workers(self) -> list[Member]:
        """The workers that run, in the order of their start."""
        with self._changed:
            return list(self._members["worker"])

    @property
    def schedulers(self) -> list[Member]:
        """The schedulers that run, in the order of their start."""
        with self._changed:
            return list(self._members["scheduler"])

    @property
    def assistants(self) -> list[Member]:
        """The assistants that run, in the order of their start."""
        with self._changed:
            return list(self._members["assistant"])

    @property
    def pid(self) -> int:
        """The launcher's process id; 0 when it does not run."""
        if self._process is not None:
            return self._process.pid
        return self._outcome.pid if self._spec.detached and self._outcome is not None else 0

    @property
    def store_pid(self) -> int:
        """The process id of the cluster's own Valkey server; 0 when it uses another."""
        return self._store_pid

    # From start to end.

    def __enter__(self) -> LocalCluster:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(self) -> LocalCluster:
        """Start everything and return, when it is ready, the cluster itself. See the class for the errors."""
        if self._process is not None:
            raise UsageError("this local cluster is running already")
        self._members = _nobody()
        self._outcome, self._ended, self._store_pid = None, False, 0
        directory.sweep()
        self._directory, self._held_fd = directory.create()
        spec = msgspec.structs.replace(self._spec, directory=str(self._directory), held_fd=self._held_fd)
        self._log_file = self._open_log(spec.log_path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(Path(__file__).resolve().parents[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log_file,
            start_new_session=True,  # Ctrl-C is the owner's to handle
            pass_fds=(self._held_fd, *([] if spec.page is None else [spec.page.fd])),
            bufsize=0,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), name="cluster", daemon=True)
        self._listener.start()
        try:
            self._write(msgspec.json.encode(spec))
            self._await(lambda: self._outcome is not None or self._ended, spec.start_timeout_s + CLOSE_TIMEOUT_S)
            self._check_outcome()
        except BaseException:
            self.close()
            raise
        if spec.detached:
            self._let_go()
        return self

    def _open_log(self, log_path: str) -> IO[bytes] | None:
        if log_path == STANDARD_ERROR:
            return None
        path = Path(log_path) if log_path else Path(self._directory, "cluster.log")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        return os.fdopen(os.open(path, flags, 0o600), "r+b")

    def _check_outcome(self) -> None:
        outcome = self._outcome
        if outcome is not None and outcome.report == "ready":
            return
        said = outcome.error if outcome is not None else "its launcher did not answer"
        tail = self._log_tail()
        kind = _ERRORS.get(outcome.exit_code if outcome is not None else 0, Unavailable)
        raise kind(
            f"the local cluster did not start: {said}" + (f"\n{tail}" if tail else ""),
            hint=outcome.hint if outcome is not None else "",
        )

    def _log_tail(self) -> str:
        if self._log_file is None:
            return ""
        size = self._log_file.seek(0, os.SEEK_END)
        self._log_file.seek(max(0, size - LOG_TAIL_BYTES))
        return self._log_file.read().decode(errors="replace").strip()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the cluster has ended by itself, up to ``timeout_s``; tell whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_s)

    def close(self, drain_s: float = 0.0) -> None:
        """End the cluster and wait until all of it is gone; running tasks get ``drain_s`` to end."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.write(msgspec.json.encode(Order("stop", drain_s=drain_s)) + b"\n")
        try:
            process.wait(drain_s + CLOSE_TIMEOUT_S)
        except BaseException as error:
            process.kill()  # its children go with it
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            directory.remove(self._directory)  # the launcher's job, unless it was killed
            self._let_go(process)

    def _let_go(self, process: subprocess.Popen[bytes] | None = None) -> None:
        process = process or self._process
        self._process = None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            if process.returncode is None:
                process.returncode = 0  # detached: it is nobody's to wait for
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None
        if self._held_fd >= 0:
            os.close(self._held_fd)
            self._held_fd = -1
        if self._listener is not None:
            self._listener.join(CLOSE_TIMEOUT_S)

    # What happens meanwhile.

    def kill_worker(self, index: int = 0, signum: int = signal.SIGKILL) -> Member:
        """Send ``signum`` to a worker's process; after SIGKILL, wait until it is gone. Returns who it was."""
        return self._kill("worker", index, signum)

    def kill_scheduler(self, index: int = 0, signum: int = signal.SIGKILL) -> Member:
        """Send ``signum`` to a scheduler's process; after SIGKILL, wait until it is gone. Returns who it was."""
        return self._kill("scheduler", index, signum)

    def kill_assistant(self, index: int = 0, signum: int = signal.SIGKILL) -> Member:
        """Send ``signum`` to an assistant's process; after SIGKILL, wait until it is gone. Returns who it was."""
        return self._kill("assistant", index, signum)

    def kill_store(self) -> None:
        """SIGKILL the cluster's own Valkey server and wait until an empty one has taken its place."""
        if not self._store_pid:
            raise UsageError("this cluster has no Valkey server of its own")
        before = self._store_pid
        os.kill(before, signal.SIGKILL)
        self._await(lambda: self._store_pid != before, self._spec.start_timeout_s)

    def add_worker(self) -> Member:
        """Start one more worker and return it; it joins a moment later."""
        return self._add("worker", 1)[0]

    def add_scheduler(self) -> Member:
        """Start one more scheduler and return it; it registers a moment later."""
        return self._add("scheduler", 1)[0]

    def add_assistant(self) -> Member:
        """Start one more assistant and return it; it registers a moment later, and stands by while another leads."""
        return self._add("assistant", 1)[0]

    def scale(self, workers: int, *, drain_s: float = 30.0) -> list[Member]:
        """Have as many workers as that, and return them; new ones join a moment later.

        Where there are more, the newest drain: each finishes what it runs within ``drain_s``, then it is killed and
        its tasks run elsewhere. Returns when they are gone. Raises UsageError for a bad count.
        """
        most = MEMBERS_MAX - len(self.schedulers) - len(self.assistants)
        if not 0 <= workers <= most:
            raise UsageError(f"workers: expected a number from 0 to {most:,}, got {workers}")
        before = self.workers
        if workers > len(before):
            self._add("worker", workers - len(before))
        leaving = before[workers:]
        for member in leaving:
            self._write(msgspec.json.encode(Order("end", pid=member.pid, drain_s=drain_s)))
        self._await(lambda: not set(leaving) & set(self._members["worker"]), drain_s + CLOSE_TIMEOUT_S)
        return self.workers

    def _kill(self, role: str, index: int, signum: int) -> Member:
        with self._changed:
            members = list(self._members[role])
        if not -len(members) <= index < len(members):
            raise IndexError(f"there is no {role} {index}: {len(members)} run")
        member = members[index]
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(member.pid, signum)
        if signum == signal.SIGKILL:
            self._await(lambda: member not in self._members[role], CLOSE_TIMEOUT_S)
        return member

    def _add(self, role: str, count: int) -> list[Member]:
        before = set(self.workers + self.schedulers + self.assistants)
        for _ in range(count):
            self._write(msgspec.json.encode(Order("start", role=role)))

        def fresh() -> list[Member]:
            return [member for member in self._members[role] if member not in before]

        self._await(lambda: len(fresh()) >= count, self._spec.start_timeout_s)
        with self._changed:
            return fresh()

    def _write(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise UsageError("the local cluster is not running")
        try:
            self._process.stdin.write(line + b"\n")
        except OSError as error:
            raise Unavailable(f"the local cluster's launcher is gone: {error.strerror}") from None

    def _await(self, condition: Callable[[], bool], timeout_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: condition() or self._ended, timeout_s):
                raise Unavailable(f"the local cluster's launcher did not answer within {timeout_s:g} s")
            if not condition():
                raise Unavailable("the local cluster has ended meanwhile", hint="its log tells why")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                report = msgspec.json.decode(line, type=Report)
                with self._changed:
                    self._take(report)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            if not self._spec.detached:
                self._members = _nobody()  # they end with it
            self._changed.notify_all()

    def _take(self, report: Report) -> None:
        if report.report == "started":
            self._members[report.role].append(Member(report.id, report.pid))
        elif report.report == "exited":
            self._members[report.role].remove(Member(report.id, report.pid))
        elif report.report == "store":
            self._store_pid = report.pid
        else:
            self._outcome = report


def _check_keys(keys: str, members: Mapping[str, int]) -> None:
    """Raise SecurityError here, and not in a process of the cluster, where the keys cannot be used."""
    keyring.load_trust(keys)
    for role, count in members.items():
        if count:
            keyring.load_credentials(keys, role)


def _nobody() -> dict[str, list[Member]]:
    return {"scheduler": [], "worker": [], "assistant": [], "web": []}


# The cluster that `sparrowmq up` started.


def detached() -> state.ClusterState | None:
    """Return this user's local cluster if one runs; what is left of one that was killed is removed."""
    path = state.state_path()
    found = state.read(path)
    if found is None and state.sweep(path):
        directory.sweep()
    return found


def detached_url() -> str:
    """Return the Redis URL of this user's local cluster; "" when none runs."""
    found = detached()
    return found.url if found is not None else ""


def take_down(found: state.ClusterState, *, timeout_s: float = 15.0, force: bool = False) -> bool:
    """End a local cluster: running tasks get its drain time, or none with ``force``.

    Returns False when it had not ended after ``timeout_s`` and was killed.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
        if force:
            time.sleep(0.05)
            os.kill(found.pid, signal.SIGTERM)  # the second one ends it at once
    while state.is_alive(found):
        if time.monotonic() > deadline:
            _kill_launcher(found)
            return False
        time.sleep(0.02)
    return True


def _kill_launcher(found: state.ClusterState) -> None:
    """Kill it, and so all of the cluster, and remove what it leaves, as far as its processes are gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGKILL)
    deadline = time.monotonic() + CLOSE_TIMEOUT_S
    while state.is_alive(found) and time.monotonic() < deadline:
        time.sleep(0.02)
    state.sweep(state.state_path())
    directory.sweep()
