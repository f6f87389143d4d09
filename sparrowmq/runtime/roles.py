"""The processes: what a scheduler and a worker are made of, wired together.

Owns: which parts make a role, its signals, its registration. Must not know: how any part works.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import time
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

import sparrowmq
from sparrowmq.core import effects as fx
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.errors import ProtocolError
from sparrowmq.executor import preload
from sparrowmq.executor.cpus import available_slots
from sparrowmq.executor.options import SlotOptions
from sparrowmq.executor.pool import SlotPool
from sparrowmq.executor.zygote import Zygote
from sparrowmq.protocol import messages as m
from sparrowmq.runtime import logs, memory
from sparrowmq.runtime.driver import Driver, looking
from sparrowmq.runtime.gates import Gates
from sparrowmq.runtime.loop import Loop
from sparrowmq.runtime.process import Links, Role
from sparrowmq.security.keyring import load_credentials
from sparrowmq.settings import LogSettings, SchedulerSettings, StoreSettings, WorkerSettings
from sparrowmq.store.connection import authenticated
from sparrowmq.store.keeper import Keeper
from sparrowmq.store.registry import SchedulerRecord, WorkerRecord
from sparrowmq.transport.link import UNHURRIED, LinkOptions
from sparrowmq.transport.router import Router

_BEYOND_CREDIT_BYTES: Final = 256 * 1024 * 1024
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


def run_scheduler(
    settings: SchedulerSettings, store: StoreSettings, log: LogSettings, *, id: str | None = None, keys: str = ""
) -> int:
    """Be a scheduler until it is told to end; return the process's exit status.

    ``keys`` is a directory (security/keyring.py), "" for none. Raises SecurityError where it cannot be used.
    """
    memory.keep_freed()
    store = authenticated(store, keys, m.SCHEDULER)
    role = Role("scheduler", id, log)
    gates = Gates(role.context, role.loop, keys, settings.client_lease_s, logs.emit)
    machine = Scheduler(
        id=role.id,
        incarnation=role.incarnation,
        rng=role.rng,
        settings=settings,
        package=sparrowmq.__version__,
        unix_offset_s=time.time() - time.monotonic(),
        host=role.host,
        pid=os.getpid(),
        durable=bool(store.url),
    )
    keeper = _keeper(role, store, machine)
    routers: dict[str, Router] = {}
    driver = Driver(
        role.loop,
        machine,
        lambda peer, batch: routers[peer[0]].send(peer, batch),
        {
            fx.Close: lambda effect: routers[effect.peer[0]].forget(effect.peer),
            fx.Look: looking(role.loop, machine, lambda peer: routers[peer[0]].carried(peer)),
            fx.Deposit: role.deposits(store, settings.beat_interval_s),
            **({} if keeper is None else dict.fromkeys((fx.SaveJob, fx.SaveOutcomes, fx.ForgetJob), keeper.write)),
        },
        logs.emit,
    )

    def on_bad(peer: Any, error: ProtocolError) -> None:
        machine.refuse(role.loop.now(), peer, error.code, str(error))

    # What the machine sends a peer that says nothing. Whoever is sent more of other things does not read them.
    credits_bytes = {m.WORKER: settings.limits.payload_bytes, m.CLIENT: settings.limits.client_credit_bytes}
    for tag, address in ((m.WORKER, settings.bind_workers), (m.CLIENT, settings.bind_clients)):
        routers[tag] = Router(
            role.context,
            role.loop,
            address,
            on_batch=driver.on_batch,
            on_lost=driver.on_lost,
            on_bad=on_bad,
            tag=tag,
            options=LinkOptions(unheard_bytes_max=credits_bytes[tag] + _BEYOND_CREDIT_BYTES),
            guard=gates.guard(tag),
        )
    record = SchedulerRecord(
        id=role.id,
        incarnation=role.incarnation,
        address_workers=_advertised(routers[m.WORKER].address, settings.advertise_host, store.url),
        address_clients=_advertised(routers[m.CLIENT].address, settings.advertise_host, store.url),
        host=role.host,
        pid=os.getpid(),
        package=sparrowmq.__version__,
    )
    logs.emit("info", "listening", {"workers": record.address_workers, "clients": record.address_clients})
    gates.watch(routers, machine.state.counters)
    registrar = role.register(store, record, None)
    if keeper is not None:
        keeper.start()

    role.loop.expecting = lambda: 0 < machine.state.tasks <= 2
    machine.start(role.loop.now())

    def drain() -> None:
        if registrar is not None:
            registrar.stop(timeout_s=0.0)  # withdrawn beside this thread
        machine.drain(role.loop.now(), role.loop.now() + settings.drain_timeout_s)

    def close_all() -> None:
        for router in routers.values():
            router.close()
        gates.close()
        if keeper is not None:
            keeper.stop()

    return role.run(driver, drain, registrar, close_all)


def _keeper(role: Role, store: StoreSettings, machine: Scheduler) -> Keeper | None:
    """Return what keeps a scheduler's durable jobs; None without a Redis."""
    if not store.url:
        return None
    loop = role.loop
    return Keeper(
        store,
        id=role.id,
        incarnation=role.incarnation,
        rng=random.Random(role.rng.getrandbits(64)),
        post=loop.post,
        later=loop.call_later,
        on_saved=lambda token, error, epoch, known: machine.saved(loop.now(), token, error, epoch, known),
        on_orphans=lambda orphans: machine.orphaned(loop.now(), orphans),
        may_adopt=machine.may_adopt,
        log=logs.emit,
    )


def run_worker(
    settings: WorkerSettings, store: StoreSettings, log: LogSettings, *, id: str | None = None, keys: str = ""
) -> int:
    """Be a worker until it is told to end; return the process's exit status. Forks: call it before any thread.

    ``keys`` is a directory (security/keyring.py), "" for none. Raises SecurityError where it cannot be used,
    ConfigError where a module is missing that each slot is to load.
    """
    preload.check(settings.preload)
    memory.keep_freed()  # before the fork: slots gain most
    zygote = Zygote.start(SlotOptions.of(settings))
    store = authenticated(store, keys, m.WORKER)  # after the fork: what a task can look at has no secrets in it
    credentials = load_credentials(keys, m.WORKER) if keys else None
    role = Role("worker", id, log)
    slots = settings.slots or available_slots()
    machine = NodeMonitor(
        id=role.id,
        incarnation=role.incarnation,
        slots=slots,
        settings=settings,
        package=sparrowmq.__version__,
        python=PYTHON,
        host=role.host,
        pid=os.getpid(),
    )
    links = Links(role, credentials, UNHURRIED)
    ready_within_s = settings.preload_timeout_s if settings.preload else None
    pool = SlotPool(role.loop, zygote, _SlotEvents(role.loop, machine), ready_within_s=ready_within_s)

    driver = Driver(
        role.loop,
        machine,
        links.send,
        {
            fx.Connect: links.connect,
            fx.Close: links.close,
            fx.Look: looking(role.loop, machine, links.carried),
            fx.SpawnSlot: lambda effect: pool.spawn(effect.slot),
            fx.StartTasks: pool.start,
            fx.ReclaimSlot: lambda effect: pool.reclaim(effect.slot),
            fx.InterruptSlot: lambda effect: pool.interrupt(effect.slot, effect.seq),
            fx.KillSlot: lambda effect: pool.kill(effect.slot),
            fx.Deposit: role.deposits(store, settings.beat_interval_s),
        },
        logs.emit,
    )
    links.drive(driver)

    def schedulers(found: dict[str, SchedulerRecord]) -> None:
        machine.schedulers_changed(role.loop.now(), {id: record.address_workers for id, record in found.items()})

    record = WorkerRecord(
        id=role.id,
        incarnation=role.incarnation,
        host=role.host,
        pid=os.getpid(),
        slots=slots,
        package=sparrowmq.__version__,
        python=PYTHON,
    )
    registrar = role.register(store, record, schedulers)
    connected = 0

    def tell_connected() -> None:
        nonlocal connected
        if registrar is not None and machine.connected != connected:
            connected = machine.connected
            registrar.update(msgspec.structs.replace(record, schedulers=connected))

    role.loop.on_turn.append(tell_connected)
    role.loop.expecting = lambda: machine.place.expecting()
    machine.start(role.loop.now())

    def drain() -> None:
        machine.drain(role.loop.now(), role.loop.now() + settings.drain_timeout_s)

    def close_all() -> None:
        pool.close()
        links.close_all()

    return role.run(driver, drain, registrar, close_all)


class _SlotEvents:
    """Adds the time to what the slots report."""

    def __init__(self, loop: Loop, machine: NodeMonitor) -> None:
        self._now = loop.now
        self._machine = machine

    def slot_ready(self, slot: int, pid: int) -> None:
        """See NodeMonitor."""
        self._machine.slot_ready(self._now(), slot, pid)

    def slot_results(
        self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        """See NodeMonitor."""
        self._machine.slot_results(self._now(), slot, first_seq, statuses, service_us, payloads)

    def slot_output(self, slot: int, seq: int, stream: int, data: bytes) -> None:
        """See NodeMonitor."""
        self._machine.slot_output(self._now(), slot, seq, stream, data)

    def slot_retired(self, slot: int) -> None:
        """See NodeMonitor."""
        self._machine.slot_retired(self._now(), slot)

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        """See NodeMonitor."""
        self._machine.slot_exited(self._now(), slot, cause, current_seq)

    def slot_reclaimed(self, slot: int, after_seq: int) -> None:
        """See NodeMonitor."""
        self._machine.slot_reclaimed(self._now(), slot, after_seq)


def _advertised(address: str, advertise_host: str, store_url: str) -> str:
    """Return the address that others connect to: the bound one, with a host that means something elsewhere.

    Where every interface is bound that is the address by which this machine reaches Redis: those who read it
    there reach the same network.
    """
    if not address.startswith("tcp://"):
        return address
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if advertise_host:
        host = advertise_host
    elif host in ("0.0.0.0", "*", "[::]"):
        host = _address_towards(urlsplit(store_url).hostname) or socket.gethostname()
    return f"tcp://{host}:{port}"


def _address_towards(host: str | None) -> str:
    """Return this machine's address on the way to ``host``, "" if there is none. Nothing is sent."""
    if not host:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""
