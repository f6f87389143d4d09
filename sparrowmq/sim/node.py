"""The nodes of a simulated cluster: processes with a machine inside.

Owns: what a process is in the simulation (up, paused or down, busy with a message), and carrying out what its machine
wants done. Must not know: faults as such, or how any machine decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sparrowmq.core import effects as fx
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.sim.keeper import Keeper
from sparrowmq.sim.network import End
from sparrowmq.sim.observer import Observer
from sparrowmq.sim.slot import SimSlot
from sparrowmq.sim.store import Line, Record

if TYPE_CHECKING:
    from sparrowmq.sim.cluster import Cluster

Machine = Scheduler | NodeMonitor | Session | Assistant | Observer


class Node:
    """A process. ``kind``: "scheduler", "worker", "client", "assistant" or "observer".

    ``cost_s`` is the processor time that a message takes it, received or sent; messages queue for the processor.
    """

    __slots__ = (
        "backlog", "busy_until", "cluster", "connections", "cost_s", "id", "keeper", "key", "kind", "known", "leaving",
        "line", "machine", "make", "owner", "paused", "pauses", "slots", "starts", "up", "wakes_at",
    )  # fmt: skip

    def __init__(
        self, cluster: Cluster, id: str, kind: str, make: Callable[[Node], Machine], cost_s: float = 0.0
    ) -> None:
        self.cluster = cluster
        self.id = id
        self.kind = kind
        self.make = make
        self.cost_s = cost_s
        self.key = self.owner = ""  # of a client: whose it is, as its hello says where it arrives
        self.busy_until = 0.0
        self.starts = 0  # how often it was started: its incarnation
        self.up = False
        self.paused = False
        self.pauses = 0  # how often it was paused
        self.leaving = ""  # the reason of its Exit
        self.backlog: list[Callable[[], None]] = []  # what has come while it was paused
        self.connections: dict[fx.Peer, End] = {}
        self.slots: list[SimSlot] = []
        self.wakes_at: float | None = None
        self.line = Line()  # to the store
        self.keeper: Keeper | None = None  # of a scheduler whose durable jobs are kept there
        self.known: dict[str, Record] = {}  # schedulers that it was told of
        self.machine: Any = None

    @property
    def address(self) -> str:
        """Where a scheduler listens: another port after each start."""
        return f"{self.id}:{self.starts}"

    def hold(self, what: Callable[[], None]) -> None:
        """Do this once the process goes on."""
        self.backlog.append(what)

    # -- events

    def step(self, event: Callable[..., None], *arguments: Any) -> None:
        """Let the machine take one event and carry out what it wants done."""
        if not self.up:
            return
        if self.paused:
            self.backlog.append(lambda: self.step(event, *arguments))
            return
        cluster = self.cluster
        if cluster.journal is not None:
            cluster.journal.add(cluster.now, self.id, event.__name__, arguments)
        event(cluster.now, *arguments)
        self._settle()

    def receive(self, end: End, batch: Sequence[m.AnyMessage]) -> None:
        """Messages have arrived over a connection that is open; where messages cost something, they queue."""
        cluster = self.cluster
        if self.paused:
            self.backlog.append(lambda: self._receive(end, batch))
        elif self.cost_s:
            self.busy_until = max(cluster.now, self.busy_until) + self.cost_s * len(batch)
            cluster.at(self.busy_until, self._receive, (end, batch))
        elif cluster.journal is not None:
            self._receive(end, batch)
        else:  # as `_receive`; most of what happens in a large simulation happens here
            name, receive, now = end.name, self.machine.receive, cluster.now
            for message in batch:
                receive(now, name, message)
            self._settle()

    def _receive(self, end: End, batch: Sequence[m.AnyMessage]) -> None:
        if self.paused:
            self.backlog.append(lambda: self._receive(end, batch))
            return
        if not end.open or end.starts != self.starts:
            return
        cluster = self.cluster
        name, receive, now = end.name, self.machine.receive, cluster.now
        if cluster.journal is not None:
            sender = end.other.node.id
            for message in batch:
                cluster.journal.add(now, self.id, f"<- {sender}", message)
        for message in batch:
            receive(now, name, message)
        self._settle()

    def _wake(self, starts: int, deadline: float) -> None:
        if self.starts == starts and self.up and self.wakes_at == deadline and not self.paused:
            self.wakes_at = None
            self.step(self.machine.tick)

    def resume(self) -> None:
        """Go on after a pause: with what has come meanwhile, then with what is due."""
        self.paused = False
        backlog, self.backlog = self.backlog, []
        self.wakes_at = None
        for what in backlog:
            if self.up:
                what()
        if self.up:
            self._settle()

    # -- what the machine wants done

    def _settle(self) -> None:
        """Carry out the machine's effects, check it, and see when it wants to be woken."""
        cluster, machine = self.cluster, self.machine
        effects = machine.take_effects()
        if cluster.check is not None and self.kind != "observer":
            cluster.check(machine, effects)
        if effects:
            effect = effects[0]
            if len(effects) == 1 and effect.__class__ is fx.Send:
                self._send(effect.peer, [effect.message])
            else:
                self._carry_out(effects)
                if self.leaving:
                    cluster.crash(self.id)
                    return
        deadline = machine.next_deadline()
        if deadline is not None and (self.wakes_at is None or deadline < self.wakes_at):
            self.wakes_at = deadline
            cluster.at(max(cluster.now, deadline), self._wake, (self.starts, deadline))

    def _carry_out(self, effects: list[fx.AnyEffect]) -> None:
        outgoing: dict[fx.Peer, list[m.AnyMessage]] = {}
        for effect in effects:
            kind = effect.__class__
            if kind is fx.Send:
                peer = effect.peer  # type: ignore[union-attr]
                batch = outgoing.get(peer)
                if batch is None:
                    outgoing[peer] = [effect.message]  # type: ignore[union-attr]
                else:
                    batch.append(effect.message)  # type: ignore[union-attr]
            elif kind is fx.StartTasks:
                self.slots[effect.slot].start(effect)  # type: ignore[arg-type, union-attr]
            else:
                self._perform(effect, outgoing)
        for peer, batch in outgoing.items():
            self._send(peer, batch)

    def _send(self, peer: fx.Peer, batch: list[m.AnyMessage]) -> None:
        end = self.connections.get(peer)
        if end is None or not batch:
            return
        if self.key and batch[0].__class__ is m.Hello:
            batch[0] = msgspec.structs.replace(batch[0], key=self.key, owner=self.owner)
        cluster = self.cluster
        if self.cost_s:
            self.busy_until = max(cluster.now, self.busy_until) + self.cost_s * len(batch)
            cluster.network.send(end.other, batch, self.busy_until)
        else:
            cluster.network.send(end.other, batch)

    def _perform(self, effect: fx.AnyEffect, outgoing: dict[fx.Peer, list[m.AnyMessage]]) -> None:
        match effect:
            case fx.SpawnSlot():
                self.slots[effect.slot].spawn()
            case fx.ReclaimSlot():
                self.slots[effect.slot].reclaim()
            case fx.InterruptSlot():
                self.slots[effect.slot].interrupt(effect.seq)
            case fx.KillSlot():
                self.slots[effect.slot].kill()
            case fx.Connect():
                id, _, starts = effect.address.rpartition(":")
                self.cluster.network.connect(self, effect.peer, self.cluster.nodes[id], int(starts))
            case fx.Close():
                self._send(effect.peer, outgoing.pop(effect.peer, []))
                end = self.connections.get(effect.peer)
                if end is not None:
                    self.cluster.network.close(end)
            case fx.Look():
                pass  # here messages come whole, or not at all
            case fx.SaveJob() | fx.SaveOutcomes() | fx.ForgetJob():
                if self.keeper is not None:
                    self.keeper.write(effect)
            case fx.Deposit():
                self.cluster.deposit(self, effect.beat)
            case fx.Condemn():
                self.cluster.condemn(effect)
                self.cluster.tell(self, effect)
            case fx.Exit():
                self.leaving = effect.reason
                if self.keeper is not None:
                    self.keeper.stop()
                self.cluster.tell(self, effect)
            case _:
                self.cluster.tell(self, effect)

    # -- what slots report

    def slot_ready(self, slot: int, pid: int) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_ready, slot, pid)

    def slot_started(self, slot: int, job: str, epoch: int, index: int, attempt: int) -> None:
        """Keep the record."""
        self.cluster.started(self, job, epoch, index, attempt)

    def slot_results(
        self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_results, slot, first_seq, statuses, service_us, payloads)

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_exited, slot, cause, current_seq)

    def slot_reclaimed(self, slot: int, after_seq: int) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_reclaimed, slot, after_seq)

    def slot_output(self, slot: int, seq: int, stream: int, data: bytes) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_output, slot, seq, stream, data)

    def slot_retired(self, slot: int) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_retired, slot)
