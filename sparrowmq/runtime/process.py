"""What every process of a cluster has: an identity, a loop, connections, beats, a registration, an orderly end.

Owns: putting these together. Must not know: what the process does (roles.py, assisting.py), or how any part works.
"""

from __future__ import annotations

import gc
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from sparrowmq import ids
from sparrowmq.core import effects as fx
from sparrowmq.core.carried import Carried
from sparrowmq.limits import AssistantLimits
from sparrowmq.protocol import messages as m
from sparrowmq.runtime import health, logs
from sparrowmq.runtime.driver import Driver
from sparrowmq.runtime.loop import Loop
from sparrowmq.security.credentials import Credentials
from sparrowmq.settings import LogSettings, StoreSettings
from sparrowmq.store.beats import Beats
from sparrowmq.store.registry import Record, SchedulerRecord, StoreThread
from sparrowmq.transport.context import new_context
from sparrowmq.transport.dealer import Dealer
from sparrowmq.transport.link import LinkOptions


class Role:
    """The process itself."""

    def __init__(self, role: str, id: str | None, log: LogSettings) -> None:
        self.rng = random.Random()
        self.id = id or ids.node_id(role, self.rng)
        self.incarnation = time.time_ns() // 1_000_000
        self.host = socket.gethostname()
        logs.setup(log, role=role, id=self.id)
        self.loop = Loop(
            lambda name, error, more: logs.emit("error", "callback failed", {"callback": name, "error": repr(error)})
        )
        self.context = new_context()
        self.beats: Beats | None = None

    def register(
        self,
        store: StoreSettings,
        record: Record,
        on_schedulers: Callable[[dict[str, SchedulerRecord]], None] | None,
    ) -> StoreThread | None:
        """Make this process known, and keep it told of the schedulers; None without a Redis."""
        if not store.url:
            return None
        thread = StoreThread(store, record=record, on_schedulers=on_schedulers, post=self.loop.post, log=logs.emit)
        thread.start()
        return thread

    def deposits(self, store: StoreSettings, interval_s: float) -> Callable[[fx.Deposit], None]:
        """Return what carries beats to the store; without a Redis, or without beats, it does nothing."""
        if not store.url or not interval_s:
            return lambda effect: None
        self.beats = sender = Beats(store, entries_max=AssistantLimits().beats, log=logs.emit)
        sender.start()
        return lambda effect: sender.deposit(effect.beat)

    def run(
        self,
        driver: Driver,
        drain: Callable[[], None],
        registrar: StoreThread | None,
        close_all: Callable[[], None],
    ) -> int:
        """Turn until told to end: the first signal drains, the second ends at once."""
        told: list[int] = []

        def on_signal() -> None:
            told.append(1)
            if len(told) == 1:
                drain()
            else:
                driver.exit_reason = "told twice to end"
                self.loop.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal(number, on_signal)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # the hot paths make few cycles and many lists
        health.show_life(self.loop)
        self.loop.run()
        health.hide_life()
        logs.emit("info", "ended", {"reason": driver.exit_reason})
        if self.beats is not None:
            self.beats.stop()
        if registrar is not None:
            registrar.stop()
        close_all()
        self.loop.close()
        self.context.destroy(linger=200)
        return 0


class Links:
    """The connections that a machine asks for, by peer. `drive` comes before the first."""

    def __init__(self, role: Role, credentials: Credentials | None = None, options: LinkOptions | None = None) -> None:
        self._role = role
        self._options = options
        self._credentials = credentials
        self._dealers: dict[Any, Dealer] = {}
        self._driver: Driver | None = None
        self._before: Callable[[], None] = lambda: None

    def drive(self, driver: Driver, before: Callable[[], None] = lambda: None) -> None:
        """Give what arrives to this driver, whose machine asks for the connections; ``before`` is called first."""
        self._driver, self._before = driver, before

    def connect(self, effect: fx.Connect) -> None:
        """Make a connection."""
        role, driver, peer = self._role, self._driver, effect.peer
        assert driver is not None

        def on_batch(batch: list[m.AnyMessage]) -> None:
            self._before()
            driver.on_batch(peer, batch)

        def lost() -> None:
            dealer = self._dealers.pop(peer, None)
            if dealer is not None and dealer.handshake_failed:
                driver.log("warning", "handshake failed", {"address": effect.address, "reason": dealer.why})
            driver.on_lost(peer)

        self._dealers[peer] = Dealer(
            role.context,
            role.loop,
            effect.address,
            on_batch=on_batch,
            on_lost=lost,
            on_bad=lambda error: driver.log("warning", "not a message", {"code": error.code, "detail": str(error)}),
            options=self._options,
            credentials=self._credentials,
        )

    def close(self, effect: fx.Close) -> None:
        """End a connection."""
        dealer = self._dealers.pop(effect.peer, None)
        if dealer is not None:
            dealer.close()

    def send(self, peer: Any, batch: Sequence[m.AnyMessage]) -> None:
        """Send on a connection, if it still stands."""
        dealer = self._dealers.get(peer)
        if dealer is not None:
            dealer.send(batch)

    def carried(self, peer: Any) -> Carried | None:
        """Return what a connection has carried; None where that cannot be known."""
        dealer = self._dealers.get(peer)
        return None if dealer is None else dealer.carried()

    def close_all(self) -> None:
        """End all connections."""
        for dealer in list(self._dealers.values()):
            dealer.close()
