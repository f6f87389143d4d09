"""Results of any number of calls in an event loop, at a bounded cost in memory.

Owns: what is read from the caller's iterables, when it is sent, and in which order results are given. Must not know:
clients, how outcomes come into the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

from sparrowmq.client.bridge import Breather, Bridge
from sparrowmq.client.future import Batch, Future
from sparrowmq.client.recall import recall

PART_TASKS: Final = 512  # of one job
AHEAD_TASKS: Final = 8192  # read and not given

Row = tuple[Any, ...]
Send = Callable[[list[Row]], Sequence[Future[Any]]]
Source = Iterable[Any] | AsyncIterable[Any]


async def stream(bridge: Bridge, send: Send, sources: Sequence[Source], *, ordered: bool) -> AsyncGenerator[Any, None]:
    """Yield the results of ``send``'s tasks for the items of ``sources``; see `AsyncSubmitter.imap`."""
    feed = _Feed(bridge, send, ordered=ordered)
    feeding = bridge.loop.create_task(feed.run(_rows(sources)))
    breather = Breather(bridge.loop)
    try:
        while (future := await feed.next()) is not None:
            value = future.result()
            future._result = None  # its part holds the future until all of its tasks are over
            if breather.is_due():
                await asyncio.sleep(0)
            yield value
            del value
    finally:
        feeding.cancel()
        feed.close()
    if feed.error is not None:
        raise feed.error


class _Feed:
    """Reads rows, sends them, and gives their futures when they are over. Belongs to the loop's thread.

    Rows that come within one turn of the loop go as one job, up to PART_TASKS: a slow source does not wait for more.
    """

    def __init__(self, bridge: Bridge, send: Send, *, ordered: bool) -> None:
        self.error: Exception | None = None  # what the source, or sending, has raised
        self._bridge = bridge
        self._send = send
        self._ordered = ordered
        self._rows: list[Row] = []  # read and not sent
        self._sent: set[Future[Any]] = set()  # and not given
        self._parts: dict[Batch, list[Future[Any]]] = {}  # of those, until all of a part are over
        # What to give next. Ordered: all of them. Else those that are over, as they came; some are there twice.
        self._line: deque[Future[Any]] = deque()
        self._ended = False
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    async def run(self, rows: AsyncIterator[Row]) -> None:
        """Read all of ``rows``."""
        try:
            async for row in rows:
                self._rows.append(row)
                if len(self._rows) == 1:
                    self._bridge.loop.call_soon(self._flush)
                if len(self._rows) >= PART_TASKS:
                    self._flush()
                while self._ahead() >= AHEAD_TASKS and not self._ended:
                    self._room.clear()
                    await self._room.wait()
                if self._ended:
                    return
            self._flush()
        except Exception as error:  # the caller's code
            self._flush()
            self._fail(error)
        finally:
            self._ended = True
            self._news.set()

    async def next(self) -> Future[Any] | None:
        """Return the next future that is over; None after the last."""
        while True:
            found = self._pop()
            if found is not None:
                if self._ahead() <= AHEAD_TASKS - PART_TASKS:
                    self._room.set()
                return found
            if self._ended and not self._sent and not self._rows:
                return None
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """Read no more, cancel what has not started."""
        self._ended = True
        self._rows.clear()
        for batch, futures in self._parts.items():
            self._bridge.unlisten(batch, self._on_settled)
            recall(futures)
        self._parts.clear()
        self._sent.clear()
        self._line.clear()

    def _ahead(self) -> int:
        return len(self._rows) + len(self._sent)

    def _pop(self) -> Future[Any] | None:
        while self._line:
            if self._ordered and not self._line[0].done():
                return None
            first = self._line.popleft()
            if first in self._sent:
                self._sent.remove(first)
                return first
        return None

    def _flush(self) -> None:
        """Send what was read."""
        rows, self._rows = self._rows, []
        if not rows or self.error is not None:
            return
        try:
            futures = self._send(rows)
        except Exception as error:  # what cannot be sent; the client is closed
            self._ended = True
            self._fail(error)
            self._room.set()
            return
        self._sent.update(futures)
        self._line.extend(futures if self._ordered else ())
        for future in futures:
            self._parts.setdefault(future.batch, []).append(future)
        for batch in {future.batch: None for future in futures}:
            self._bridge.listen(batch, self._on_settled)
        self._on_settled([future for future in futures if future.done()])  # perhaps before anybody listened

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self._news.set()

    def _on_settled(self, futures: list[Future[Any]]) -> None:
        self._line.extend(() if self._ordered else futures)
        for batch in {future.batch for future in futures}:
            if not batch.pending and batch in self._parts:  # all are over, whether or not we were told of each
                self._bridge.unlisten(batch, self._on_settled)
                self._line.extend(() if self._ordered else self._parts[batch])
                del self._parts[batch]
        self._news.set()


async def _rows(sources: Sequence[Source]) -> AsyncIterator[Row]:
    """Zip iterables of both kinds; ends with the shortest."""
    if not any(isinstance(source, AsyncIterable) for source in sources):
        plain: Any = sources
        for number, row in enumerate(zip(*plain)):  # noqa: B905
            if number % PART_TASKS == PART_TASKS - 1:
                await asyncio.sleep(0)
            yield row
        return
    nexts = [_nexts(source) for source in sources]
    while True:
        try:
            items = [await anext(each) for each in nexts]
        except StopAsyncIteration:
            return
        yield tuple(items)


async def _nexts(source: Source) -> AsyncIterator[Any]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item
