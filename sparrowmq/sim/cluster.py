"""A whole cluster of machines in virtual time: what the runtime does with sockets, processes and Redis, in memory.

Owns: virtual time, the network (latency, order within a connection, resets, crashes, pauses), the registry, what
was executed and what was shown. Must not know: how any machine decides.

Everything random comes from one seed, so that a run can be repeated. What is sent over a connection is encoded
and decoded on its way. A connection delivers in order and loses nothing until it breaks; what is under way when
it is reset is lost, and both ends learn of it, each in its own time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, Final, cast

import msgspec

from sparrowmq import ids
from sparrowmq.core import effects as fx
from sparrowmq.core import invariants
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.protocol import codec
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.node import Connection, Machine, Node
from sparrowmq.sim.observer import Observer
from sparrowmq.sim.slot import SimSlot, Work

PACKAGE: Final = "0.0.0"
PYTHON: Final = "3.11"


class Cluster:
    """The world. Add nodes, `submit` jobs, script faults with `at`, then `run`.

    ``latency_s`` bounds the one-way delay of a batch, drawn evenly. ``check`` holds every machine against
    `core.invariants` after each of its events.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        latency_s: tuple[float, float] = (0.0001, 0.0003),
        registry_s: float = 0.001,
        ttl_s: float = 6.0,
        encode: bool = True,
        check: bool = True,
        scheduler: SchedulerSettings | None = None,
        worker: WorkerSettings | None = None,
        client: ClientSettings | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.nodes: dict[str, Node] = {}
        self.starts: defaultdict[tuple[str, int], list[tuple[float, str, int, int]]] = defaultdict(list)
        self.history = invariants.History()
        self.sent: defaultdict[str, int] = defaultdict(int)  # messages by type
        self.told: list[tuple[float, str, fx.AnyEffect]] = []  # what sessions told their clients, and logs
        self.events = 0
        self._latency_s = latency_s
        self._registry_s = registry_s
        self._ttl_s = ttl_s
        self._encode = codec.Encoder().encode if encode else None
        self._check = check
        self._settings = (scheduler or SchedulerSettings(), worker or WorkerSettings(), client or ClientSettings())
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._registry: dict[str, str] = {}
        self._queries = 0

    # -- building

    def add_scheduler(self, id: str = "") -> str:
        """Start a scheduler; return its id."""

        def make(node: Node) -> Machine:
            return Scheduler(
                id=node.id, incarnation=node.starts, rng=self._child(), settings=self._settings[0], package=PACKAGE
            )

        return self._add(id, "scheduler", make)

    def add_worker(self, id: str = "", *, slots: int = 1, python: str = PYTHON) -> str:
        """Start a worker; return its id."""

        def make(node: Node) -> Machine:
            node.slots = [SimSlot(number, self.later, lambda: self.now, node) for number in range(slots)]
            return NodeMonitor(
                id=node.id,
                incarnation=node.starts,
                slots=slots,
                settings=self._settings[1],
                package=PACKAGE,
                python=python,
                host="box",
                pid=node.starts,
            )

        return self._add(id, "worker", make)

    def add_client(self, id: str = "") -> str:
        """Start a client; return its id."""

        def make(node: Node) -> Machine:
            return Session(
                id=node.id,
                incarnation=node.starts,
                rng=self._child(),
                settings=self._settings[2],
                package=PACKAGE,
                python=PYTHON,
            )

        return self._add(id, "client", make)

    def add_observer(self, id: str = "") -> str:
        """Start a client that does what `say` tells it; return its id."""

        def make(node: Node) -> Machine:
            return Observer(id=node.id, incarnation=node.starts, package=PACKAGE)

        return self._add(id, "observer", make)

    def _add(self, id: str, kind: str, make: Callable[[Node], Machine]) -> str:
        id = id or f"{kind}-{sum(node.kind == kind for node in self.nodes.values()) + 1}"
        self.nodes[id] = Node(self, id, kind, make)
        self.restart(id)
        return id

    def _child(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    def scheduler(self, id: str = "scheduler-1") -> Scheduler:
        """Return a scheduler's machine."""
        return cast(Scheduler, self.nodes[id].machine)

    def worker(self, id: str = "worker-1") -> NodeMonitor:
        """Return a worker's machine."""
        return cast(NodeMonitor, self.nodes[id].machine)

    def client(self, id: str = "client-1") -> Session:
        """Return a client's machine."""
        return cast(Session, self.nodes[id].machine)

    # -- what clients do

    def submit(self, tasks: Sequence[Work | float], *, client: str = "client-1", **spec: Any) -> str:
        """Submit a job of these tasks (numbers are service times in seconds); return its id."""
        submit = self._job(tasks, spec)
        self.history.submitted(submit.job, submit.count)
        node = self.nodes[client]
        node.step(node.machine.submit, submit)
        return submit.job

    def detach(
        self,
        tasks: Sequence[Work | float],
        scheduler: str = "scheduler-1",
        *,
        observer: str = "observer-1",
        **spec: Any,
    ) -> str:
        """Have an observer submit a detached job to a scheduler; return its id."""
        submit = msgspec.structs.replace(self._job(tasks, spec), detached=True)
        self.say(submit, scheduler, observer=observer)
        return submit.job

    def _job(self, tasks: Sequence[Work | float], spec: dict[str, Any]) -> m.Submit:
        works = [task if isinstance(task, Work) else Work(task) for task in tasks]
        job = ids.job_id(int(self.now * 1e3), self.rng)
        payloads = cast("list[m.Payload]", [work.payload() for work in works])
        function = b"" if spec.get("kind") else b"function"
        return m.Submit(job, 0, m.JobSpec(**spec), len(works), payloads, function)

    def recall(self, job: str, indices: Sequence[int], *, client: str = "client-1") -> int:
        """Recall tasks; return the number that the answer carries."""
        self._queries += 1
        node = self.nodes[client]
        node.step(node.machine.recall, self._queries, job, indices)
        return self._queries

    def kill(self, job: str, indices: Sequence[int] = (), *, grace_s: float = 0.0, client: str = "client-1") -> None:
        """Kill tasks, after they were asked to end and had this grace."""
        node = self.nodes[client]
        node.step(node.machine.kill, job, indices, grace_s)

    def say(self, message: m.AnyMessage, scheduler: str = "", *, observer: str = "observer-1") -> None:
        """Have an observer say something to a scheduler, or to all."""
        node = self.nodes[observer]
        node.step(node.machine.say, message, scheduler)

    def heard(self, kind: type[m.AnyMessage], observer: str = "observer-1") -> list[Any]:
        """Return the messages of this type that an observer has received so far."""
        return [message for _, message in self.nodes[observer].machine.heard if type(message) is kind]

    # -- faults

    def crash(self, id: str) -> None:
        """Kill a node with SIGKILL: its connections break, its slots die with it."""
        node = self.nodes[id]
        node.up = node.paused = False
        node.backlog.clear()
        for connection in list(node.connections.values()):
            self._close(node, connection)
        for slot in node.slots:
            slot.vanish()
        if node.kind == "scheduler":
            self.later(0.0 if node.leaving else self._ttl_s, self._unregister, id, node.address)

    def restart(self, id: str) -> None:
        """Start a node that is down (or for the first time)."""
        node = self.nodes[id]
        node.starts += 1
        node.up, node.leaving, node.wakes_at = True, "", None
        node.machine = node.make(node)
        if node.kind == "scheduler":
            self._registry[id] = node.address
            self._announce()
            return
        if node.kind == "worker":
            node.step(node.machine.start)
        self.later(self._registry_s, node.step, node.machine.schedulers_changed, dict(self._registry))

    def pause(self, id: str) -> None:
        """Stop a node (SIGSTOP): its connections stay, it does nothing."""
        self.nodes[id].paused = True

    def resume(self, id: str) -> None:
        """Let a paused node go on."""
        node = self.nodes[id]
        if node.paused:
            node.paused = False
            backlog, node.backlog = node.backlog, []
            node.wakes_at = None
            for event, arguments in backlog:
                node.step(event, *arguments)
            self.settle(node)

    def reset(self, one: str, other: str) -> None:
        """Reset the connection between two nodes: what is under way is lost."""
        for connection in list(self.nodes[one].connections.values()):
            if {node.id for node in connection.ends} == {one, other}:
                for end in (0, 1):
                    if connection.open[end]:
                        self.later(self._delay(), self._lose, connection, end)
                connection.open = [False, False]

    def drain(self, id: str, within_s: float = 30.0) -> None:
        """Send SIGTERM."""
        node = self.nodes[id]
        if node.kind == "scheduler":
            self._unregister(id, node.address)
        node.step(node.machine.drain, self.now + within_s)

    # -- time

    def later(self, delay_s: float, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in ``delay_s`` of virtual time."""
        self._order += 1
        heappush(self._heap, (self.now + delay_s, self._order, function, arguments))

    def run(self, for_s: float = 60.0, *, until: Callable[[], bool] | None = None) -> bool:
        """Run for so long at the most, or until a condition holds; return whether it does (without one: True)."""
        end, heap = self.now + for_s, self._heap
        while heap and heap[0][0] <= end:
            if until is not None and until():
                return True
            self.now, _, function, arguments = heappop(heap)
            self.events += 1
            function(*arguments)
        self.now = end
        return until is None or until()

    def finish(self, for_s: float = 60.0, *, rest_s: float = 2.0) -> None:
        """Run until every job is over and ``rest_s`` longer, then hold the cluster against what must be true then."""
        done = self.run(for_s, until=self.history.complete)
        assert done, f"after {for_s:g} s jobs are open: {self.history.open()}; {self.state()}"
        self.run(rest_s)
        self.check_rest()
        self.check_agreement()

    def check_rest(self) -> None:
        """No job is left, nor anything of any job."""
        for node in self.nodes.values():
            if node.up and not node.paused and node.kind != "observer":
                invariants.check_rest(node.machine)

    def check_agreement(self) -> None:
        """Where nothing is under way, both ends of a connection must believe the same."""
        for node in self.nodes.values():
            for connection in node.connections.values() if node.kind == "worker" else ():
                if connection.under_way == 0 and all(connection.open) and not connection.ends[1].paused:
                    invariants.check_agreement(connection.ends[1].machine, node.machine)

    def state(self) -> str:
        """Describe what is going on, for the message of a test that failed."""
        up = [node.id + ("(paused)" if node.paused else "") for node in self.nodes.values() if node.up]
        jobs = {
            f"{node.id}/{job.id[-4:]}": f"{job.unplaced} unplaced, {job.launched} launched, reserved {job.reserved}"
            for node in self.nodes.values()
            if node.kind == "scheduler" and node.up
            for job in node.machine.state.jobs.values()
        }
        return f"t={self.now:.4f} up={up} jobs={jobs}"

    # -- carrying out what machines want

    def settle(self, node: Node) -> None:
        """Carry out a machine's effects, check it, and see when it wants to be woken."""
        effects = node.machine.take_effects()
        if self._check and node.kind != "observer":
            invariants.check(node.machine, effects)
        outgoing: dict[fx.Peer, list[m.AnyMessage]] = {}
        for effect in effects:
            if type(effect) is fx.Send:
                outgoing.setdefault(effect.peer, []).append(effect.message)
            elif type(effect) is fx.Close:
                self._flush(node, effect.peer, outgoing.pop(effect.peer, []))
                connection = node.connections.get(effect.peer)
                if connection is not None:
                    self._close(node, connection)
            elif type(effect) is fx.Connect:
                self._connect(node, effect)
            else:
                self._perform(node, effect)
        for peer, batch in outgoing.items():
            self._flush(node, peer, batch)
        if node.leaving:
            self.crash(node.id)
            return
        deadline = node.machine.next_deadline()
        if deadline is not None and (node.wakes_at is None or deadline < node.wakes_at):
            node.wakes_at = deadline
            self.later(max(0.0, deadline - self.now), self._wake, node, node.starts, deadline)

    def _perform(self, node: Node, effect: fx.AnyEffect) -> None:
        match effect:
            case fx.SpawnSlot():
                node.slots[effect.slot].spawn()
            case fx.StartTasks():
                node.slots[effect.slot].start(effect)
            case fx.ReclaimSlot():
                node.slots[effect.slot].reclaim()
            case fx.InterruptSlot():
                node.slots[effect.slot].interrupt(effect.seq)
            case fx.KillSlot():
                node.slots[effect.slot].kill()
            case fx.Exit():
                node.leaving = effect.reason
                self.told.append((self.now, node.id, effect))
            case fx.Deliver():
                self.history.shown(effect)
                self.told.append((self.now, node.id, effect))
            case fx.JobEnded():
                self.history.ended(effect)
                self.told.append((self.now, node.id, effect))
            case _:
                self.told.append((self.now, node.id, effect))

    def _wake(self, node: Node, starts: int, deadline: float) -> None:
        if node.starts == starts and node.up and node.wakes_at == deadline and not node.paused:
            node.wakes_at = None
            node.step(node.machine.tick)

    def _connect(self, node: Node, effect: fx.Connect) -> None:
        id, _, starts = effect.address.rpartition(":")
        listener = self.nodes[id]
        connection = node.connections[effect.peer] = Connection(node, effect.peer, listener)
        if not listener.up or listener.starts != int(starts):
            connection.open[0] = False
            self.later(self._delay(), self._lose, connection, 0)
        else:
            listener.connections[connection] = connection

    def _delay(self) -> float:
        return self.rng.uniform(*self._latency_s)

    def _flush(self, node: Node, peer: fx.Peer, batch: list[m.AnyMessage]) -> None:
        connection = node.connections.get(peer)
        if connection is None or not batch:
            return
        end = 0 if connection.ends[0] is node else 1
        for message in batch:
            self.sent[type(message).__name__] += 1
            if type(message) is m.Outcome:
                self.history.committed(message)
        if not connection.open[end]:
            return
        for frames in self._encode(batch) if self._encode else [batch]:
            arrives_at = max(self.now + self._delay(), connection.arrived_at[1 - end])
            connection.arrived_at[1 - end] = arrives_at
            connection.under_way += 1
            self.later(arrives_at - self.now, self._arrive, connection, 1 - end, frames)

    def _arrive(self, connection: Connection, end: int, frames: list[Any]) -> None:
        connection.under_way -= 1
        node = connection.ends[end]
        if not connection.open[end] or node.starts != connection.starts[end]:
            return
        batch = frames
        if self._encode:
            batch = codec.decode(frames[0], [m.Blob(frame, len(frame)) for frame in frames[1:]])
        node.step(self._receive, node, connection, end, batch)

    def _receive(self, now: float, node: Node, connection: Connection, end: int, batch: list[m.AnyMessage]) -> None:
        for message in batch:
            if connection.open[end]:
                node.machine.receive(now, connection.name(end), message)

    def _close(self, node: Node, connection: Connection) -> None:
        """This end is gone; the other learns of it after what was sent to it."""
        end = 0 if connection.ends[0] is node else 1
        node.connections.pop(connection.name(end), None)
        connection.open[end] = False
        if connection.open[1 - end]:
            when = max(self.now + self._delay(), connection.arrived_at[1 - end])
            self.later(when - self.now, self._lose, connection, 1 - end)

    def _lose(self, connection: Connection, end: int) -> None:
        node = connection.ends[end]
        if node.paused:
            node.backlog.append((lambda now: self._lose(connection, end), ()))
            return
        connection.open[end] = False
        if node.starts == connection.starts[end] and node.connections.pop(connection.name(end), None) is not None:
            node.step(node.machine.lost, connection.name(end))

    # -- the registry

    def _unregister(self, id: str, address: str) -> None:
        if self._registry.get(id) == address:
            del self._registry[id]
            self._announce()

    def _announce(self) -> None:
        """Tell workers and clients which schedulers there are, each after its own delay."""
        for node in self.nodes.values():
            if node.kind != "scheduler":
                delay_s = self._registry_s * self.rng.uniform(0.5, 1.5)
                self.later(delay_s, self._inform, node, node.starts)

    def _inform(self, node: Node, starts: int) -> None:
        if node.starts == starts:
            node.step(node.machine.schedulers_changed, dict(self._registry))
