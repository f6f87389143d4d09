"""A cluster as a `concurrent.futures.Executor`.

Owns: `Executor`, what it has under way, and when that is over. Must not know: how tasks are sent, placed or run.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, ParamSpec, TypeVar, Unpack

from sparrowmq.client import chunks
from sparrowmq.client.client import Client, Submitter
from sparrowmq.client.future import Batch, Future, cancel
from sparrowmq.client.options import JobOptions
from sparrowmq.client.recall import recall
from sparrowmq.errors import UsageError
from sparrowmq.local import LocalCluster

P = ParamSpec("P")
T = TypeVar("T")


_SHUT_DOWN: Final = "cannot schedule new futures after shutdown"
_PROCESS_ENDS: Final = "cannot schedule new futures after interpreter shutdown"


class Executor(concurrent.futures.Executor):
    """Runs calls on a cluster wherever a `concurrent.futures.Executor` is expected.

    ``target``: a `Client` (or a view of one, made by `Client.options`), which `shutdown` leaves open; or what
    `Client` takes: a `LocalCluster`, an address, None. ``max_workers`` instead of a target starts a cluster on this
    machine that runs so many tasks at once and ends with the executor, as a ProcessPoolExecutor would; elsewhere the
    slots of the cluster bound what runs at once. ``keys``: as `Client` takes it. ``options``: those of the jobs (see
    `JobOptions`).

    Futures are `sparrowmq.Future`. At the end of the process, as after the executor is dropped, what was submitted
    still runs to its end. Raises what `Client` and `LocalCluster` raise.
    """

    def __init__(
        self,
        target: object = None,
        *,
        max_workers: int | None = None,
        keys: str | None = None,
        **options: Unpack[JobOptions],
    ) -> None:
        submitter, close = _submitter(target, max_workers, keys)
        try:
            self._submitter = submitter.options(**options)
        except BaseException:
            close()
            raise
        self._work = _Work(close)
        weakref.finalize(self, self._work.end, _SHUT_DOWN).atexit = False  # that end is `_Work.exit`'s

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn(*args, **kwargs)``. Raises RuntimeError after `shutdown`, and what `Client.submit` raises."""
        with self._work.admit():
            future = self._submitter.submit(fn, *args, **kwargs)
            self._work.add([future])
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return an iterator over what ``map(fn, *iterables)`` would give, in that order, computed on the cluster.

        The iterables are read and submitted at once, as one job; with ``buffersize`` only so many tasks ahead of
        the results taken. A task is one call, or ``chunksize`` of them. The iterator raises what a call raises, or
        TimeoutError where a result is not in ``timeout`` seconds after the call of `map`; it ends then, as when it
        is closed, and tasks that have not started are cancelled.
        """
        if chunksize < 1:
            raise UsageError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise UsageError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        rows = zip(*iterables)  # noqa: B905  # ends with the shortest, as map does
        if chunksize == 1 or isinstance(fn, str):
            return self._start(fn, rows, buffersize, deadline)
        packs = chunks.packed(rows, chunksize)
        return _flatten(self._start(chunks.CallEach(fn), packs, buffersize, deadline))

    def _start(
        self,
        fn: Callable[..., T],
        rows: Iterable[Iterable[Any]],
        buffersize: int | None,
        deadline: float | None,
    ) -> Iterator[T]:
        """Submit now what is to be submitted before the iterator is asked for anything."""
        source = iter(rows)

        def send(count: int | None) -> list[Future[T]]:
            with self._work.admit():
                job = self._submitter.starmap(fn, itertools.islice(source, count))
                self._work.add(job)
            return job

        pending = deque(send(buffersize))
        if buffersize is None:
            return _results(pending, deadline, None)
        return _results(pending, deadline, _Refill(pending, buffersize, send))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. Those submitted still run; with ``cancel_futures`` only those that have started.

        Returns when all are over, or with ``wait`` False at once; what the executor made for itself (its client, its
        cluster) goes when they are. May be called more than once.
        """
        self._work.end(_SHUT_DOWN, closes=not wait)
        if cancel_futures:
            self._work.cancel()
        if wait:
            self._work.wait()


class _Refill:
    """Keeps ``pending`` filled up to ``size`` tasks, which it sends by halves of that."""

    def __init__(self, pending: deque[Future[T]], size: int, send: Callable[[int], list[Future[T]]]) -> None:
        self._pending = pending
        self._size = size
        self._send = send
        self._exhausted = False

    def __call__(self) -> None:
        room = self._size - len(self._pending)
        if self._exhausted or room < max(1, self._size // 2):
            return
        futures = self._send(room)
        self._exhausted = len(futures) < room
        self._pending.extend(futures)


def _results(pending: deque[Future[T]], deadline: float | None, refill: Callable[[], None] | None) -> Iterator[T]:
    try:
        while True:
            if refill is not None:
                refill()
            if not pending:
                return
            yield _take(pending, deadline)
    finally:
        recall(pending)


def _take(pending: deque[Future[T]], deadline: float | None) -> T:
    """Return the first one's result and keep no reference to it; one that fails stays, to be recalled."""
    value = pending[0].result(None if deadline is None else max(0.0, deadline - time.monotonic()))
    pending.popleft()._result = None  # its job holds the future until all of its tasks are over
    return value


def _flatten(packs: Iterator[list[T]]) -> Iterator[T]:
    for pack in packs:
        pack.reverse()
        while pack:
            yield pack.pop()  # no reference stays here


class _Work:
    """What an executor has under way. Outlives the executor, as its tasks do; closes what it made when all is over.

    ``close`` may block, and be called from any thread.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._changed = threading.Condition()  # reentrant: `end` may run in a garbage collection
        self._closing = threading.Lock()
        self._batches: set[Batch] = set()  # not over
        self._closes = False  # by itself, as soon as nothing is under way
        self._closed = False
        self._entering = 0  # calls that are being submitted
        self._ended = ""  # why no more are taken
        atexit.register(self.exit)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Around submitting. Raises RuntimeError after the end."""
        with self._changed:
            if self._ended:
                raise RuntimeError(self._ended)
            self._entering += 1
        try:
            yield
        finally:
            with self._changed:
                self._entering -= 1
            self._look()

    def add(self, futures: Sequence[Future[Any]]) -> None:
        """Submitted: ``futures`` are all of one or several batches, one batch after the other."""
        position = 0
        while position < len(futures):
            batch = futures[position].batch
            position += batch.tasks
            with self._changed:
                self._batches.add(batch)
            batch.watch(self._settled)
            self._forget(batch)  # it may have been over before it was watched

    def end(self, why: str, *, closes: bool = True) -> None:
        """Take no more. Close by itself when all is over, unless the caller is about to `wait`."""
        with self._changed:
            self._ended = self._ended or why
            self._closes = closes
        self._look()

    def cancel(self) -> None:
        """Cancel what has not started; returns when the cluster has answered."""
        with self._changed:
            batches = list(self._batches)
        with contextlib.suppress(UsageError):  # its client is closed already
            cancel(future for batch in batches for future in list(batch.futures))

    def wait(self) -> None:
        """Return when all is over and closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._entering)
                batches = list(self._batches)
            if not batches:
                break
            for batch in batches:
                batch.wait(None)
                self._forget(batch)
        self._finish()

    def exit(self) -> None:
        """The process ends: let what is under way end before."""
        self.end(_PROCESS_ENDS, closes=False)  # no thread can be started any more
        self.wait()

    def _settled(self, futures: list[Future[Any]]) -> None:
        if futures:
            self._forget(futures[0].batch)

    def _forget(self, batch: Batch) -> None:
        if not batch.pending:
            with self._changed:
                self._batches.discard(batch)
            self._look()

    def _look(self) -> None:
        """Close in a thread of its own when all is over; the one that calls may be the connection's."""
        with self._changed:
            self._changed.notify_all()
            idle = self._closes and not self._entering and not self._batches and not self._closed
        if idle:
            threading.Thread(target=self._finish, name="sparrowmq-executor-end", daemon=True).start()

    def _finish(self) -> None:
        with self._closing:  # whoever comes second waits until it is done
            if not self._closed:
                self._closed = True
                atexit.unregister(self.exit)
                self._close()


def _submitter(target: object, max_workers: int | None, keys: str | None) -> tuple[Submitter, Callable[[], None]]:
    """Return what submits, and what closes that which was made for it."""
    if max_workers is None:
        if isinstance(target, Submitter):
            return target, _nothing
        client = Client(target, keys=keys)
        return client, client.close
    if max_workers <= 0:
        raise UsageError("max_workers must be greater than 0")
    if target is not None or keys is not None:
        raise UsageError(
            "max_workers goes without a target and keys: it starts a cluster of that size on this machine",
            hint="the slots of the target's workers bound how many tasks run at once",
        )
    cluster = LocalCluster(1, slots=max_workers, restart=True)
    cluster.start()
    try:
        client = Client(cluster)
    except BaseException:
        cluster.close()
        raise

    def close() -> None:
        client.close()
        cluster.close()

    return client, close


def _nothing() -> None:
    """Close nothing."""
