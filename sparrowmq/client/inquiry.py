"""One question to several schedulers at once, each over a short connection of its own.

Owns: those connections, and when an inquiry is over. Must not know: jobs, futures, the session (whose one
connection belongs to one scheduler).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from sparrowmq import __version__
from sparrowmq.client.link import Question, Told
from sparrowmq.errors import ProtocolError
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.credentials import Credentials
from sparrowmq.transport.context import Context
from sparrowmq.transport.dealer import Dealer


def hello(client_id: str) -> m.Hello:
    """Return the first message on such a connection; ``client_id`` is one that no scheduler has seen."""
    return m.Hello(m.PROTOCOL, __version__, m.CLIENT, client_id, time.time_ns() // 1_000_000)


class Inquiry:
    """Asks addresses a question that is answered by a `messages.Status`; belongs to the loop's thread.

    ``on_done`` gets the answers that came within ``timeout_s``: schedulers that are gone, silent or of another
    version are left out. Their number is bounded by that of the schedulers.
    """

    def __init__(
        self,
        context: Context,
        loop: Loop,
        on_done: Callable[[Inquiry, list[Told]], None],
        credentials: Credentials | None = None,
    ) -> None:
        self._context = context
        self._loop = loop
        self._on_done = on_done
        self._credentials = credentials
        self._dealers: dict[str, Dealer] = {}
        self._answers: list[Told] = []
        self._over = False

    def start(
        self,
        addresses: Iterable[str],
        client_id: str,
        question: Question,
        timeout_s: float,
        first: Sequence[m.AnyMessage] = (),
    ) -> None:
        """Say ``first``, if there is anything, and send the question. For ``client_id`` see `hello`."""
        for address in addresses:
            dealer = Dealer(
                self._context,
                self._loop,
                address,
                on_batch=partial(self._on_batch, address),
                on_lost=partial(self._drop, address),
                on_bad=partial(self._on_bad, address),
                credentials=self._credentials,
            )
            self._dealers[address] = dealer
            dealer.send([hello(client_id), *first, question])
        self._loop.call_later(timeout_s if self._dealers else 0.0, self.finish)

    def finish(self) -> None:
        """Hand over what has come; does nothing the second time."""
        if self._over:
            return
        self._over = True
        for address in list(self._dealers):
            self._drop(address)
        self._on_done(self, self._answers)

    def _on_batch(self, address: str, batch: list[m.AnyMessage]) -> None:
        for message in batch:
            if isinstance(message, m.Status):
                self._answers.append(Told(address, message))
                self._dealers[address].send([m.Goodbye("leaving")])
                self._drop(address)
                return
            if isinstance(message, m.Refused):
                self._drop(address)
                return

    def _on_bad(self, address: str, _error: ProtocolError) -> None:
        self._drop(address)

    def _drop(self, address: str) -> None:
        dealer = self._dealers.pop(address, None)
        if dealer is not None:
            dealer.close()
        if not self._dealers:
            self.finish()
