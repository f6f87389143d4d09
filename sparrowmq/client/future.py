"""Futures of tasks: ten thousand of them are made and settled by one call each, so both are cheap.

Owns: `Future`, and `Batch`, what the futures of one wire job share. Must not know: sockets, sessions, threads
other than the caller's.

Three things make it cheap. The lock, the waiters and the callbacks of a `concurrent.futures.Future` are made
only when somebody looks at a future before it is done. Outcomes of futures that nobody looks at are stored
under one lock for all. Payloads are decoded when the value is asked for, in the thread that asks, so that user
code (``__setstate__``, imports) never runs in the connection's thread.
"""

from __future__ import annotations

import os
import threading
from _thread import RLock
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future as BaseFuture, wait
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from sparrowmq.client import callbacks, ledger, outcomes
from sparrowmq.client.link import Link
from sparrowmq.protocol import messages as m

T = TypeVar("T")

_births = RLock()  # held to make a future's lock, and to settle futures that have none
_WATCHING = frozenset(("_condition", "_waiters", "_done_callbacks"))
_UNDECODED = object()
_OPEN: Final = (PENDING, RUNNING)  # the second only by a user's set_running_or_notify_cancel
_CANCELLATIONS: Final = {b"": "dequeued", b"interrupted": "interrupted", b"killed": "killed"}
_QUERY_TIMEOUT_S: Final = 1.0


Watcher = Callable[["list[Future[Any]]"], object]


class Batch:
    """The tasks of one job on the wire: what their futures share. A `link.Sink`; see there."""

    __slots__ = ("_open", "_over", "_watchers", "id", "kind", "link", "pending", "tasks", "workers")

    def __init__(self, job: str, kind: int, tasks: int, link: Link) -> None:
        self.id = job
        self.kind = kind
        self.tasks = tasks
        self.link = link
        self.pending = tasks
        self.workers: int | None = None  # set when a scheduler accepts
        self._open: list[Future[Any] | None] = [Future(self, index) for index in range(tasks)]  # None: settled
        self._over: threading.Event | None = None
        self._watchers: list[Watcher] = []

    @property
    def futures(self) -> list[Future[Any]]:
        """The futures that are not settled: before the job is sent, all of them."""
        return [future for future in self._open if future is not None]

    def add(self) -> Future[Any]:
        """Return the future of one more task; before the job is given to the connection's thread."""
        future: Future[Any] = Future(self, self.tasks)
        self._open.append(future)
        self.tasks += 1
        self.pending += 1
        return future

    def accepted(self, workers: int) -> None:
        """See `link.Sink`."""
        self.workers = workers

    def settle(self, indices: Sequence[int], statuses: bytes, payloads: Sequence[m.Payload]) -> None:
        """Record outcomes (parallel lists, one status byte a task); wake whoever waits for them."""
        unsettled = self._open
        watched: list[Future[Any]] = []
        settled: list[Future[Any]] = []
        with _births:
            for index, status, payload in zip(indices, statuses, payloads, strict=True):
                future = unsettled[index]
                if future is None:
                    continue
                unsettled[index] = None  # a batch keeps no future alive that its user has dropped
                settled.append(future)
                future._status = status
                if future._state not in _OPEN:  # somebody has set its result by hand
                    continue
                future._payload = payload
                if future._watched:
                    watched.append(future)
                else:
                    future._state = FINISHED if status != m.CANCELLED else CANCELLED_AND_NOTIFIED
        for future in watched:
            future._finish()
        self._settled(settled)

    def fail(self, make: Callable[[], Exception] | None) -> None:
        """End every unsettled task with a fresh error from ``make``, or cancelled where it is None."""
        unsettled = self.futures
        self._open = [None] * len(self._open)
        for future in unsettled:
            if make is not None:
                future._status = m.FAILED
                if future._state in _OPEN:
                    future._exception = make()
            else:
                future._status = m.CANCELLED
            future._finish()
        self._settled(unsettled)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until no task is pending; tell whether that is so."""
        if not self.pending:
            return True
        self.link.check_process()
        with _births:
            over = self._over
            if over is None:
                over = self._over = threading.Event()
        if not self.pending:
            over.set()
        return over.wait(timeout_s)

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` with the futures of every settlement from now on."""
        with _births:
            self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """End what `watch` has begun."""
        with _births:
            self._watchers.remove(watcher)

    def tell(self, futures: list[Future[Any]]) -> None:
        """Tell those who watch that these are over."""
        with _births:
            watchers = self._watchers[:]
        for watcher in watchers:
            watcher(futures)

    def _settled(self, futures: list[Future[Any]]) -> None:
        self.pending -= len(futures)
        with _births:  # whoever watches only from now on finds these futures done
            watchers = self._watchers[:]
            over = self._over
        for watcher in watchers:
            watcher(futures)
        if over is not None and not self.pending:
            over.set()


class Future(BaseFuture[T]):
    """The outcome of one task, as a `concurrent.futures.Future`: usable with its ``wait`` and ``as_completed``.

    ``result`` and ``exception`` raise as documented there. A task that raised raises the same exception here,
    with `errors.RemoteError` and the remote traceback as its ``__cause__``; other ends are subclasses of
    `errors.TaskError`. Callbacks run in one thread of their own, in the order in which they were added, and may block.
    """

    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _payload: Any = _UNDECODED  # the outcome's bytes, until somebody asks for them
    _status: int = m.SUCCEEDED
    _watched = False  # whether the lock, waiters and callbacks exist

    def __init__(self, batch: Batch, index: int) -> None:
        # The base's __init__ would make what __getattr__ makes when it is needed.
        self.batch = batch
        self._index = index

    if not TYPE_CHECKING:  # typing sees the base's attributes only

        def __getattr__(self, name: str) -> Any:
            if name not in _WATCHING:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            with _births:
                if not self._watched:
                    self._condition = _Gate()
                    self._waiters = []
                    self._done_callbacks = []
                    self._watched = True
            return self.__dict__[name]

    @property
    def job(self) -> str:
        """The id of the job that the task belongs to."""
        return self.batch.id

    @property
    def index(self) -> int:
        """The task's number within its job."""
        return self._index

    @property
    def cancellation(self) -> str:
        """How the task was cancelled: "dequeued" (it never started), "interrupted", "killed".

        "" while it is pending, when it was not cancelled, and when its client was closed before the cluster said more.
        """
        if self._state != CANCELLED_AND_NOTIFIED or self._payload is _UNDECODED:
            return ""
        return _CANCELLATIONS.get(bytes(outcomes.view(self._payload)), "killed")

    def done(self) -> bool:
        """Tell whether the task is over (succeeded, failed or cancelled)."""
        return self._state in (FINISHED, CANCELLED_AND_NOTIFIED)

    def cancelled(self) -> bool:
        """Tell whether the task was cancelled, whether or not it had started (see `cancellation`)."""
        return self._state == CANCELLED_AND_NOTIFIED

    def running(self) -> bool:
        """Ask the schedulers whether the task is at a worker now, where it runs or is about to."""
        if self._state not in _OPEN:
            return False
        return any(row.state == "launched" for row in self._rows()) and not self.done()

    def history(self) -> list[m.Event]:
        """Ask the schedulers what has happened to the task, in order: submitted, launched, ..., its end.

        Empty where none has it: it has not been sent yet, or is long forgotten.
        """
        return [event for row in self._rows() for event in row.events]

    def interrupt(self, grace_s: float = 1.0) -> str:
        """End the task, running or not, wait until it is over, and return what became of it; see `Client.interrupt`."""
        from sparrowmq.client import ending, options  # both know futures

        return ending.interrupt([self], options.seconds("grace_s", grace_s))[0]

    def result(self, timeout: float | None = None) -> T:
        """Return the task's value, waiting up to ``timeout`` seconds (TimeoutError); raise what the task raised."""
        if self._state != FINISHED:
            self._await(timeout)
        if self._payload is not _UNDECODED:
            self._decode()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # the traceback would keep the future in a cycle
        return self._result  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what ``result`` would raise for the task, or None."""
        if self._state != FINISHED:
            self._await(timeout)
        if self._payload is not _UNDECODED:
            self._decode()
        return self._exception

    def cancel(self) -> bool:
        """Cancel the task if it has not started; ask the cluster and wait for its answer.

        True only when the task will truly never run: False means that it started, is over, or that no
        scheduler answered in time.
        """
        return self._state == CANCELLED_AND_NOTIFIED or cancel([self]) == 1

    def set_result(self, result: T) -> None:
        """As in `concurrent.futures`: for tests. Whatever the cluster says later of the task is ignored."""
        super().set_result(result)
        self.batch.tell([self])

    def set_exception(self, exception: BaseException | None) -> None:
        """As `set_result`."""
        super().set_exception(exception)
        self.batch.tell([self])

    def _rows(self) -> list[m.TaskStatus]:
        question = m.Query(1, "tasks", self.batch.id, [self._index])
        told = self.batch.link.inquire(question, _QUERY_TIMEOUT_S)
        rows = ledger.tasks((answer.status for answer in told), self.batch.id)
        return [row for row in rows if row.index == self._index]

    def _await(self, timeout: float | None) -> None:
        if self._state in _OPEN:
            self.batch.link.check_process()
        super().exception(timeout)

    def _decode(self) -> None:
        payload = self._payload
        if payload is _UNDECODED:
            return
        value, error = outcomes.decode(self.batch.kind, self._status, payload)
        with _births:  # two threads may have decoded: all must see the same object
            if self._payload is not _UNDECODED:
                self._result, self._exception = value, error
                self._payload = _UNDECODED

    def _finish(self) -> None:
        """End a future that may be watched; its outcome is stored."""
        with self._condition:
            if self._state not in _OPEN:
                return
            cancelled = self._status == m.CANCELLED
            self._state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
            failed = self._exception is not None or self._status != m.SUCCEEDED
            for waiter in self._waiters:
                if cancelled:
                    waiter.add_cancelled(self)
                elif failed:
                    waiter.add_exception(self)
                else:
                    waiter.add_result(self)
            self._condition.notify_all()
        if self._done_callbacks:  # type: ignore[attr-defined]
            callbacks.run(self._invoke_callbacks)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        state = self._state.partition("_")[0].lower()
        if state == "finished":
            state = "failed" if self._exception is not None or self._status > m.SUCCEEDED else "succeeded"
        return f"<Future {self.batch.id}[{self._index}] {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Future belongs to its client and cannot be sent; pass its result() instead")


class _Gate(RLock):  # type: ignore[misc]  # not final at run time
    """What a future needs of `threading.Condition`, at the price of a lock until somebody waits."""

    _condition: threading.Condition | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """As `threading.Condition.wait`; the lock is held."""
        if self._condition is None:
            self._condition = threading.Condition(self)
        return self._condition.wait(timeout)

    def notify_all(self) -> None:
        """As `threading.Condition.notify_all`; the lock is held."""
        if self._condition is not None:
            self._condition.notify_all()


def cancel(futures: Iterable[Future[Any]]) -> int:
    """Cancel those tasks that have not started, by one message a job; return how many this has cancelled."""
    pending = [future for future in futures if future._state in _OPEN]
    groups: dict[Batch, list[int]] = {}
    for future in pending:
        groups.setdefault(future.batch, []).append(future.index)
    replies = [batch.link.start_recall(batch, indices) for batch, indices in groups.items()]
    wait(replies, max((batch.link.answer_timeout_s for batch in groups), default=0.0))
    return sum(future._state == CANCELLED_AND_NOTIFIED for future in pending)


def _settle_the_layout() -> None:
    """Let the first future have every attribute that most futures get.

    CPython 3.11 keeps attributes beside the object only for names that the class had when it was young: later ones cost
    each future a dictionary of 240 bytes, which is most of the memory of a large job.
    """
    first: Future[Any] = Future(None, 0)  # type: ignore[arg-type]
    first._status, first._payload, first._state = m.SUCCEEDED, _UNDECODED, FINISHED
    first._result = first._exception = None


_settle_the_layout()


def _renew_lock() -> None:
    global _births
    _births = RLock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread that the fork does not have may have held it
