"""Waiting for whichever future is done next.

Owns: `as_completed`. Must not know: connections, payloads.
"""

from __future__ import annotations

import concurrent.futures
import queue
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from sparrowmq.client.future import Future

T = TypeVar("T")


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
            for future in some:
                if future in pending:  # it may be another one of the batch, or seen already
                    pending.remove(future)
                    yield future
            if not pending:
                return
            try:
                some = settled.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError(f"{len(pending):,} of {total:,} futures are unfinished") from None
    finally:
        for batch in batches:
            batch.unwatch(settled.put)
