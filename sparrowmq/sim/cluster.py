"""A whole cluster of machines in virtual time: what the runtime does with sockets, processes and Redis, in memory.

Owns: which nodes there are, who hears of which schedulers, faults, what clients ask for, what was executed and shown.
Must not know: how any machine decides.

Everything random comes from one seed, so that a run can be repeated. `engine` has the time, `network` the connections,
`node` the processes, `store` what is in Redis.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from sparrowmq import ids
from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.assistant import Assistant
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.core.session import Session
from sparrowmq.core.shown import Shown
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings, ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.canary import CanaryThread
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.keeper import Keeper
from sparrowmq.sim.network import Network
from sparrowmq.sim.node import Machine, Node
from sparrowmq.sim.observer import Observer
from sparrowmq.sim.slot import PIPE_S, SimSlot, Work
from sparrowmq.sim.store import UNIX_S, UP, Line, Record, SimStore
from sparrowmq.sim.wires import Wire

PACKAGE: Final = "0.0.0"
PYTHON: Final = "3.11"
BACK_S: Final = 1.0  # within which a process finds out that the store is back

Check = Callable[[Any, Sequence[fx.AnyEffect]], None]
Tell = Callable[[str, fx.AnyEffect], None]


class Cluster(Engine):
    """The world. Add nodes, `submit` jobs, script faults with `at`, then `run`.

    ``check`` is called with each machine and its effects after each of its events; True is `invariants.check`.
    ``record`` keeps what was executed and shown, and holds it against what schedulers reported; a run of a million
    tasks does without, and gets what sessions tell their clients by ``tell``. ``pipe_s``: from a node monitor to its
    slots, and back. ``registry_s``: of an operation of the store. ``beats``: workers and schedulers beat, as their
    settings say; without, nothing is spent on it. ``expiring``: the record of a scheduler that is paused ends after
    ``ttl_s``, as that of one that has crashed. ``durable``: schedulers keep durable and detached jobs in the store,
    whose answers get lost at times (the share ``unanswered``).
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        wire: Wire | None = None,
        registry_s: float = 0.001,
        ttl_s: float = 6.0,
        pipe_s: float = PIPE_S,
        encode: bool = True,
        check: bool | Check = True,
        record: bool = True,
        tell: Tell | None = None,
        journal: Journal | None = None,
        scheduler: SchedulerSettings | None = None,
        worker: WorkerSettings | None = None,
        client: ClientSettings | None = None,
        assistant: AssistantSettings | None = None,
        beats: bool = False,
        expiring: bool = False,
        durable: bool = False,
        unanswered: float = 0.0,
        costs_s: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.nodes: dict[str, Node] = {}
        self._counts: Counter[str] = Counter()  # nodes by kind
        self.starts: defaultdict[tuple[str, int], list[tuple[float, str, int, int]]] = defaultdict(list)
        self.history = Shown()
        self.told: list[tuple[float, str, fx.AnyEffect]] = []  # what sessions told their clients, and logs
        self.journal = journal
        self.check: Check | None = (invariants.check if check else None) if isinstance(check, bool) else check
        self.network = Network(
            self, self.rng, wire or Wire(), encode=encode, on_message=self._committed if record else None
        )
        self._registry_s = registry_s
        self._ttl_s = ttl_s
        self._pipe_s = pipe_s
        self._record = record
        self._tell = tell
        self._costs_s = costs_s or {}
        self.store = SimStore(self, self.rng, registry_s, encode=encode)
        silent: dict[str, Any] = {} if beats else {"beat_interval_s": 0.0}
        self._settings = (
            msgspec.structs.replace(scheduler or SchedulerSettings(), **silent),
            msgspec.structs.replace(worker or WorkerSettings(), **silent),
            client or ClientSettings(),
            assistant or AssistantSettings(),
        )
        self._beats = beats
        self._expiring = expiring
        self._durable, self._unanswered = durable, unanswered
        self._detached: set[str] = set()  # jobs that a session waits for no longer than until they are accepted
        self._removals_from = 0.0  # after an outage of the store no scheduler is forgotten before this moment
        self._queries = 0

    @property
    def sent(self) -> dict[str, int]:
        """How many messages were sent so far, by type."""
        return defaultdict(int, {kind.__name__: count for kind, count in self.network.sent.items()})

    # -- building

    def add_scheduler(self, id: str = "") -> str:
        """Start a scheduler; return its id."""

        def make(node: Node) -> Machine:
            return Scheduler(
                id=node.id, incarnation=node.starts, rng=self._child(), settings=self._settings[0], package=PACKAGE,
                durable=self._durable,
            )  # fmt: skip

        return self._add(id, "scheduler", make)

    def add_worker(self, id: str = "", *, slots: int = 1, python: str = PYTHON) -> str:
        """Start a worker; return its id."""

        def make(node: Node) -> Machine:
            node.slots = [SimSlot(number, self, node, self._pipe_s) for number in range(slots)]
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

    def add_client(self, id: str = "", *, key: str = "", owner: str = "") -> str:
        """Start a client with this key and its jobs' tag; return its id."""

        def make(node: Node) -> Machine:
            return Session(
                id=node.id,
                incarnation=node.starts,
                rng=self._child(),
                settings=self._settings[2],
                package=PACKAGE,
                python=PYTHON,
            )

        return self._add(id, "client", make, key, owner)

    def add_assistant(self, id: str = "") -> str:
        """Start an assistant; return its id. The cluster must beat."""
        assert self._beats, "a cluster without beats has nothing for an assistant to hear"

        def make(node: Node) -> Machine:
            return Assistant(
                id=node.id, incarnation=node.starts, settings=self._settings[3], package=PACKAGE, host="box",
                pid=node.starts, unix_offset_s=UNIX_S,
            )  # fmt: skip

        return self._add(id, "assistant", make)

    def add_observer(self, id: str = "", *, key: str = "", owner: str = "") -> str:
        """Start a client that does what `say` tells it; return its id. One with a key answers schedulers' questions."""

        def make(node: Node) -> Machine:
            return Observer(id=node.id, incarnation=node.starts, package=PACKAGE, answers=bool(key))

        return self._add(id, "observer", make, key, owner)

    def _add(self, id: str, kind: str, make: Callable[[Node], Machine], key: str = "", owner: str = "") -> str:
        self._counts[kind] += 1
        id = id or f"{kind}-{self._counts[kind]}"
        node = self.nodes[id] = Node(self, id, kind, make, self._costs_s.get(kind, 0.0))
        node.key, node.owner = key, owner
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

    def assistant(self, id: str = "assistant-1") -> Assistant:
        """Return an assistant's machine."""
        return cast(Assistant, self.nodes[id].machine)

    # -- what clients do

    def submit(
        self, tasks: Sequence[Work | float], *, client: str = "client-1", detached: bool = False, **spec: Any
    ) -> str:
        """Submit a job of these tasks (numbers are service times in seconds); return its id."""
        node = self.nodes[client]
        submit = self._job(tasks, spec, node.owner)
        self.history.submitted(submit.job, submit.count)
        if detached:
            self._detached.add(submit.job)
            submit = msgspec.structs.replace(submit, detached=True)
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
        submit = msgspec.structs.replace(self._job(tasks, spec, self.nodes[observer].owner), detached=True)
        self.say(submit, scheduler, observer=observer)
        return submit.job

    def _job(self, tasks: Sequence[Work | float], spec: dict[str, Any], owner: str) -> m.Submit:
        works = [task if isinstance(task, Work) else Work(task) for task in tasks]
        job = ids.job_id(int(self.now * 1e3), self.rng, owner)
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
        self._note(id, "crash")
        node = self.nodes[id]
        node.up = node.paused = False
        node.backlog.clear()
        for end in list(node.connections.values()):
            self.network.close(end)
        for slot in node.slots:
            slot.vanish()
        if node.kind == "scheduler":
            at_once = node.leaving and self.store.state == UP
            self.later(0.0 if at_once else self._ttl_s, self._unregister, id, node.address)

    def restart(self, id: str) -> None:
        """Start a node that is down (or for the first time)."""
        self._note(id, "start")
        node = self.nodes[id]
        node.starts += 1
        node.up, node.leaving, node.wakes_at = True, "", None
        node.machine, node.line, node.known = node.make(node), Line(), {}
        if node.kind == "scheduler":
            if self._durable:
                node.keeper = Keeper(node, self.store, self._child(), self._unanswered)
            self._register(node, node.starts)
            if self._beats:
                node.step(node.machine.start)
            return
        if node.kind == "assistant":
            CanaryThread(node, self.store, self._settings[3])
        if node.kind == "worker":
            node.step(node.machine.start)
        self.later(self._registry_s, self._inform, node, node.starts)

    def pause(self, id: str) -> None:
        """Stop a node (SIGSTOP): its connections stay, it does nothing."""
        self._note(id, "pause")
        node = self.nodes[id]
        node.paused = True
        node.pauses += 1
        if self._expiring and node.kind == "scheduler":
            self.later(self._ttl_s, self._expire, node, node.pauses)

    def resume(self, id: str) -> None:
        """Let a paused node go on."""
        node = self.nodes[id]
        if node.paused:
            self._note(id, "resume")
            node.resume()
            if (self._beats or self._expiring) and node.up and node.kind == "scheduler":
                self.later(BACK_S * self.rng.random(), self._register, node, node.starts)

    def reset(self, one: str, other: str) -> None:
        """Reset the connection between two nodes: what is under way is lost."""
        self._note(one, "reset", other)
        for end in list(self.nodes[one].connections.values()):
            if end.other.node.id == other:
                self.network.reset(end)

    def set_wire(self, one: str, other: str, wire: Wire) -> None:
        """From now on the link between these two nodes ("" and "": every link) is like this."""
        self._note(one, "wire", f"{other} {wire}")
        self.network.set_wire(one, other, wire)

    def cut(self, one: str, other: str, *, both: bool = True) -> None:
        """Lose every packet from one node to the other, and back, until `heal`."""
        self._note(one, "cut", f"{other} {both}")
        self.network.cut(one, other)
        if both:
            self.network.cut(other, one)

    def heal(self, one: str = "", other: str = "") -> None:
        """Undo the cuts between two nodes; without names: all cuts."""
        self._note(one, "heal", other)
        self.network.heal(one, other)

    def drain(self, id: str, within_s: float = 30.0) -> None:
        """Send SIGTERM."""
        node = self.nodes[id]
        if node.kind == "scheduler":
            self._unregister(id, node.address)
        node.step(node.machine.drain, self.now + within_s)

    def turn_store(self, state: str) -> None:
        """From now on the store is "up", "down" (it answers with errors) or "hung" (it does not answer)."""
        self._note("store", state)
        before = self.store.state
        self.store.turn(state)
        if state != UP or before == UP:
            return
        self._removals_from = self.now + self._ttl_s
        for node in self.nodes.values():
            if node.kind == "scheduler":
                self.later(BACK_S * self.rng.random(), self._register, node, node.starts)
        self.later(BACK_S, self._announce)
        self.later(self._ttl_s, self._announce)

    def empty_store(self) -> None:
        """All that the store had is lost."""
        self._note("store", "emptied")
        self.store.empty()

    def _note(self, id: str, what: str, detail: str = "") -> None:
        if self.journal is not None:
            self.journal.add(self.now, id, what, detail)

    # -- the end

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
            for end in node.connections.values() if node.kind == "worker" else ():
                if end.calm and not end.other.node.paused:
                    invariants.check_agreement(end.other.node.machine, node.machine)

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

    # -- what becomes known of a run

    def started(self, node: Node, job: str, epoch: int, index: int, attempt: int) -> None:
        """A slot has started a task."""
        if self._record:
            self.starts[job, index].append((self.now, node.id, epoch, attempt))

    def tell(self, node: Node, effect: fx.AnyEffect) -> None:
        """A machine has said something to whoever is above it."""
        if self._tell is not None:
            self._tell(node.id, effect)
        if not self._record:
            return
        if isinstance(effect, fx.Deliver):
            self.history.shown(effect)
        elif isinstance(effect, fx.JobEnded):
            self.history.ended(effect)
        elif isinstance(effect, fx.JobAccepted) and effect.job in self._detached:
            self.history.abandoned(effect.job)
        self.told.append((self.now, node.id, effect))

    def _committed(self, message: m.AnyMessage) -> None:
        if isinstance(message, m.Outcome):
            self.history.committed(message)

    # -- what is told to the store, and heard of it

    def deposit(self, node: Node, beat: Beat) -> None:
        """A machine has given its store thread a beat."""
        self.store.deposit(node.line, beat)

    def condemn(self, effect: fx.Condemn) -> None:
        """An assistant has a scheduler marked as dead."""

        def act() -> None:
            record = self.store.records.get(effect.scheduler)
            if record is not None and record.incarnation == effect.incarnation and not record.dead:
                self.store.records[effect.scheduler] = record._replace(dead=True)
                self._announce()

        self.store.call(act, lambda done, nothing: None)

    def _register(self, node: Node, starts: int) -> None:
        """A scheduler writes its record, unless it has the same there; while the store is away it tries later."""
        if node.starts != starts or not node.up or node.paused or node.leaving or self.store.state != UP:
            return
        record = Record(node.address, starts)
        if self.store.records.get(node.id) != record:
            self.store.records[node.id] = record
            self._announce()

    def _unregister(self, id: str, address: str) -> None:
        record = self.store.records.get(id)
        if record is not None and record.address == address:
            del self.store.records[id]
            self._announce()

    def _expire(self, node: Node, pauses: int) -> None:
        if node.paused and node.pauses == pauses:
            self._unregister(node.id, node.address)

    def _announce(self) -> None:
        """Tell workers, clients and assistants which schedulers there are, each after its own delay."""
        for node in self.nodes.values():
            if node.kind != "scheduler":
                delay_s = self._registry_s * self.rng.uniform(0.5, 1.5)
                self.later(delay_s, self._inform, node, node.starts)

    def _inform(self, node: Node, starts: int) -> None:
        if node.starts != starts or self.store.state != UP:
            return  # what changes while the store is away is heard when it is back
        records = self.store.records
        found = {**node.known, **records} if self.now < self._removals_from else dict(records)
        node.known = found
        addresses = {id: record.address for id, record in found.items()}
        if self._beats and node.kind == "client":
            dead = {id: record.incarnation for id, record in found.items() if record.dead}
            node.step(node.machine.schedulers_changed, addresses, dead)
        else:
            node.step(node.machine.schedulers_changed, addresses)
