"""The process a local cluster hangs on: it loads everything once, forks schedulers, workers and assistants, and minds
them.

Owns: the order of starting and stopping, and that nothing outlives it or its owner. Must not know: what a
role does. It has one thread and no ZeroMQ context, so that forking is safe at any time; the children share
the memory of all imported code, and ten of them are there in a fraction of a second.

Its owner (`sparrowmq.local`) talks to it in the words of `launch.py`. When the owner is gone (end of input, or another
parent process), the cluster ends, unless it is detached: then it ends at SIGTERM only.
"""

from __future__ import annotations

import gc
import os
import random
import select
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from sparrowmq import ids
from sparrowmq.errors import SparrowError, Unavailable
from sparrowmq.executor import linux
from sparrowmq.runtime import directory, restarts
from sparrowmq.runtime.launch import LaunchSpec, Order, Report, nearby

if TYPE_CHECKING:
    from sparrowmq.store.embedded import EmbeddedServer
    from sparrowmq.store.registry import Registry

SPEC_BYTES_MAX = 1024 * 1024
MEMBERS_MAX = 1024
KILL_AFTER_S = 0.5  # at a quick stop: from SIGTERM to SIGKILL
SCHEDULER_STOP_S = 1.0  # once the workers have drained
OWNER_CHECK_S = 1.0
READY_CHECK_S = 0.01
_NEVER = float("inf")
PAGE = "web"
_ARTICLES = {"scheduler": "a scheduler", "worker": "a worker", "assistant": "an assistant", PAGE: "the page"}
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _Member:
    __slots__ = ("failures", "id", "kill_at", "pid", "role", "started", "told")

    def __init__(self, role: str, identity: str, pid: int, failures: int) -> None:
        self.role = role
        self.id = identity
        self.pid = pid
        self.failures = failures  # in a row, of those whose place it takes
        self.started = time.monotonic()
        self.told = False  # to end
        self.kill_at = _NEVER


class _Restart(NamedTuple):
    when: float
    role: str  # "store" too
    failures: int


class Launcher:
    """One local cluster, from `run` to its return."""

    def __init__(self, spec: LaunchSpec, owner_pid: int, unread: bytes) -> None:
        self._spec = spec
        self._owner_pid = owner_pid
        self._unread = unread
        self._store = spec.store
        self._server: EmbeddedServer | None = None
        self._server_started = 0.0
        self._registry: Registry | None = None
        self._members: dict[int, _Member] = {}
        self._server_failures = 0
        self._restarts: list[_Restart] = []
        self._ready = False
        self._ready_deadline = time.monotonic() + spec.start_timeout_s
        self._stopping = False
        self._stop_deadline = 0.0
        self._schedulers_told = False
        self._failure: Report | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    # From start to end.

    def run(self) -> int:
        """Start everything, mind it until it is to end, and return an exit status."""
        self._watch_signals()
        self._selector.register(0, selectors.EVENT_READ, self._read_orders)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._read_signals)
        try:
            self._start()
            self._take_orders()
            while not (self._stopping and not self._members):
                for key, _ in self._selector.select(self._timeout_s()):
                    key.data()
                self._turn(time.monotonic())
        except SparrowError as error:
            self._fail(str(error), error.hint, error.exit_code)
        finally:
            self._end()
        if self._failure is not None:
            _report(self._failure)
            return self._failure.exit_code
        return 0

    def _start(self) -> None:
        from sparrowmq.store.embedded import EmbeddedServer

        if not self._store.url:
            self._server = EmbeddedServer(Path(self._spec.directory))
            self._server.launch()
            self._server_started = time.monotonic()
            self._store = msgspec.structs.replace(self._store, url=self._server.url)
        _preload(self._spec.assistants)  # meanwhile the server starts
        from sparrowmq.runtime import logs
        from sparrowmq.store.connection import authenticated
        from sparrowmq.store.registry import Registry

        logs.setup(self._spec.log, role="launcher")
        self._registry = Registry(authenticated(self._store, self._spec.keys, "client"))
        if self._server is not None:
            self._server.wait_ready()
            _report(Report("store", pid=self._server.pid))
        self._registry.ping()
        gc.collect()
        gc.freeze()  # keeps the collector from touching, and so copying, what the children share
        spec = self._spec
        for role, count in (
            ("scheduler", spec.schedulers),
            ("assistant", spec.assistants),
            ("worker", spec.workers),
        ):
            for _ in range(count):
                self._fork(role)

    def _end(self) -> None:
        for member in self._members.values():
            _signal(member.pid, signal.SIGKILL)
        for pid in self._members:
            os.waitpid(pid, 0)
        if self._server is not None:
            self._server.stop()
        if self._spec.state_path:
            from sparrowmq.runtime import state

            state.remove(Path(self._spec.state_path), os.getpid())
        directory.remove(Path(self._spec.directory))

    # Members.

    def _fork(self, role: str, failures: int = 0) -> None:
        if len(self._members) >= MEMBERS_MAX:
            _log("error", "not started: a local cluster has at most this many members", {"limit": MEMBERS_MAX})
            return
        identity = ids.node_id(role, random.SystemRandom())
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        # Until the child has handlers of its own, a signal for it would be told to this process through their pipe.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP_SIGNALS, signal.SIGCHLD))
        pid = os.fork()
        if pid == 0:
            self._become(role, identity, parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._members[pid] = _Member(role, identity, pid, failures)
        _report(Report("started", role=role, id=identity, pid=pid))

    def _become(self, role: str, identity: str, parent: int) -> None:
        """In the child: be this role, and never return."""
        status = 1
        try:
            linux.die_with_parent(parent)
            linux.set_name(f"sparrowmq-{role}")
            signal.set_wakeup_fd(-1)
            for number in (*_STOP_SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*_STOP_SIGNALS, signal.SIGCHLD))
            self._selector.close()
            for descriptor in (self._wake_read, self._wake_write):
                os.close(descriptor)
            if self._registry is not None:
                self._registry.close()
            if self._spec.page is not None and role != PAGE:
                os.close(self._spec.page.fd)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            os.dup2(2, 1)  # standard output is the launcher's channel to its owner
            status = self._be(role, identity)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _be(self, role: str, identity: str) -> int:
        spec = self._spec
        if role == PAGE:
            self._run_page()
        if role == "assistant":
            from sparrowmq.runtime.assisting import run_assistant

            return run_assistant(spec.assistant, self._store, spec.log, id=identity, keys=spec.keys)
        from sparrowmq.runtime import roles

        if role == "scheduler":
            settings = nearby(spec.scheduler, Path(spec.directory, identity))
            return roles.run_scheduler(settings, self._store, spec.log, id=identity, keys=spec.keys)
        return roles.run_worker(spec.worker, self._store, spec.log, id=identity, keys=spec.keys)

    def _run_page(self) -> NoReturn:
        """In the child: become the program once somebody connects. Until then it costs a copy of page tables."""
        page = self._spec.page
        assert page is not None
        select.select([page.fd], [], [])
        os.set_inheritable(page.fd, True)
        found = {"SPARROWMQ_STORE_URL": self._store.url, "SPARROWMQ_SECURITY_KEYS": self._spec.keys}
        os.execve(page.command[0], page.command, os.environ | found)

    def _reap(self) -> None:
        for pid in list(self._members):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            member = self._members.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            _report(Report("exited", role=member.role, id=member.id, pid=pid, status=code))
            if self._stopping:
                continue
            if not self._ready:
                self._fail(f"{member.id} ended with status {code} while the cluster was starting", "", 3)
                continue
            fields = {"id": member.id, "pid": pid, "status": code}
            in_order = member.told or code == 0
            _log("info" if in_order else "warning", f"{_ARTICLES[member.role]} ended", fields)
            if self._spec.restart and not in_order:
                self._restart_later(member)
        waiting = any(restart.role == "store" for restart in self._restarts)
        if self._server is not None and self._server.ended() and not self._stopping and not waiting:
            _log("warning", "the embedded Valkey server ended; starting it again", {})
            failures = restarts.in_a_row(self._server_failures, time.monotonic() - self._server_started)
            self._server_failures = failures
            self._restarts.append(_Restart(time.monotonic() + restarts.delay_s(failures), "store", failures))

    def _restart_later(self, member: _Member) -> None:
        now = time.monotonic()
        failures = restarts.in_a_row(member.failures, now - member.started)
        if restarts.is_hopeless(failures):
            fields = {"id": member.id, "failures": failures}
            event = f"{_ARTICLES[member.role]} keeps ending soon after its start and is not started again"
            _log("error", event, fields)
            return
        self._restarts.append(_Restart(now + restarts.delay_s(failures), member.role, failures))

    def _restart(self, restart: _Restart) -> None:
        if restart.role != "store":
            self._fork(restart.role, restart.failures)
        elif self._server is not None:
            self._launch_server(self._server)

    def _launch_server(self, server: EmbeddedServer) -> None:
        self._server_started = time.monotonic()
        server.launch()
        try:
            server.wait_ready()
        except Unavailable as error:
            _log("error", "the embedded Valkey server does not start", {"reason": str(error)})
        else:
            _report(Report("store", pid=server.pid))

    # The loop.

    def _timeout_s(self) -> float | None:
        now = time.monotonic()
        if self._stopping:
            return max(0.0, self._stop_deadline - now)
        if not self._ready:
            return READY_CHECK_S
        waits = [restart.when - now for restart in self._restarts]
        waits += [member.kill_at - now for member in self._members.values() if member.kill_at < _NEVER]
        if not self._spec.detached:
            waits.append(OWNER_CHECK_S)
        return max(0.0, min(waits)) if waits else None

    def _turn(self, now: float) -> None:
        self._reap()
        if self._stopping:
            self._go_on_stopping(now)
            return
        if not self._ready:
            self._check_ready(now)
        if not (self._spec.detached and self._ready) and os.getppid() != self._owner_pid:
            self._stop(0.0)
        for member in self._members.values():
            if member.kill_at <= now:
                member.kill_at = _NEVER
                _signal(member.pid, signal.SIGKILL)
        due = [restart for restart in self._restarts if restart.when <= now]
        if due:
            self._restarts = [restart for restart in self._restarts if restart.when > now]
            for restart in due:
                self._restart(restart)

    def _check_ready(self, now: float) -> None:
        """Be ready once every member has registered and every worker is connected to every scheduler."""
        if self._registry is None:
            return
        schedulers, workers = self._registry.schedulers(), self._registry.workers()
        ready = {id for id, worker in workers.items() if worker.schedulers >= self._spec.schedulers}
        ready |= {*schedulers, *(self._registry.assistants() if self._spec.assistants else ())}
        missing = [member.id for member in self._members.values() if member.id not in ready]
        if not missing:
            self._ready = True
            self._announce()
        elif now > self._ready_deadline:
            after = f"not ready after {self._spec.start_timeout_s:g} s"
            self._fail(f"{len(missing)} of {len(self._members)} processes {after}: {', '.join(missing[:5])}", "", 3)

    def _announce(self) -> None:
        if self._spec.state_path:
            from sparrowmq.runtime import state

            pid = os.getpid()
            found = state.ClusterState(
                url=self._store.url,
                pid=pid,
                create_time_unix_s=state.create_time(pid),
                started_unix_s=time.time(),
                schedulers=self._spec.schedulers,
                workers=self._spec.workers,
                assistants=self._spec.assistants,
                log_path=self._spec.log_path,
                keys=self._spec.keys,
            )
            state.write(Path(self._spec.state_path), found)
        if self._spec.page is not None:
            self._fork(PAGE)
        _report(Report("ready", url=self._store.url, pid=os.getpid()))
        if self._spec.detached:
            self._selector.unregister(0)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            os.close(null)

    # Orders and signals.

    def _read_orders(self) -> None:
        data = os.read(0, 65536)
        if not data:
            self._selector.unregister(0)
            self._stop(0.0)
            return
        self._unread += data
        self._take_orders()

    def _take_orders(self) -> None:
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            order = msgspec.json.decode(line, type=Order)
            if order.order == "stop":
                self._stop(order.drain_s)
            elif order.order == "end":
                self._end_member(order)
            elif not self._stopping:
                self._fork(order.role)

    def _end_member(self, order: Order) -> None:
        member = self._members.get(order.pid)  # None: it has ended by itself, which its owner is about to read
        if member is not None and not self._stopping:
            member.told = True
            member.kill_at = time.monotonic() + max(order.drain_s, KILL_AFTER_S)
            _signal(member.pid, signal.SIGTERM)

    def _watch_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (*_STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _read_signals(self) -> None:
        for number in os.read(self._wake_read, 4096):
            if number in _STOP_SIGNALS:
                self._stop(0.0 if self._stopping else self._spec.drain_timeout_s)

    def _fail(self, error: str, hint: str, exit_code: int) -> None:
        self._failure = self._failure or Report("failed", error=error, hint=hint, exit_code=exit_code)
        self._stop(0.0)

    def _stop(self, drain_s: float) -> None:
        """End the cluster: workers first, so that running tasks can hand in their results. Again: at once."""
        deadline = time.monotonic() + max(drain_s, KILL_AFTER_S)
        if self._stopping:
            self._stop_deadline = min(self._stop_deadline, time.monotonic())
            return
        self._stopping, self._stop_deadline = True, deadline
        self._tell("worker")
        if not drain_s:
            self._tell("scheduler", "assistant", PAGE)

    def _tell(self, *roles: str) -> None:
        self._schedulers_told = self._schedulers_told or "scheduler" in roles
        for member in self._members.values():
            if member.role in roles:
                _signal(member.pid, signal.SIGTERM)

    def _go_on_stopping(self, now: float) -> None:
        workers_left = any(member.role == "worker" for member in self._members.values())
        if not workers_left and not self._schedulers_told:
            self._tell("scheduler", "assistant", PAGE)
            self._stop_deadline = now + SCHEDULER_STOP_S
        if now >= self._stop_deadline:
            for member in self._members.values():
                _signal(member.pid, signal.SIGKILL)
            self._stop_deadline = now + 1.0


def _preload(assistants: int) -> None:
    """Import all that the children use, so that they need not."""
    import sparrowmq.executor.slot
    import sparrowmq.runtime.roles

    if assistants:
        import sparrowmq.runtime.assisting  # noqa: F401


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _report(report: Report) -> None:
    try:
        os.write(1, msgspec.json.encode(report) + b"\n")
    except BrokenPipeError:
        return  # the owner is gone, which ends the cluster by itself


def _log(level: str, event: str, fields: dict[str, Any]) -> None:
    from sparrowmq.runtime import logs

    logs.emit(level, event, fields)


def main() -> int:
    """Run the cluster that standard input describes."""
    owner_pid = os.getppid()
    head = b""
    while b"\n" not in head:
        data = os.read(0, 65536)
        if not data or len(head) > SPEC_BYTES_MAX:
            raise Unavailable("the launcher is started by sparrowmq itself and found no specification on its input")
        head += data
    line, _, unread = head.partition(b"\n")
    spec = msgspec.json.decode(line, type=LaunchSpec)
    if spec.held_fd >= 0:
        os.set_inheritable(spec.held_fd, False)  # what runs a program of its own is none of the cluster
    if spec.page is not None:
        os.set_inheritable(spec.page.fd, False)
    for entry in spec.python_path:
        if entry not in sys.path:
            sys.path.append(entry)
    return Launcher(spec, owner_pid, unread).run()


if __name__ == "__main__":
    sys.exit(main())
