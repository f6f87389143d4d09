"""A cluster to be hurt, and what it takes to hurt it: members found, stopped, replaced, and nothing left behind.

Owns: the cluster, a client, stamps and ledger of one fault; deadlines on everything that is waited for. Must not know:
which fault is measured, or what is made of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import msgspec

from sparrowmq.bench import usage
from sparrowmq.bench.shown import Ledger, Shown, stuck
from sparrowmq.bench.stamps import Mailbox, Stamp, hold
from sparrowmq.client.client import Client
from sparrowmq.core.assistant import AssistantReport
from sparrowmq.local import LocalCluster
from sparrowmq.settings import LogSettings, SchedulerSettings, StoreSettings, WorkerSettings
from sparrowmq.store.registry import Registry

PATIENCE_S: Final = 15.0  # for what takes a cluster less than two seconds
BEAT_S: Final = 0.1
_POLL_S: Final = 0.01
_GUARD: Final = 'read -r _; kill -CONT "$@"'  # its input ends with this process: what is stopped could not end
_PRELOAD: Final = ["sparrowmq.bench.stamps"]  # so that no measurement contains an import


class Held(NamedTuple):
    """One job of `hold` tasks: its batch, and the keys of its tasks, in order; see `stamps`."""

    batch: Shown
    keys: list[int]


class Arena:
    """One local cluster under one client; everything ends with the ``with`` block, whatever state it is in.

    ``name`` is that of the fault, for errors. ``cluster`` options are those of `LocalCluster`. Raises Unavailable when
    it does not come up.
    """

    def __init__(
        self, name: str, rng: random.Random, *, workers: int = 10, slots: int = 2, log_path: str = "", **cluster: Any
    ) -> None:
        self.name = name
        self.rng = rng
        self.slots = slots
        self._stack = contextlib.ExitStack()
        self._key = 0
        self._futures: dict[int, Future[Any]] = {}  # by key
        self._stopped: list[int] = []
        cluster.setdefault("scheduler", SchedulerSettings(beat_interval_s=BEAT_S))
        worker = WorkerSettings(beat_interval_s=BEAT_S, preload=_PRELOAD)
        self.cluster = LocalCluster(
            workers=workers, slots=slots, worker=worker, log_path=log_path or None,
            log=LogSettings(level="info" if log_path else "error", format="json"), **cluster,
        )  # fmt: skip

    def __enter__(self) -> Arena:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sparrowmq-bench-"))
            stack.enter_context(self.cluster)
            stack.callback(self._resume)  # before the cluster ends: what is stopped cannot end its children
            self.stamps = Mailbox(directory)
            stack.callback(self.stamps.close)
            self.client = stack.enter_context(Client(self.cluster))
            self.ledger = Ledger(self.client)
            self.registry = Registry(StoreSettings(url=self.cluster.url))
            stack.callback(self.registry.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # Tasks.

    def hold(self, tasks: int, seconds: float, fn: Callable[..., int] = hold, **options: Any) -> Held:
        """Submit one job of ``tasks`` that stay for ``seconds``; ``options``: those of the job."""
        keys = list(range(self._key, self._key + tasks))
        self._key += tasks
        rows = [(self.stamps.path, key, seconds) for key in keys]
        batch, futures = self.ledger.send(fn, rows, keys, **options)
        self._futures.update(zip(keys, futures, strict=True))
        return Held(batch, keys)

    def started(self, held: Held) -> list[Stamp]:
        """Wait until every task of the job has started; return their first stamps, in order."""
        self.until("the start of all tasks", lambda: all(self.stamps.of(key) for key in held.keys))
        return [self.stamps.of(key)[0] for key in held.keys]

    def running(self) -> dict[int, list[int]]:
        """Return the keys of the tasks that run now, by the worker's pid."""
        found: dict[int, list[int]] = {}
        for key, future in list(self._futures.items()):
            stamps = self.stamps.of(key)
            if stamps and not future.done():
                found.setdefault(stamps[-1].worker_pid, []).append(key)
        return found

    def elsewhere(self, keys: Sequence[int], since_s: float) -> float | None:
        """Wait until each task of ``keys`` has started after ``since_s``, or is over; return when the last one has.

        Seconds since then; None where none needed to: their results had been sent already.
        """

        def last(key: int) -> float:
            return self.stamps.of(key)[-1].at_s

        self.poll(
            "the relaunch of what was lost",
            lambda: all(last(key) > since_s or self._futures[key].done() for key in keys),
        )
        latest_s = max(map(last, keys), default=since_s)
        return latest_s - since_s if latest_s > since_s else None

    def many_started(self, keys: Sequence[int], count: int) -> None:
        """Wait until ``count`` tasks of ``keys`` have started."""
        self.until(f"the start of {count} tasks", lambda: sum(bool(self.stamps.of(key)) for key in keys) >= count)

    def again(self, keys: Sequence[int], since_s: float, what: str = "the relaunch of what was lost") -> float:
        """Wait until each task of ``keys`` has started again; return when the last one has, in seconds ``since_s``."""
        self.until(what, lambda: all(self.stamps.of(key)[1:] for key in keys))
        return max(self.stamps.of(key)[1].at_s for key in keys) - since_s

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait for a condition on the stamps. Raises Unavailable after ``timeout_s``."""
        if not self.stamps.wait(condition, timeout_s):
            raise stuck(self.name, what, timeout_s)

    def poll(self, what: str, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Wait for any condition. Raises Unavailable after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise stuck(self.name, what, timeout_s)
            time.sleep(_POLL_S)

    def accepted_since(self, batches: Sequence[Shown], since_s: float) -> float:
        """Wait until a scheduler has accepted each job after ``since_s``, or it is over; return when the last one was.

        Monotonic seconds; ``since_s`` where none needed to be accepted.
        """

        def accepted_s(batch: Shown) -> float:
            return max(batch.accepted_s, default=0.0)

        self.poll(
            "the acceptance of all jobs elsewhere",
            lambda: all(accepted_s(batch) > since_s or not batch.pending for batch in batches),
        )
        return max([since_s, *map(accepted_s, batches)])

    def wait(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until all tasks are over. Raises Unavailable after ``timeout_s``."""
        if not self.ledger.wait(timeout_s):
            raise stuck(self.name, "the end of all jobs", timeout_s)

    def finish(self, timeout_s: float = PATIENCE_S) -> None:
        """As `wait`, and book all of them."""
        self.wait(timeout_s)
        self.ledger.close_books()
        self._futures.clear()
        self.stamps.forget()

    # Members.

    def tree(self, worker_pid: int) -> list[int]:
        """Return the processes of a worker: the node monitor, its zygote, its slots and what they run."""
        return usage.tree(worker_pid)

    @contextlib.contextmanager
    def stopped(self, pids: Iterable[int]) -> Iterator[float]:
        """Stop processes (SIGSTOP) until the end of the block; gives when that was (CLOCK_MONOTONIC)."""
        known = list(pids)
        self._stopped += known
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *map(str, known)], stdin=subprocess.PIPE, start_new_session=True
        )
        try:
            began_s = time.monotonic()
            for pid in known:
                os.kill(pid, signal.SIGSTOP)
            yield began_s
        finally:
            self._resume()
            guard.kill()
            guard.communicate()

    def _resume(self) -> None:
        stopped, self._stopped = self._stopped, []
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self, pids: Iterable[int]) -> float:
        """SIGKILL these processes at once; return when that was (CLOCK_MONOTONIC)."""
        began_s = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return began_s

    def refill(self, workers: int, schedulers: int = 1, assistants: int = 0) -> None:
        """Have as many members as that again, all connected with each other."""
        cluster = self.cluster
        self.poll("the end of what was killed", self._only_living)
        for _ in range(assistants - len(cluster.assistants)):
            cluster.add_assistant()
        for _ in range(schedulers - len(cluster.schedulers)):
            cluster.add_scheduler()
        for _ in range(workers - len(cluster.workers)):
            cluster.add_worker()
        self.whole()

    def _only_living(self) -> bool:
        """Whether the launcher has noticed the end of every process that was killed."""
        cluster = self.cluster
        members = cluster.workers + cluster.schedulers + cluster.assistants
        return all(_lives(member.pid) for member in members)

    def whole(self) -> None:
        """Wait until every scheduler sees every worker, alive, and knows of no other member."""
        names = {member.id for member in self.cluster.workers}
        schedulers = {member.id for member in self.cluster.schedulers}
        for record in self.registry.schedulers().values():
            if record.id not in schedulers:  # killed; else every later fault would meet it for another six seconds
                self.registry.withdraw(record)

        def is_whole() -> bool:
            if set(self.client.schedulers) != schedulers:
                return False
            seen = [
                {worker.id for worker in status.workers if worker.state == "alive"}
                for status in self.client.query("workers")
            ]
            return len(seen) == len(schedulers) and all(some == names for some in seen)

        self.poll("the return of all members", is_whole)

    def reports(self) -> list[AssistantReport]:
        """Return what the assistants last told of themselves."""
        told = self.registry.reports(member.id for member in self.cluster.assistants)
        return [msgspec.json.decode(report, type=AssistantReport) for report in told.values()]

    def leader(self) -> int:
        """Return the pid of the assistant that leads, once all assistants have told who they are."""
        found: list[AssistantReport] = []

        def agree() -> bool:
            reports = self.reports()
            found[:] = [report for report in reports if report.term]
            return len(found) == 1 and len(reports) == len(self.cluster.assistants)

        self.poll("the election of an assistant", agree)
        return found[0].pid

    def home(self) -> int:
        """Return the index of the scheduler that has this client's unfinished jobs."""
        found: list[str] = []

        def knows() -> bool:
            statuses = self.client.query("jobs")
            found[:] = [s.scheduler for s in statuses if any(job.state in ("waiting", "running") for job in s.jobs)]
            return len(found) == 1

        self.poll("the acceptance of the jobs by one scheduler", knows)
        return [member.id for member in self.cluster.schedulers].index(found[0])


def _lives(pid: int) -> bool:
    """Whether this process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
