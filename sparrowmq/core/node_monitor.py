"""The node monitor: a worker's brain. Queues reservations, asks for tasks, hands them to slots, reports results.

Owns: what is asked and answered over its connections, drain. Must not know: sockets, processes, clocks, or what a
payload holds (user code runs in slots, never here).

SOSP 2013, 3.5: a reservation that reaches the head of the queue while a slot is free becomes a request; the
answer is a task or a no-op. `workplace` holds the slots' side of this, `connections` makes and mends the connections;
this room talks to schedulers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sparrowmq import limits
from sparrowmq.core.carried import Carried
from sparrowmq.core.connections import Connections
from sparrowmq.core.effects import AnyEffect, Deposit, Exit, Log
from sparrowmq.core.links import Link, Request
from sparrowmq.core.outputs import Outputs
from sparrowmq.core.queue import Entry
from sparrowmq.core.slots import Batch
from sparrowmq.core.timers import Timers
from sparrowmq.core.workplace import Workplace
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import WorkerSettings


class NodeMonitor:
    """One worker. Drivers call the event methods and carry out `take_effects`, in order."""

    def __init__(
        self,
        *,
        id: str,
        incarnation: int,
        slots: int,
        settings: WorkerSettings,
        package: str = "",
        python: str = "",
        host: str = "",
        pid: int = 0,
    ) -> None:
        self.id = id
        self.incarnation = incarnation
        self.settings = settings
        self.draining = False
        self._left = False
        self._began = 0.0
        self._last_request = 0
        self._timers: Timers[tuple[Any, ...]] = Timers()
        self._effects: list[AnyEffect] = []
        self._now = 0.0
        self._outputs = Outputs(self._effects)
        self.place = Workplace(slots, settings, self._effects, self._timers, self._report, self._give_back)
        hello = m.Hello(m.PROTOCOL, package, m.WORKER, id, incarnation, python, host, pid, slots)
        self.connections = Connections(hello, settings, self.place, self._effects, self._timers)
        self.links = self.connections.links
        self._peers = self.connections.peers
        self._send = self.connections.send
        self._forget_request = self.connections.forget_request

    @property
    def connected(self) -> int:
        """How many schedulers have welcomed this worker."""
        return sum(link.welcomed for link in self.links.values())

    # -- the driver's side: schedulers

    def start(self, now: float) -> None:
        """Bring the slots up, and begin to beat."""
        self.place.start()
        self._began = now
        if self.settings.beat_interval_s:
            self._due_beat(now)

    def schedulers_changed(self, now: float, addresses: dict[str, str]) -> None:
        """The registry lists these schedulers (id -> address of their worker socket)."""
        self._now = now
        self.connections.listed(now, addresses)

    def receive(self, now: float, peer: int, message: m.AnyMessage) -> None:
        """A message from a scheduler. Never raises for anything that decodes."""
        self._now = now
        link = self._peers.get(peer)
        kind = type(message)
        handler = _HANDLERS.get(kind)
        if link is None or handler is None:
            return
        link.heard_at = now
        if link.silent:
            self.connections.speaks(link)
        if link.welcomed or kind is m.Welcome or kind is m.Refused:
            handler(self, now, link, message)

    def carried(self, now: float, peer: int, carried: Carried) -> None:
        """The answer to a `Look`."""
        self._now = now
        self.connections.carried(now, peer, carried)

    def lost(self, now: float, peer: int) -> None:
        """The connection is gone: what was asked over it is queued again, and it is tried anew."""
        self._now = now
        self.connections.lost(now, peer)

    # -- the driver's side: slots (see Workplace for what they mean)

    def slot_ready(self, now: float, slot: int, pid: int) -> None:
        """The slot's process is up."""
        self._now = now
        self.place.ready(slot, pid)

    def slot_results(
        self, now: float, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        """The slot's tasks from ``first_seq`` on have ended."""
        self._now = now
        if len(self._outputs):
            self._outputs.ended(slot, first_seq + len(statuses) - 1)
        self.place.results(now, slot, first_seq, statuses, service_us, payloads)

    def slot_exited(self, now: float, slot: int, cause: str, current_seq: int) -> None:
        """The slot's process is gone; ``current_seq`` is the task that it was running, 0 if none."""
        self._now = now
        self._outputs.ended(slot, self.place.slots[slot].last_seq)
        self.place.exited(now, slot, cause, current_seq)

    def slot_reclaimed(self, now: float, slot: int, after_seq: int) -> None:
        """Nothing with a sequence number above ``after_seq`` that the slot held at the reclaim ever starts."""
        self._now = now
        self.place.reclaimed(now, slot, after_seq)

    def slot_retired(self, now: float, slot: int) -> None:
        """The slot's process has grown too large: it is replaced once it has nothing to do."""
        self._now = now
        self.place.retire(slot)

    def slot_output(self, now: float, slot: int, seq: int, stream: int, data: bytes) -> None:
        """Task ``seq``, which the slot runs, has written this to standard output (``stream`` 1) or error (2)."""
        self._now = now
        batch = self.place.slots[slot].holder(seq)
        link = self.links.get(batch.scheduler) if batch is not None else None
        if batch is not None and link is not None and link.welcomed:
            at = seq - batch.first_seq
            output = m.Output(batch.job, batch.epoch, batch.indices[at], batch.attempts[at], stream, data)
            self._outputs.forward(now, link.peer, slot, seq, output)

    # -- the driver's side: time

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        for name, *arguments in self._timers.due(now):
            _DUE[name](self, now, *arguments)

    def next_deadline(self) -> float | None:
        """Return when `tick` is wanted next (monotonic seconds), or None."""
        return self._timers.next()

    def take_effects(self) -> list[AnyEffect]:
        """Return what is to be done since the last call, in order. Free slots ask for tasks here, once a turn."""
        if self.place.retiring:
            self.place.replace_retired()
        self._feed()
        if self.draining and not self._left:
            self._leave_if_drained()
        if not self._effects:
            return []
        effects = self._effects[:]
        self._effects.clear()
        return effects

    def drain(self, now: float, deadline: float) -> None:
        """Finish what runs, hand everything else back, then exit; at ``deadline`` exit anyway."""
        self._now = now
        self._timers.add(deadline, ("deadline",))
        if self.draining:
            return
        self.connections.closed = True
        self.draining = True
        self._log("info", "draining", running=self.place.running())
        for link in self.links.values():
            if link.welcomed:
                self._send(link, m.Goodbye("draining"))
        self.place.empty_queue("drain")
        for slot in self.place.slots:
            if slot.held_count > 1:
                self.place.reclaim(slot, "drain")

    # -- messages from schedulers

    def _on_welcome(self, now: float, link: Link, message: m.Welcome) -> None:
        self.connections.welcomed(link, message)
        if self.draining:
            self._send(link, m.Goodbye("draining"))

    def _on_drain(self, now: float, link: Link, message: m.Drain) -> None:
        if message.worker == self.id:
            self._log("info", "told to drain", scheduler=link.scheduler, grace_s=message.grace_s)
            self.drain(now, now + message.grace_s)

    def _on_probe(self, now: float, link: Link, probe: m.Probe) -> None:
        if self._stale(link, probe.job, probe.epoch):
            return
        if not probe.count:
            place = self.place
            waiting = min(place.waiting(), limits.INT_MAX)
            load = m.Load(probe.job, probe.epoch, probe.round, waiting, place.running(), len(place.slots))
            self._send(link, load)
        else:
            link.received += probe.count
            entry = Entry(link.scheduler, probe.job, probe.epoch, probe.round, probe.count)
            self._enqueue(link, entry, first=probe.first)

    def _enqueue(self, link: Link, entry: Entry, *, first: bool = False) -> None:
        bounds, queue = self.settings.limits, self.place.queue
        tasks = entry.count if entry.tasks else 0
        if self.draining or len(queue) >= bounds.queue_entries or queue.tasks + tasks > bounds.queued_tasks:
            waiting = entry.waiting()
            indices, attempts = [index for index, _ in waiting], [attempt for _, attempt in waiting]
            reason = "drain" if self.draining else "full"
            self._send(link, m.Returned(0, entry.job, entry.epoch, indices, attempts, reason))
        else:
            queue.add(entry, first=first)

    def _stale(self, link: Link, job: str, epoch: int) -> bool:
        """Answer for an epoch that is over (DESIGN rule 7); a new epoch removes what is queued of older ones."""
        known = self.place.epoch(job, epoch)
        if known > epoch:
            self._send(link, m.Stale(job, known))
        return known > epoch

    def _on_task(self, now: float, link: Link, task: m.Task) -> None:
        request = link.requests.get(task.request)
        link.received += task.renew
        if request is not None:
            link.answered(request, now)
            self._consume(link, request, len(task.indices))
        elif not task.request:
            link.received += len(task.indices)
        if self._stale(link, task.job, task.epoch) or not task.indices:
            return
        if task.renew:
            self._enqueue(link, Entry(link.scheduler, task.job, task.epoch, task.round, task.renew))
        function = self.place.function(task)
        if function is None:
            self._give_back(link.scheduler, task.job, task.epoch, task.indices, task.attempts, "function")
            return
        if task.eager:
            self._start_now(now, link, task, function)
            return
        if not task.request:
            entry = Entry(link.scheduler, task.job, task.epoch, task.round, len(task.indices), task, function)
            self._enqueue(link, entry)
            return
        slot = self.place.slots[request.slot] if request is not None else None
        if slot is None or not slot.takes_answers:  # too late for that slot
            slot = self.place.idle()
        if self.draining or slot is None:
            reason = "drain" if self.draining else "late"
            self._give_back(link.scheduler, task.job, task.epoch, task.indices, task.attempts, reason)
        else:
            self.place.hand(now, slot, task, link.scheduler, function)

    def _start_now(self, now: float, link: Link, task: m.Task, function: m.Payload) -> None:
        """Its scheduler believes this worker idle: start the task, or say that it is not."""
        slot = None if self.draining or self.place.queue.head() is not None else self.place.idle()
        if slot is not None and len(task.indices) == 1:
            self.place.hand(now, slot, task, link.scheduler, function)
        else:
            self._give_back(link.scheduler, task.job, task.epoch, task.indices, task.attempts, "busy")

    def _on_no_op(self, now: float, link: Link, message: m.NoOp) -> None:
        request = link.requests.get(message.request)
        if request is not None:
            link.answered(request, now)
            self._consume(link, request, message.count)

    def _consume(self, link: Link, request: Request, count: int) -> None:
        count = min(count, request.count)
        request.count -= count
        self.place.slots[request.slot].answered(request.job, count)
        if not request.count:
            del link.requests[request.number]

    def _on_cancel(self, now: float, link: Link, message: m.Cancel) -> None:
        self.place.queue.cancel(link.scheduler, message.job, message.epoch, message.round)

    def _on_recall(self, now: float, link: Link, message: m.Recall) -> None:
        self.place.recall(link.scheduler, message)

    def _on_kill(self, now: float, link: Link, message: m.Kill) -> None:
        self.place.kill(now, link.scheduler, message)

    def _on_claim(self, now: float, link: Link, claim: m.Claim) -> None:
        """Another scheduler had this job; its tasks and results here are this one's from now on (DESIGN rule 13)."""
        if self._stale(link, claim.job, claim.epoch):
            return
        results = self.connections.adopt(link, claim.job, claim.epoch)
        indices: list[int] = []
        attempts: list[int] = []
        taken: list[m.Result | Batch] = [*results, *self.place.adopt(link.scheduler, claim.job, claim.epoch)]
        for some in taken:
            indices += some.indices
            attempts += some.attempts
        self._send(link, m.Claimed(claim.job, claim.epoch, indices, attempts))
        for result in results:
            self._send(link, result)

    def _on_goodbye(self, now: float, link: Link, message: m.Goodbye) -> None:
        if message.reason != "draining":
            self.connections.drop(now, link)

    # -- towards schedulers

    def _feed(self) -> None:
        """Give every slot that is free, or about to be, the next thing in the queue."""
        place = self.place
        entry = place.queue.head()
        if entry is None or self.draining:
            return
        for slot in place.slots:
            while not slot.sated and slot.ready:
                link = self.links[entry.scheduler]
                count = place.wanted(slot, entry, link.rtt_s)
                if not count:
                    break
                if self._unacknowledged() > self.settings.limits.unacked_bytes:
                    return
                if entry.tasks is not None:
                    tasks = place.queue.start(entry, count)
                    place.hand(self._now, slot, tasks, entry.scheduler, entry.function)
                else:
                    self._request(link, slot.number, entry, count)
                entry = place.queue.head()
                if entry is None:
                    return

    def _request(self, link: Link, slot: int, entry: Entry, count: int) -> None:
        self.place.queue.take(entry, count)
        self._last_request += 1
        number = self._last_request
        link.requests[number] = Request(number, slot, entry.job, entry.epoch, entry.round, count, self._now)
        self.place.slots[slot].ask(entry.job, count)
        self._send(link, m.Request(number, entry.job, entry.epoch, entry.round, count))
        if not link.waiting:
            link.waiting = True
            self._timers.add(self._now + self.settings.request_timeout_s, ("unanswered", link.scheduler))

    def _unacknowledged(self) -> int:
        size = 0
        for link in self.links.values():
            size += link.outbox.bytes
        return size

    def _report(
        self, batch: Batch, indices: list[int], attempts: list[int], statuses: bytes, us: list[int],
        payloads: list[m.Payload],
    ) -> float:  # fmt: skip
        """Tell the scheduler of these tasks how they ended; return the round trip to it."""
        link = self.links.get(batch.scheduler)
        if link is None:
            return 0.0  # its scheduler is gone for good, and its client has moved the job elsewhere
        result = m.Result(link.outbox.next_seq, batch.job, batch.epoch, indices, attempts, statuses, us, payloads)
        self._send(link, link.outbox.put(result, sum(map(len, payloads)) + 16 * len(indices)))
        return link.rtt_s

    def _give_back(
        self, scheduler: str, job: str, epoch: int, indices: list[int], attempts: list[int], reason: str,
        request: int = 0,
    ) -> None:  # fmt: skip
        """These tasks have not started here and never will. (Lost on the way, the next inventory says the same.)"""
        link = self.links.get(scheduler)
        if link is None or not (indices or request):
            return
        returned = m.Returned(request, job, epoch, indices, attempts, reason)
        if link.welcomed:
            self._send(link, returned)
        elif link.peer:
            link.unsaid.append(returned)

    def _log(self, level: str, event: str, **fields: object) -> None:
        self._effects.append(Log(level, event, fields))

    # -- deadlines

    def _due_beat(self, now: float) -> None:
        """Say that this loop turns, and when it will say so again: at whole intervals since its start."""
        interval_s = self.settings.beat_interval_s
        number = int((now - self._began) / interval_s + 1e-6)
        self._timers.add(self._began + (number + 1) * interval_s, ("beat",))
        self._effects.append(Deposit(self._beat(number + 1)))

    def _beat(self, sequence: int, *, leaving: bool = False) -> Beat:
        place = self.place
        probes = {link.scheduler: min(link.received, limits.INT_MAX) for link in self.links.values()}
        return Beat(
            m.WORKER, self.id, self.incarnation, sequence, round(self.settings.beat_interval_s * 1e3),
            len(place.slots), place.running(), min(place.waiting(), limits.INT_MAX), int(place.recent_s() * 1e6),
            probes, self.draining, leaving, place.queue.tasks,
        )  # fmt: skip

    def _due_unanswered(self, now: float, scheduler: str) -> None:
        """A request without an answer: use the slot for others until this scheduler is heard (DESIGN rule 11)."""
        link = self.links.get(scheduler)
        if link is None:
            return
        overdue = now - self.settings.request_timeout_s + 1e-9
        for request in [request for request in link.requests.values() if request.sent_at <= overdue]:
            self._forget_request(link, request)
            if link.heard_at <= overdue and not link.silent:
                link.silent = True
                self.place.queue.park(scheduler)
        oldest = min((request.sent_at for request in link.requests.values()), default=None)
        link.waiting = oldest is not None
        if oldest is not None:
            self._timers.add(oldest + self.settings.request_timeout_s, ("unanswered", scheduler))

    def _leave_if_drained(self) -> None:
        asking = any(link.requests or (link.welcomed and len(link.outbox)) for link in self.links.values())
        if not asking and not self.place.running() and not self.place.waiting():
            self._leave("drained")

    def _due_deadline(self, now: float) -> None:
        if not self._left:
            self._leave("the drain's deadline has passed")

    def _leave(self, reason: str) -> None:
        for link in self.links.values():
            self._send(link, m.Goodbye("leaving"))
        if self.settings.beat_interval_s:
            number = int((self._now - self._began) / self.settings.beat_interval_s + 1e-6)
            self._effects.append(Deposit(self._beat(number + 2, leaving=True)))
        self._effects.append(Exit(reason))
        self._left = True


_HANDLERS: Final[dict[type, Callable[[NodeMonitor, float, Link, Any], object]]] = {
    m.Welcome: NodeMonitor._on_welcome,
    m.Refused: lambda self, now, link, message: self.connections.refused(now, link, message),
    m.Probe: NodeMonitor._on_probe,
    m.Task: NodeMonitor._on_task,
    m.NoOp: NodeMonitor._on_no_op,
    m.Cancel: NodeMonitor._on_cancel,
    m.Recall: NodeMonitor._on_recall,
    m.ResultAck: lambda self, now, link, message: link.outbox.acknowledge(message.seq),
    m.Kill: NodeMonitor._on_kill,
    m.Claim: NodeMonitor._on_claim,
    m.Ping: lambda self, now, link, message: self._send(link, m.Pong(message.n)),
    m.Goodbye: NodeMonitor._on_goodbye,
    m.Drain: NodeMonitor._on_drain,
}
_DUE: Final[dict[str, Callable[..., None]]] = {
    "beat": NodeMonitor._due_beat,
    "connect": lambda self, *due: self.connections.due_connect(*due),
    "grace": lambda self, *due: self.connections.due_grace(*due),
    "unanswered": NodeMonitor._due_unanswered,
    "silence": lambda self, *due: self.connections.due_silence(*due),
    "deadline": NodeMonitor._due_deadline,
    "watch": lambda self, *due: self.place.due_watch(*due),
    "clock": lambda self, *due: self.place.endings.due_clock(*due),
    "grace_over": lambda self, *due: self.place.endings.due_grace_over(*due),
    "respawn": lambda self, *due: self.place.due_respawn(*due),
}
