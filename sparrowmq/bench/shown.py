"""What a client was shown of its tasks: the ledger that a fault must leave without a gap and without a double.

Owns: submitting calls so that each acceptance and each outcome is counted where the client hands it over. Must not
know: what goes wrong meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

from sparrowmq.client import options, submission
from sparrowmq.client.client import Client
from sparrowmq.client.future import Batch, Future
from sparrowmq.errors import Unavailable
from sparrowmq.protocol import codec, messages as m

_EXAMPLES_MAX: Final = 5


class Shown(Batch):
    """A job's batch that counts what it is told. ``accepted_s``: when a scheduler took the job (CLOCK_MONOTONIC)."""

    __slots__ = ("accepted_s", "called", "expected", "told")

    def __init__(self, job: str, spec: m.JobSpec, expected: Sequence[object], link: Any) -> None:
        super().__init__(job, spec.kind, len(expected), link)
        self.expected = expected
        self.accepted_s: list[float] = []
        self.told = [0] * len(expected)
        self.called = [0] * len(expected)

    def accepted(self, workers: int) -> None:
        """See `link.Sink`."""
        self.accepted_s.append(time.monotonic())
        super().accepted(workers)

    def settle(self, indices: Sequence[int], statuses: bytes, payloads: Sequence[m.Payload]) -> None:
        """See `link.Sink`."""
        for index in indices:
            self.told[index] += 1
        super().settle(indices, statuses, payloads)

    def called_back(self, future: Future[Any]) -> None:
        """The callback of each of its futures."""
        self.called[future.index] += 1


class Ledger:
    """All that one client submits through it. Jobs that are over are folded into the counts by `close_books`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._open: list[tuple[Shown, list[Future[Any]]]] = []
        self._lock = threading.Lock()
        self.tasks = 0
        self.lost = 0  # without an outcome, or with another one than the task's own value
        self.duplicated = 0  # outcomes beyond the first
        self.examples: list[str] = []  # of what was lost, in words

    def send(
        self, fn: Callable[..., object], rows: Iterable[tuple[Any, ...]], expected: Sequence[object], **given: Any
    ) -> tuple[Shown, list[Future[Any]]]:
        """Submit one job that calls ``fn`` on each of ``rows`` and must return ``expected``; ``given``: its options."""
        connection = self._client._connection
        work = submission.calls(options.make_spec(**given), fn, rows)
        submit = m.Submit(
            connection.new_id(), 0, work.spec, work.tasks, [*work.payloads], submission.wrap(work.function)
        )
        codec.check_submit(submit)
        batch = Shown(submit.job, work.spec, expected, connection)
        futures = batch.futures
        for future in futures:
            future.add_done_callback(batch.called_back)  # type: ignore[arg-type]
        with self._lock:
            self.tasks += len(futures)
            self._open.append((batch, futures))
        connection.submit([(submit, batch)])
        return batch, futures

    @property
    def unfinished(self) -> list[Shown]:
        """The jobs of which not all outcomes are there."""
        with self._lock:
            return [batch for batch, _ in self._open if batch.pending]

    def wait(self, timeout_s: float) -> bool:
        """Wait until every task has an outcome; tell whether that is so within ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            batches = [batch for batch, _ in self._open]
        return all(batch.wait(max(0.0, deadline - time.monotonic())) for batch in batches)

    def close_books(self, *, final: bool = False) -> None:
        """Count the jobs that are over, and forget them; ``final``: what is not over yet is lost."""
        with self._lock:
            done = [entry for entry in self._open if final or not entry[0].pending]
            self._open = [entry for entry in self._open if not final and entry[0].pending]
        for batch, futures in done:
            for future, expected, told, called in zip(futures, batch.expected, batch.told, batch.called, strict=True):
                why = _wrong(future, expected)
                self.lost += bool(why)
                self.duplicated += max(0, told - 1, called - 1)
                if why and len(self.examples) < _EXAMPLES_MAX:
                    self.examples.append(f"task {future.index} of job {batch.id}: {why}")


def _wrong(future: Future[Any], expected: object) -> str:
    """Say what is wrong with the outcome of a task; "" if nothing is."""
    if not future.done():
        return "no outcome"
    try:
        error = future.exception(0.0)
    except CancelledError:
        return "cancelled"
    if error is not None:
        return f"{type(error).__name__}: {error}"
    value = future.result(0.0)
    return "" if value == expected else f"returned {value!r:.80}, not {expected!r:.80}"


def stuck(fault: str, what: str, timeout_s: float) -> Unavailable:
    """Return the error for a cluster that has not done ``what`` after a fault."""
    return Unavailable(
        f"{fault}: {what} has not happened within {timeout_s:g} s",
        hint="the cluster does not recover from this fault",
    )
