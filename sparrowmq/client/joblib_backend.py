"""A backend for joblib, and so for scikit-learn and whatever else uses joblib.

Owns: `register_joblib` and the backend. Must not know: how batches are sent, placed or run. joblib is the extra
``joblib``; importing this module needs it, importing sparrowmq does not.

    import joblib, sparrowmq

    sparrowmq.register_joblib()
    with joblib.parallel_config(backend="sparrowmq", client=client):
        joblib.Parallel()(joblib.delayed(f)(x) for x in xs)

Registering is a call, not the side effect of an import: linters keep it, and a reader sees it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Unpack

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from sparrowmq.client import callbacks, chunks, default
from sparrowmq.client.client import Client, Submitter
from sparrowmq.client.options import JobOptions
from sparrowmq.errors import Unavailable, UsageError

NAME: Final = "sparrowmq"

Callback = Callable[["concurrent.futures.Future[Any]"], None]


def register_joblib(*, make_default: bool = False) -> None:
    """Make the backend known to joblib as "sparrowmq"; with ``make_default`` also what `joblib.Parallel` uses.

    Its parameters, given to `joblib.parallel_config`: ``client`` (default: that of the
    innermost ``with`` block, else one as made by ``Client()``), and `JobOptions`. ``n_jobs`` is how many batches run at
    once: -1, the default, means as many as the cluster has slots, -2 one less. 1 runs them here, as always in joblib;
    nested calls run in threads of their task. Raises ImportError where joblib is not installed.
    """
    register_parallel_backend(NAME, SparrowBackend, make_default=make_default)


class SparrowBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs the batches of one `joblib.Parallel` on a cluster. The methods are those that joblib documents."""

    MIN_IDEAL_BATCH_DURATION = 0.05  # a batch costs about a millisecond: less than loky's
    MAX_IDEAL_BATCH_DURATION = 1.0
    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self, client: Client | None = None, nesting_level: int | None = None, **options: Unpack[JobOptions]
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        self._client = client
        self._options = options
        self._submitter: Submitter | None = None
        self._lock = threading.RLock()  # joblib calls `submit` from callbacks, too
        self._n_jobs = 1
        self._running: set[Any] = set()  # futures
        self._waiting: deque[tuple[Any, Callback | None]] = deque()  # batches beyond n_jobs

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches run at once. Raises ValueError for 0, Unavailable where there is no slot."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, self._slots() + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Get ready for one call of ``parallel``; returns how many batches run at once."""
        self.parallel = parallel
        self._n_jobs = self.effective_n_jobs(n_jobs)
        if self._n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        return self._n_jobs

    def submit(self, func: Any, callback: Callback | None = None) -> None:
        """Run a batch, or keep it until fewer than n_jobs run. Never raises: what goes wrong comes by ``callback``."""
        with self._lock:
            if len(self._running) >= self._n_jobs:
                self._waiting.append((func, callback))
            else:
                self._send(func, callback)

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """Return the results of a batch that is over, or raise."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all batches, running ones too."""
        with self._lock:
            running = list(self._running)
            self._running.clear()
            self._waiting.clear()
        for future in running:
            if not future.done():
                with contextlib.suppress(UsageError):  # the client is closed
                    future.batch.link.kill(future.job, [])
        self.reset_batch_stats()

    def terminate(self) -> None:
        """The call is over."""
        self.reset_batch_stats()

    def _send(self, batch: Any, callback: Callback | None) -> None:
        try:
            if self._submitter is None:
                self._submitter = self._base().options(**self._named(batch))
            future: concurrent.futures.Future[Any] = self._submitter.submit(chunks.call, batch)
        except Exception as error:  # joblib calls from a callback, where raising would leave its caller waiting
            failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
            failed.set_exception(error)
            if callback is not None:
                callbacks.run(lambda: callback(failed))
            return
        self._running.add(future)
        future.add_done_callback(lambda future: self._done(future, callback))

    def _done(self, future: concurrent.futures.Future[Any], callback: Callback | None) -> None:
        with self._lock:
            self._running.discard(future)
            if self._waiting and len(self._running) < self._n_jobs:
                self._send(*self._waiting.popleft())
        if callback is not None:
            callback(future)

    def _base(self) -> Client:
        return self._client if self._client is not None else default.current()

    def _named(self, batch: Any) -> JobOptions:
        """Name jobs after the function, where the caller gives no name."""
        name = getattr(batch.items[0][0], "__qualname__", "joblib")
        return {"name": str(name), **self._options}

    def _slots(self) -> int:
        slots = sum(row.slots for row in self._base().workers() if row.state == "alive")
        if not slots:
            raise Unavailable("the cluster has no worker", hint="`sparrowmq worker list` shows those that there are")
        return slots
