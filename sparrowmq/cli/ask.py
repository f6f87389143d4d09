"""One question to schedulers, without a session: fast, counted nowhere for long, and honest about who is silent.

Owns: finding the schedulers in Redis for a question, the short connections, and what came of each. Must not know:
what is asked for, or how answers are shown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sparrowmq import __version__, ids
from sparrowmq.errors import ProtocolError, Refused, Unavailable
from sparrowmq.protocol import messages as m
from sparrowmq.runtime.loop import Loop
from sparrowmq.transport.context import new_context
from sparrowmq.transport.dealer import Dealer

if TYPE_CHECKING:
    from sparrowmq.security.credentials import Credentials
    from sparrowmq.settings import StoreSettings
    from sparrowmq.store.registry import SchedulerRecord

TIMEOUT_S = 2.0
REFUSED_RETRY_S = 0.5  # a Redis that is just being restarted
NONE_RETRY_S = 3.0  # commands come right behind `docker compose up`


class Answer(NamedTuple):
    """What came of asking one scheduler: a status, or why there is none (with ``code`` if it refused us)."""

    status: m.Status | None
    why: str = ""
    code: str = ""
    took_s: float = 0.0


def schedulers(
    store: StoreSettings, *, patience_s: float = REFUSED_RETRY_S, none_patience_s: float = 0.0
) -> dict[str, SchedulerRecord]:
    """Return the schedulers that are registered; none only after ``none_patience_s``: they may be about to start.

    Raises Unavailable within about a second of Redis refusing.
    """
    from sparrowmq.store.registry import Registry

    began = time.monotonic()
    registry = Registry(store)
    try:
        while True:
            try:
                found = registry.schedulers()
                if found or time.monotonic() >= began + none_patience_s:
                    return found
            except Unavailable:
                if time.monotonic() >= began + patience_s:
                    raise
            time.sleep(0.1)
    finally:
        registry.close()


def statuses(
    store: StoreSettings,
    what: str,
    job: str = "",
    indices: Sequence[int] = (),
    *,
    timeout_s: float = TIMEOUT_S,
    credentials: Credentials | None = None,
) -> list[m.Status]:
    """Return the answers of all registered schedulers that give one.

    Raises Unavailable (or Refused) saying what was tried where not one of them answers.
    """
    from sparrowmq.store.connection import describe

    found = schedulers(store, none_patience_s=NONE_RETRY_S)
    if not found:
        raise Unavailable(
            f"no scheduler is registered in Redis at {describe(store.url)}",
            hint="start one with `sparrowmq scheduler start`, or a whole local cluster with `sparrowmq up`",
        )
    addresses = {name: record.address_clients for name, record in found.items()}
    answers = ask(addresses, what, job, indices, timeout_s=timeout_s, credentials=credentials)
    got = [answer.status for answer in answers.values() if answer.status is not None]
    if got:
        return got
    name, first = next(iter(answers.items()))
    tried = f"{name} at {found[name].address_clients}: {first.why}"
    if first.code:
        raise Refused(f"the scheduler refused this client ({tried})", code=first.code)
    raise Unavailable(
        f"none of {len(found):,} registered schedulers answers ({tried})",
        hint="`sparrowmq doctor` looks for the reason",
    )


def ask(
    addresses: Mapping[str, str],
    what: str,
    job: str = "",
    indices: Sequence[int] = (),
    *,
    timeout_s: float = TIMEOUT_S,
    credentials: Credentials | None = None,
) -> dict[str, Answer]:
    """Ask the scheduler at each of ``addresses`` (by any key); return what came of it within ``timeout_s``, by key."""
    return _Asking(m.Query(1, what, job, list(indices)), credentials).run(addresses, timeout_s)


class _Asking:
    def __init__(self, query: m.Query, credentials: Credentials | None) -> None:
        self._query = query
        self._credentials = credentials
        self._loop = Loop()
        self._context = new_context()
        self._dealers: dict[str, Dealer] = {}
        self._answers: dict[str, Answer] = {}
        self._begin = time.monotonic()

    def run(self, addresses: Mapping[str, str], timeout_s: float) -> dict[str, Answer]:
        rng = random.Random()
        try:
            for key, address in addresses.items():
                hello = m.Hello(m.PROTOCOL, __version__, m.CLIENT, ids.node_id("client", rng), int(time.time() * 1e3))
                dealer = Dealer(
                    self._context,
                    self._loop,
                    address,
                    on_batch=partial(self._on_batch, key),
                    on_lost=partial(self._on_lost, key),
                    on_bad=partial(self._on_bad, key),
                    credentials=self._credentials,
                )
                self._dealers[key] = dealer
                dealer.send([hello, self._query])
            self._loop.call_later(timeout_s if addresses else 0.0, self._loop.stop)
            self._loop.run()
        finally:
            for dealer in self._dealers.values():
                dealer.close()
            self._loop.close()
            self._context.term()
        silent = Answer(None, f"no answer within {timeout_s:g} s", took_s=timeout_s)
        return {key: self._answers.get(key, silent) for key in addresses}

    def _on_batch(self, key: str, batch: list[m.AnyMessage]) -> None:
        for message in batch:
            took_s = time.monotonic() - self._begin
            if isinstance(message, m.Status):
                self._dealers[key].send([m.Goodbye("leaving")])
                self._settle(key, Answer(message, took_s=took_s))
                return
            if isinstance(message, m.Refused):
                self._settle(key, Answer(None, message.detail, message.code, took_s))
                return

    def _on_lost(self, key: str) -> None:
        self._settle(key, Answer(None, self._dealers[key].why, took_s=time.monotonic() - self._begin))

    def _on_bad(self, key: str, error: ProtocolError) -> None:
        self._settle(key, Answer(None, f"it does not speak this protocol ({error})", error.code))

    def _settle(self, key: str, answer: Answer) -> None:
        self._answers.setdefault(key, answer)
        if len(self._answers) == len(self._dealers):
            self._loop.stop()
