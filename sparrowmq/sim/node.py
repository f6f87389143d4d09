"""The nodes of a simulated cluster, and the connections between them.

Owns: what a process and a connection are in the simulation: up, down or paused; open, broken, with what is under way.
Must not know: virtual time, faults, or how any machine decides; the `Cluster` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparrowmq.core import effects as fx
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.sim.observer import Observer
from sparrowmq.sim.slot import SimSlot

if TYPE_CHECKING:
    from sparrowmq.sim.cluster import Cluster

Machine = Scheduler | NodeMonitor | Session | Observer


class Connection:
    """One connection: the node that opened it calls it ``number``, the scheduler calls it this object."""

    def __init__(self, dialer: Node, number: int, listener: Node) -> None:
        self.ends = (dialer, listener)
        self.starts = (dialer.starts, listener.starts)
        self.number = number
        self.open = [True, True]  # whether each end still listens
        self.arrived_at = [0.0, 0.0]  # the latest arrival towards each end
        self.under_way = 0  # batches sent and not arrived

    def name(self, end: int) -> fx.Peer:
        """What this end calls the connection."""
        return self if end else self.number


class Node:
    """A process: a machine that may be down, paused or up. ``kind``: "scheduler", "worker", "client", "observer"."""

    def __init__(self, cluster: Cluster, id: str, kind: str, make: Callable[[Node], Machine]) -> None:
        self.cluster = cluster
        self.id = id
        self.kind = kind
        self.make = make
        self.starts = 0  # how often it was started: its incarnation
        self.up = False
        self.paused = False
        self.leaving = ""  # the reason of its Exit
        self.backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.connections: dict[fx.Peer, Connection] = {}
        self.slots: list[SimSlot] = []
        self.wakes_at: float | None = None
        self.machine: Any = None

    @property
    def address(self) -> str:
        """Where a scheduler listens: another port after each start."""
        return f"{self.id}:{self.starts}"

    def step(self, event: Callable[..., None], *arguments: Any) -> None:
        """Let the machine take one event and carry out what it wants done."""
        if not self.up:
            return
        if self.paused:
            self.backlog.append((event, arguments))
            return
        event(self.cluster.now, *arguments)
        self.cluster.settle(self)

    # What slots report.

    def slot_ready(self, slot: int, pid: int) -> None:
        """See `NodeMonitor`."""
        self.step(self.machine.slot_ready, slot, pid)

    def slot_started(self, slot: int, job: str, epoch: int, index: int, attempt: int) -> None:
        """Keep the record."""
        self.cluster.starts[job, index].append((self.cluster.now, self.id, epoch, attempt))

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
