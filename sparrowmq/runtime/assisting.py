"""The assistant's process: its machine, what it hears from the store, the lease, its connections, its report.

Owns: which parts make an assistant. Must not know: how any part works, or how it judges.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Final

import msgspec

import sparrowmq
from sparrowmq.core import effects as fx
from sparrowmq.core.assistant import Arrival, Assistant
from sparrowmq.protocol import messages as m
from sparrowmq.runtime import logs, memory
from sparrowmq.runtime.driver import Driver
from sparrowmq.runtime.loop import Timer
from sparrowmq.runtime.process import Links, Role
from sparrowmq.security.credentials import Credentials
from sparrowmq.security.keyring import load_credentials
from sparrowmq.settings import AssistantSettings, LogSettings, StoreSettings
from sparrowmq.store.connection import authenticated
from sparrowmq.store.lease import Lease
from sparrowmq.store.registry import AssistantRecord, SchedulerRecord, StoreThread
from sparrowmq.store.watcher import Watcher

REPORT_INTERVAL_S: Final = 0.5
REPORT_SHARE: Final = 0.02  # of its time, at most, that an assistant of many nodes spends on telling of them


def run_assistant(
    settings: AssistantSettings, store: StoreSettings, log: LogSettings, *, id: str | None = None, keys: str = ""
) -> int:
    """Be an assistant until it is told to end; return the process's exit status. Raises ConfigError without a Redis.

    ``keys`` is a directory (security/keyring.py), "" for none. Raises SecurityError where it cannot be used.
    """
    memory.keep_freed()
    store = authenticated(store, keys, m.ASSISTANT)
    credentials = load_credentials(keys, m.ASSISTANT) if keys else None
    role = Role("assistant", id, log)
    machine = Assistant(
        id=role.id,
        incarnation=role.incarnation,
        settings=settings,
        package=sparrowmq.__version__,
        host=role.host,
        pid=os.getpid(),
        unix_offset_s=time.time() - time.monotonic(),
    )
    return _Process(role, machine, settings, store, credentials).run()


class _Process:
    def __init__(
        self,
        role: Role,
        machine: Assistant,
        settings: AssistantSettings,
        store: StoreSettings,
        credentials: Credentials | None,
    ) -> None:
        self._role = role
        self._loop = role.loop
        self._machine = machine
        self._lapse: Timer | None = None
        self._links = Links(role, credentials)
        self._driver = Driver(
            role.loop,
            machine,
            self._links.send,
            {fx.Connect: self._links.connect, fx.Close: self._links.close, fx.Condemn: self._condemn},
            logs.emit,
        )
        self._links.drive(self._driver, before=self._check_lease)
        role.loop.on_turn.insert(0, self._check_lease)  # before the machine's turn, and what it says in it
        self._watcher = Watcher(
            store,
            id=role.id,
            interval_s=settings.canary_interval_s,
            entries_max=settings.limits.beats,
            post=role.loop.post,
            on_heard=self._heard,
            log=logs.emit,
        )
        self._lease = Lease(
            store,
            holder=f"{role.id}:{role.incarnation}",
            lease_s=settings.lease_s,
            post=role.loop.post,
            on_change=self._look_at_lease,
            log=logs.emit,
        )
        record = AssistantRecord(role.id, role.incarnation, role.host, os.getpid(), sparrowmq.__version__)
        self._registrar: StoreThread | None = role.register(store, record, self._schedulers)

    def run(self) -> int:
        """Turn until told to end."""
        self._watcher.start()
        self._lease.start()
        self._report()
        return self._role.run(self._driver, self._leave, self._registrar, self._close)

    def _heard(self, seen_s: float, lag_s: float, arrivals: Sequence[Arrival], interrupted: bool) -> None:
        self._check_lease()
        self._machine.heard(self._loop.now(), seen_s, lag_s, arrivals, interrupted)

    def _schedulers(self, found: dict[str, SchedulerRecord]) -> None:
        addresses = {id: record.address_clients for id, record in found.items()}
        self._machine.schedulers_changed(self._loop.now(), addresses)

    def _condemn(self, effect: fx.Condemn) -> None:
        if self._registrar is not None:
            self._registrar.condemn(effect.scheduler, effect.incarnation, effect.detail)

    # The lease.

    def _look_at_lease(self) -> None:
        """It was taken, lost or got back, or may have run out: tell the machine, and look again when it may have."""
        now = self._loop.now()
        term = self._lease.term(now)
        self._machine.leads(now, term)
        if self._lapse is not None:
            self._lapse.cancel()
            self._lapse = None
        if term:
            self._lapse = self._loop.call_later(self._lease.tenure.until_s - now, self._look_at_lease)

    def _check_lease(self) -> None:
        """Have the machine lead no longer than the lease lasts: this process may have stood still."""
        if self._machine.term and self._lease.term(self._loop.now()) != self._machine.term:
            self._look_at_lease()

    # Telling, and the end.

    def _report(self) -> None:
        began = self._loop.now()
        if self._registrar is not None:
            self._registrar.tell(msgspec.json.encode(self._machine.report(began)))
        took_s = self._loop.now() - began
        self._loop.call_later(max(REPORT_INTERVAL_S, took_s / REPORT_SHARE), self._report)

    def _leave(self) -> None:
        self._driver.exit_reason = "told to end"
        self._lease.stop(timeout_s=0.0)  # given back beside this thread
        self._loop.stop()

    def _close(self) -> None:
        self._lease.stop()
        self._watcher.stop()
        self._links.close_all()
