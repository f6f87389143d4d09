"""Waiting for many futures.

Owns: `as_completed`, and what `Client.wait` and `Client.gather` do. Must not know: connections, payloads.
"""

from __future__ import annotations

import concurrent.futures
import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any, Final, TypeVar, cast

from sparrowmq.client.future import Future
from sparrowmq.client.options import did_you_mean
from sparrowmq.errors import UsageError

T = TypeVar("T")

_CONDITIONS: Final = (ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION)
_ERRORS: Final = ("raise", "return")


def as_completed(futures: Iterable[Future[T]], timeout: float | None = None) -> Iterator[Future[T]]:
    """Yield futures as they are done, each once; as `concurrent.futures.as_completed`, at a fraction of its cost.

    Raises TimeoutError where not all are done ``timeout`` seconds after the call. Futures of other executors may be
    among them; then it is the standard library's.
    """
    wanted = set(futures)
    if not all(isinstance(future, Future) for future in wanted):
        return cast("Iterator[Future[T]]", concurrent.futures.as_completed(wanted, timeout))
    return _as_settled(wanted, None if timeout is None else time.monotonic() + timeout)


def _as_settled(pending: set[Future[T]], deadline: float | None) -> Iterator[Future[T]]:
    settled: queue.SimpleQueue[list[Future[Any]]] = queue.SimpleQueue()
    total = len(pending)
    batches = {future.batch for future in pending if not future.done()}
    for batch in batches:
        batch.link.check_process()
        batch.watch(settled.put)
    try:
        some = [future for future in pending if future.done()]
        while True:
            while some:
                if some[-1] in pending:  # it may be another one of the batch, or seen already
                    pending.remove(some[-1])
                    yield some.pop()  # no reference to it stays here
                else:
                    some.pop()
            if not pending:
                return
            try:
                timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                some = settled.get(timeout=timeout_s)[::-1]  # others have got this list, too
            except queue.Empty:
                raise TimeoutError(f"{len(pending):,} of {total:,} futures are unfinished") from None
    finally:
        for batch in batches:
            batch.unwatch(settled.put)


def wait(
    futures: Iterable[Future[T]], timeout_s: float | None, return_when: str = ALL_COMPLETED
) -> tuple[set[Future[T]], set[Future[T]]]:
    """Return (done, not done) once ``return_when`` holds or ``timeout_s`` has passed; see `Client.wait`."""
    if return_when not in _CONDITIONS:
        hint = did_you_mean(str(return_when), _CONDITIONS, "it is one of")
        raise UsageError(f"return_when: {return_when!r:.80} is unknown", hint=hint)
    wanted = set(futures)
    if not all(isinstance(future, Future) for future in wanted):
        done, not_done = concurrent.futures.wait(wanted, timeout_s, return_when)
        return cast("tuple[set[Future[T]], set[Future[T]]]", (done, not_done))
    try:
        for future in as_completed(wanted, timeout_s):
            if return_when == FIRST_COMPLETED or (return_when == FIRST_EXCEPTION and _failed(future)):
                break
    except TimeoutError:
        pass
    finished = {future for future in wanted if future.done()}
    return finished, wanted - finished


def _failed(future: Future[Any]) -> bool:
    return not future.cancelled() and future.exception() is not None


def gather(futures: Iterable[Future[T]], timeout_s: float | None, errors: str) -> list[Any]:
    """Return results, and errors in place of results with "return"; see `Client.gather`."""
    if errors not in _ERRORS:
        raise UsageError(f"errors: {errors!r:.80} is unknown", hint=did_you_mean(str(errors), _ERRORS, "it is one of"))
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    found: list[Any] = []
    for future in futures:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if errors == "raise":
            found.append(future.result(left_s))
            continue
        try:
            error = future.exception(left_s)
        except concurrent.futures.CancelledError as cancelled:
            error = cancelled
        found.append(future.result() if error is None else error)
    return found
