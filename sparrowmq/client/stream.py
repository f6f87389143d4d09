"""Results of any number of calls, one after the other, at a bounded cost in memory.

Owns: `Stream`: what is taken from the caller's iterables, cut into parts and sent, and when. Must not know: sessions,
sockets, futures (there are none: a part that was read leaves nothing behind).

Everything but the arrival of outcomes happens in the thread that reads: the caller's iterables are never entered by
another one.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, Self, TypeVar

from sparrowmq import limits
from sparrowmq.client import outcomes, submission
from sparrowmq.client.link import Link
from sparrowmq.errors import NotSerializable, TooLarge, UsageError
from sparrowmq.protocol import messages as m

T = TypeVar("T")

PART_TASKS_MIN: Final = 32  # of the first part: results come early
PART_TASKS_MAX: Final = 20_000
GROWTH: Final = 4
PARTS_MAX: Final = 2  # sent and not read to their ends
PART_BYTES_MAX: Final = 16 * 1024 * 1024  # of arguments in a part; and the aim for its results
BUILD_S: Final = 0.01  # a part is sent when its items took so long to come ...
BUILD_ITEM_S: Final = 5e-6  # ... or so long for each that it might have, however few there are
SLOW_ITEM_S: Final = 0.001  # items that take longer than this each: give what is there before waiting for more

_MISSING: Final = 255
_LOCAL: Final = 254  # in place of a status: the payload is an exception that was made here


def start(
    link: Link, spec: m.JobSpec, fn: Callable[..., object] | str, rows: Iterator[tuple[Any, ...]], *, ordered: bool
) -> Stream[Any]:
    """Return the stream of ``fn(*row)`` for each of ``rows``. Raises what cannot be said of a job; takes no row yet."""
    return Stream(link, submission.Recipe.of(spec, fn), rows, ordered=ordered)


class _Arrivals:
    """What wakes the reader. Parts refer to this and not to their stream, which may be dropped unread."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.chunks: deque[tuple[_Part, Sequence[int]]] = deque()  # what came, for unordered reading


class _Part:
    """One wire job, and its outcomes until they are read. A `link.Sink`."""

    def __init__(self, job: str, tasks: int, arrivals: _Arrivals, *, ordered: bool) -> None:
        self.id = job
        self.pending = tasks
        self.unread = tasks
        self.result_bytes = 0
        self.statuses = bytearray([_MISSING]) * tasks
        self._payloads: list[Any] = [None] * tasks
        self._arrivals = arrivals
        self._ordered = ordered
        self._dropped = False

    def accepted(self, workers: int) -> None:
        """See `link.Sink`."""

    def settle(self, indices: Sequence[int], statuses: bytes, payloads: Sequence[m.Payload]) -> None:
        """See `link.Sink`."""
        self.pending -= len(indices)
        if not self._dropped:
            self.result_bytes += sum(map(len, payloads))
            for index, payload in zip(indices, payloads, strict=True):
                self._payloads[index] = payload
            self._arrived(indices, statuses)

    def fail(self, make: Callable[[], Exception] | None) -> None:
        """See `link.Sink`."""
        open_ = [index for index, status in enumerate(self.statuses) if status == _MISSING]
        self.pending = 0
        if not self._dropped:
            for index in open_:
                self._payloads[index] = make() if make else concurrent.futures.CancelledError()
            self._arrived(open_, bytes([_LOCAL]) * len(open_))

    def _arrived(self, indices: Sequence[int], statuses: bytes) -> None:
        with self._arrivals.changed:
            for index, status in zip(indices, statuses, strict=True):
                self.statuses[index] = status
            if not self._ordered:
                self._arrivals.chunks.append((self, indices))
            self._arrivals.changed.notify_all()

    def take(self, index: int) -> tuple[int, Any]:
        """Return (status, payload) of a task that is over, and forget them."""
        payload, self._payloads[index] = self._payloads[index], None
        self.unread -= 1
        return self.statuses[index], payload

    def drop(self) -> None:
        """Nobody will read this any more: keep nothing of what still comes."""
        self._dropped = True
        self._payloads.clear()

    def missing(self) -> list[int]:
        """Return the tasks without an outcome."""
        return [index for index, status in enumerate(self.statuses) if status == _MISSING]


class Stream(Iterator[T], Generic[T]):
    """The iterator that `Client.imap` returns. One thread reads it.

    ``next`` takes items from the iterables, sends them, and returns the next result or raises what its task raised;
    what keeps an item from being sent (NotSerializable, TooLarge) is raised in its place, too, and the iterator goes on
    after either. An exception of the iterables themselves comes after the results of what they gave, and ends it.
    `close`, the end of a ``with`` block or of the last reference to it cancels what has not started; running tasks end
    unseen.
    """

    def __init__(
        self, link: Link, recipe: submission.Recipe, rows: Iterator[tuple[Any, ...]], *, ordered: bool
    ) -> None:
        self._link = link
        self._recipe = recipe
        self._rows = rows
        self._ordered = ordered
        self._arrivals = _Arrivals()
        self._line: deque[_Part | Exception] = deque()  # in the order of the items
        self._parts = 0  # of the line, without exceptions
        self._at = 0  # the next task of the first part; ordered only
        self._chunk: deque[tuple[_Part, int]] = deque()  # came and not read; unordered only
        self._building: list[bytes] = []
        self._building_bytes = 0
        self._size = PART_TASKS_MIN
        self._result_bytes, self._results = 0, 0  # of parts that were read
        self._items = 0
        self._slow = False  # whether the iterables make the reader wait
        self._ended = False  # nothing more comes from the iterables

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while True:
            if self._parts < PARTS_MAX and not self._ended and not (self._slow and self._ready()):
                self._fill()
            if not self._line:
                raise StopIteration
            head = self._line[0]
            if isinstance(head, Exception):
                self._line.popleft()
                raise head
            part, index = self._next_ordered(head) if self._ordered else self._next_done()
            status, payload = part.take(index)
            if not part.unread:
                self._finished(part)
            return self._value(status, payload)

    def close(self) -> None:
        """Cancel what has not started and forget the rest. Does nothing the second time."""
        self._ended = True
        parts = [entry for entry in self._line if isinstance(entry, _Part)]
        self._line.clear()
        self._chunk.clear()
        self._building.clear()
        self._parts = 0
        for part in parts:
            missing = part.missing()
            part.drop()
            if missing:
                with contextlib.suppress(UsageError):  # the client is closed or this is a fork: there is nothing to end
                    self._link.start_recall(part, missing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_line"):
            self.close()

    # Reading.

    def _ready(self) -> bool:
        """Tell whether there is something to give without waiting."""
        if not self._line:
            return False
        head = self._line[0]
        if isinstance(head, Exception):
            return True
        return head.statuses[self._at] != _MISSING if self._ordered else bool(self._chunk or self._arrivals.chunks)

    def _next_ordered(self, head: _Part) -> tuple[_Part, int]:
        index = self._at
        if head.statuses[index] == _MISSING:
            self._link.check_process()
            with self._arrivals.changed:
                self._arrivals.changed.wait_for(lambda: head.statuses[index] != _MISSING)
        self._at += 1
        return head, index

    def _next_done(self) -> tuple[_Part, int]:
        if not self._chunk:
            if not self._arrivals.chunks:
                self._link.check_process()
            with self._arrivals.changed:
                self._arrivals.changed.wait_for(lambda: self._arrivals.chunks)
                part, indices = self._arrivals.chunks.popleft()
            self._chunk.extend((part, index) for index in indices)
        return self._chunk.popleft()

    def _finished(self, part: _Part) -> None:
        self._line.remove(part)
        self._parts -= 1
        self._at = 0
        self._result_bytes += part.result_bytes
        self._results += len(part.statuses)

    def _value(self, status: int, payload: Any) -> T:
        if status == m.SUCCEEDED or status not in (_LOCAL, m.CANCELLED):
            value, error = outcomes.decode(self._recipe.spec.kind, status, payload)
        else:
            value, error = None, payload if status == _LOCAL else concurrent.futures.CancelledError()
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    # Sending.

    def _fill(self) -> None:
        while self._parts < PARTS_MAX and not self._ended:
            error = self._build()
            if self._building:
                self._send()
            if error is not None:
                self._line.append(error) if self._ordered else self._line.appendleft(error)
            if self._slow:
                break

    def _build(self) -> Exception | None:
        """Take items until they make a part, have taken their time, or one cannot be sent; then return why."""
        most = self._tasks_max()
        began = time.monotonic()
        late = began + max(BUILD_S, BUILD_ITEM_S * most)
        taken = blobs = 0
        self._slow = False
        while len(self._building) < most and self._building_bytes < PART_BYTES_MAX:
            try:
                row = next(self._rows)
            except StopIteration:
                self._ended = True
                return None
            except Exception as error:  # the caller's code
                self._ended = True
                return error
            taken += 1
            try:
                payload = self._recipe.dump(row)
            except (NotSerializable, TooLarge) as error:
                return self._misfit(error)
            finally:
                self._items += 1
            self._building.append(payload)
            self._building_bytes += len(payload)
            blobs += len(payload) > limits.INLINE_BYTES_MAX
            if blobs >= submission.PART_BLOBS_MAX:
                return None
            now = time.monotonic()
            if now > late:
                self._slow = now - began > SLOW_ITEM_S * taken
                return None
        self._size = min(PART_TASKS_MAX, self._size * GROWTH)
        return None

    def _misfit(self, error: NotSerializable | TooLarge) -> Exception:
        named = type(error)(f"item {self._items}: {error}", hint=error.hint)
        named.__cause__ = error
        return named

    def _tasks_max(self) -> int:
        """Return how many tasks the next part may have: fewer where results are large."""
        if not self._result_bytes:
            return self._size
        return max(1, min(self._size, int(PART_BYTES_MAX * self._results / self._result_bytes)))

    def _send(self) -> None:
        payloads: list[m.Payload] = [submission.wrap(payload) for payload in self._building]
        self._building, self._building_bytes = [], 0
        part = _Part(self._link.new_id(), len(payloads), self._arrivals, ordered=self._ordered)
        submit = m.Submit(part.id, 0, self._recipe.spec, part.pending, payloads, submission.wrap(self._recipe.function))
        try:
            self._link.submit([(submit, part)])
        except UsageError:  # the client is closed, or this is a fork
            self._ended = True
            raise
        self._line.append(part)
        self._parts += 1
