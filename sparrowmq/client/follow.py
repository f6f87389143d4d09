"""What a job's tasks print, from every scheduler that knows the job, as one stream.

Owns: a connection to each scheduler for as long as somebody reads, and the bound on what waits to be read. Must not
know: how a scheduler keeps output, what is printed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import msgspec

from sparrowmq.client.inquiry import hello
from sparrowmq.errors import ProtocolError, Unavailable, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.credentials import Credentials
from sparrowmq.transport.context import Context
from sparrowmq.transport.dealer import Dealer

UNREAD_BYTES_MAX: Final = 16 * 1024 * 1024  # beyond, the newest is dropped, and counted in the next that is not


class Follower:
    """Follows one job at several schedulers. `start` and `stop` belong to the loop's thread, `read` to the user's."""

    def __init__(self, context: Context, loop: Loop, job: str, credentials: Credentials | None = None) -> None:
        self._context = context
        self._loop = loop
        self._job = job
        self._credentials = credentials
        self._dealers: dict[str, Dealer] = {}
        self._changed = threading.Condition()
        # Guarded by the condition:
        self._unread: deque[m.Output] = deque()
        self._unread_bytes = 0
        self._dropped = 0
        self._lost = ""  # why a connection over which output has come has ended too early
        self._known = False  # whether a scheduler has said that it knows the job
        self._over = False

    def start(self, addresses: Iterable[str], client_id: str, live: bool) -> None:
        """Ask each scheduler for what it has, and what is to come; ``client_id`` is one that none has seen."""
        for address in addresses:
            self._dealers[address] = Dealer(
                self._context,
                self._loop,
                address,
                on_batch=partial(self._on_batch, address),
                on_lost=partial(self._on_lost, address),
                on_bad=partial(self._on_bad, address),
                credentials=self._credentials,
            )
            self._dealers[address].send([hello(client_id), m.Follow(1, self._job, live)])
        self._end_if_done()

    def stop(self) -> None:
        """End: the reader gets what is there. Does nothing the second time."""
        for address in list(self._dealers):
            self._leave(address)
        self._end_if_done()

    def read(self) -> Iterator[m.Output]:
        """Yield output as it comes, up to the end.

        There it raises Unavailable where a scheduler was lost before it said that all had been sent, UsageError where
        none knows the job.
        """
        outputs: deque[m.Output] = deque()
        over = False
        while outputs or not over:
            yield from outputs
            with self._changed:
                self._changed.wait_for(lambda: self._unread or self._over)
                outputs, self._unread, self._unread_bytes = self._unread, deque(), 0
                over, lost, known = self._over, self._lost, self._known
        if lost:
            raise Unavailable(f"the output of job {self._job} may go on: {lost}", hint="read the logs again")
        if not known:
            raise UsageError(f"no scheduler knows a job {self._job!r}", hint="`sparrowmq job list` shows what there is")

    def _on_batch(self, address: str, batch: list[m.AnyMessage]) -> None:
        for message in batch:
            if isinstance(message, m.Output) and message.job == self._job:
                self._known = True
                self._keep(message)
            elif isinstance(message, m.Followed):
                self._known = self._known or bool(message.state)
                self._leave(address)
                break
            elif isinstance(message, m.Refused):
                self._on_lost(address, message.detail)
                break
        self._end_if_done()

    def _keep(self, output: m.Output) -> None:
        with self._changed:
            if self._unread_bytes + len(output.data) > UNREAD_BYTES_MAX:
                self._dropped += len(output.data) + output.dropped
                return
            if self._dropped:
                output = msgspec.structs.replace(output, dropped=output.dropped + self._dropped)
                self._dropped = 0
            self._unread.append(output)
            self._unread_bytes += len(output.data)
            self._changed.notify_all()

    def _on_lost(self, address: str, why: str = "") -> None:
        dealer = self._dealers.pop(address, None)
        if dealer is None:
            return
        dealer.close()
        if dealer.connected:  # one that could not be reached has not shown that it knows the job
            with self._changed:
                self._lost = f"{address}: {why or dealer.why}"
        self._end_if_done()

    def _on_bad(self, address: str, error: ProtocolError) -> None:
        self._on_lost(address, str(error))

    def _leave(self, address: str) -> None:
        dealer = self._dealers.pop(address, None)
        if dealer is not None:
            dealer.send([m.Goodbye("leaving")])
            dealer.close()

    def _end_if_done(self) -> None:
        if not self._dealers:
            with self._changed:
                self._over = True
                self._changed.notify_all()
