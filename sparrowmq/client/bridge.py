"""From the connection's thread into an event loop: outcomes that arrive together cross together.

Owns: one loop's listeners, and the one call a batch of outcomes that wakes the loop. Must not know: what the listeners
do. All but `_arrived` belongs to the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sparrowmq.client.future import Batch, Future
from sparrowmq.client.recall import recall
from sparrowmq.errors import UsageError

SLICE_S: Final = 0.005  # the loop is held no longer at a time by what came
CHECK_EVERY: Final = 64  # results between two looks at the clock
LIST_MAX: Final = 256  # futures that are handled between two looks at the clock

Listener = Callable[[list[Future[Any]]], object]


class Bridge:
    """Tells who waits in ``loop`` which tasks are over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: dict[Future[Any], Callable[[], object]] = {}
        self._listeners: dict[Batch, list[Listener]] = {}
        self._watched: dict[Batch, int] = {}  # by how many of the two above
        self._arrivals: deque[list[Future[Any]]] = deque()
        self._lock = threading.Lock()
        self._woken = False  # whether `_drain` is on its way
        self._recalled: list[Future[Any]] = []

    def check_loop(self) -> None:
        """Raise UsageError where another loop runs, RuntimeError where none does."""
        if asyncio.get_running_loop() is not self.loop:
            raise UsageError("this client belongs to another event loop", hint="make one in each loop")

    def when_over(self, future: Future[Any], call: Callable[[], object]) -> None:
        """Do ``call`` once when the task is over; one at a time for a future. Does so now if it is."""
        self._waiting[future] = call
        self._watch(future.batch)
        if future.done():  # perhaps before it was watched
            self._over(future)

    def forget(self, future: Future[Any]) -> None:
        """End what `when_over` has begun; once more does nothing."""
        if self._waiting.pop(future, None) is not None:
            self._unwatch(future.batch)

    def listen(self, batch: Batch, listener: Listener) -> None:
        """Call ``listener`` with those futures of ``batch`` that are over, as they come; not with those that were."""
        self._listeners.setdefault(batch, []).append(listener)
        self._watch(batch)

    def unlisten(self, batch: Batch, listener: Listener) -> None:
        """End what `listen` has begun; once more does nothing."""
        listeners = self._listeners.get(batch, [])
        if listener in listeners:
            listeners.remove(listener)
            if not listeners:
                del self._listeners[batch]
            self._unwatch(batch)

    async def until(self, batch: Batch, condition: Callable[[], bool]) -> None:
        """Return when ``condition`` holds; it is asked whenever tasks of ``batch`` are over."""
        if condition():
            return
        batch.link.check_process()
        changed = asyncio.Event()

        def listener(_: list[Future[Any]]) -> None:
            changed.set()

        self.listen(batch, listener)
        try:
            while not condition():
                changed.clear()
                await changed.wait()
        finally:
            self.unlisten(batch, listener)

    def recall(self, future: Future[Any]) -> None:
        """Cancel the task if it has not started: together with all others of this turn of the loop."""
        if not self._recalled and not self.loop.is_closed():
            self.loop.call_soon(self._send_recalls)
        self._recalled.append(future)
        if self.loop.is_closed():
            self._send_recalls()

    def _send_recalls(self) -> None:
        futures, self._recalled = self._recalled, []
        recall(futures)

    def _watch(self, batch: Batch) -> None:
        count = self._watched.get(batch, 0)
        self._watched[batch] = count + 1
        if not count:
            batch.watch(self._arrived)

    def _unwatch(self, batch: Batch) -> None:
        self._watched[batch] -= 1
        if not self._watched[batch]:
            del self._watched[batch]
            batch.unwatch(self._arrived)

    def _over(self, future: Future[Any]) -> None:
        call = self._waiting.pop(future, None)
        if call is not None:
            self._unwatch(future.batch)
            call()

    def _arrived(self, futures: list[Future[Any]]) -> None:
        """Outcomes have come. Called by any thread; never raises."""
        with self._lock:
            self._arrivals.append(futures)
            if self._woken:
                return
            self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._drain)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._arrivals.clear()

    def _drain(self) -> None:
        deadline = self.loop.time() + SLICE_S
        while self.loop.time() < deadline:
            with self._lock:
                if not self._arrivals:
                    self._woken = False
                    return
                futures = self._arrivals.popleft()
                if len(futures) > LIST_MAX:
                    self._arrivals.appendleft(futures[LIST_MAX:])
                    futures = futures[:LIST_MAX]
            self._hand_over(futures)
        self.loop.call_soon(self._drain)

    def _hand_over(self, futures: list[Future[Any]]) -> None:
        if self._waiting:
            for future in futures:
                self._over(future)
        if futures and self._listeners:
            for listener in self._listeners.get(futures[0].batch, [])[:]:
                listener(futures)


class Breather:
    """Lets the loop turn now and then in a loop of the program's that never waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._count = 0
        self._since = loop.time()

    def is_due(self) -> bool:
        """Tell whether it is time for an ``await asyncio.sleep(0)``; asked once a result."""
        self._count += 1
        if self._count % CHECK_EVERY:
            return False
        now = self._loop.time()
        due, self._since = now - self._since > SLICE_S, now
        return due
