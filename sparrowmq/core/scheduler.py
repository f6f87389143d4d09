"""The scheduler: takes jobs from clients, places their tasks on workers, keeps each task until its result is in.

Owns: which message goes to which part, hellos and refusals, liveness, status, drain. Must not know: sockets,
clocks, what a payload holds, or that other schedulers exist (SOSP 2013, section 2: they share no state).

The parts, each in a room of its own and downward: `clients` and `workers` deal with the two kinds of peers,
`outcomes` ends tasks, `hedging` asks for second attempts, `placer` finds places, `job` is the task table, `history`
and `transcripts` are what is remembered of tasks and what they printed, `statuses` answers who asks, `turns`, `haste`,
`chatter` and `quotas` keep one client from taking what all need, `state` is what they share.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from sparrowmq import limits
from sparrowmq.core import report
from sparrowmq.core.carried import Carried, near_s
from sparrowmq.core.chatter import Chatter
from sparrowmq.core.claims import Claims
from sparrowmq.core.clients import Clients, whose
from sparrowmq.core.durable import Durable
from sparrowmq.core.effects import AnyEffect, Close, Deposit, Exit, Look, Peer
from sparrowmq.core.hedging import Hedging
from sparrowmq.core.keeping import Orphan
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.peers import Advisor, Client, Worker
from sparrowmq.core.placer import Placer
from sparrowmq.core.quotas import Quota
from sparrowmq.core.state import State
from sparrowmq.core.statuses import Statuses
from sparrowmq.core.transcripts import Transcripts
from sparrowmq.core.turns import Turns
from sparrowmq.core.workers import Workers
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.protocol.codec import version_error
from sparrowmq.settings import SchedulerSettings

SENT_AWAY_S: Final = 10.0  # so long a key that was sent away for asking too much is not let in again
FEW_JOBS: Final = 500  # beyond, their tasks are not counted for each beat ...
SELDOM: Final = 10  # ... but for each tenth: 10,000 jobs take milliseconds
TERM_AHEAD_S: Final = 86_400.0  # of this clock: a term beyond would keep every assistant out that comes later


class Scheduler:
    """One scheduler. Drivers call the event methods and carry out `take_effects`, in order.

    ``unix_offset_s`` turns a monotonic time into wall time, for what people read. ``durable``: there is a store, which
    answers `SaveJob` and `SaveOutcomes` by `saved`; without one detached jobs end with this scheduler.
    """

    def __init__(
        self,
        *,
        id: str,
        incarnation: int,
        rng: random.Random,
        settings: SchedulerSettings,
        package: str = "",
        unix_offset_s: float = 0.0,
        host: str = "",
        pid: int = 0,
        durable: bool = False,
    ) -> None:
        self.id = id
        self.incarnation = incarnation
        self.state = State(id, settings, rng, unix_offset_s, host, pid, package, durable)
        self._placer = Placer(
            self.state.workers, rng, self.state.send, self.state.timers.add, eager=settings.eager,
            cancellation=settings.cancellation, probes_per_s=settings.limits.probes_per_s,
        )  # fmt: skip
        self._transcripts = Transcripts(self.state)
        self._outcomes = Outcomes(self.state, self._placer, self._transcripts)
        self._hedging = Hedging(self.state, self._placer, self._outcomes)
        self._claims = Claims(self.state, self._outcomes)
        self._durable = Durable(self.state, self._outcomes)
        self._clients = Clients(self.state, self._placer, self._outcomes, self._hedging, self._claims, self._durable)
        self._workers = Workers(self.state, self._placer, self._outcomes, self._clients, self._claims)
        self._turns = Turns(self.state, self._from_one_that_waited)
        self._chatter = Chatter(id)
        self._statuses = Statuses(self.state, self._turns)
        self._sent_away: set[Peer] = set()  # in this turn
        self._barred = Quota(1.0)  # keys, by the seconds until they are let in again
        self._thaw_s = settings.thaw_s
        self._pinging = False
        self._thawed = False  # since the last tick
        self._began = 0.0
        self._beats = 0
        self._wanted = 0  # tasks that reservations stand for, when they were counted last
        self._from_worker: dict[type, Callable[[float, Worker, Any], None]] = {
            m.Request: self._workers.request,
            m.Result: self._workers.result,
            m.Load: self._workers.load,
            m.Returned: self._workers.returned,
            m.Output: lambda now, worker, message: self._transcripts.output(now, worker.id, message),
            m.Stale: self._workers.stale,
            m.Claimed: self._claims.answered,
            m.Goodbye: self._workers.goodbye,
            m.Ping: self._on_ping,
            m.Pong: self._on_pong,
        }
        self._from_client: dict[type, Callable[[float, Client, Any], None]] = {
            m.Submit: self._on_submit,
            m.OutcomeAck: self._on_ack,
            m.Recall: self._clients.recall,
            m.Kill: self._clients.kill,
            m.Drain: self._clients.drain,
            m.Follow: self._transcripts.follow,
            m.Goodbye: self._on_client_leaves,
            m.Query: self._statuses.asked,
            m.Subscribe: self._statuses.subscribed,
            m.Ping: self._on_client_ping,
            m.Pong: self._on_answer,
        }
        self._from_advisor: dict[type, Callable[[float, Advisor, Any], None]] = {
            m.Verdict: self._on_verdict,
            m.Hints: self._on_hints,
            m.Ping: self._on_ping,
        }
        self._due: dict[str, Callable[..., None]] = {
            "beat": self._due_beat,
            "bury": self._due_bury,
            "claimed": self._claims.due,
            "condemned": self._workers.due_condemned,
            "lease": self._due_lease,
            "owned": self._durable.due_owned,
            "sampling": self._due_sampling,
            "rested": self._workers.due_rested,
            "unclaimed": self._workers.due_unclaimed,
            "hedge": self._hedging.due,
            "overdue": self._due_overdue,
            "unschedulable": self._due_unschedulable,
            "full": self._due_full,
            "pings": self._due_pings,
            "status": self._statuses.due,
            "drained": lambda now: self._outcomes.leave("the drain's deadline has passed"),
        }

    def start(self, now: float) -> None:
        """Begin to beat."""
        self._began = now
        if self.state.settings.beat_interval_s:
            self._due_beat(now)

    def receive(self, now: float, peer: Peer, message: m.AnyMessage) -> None:
        """A message arrived. Never raises for anything that decodes."""
        deadline = self.state.timers.next()
        if deadline is not None and now - deadline > self._thaw_s and not self._thawed:
            self._thaw(now)
        if peer in self._sent_away:  # what else it has said in the same breath, another hello too, is not answered
            return
        kind = type(message)
        if kind is m.Hello:
            self._on_hello(now, peer, cast(m.Hello, message))
            return
        sender = self.state.peers.get(peer)
        handler: Callable[[float, Any, Any], None] | None
        if type(sender) is Worker:
            sender.heard_at = now
            handler = self._from_worker.get(kind)
        elif type(sender) is Client:
            handler = self._from_client.get(kind)
            if handler is not None and not self._turns.admits(now, sender, message):
                overrun = self._turns.overrun(sender)
                if overrun is not None:
                    self._send_away(now, *overrun)
                return
        elif type(sender) is Advisor:
            handler = self._from_advisor.get(kind)
        else:
            self._refuse(peer, "no_hello", f"{kind.__name__.lower()} before the hello, or after the goodbye")
            return
        if handler is not None:
            handler(now, cast(Any, sender), message)
            return
        self._refuse(peer, "forbidden", f"a {type(sender).__name__.lower()} does not send {kind.__name__.lower()}")
        self.lost(now, peer)

    def _on_submit(self, now: float, client: Client, message: m.Submit) -> None:
        self._clients.submit(now, client, message)
        self._send_away(now, client, self._clients.haste.heedless(now, client))

    def _on_answer(self, now: float, client: Client, message: m.Pong) -> None:
        self._clients.answered(now, client, message)
        self._clients.haste.answered(client, message.n)
        self._send_away(now, client, self._chatter.excess(now, client))

    def _on_client_ping(self, now: float, client: Client, message: m.Ping) -> None:
        self._on_ping(now, client, message)
        self._send_away(now, client, self._chatter.excess(now, client))

    def _on_ack(self, now: float, client: Client, message: m.OutcomeAck) -> None:
        if not self._outcomes.acknowledged(now, client, message.seq):
            self._send_away(now, client, self._chatter.excess(now, client))

    def _send_away(self, now: float, client: Client, why: str) -> None:
        """Have nothing to do for a while with a client that asks too much; ``why`` is "" where it does not."""
        if why and client.peer is not None:
            self.state.count("sent_away")
            self._barred.take(now, client.key, SENT_AWAY_S)
            self.refuse(now, client.peer, "busy", why)

    def _from_one_that_waited(self, now: float, client: Client, message: m.AnyMessage) -> None:
        self._from_client[type(message)](now, client, message)

    def lost(self, now: float, peer: Peer) -> None:
        """The connection is gone; its sender gets a grace to come back (DESIGN rule 8)."""
        state = self.state
        sender = state.peers.pop(peer, None)
        if isinstance(sender, Worker):
            self._workers.lost(now, sender)
        elif isinstance(sender, Advisor):
            self.state.advisor = None
            self._workers.unadvised()
        elif isinstance(sender, Client):
            self._transcripts.unfollow(peer)
            self._turns.forget(sender)
            sender.peer = None
            sender.gone_at = now
            state.timers.add(now + state.settings.client_lease_s, ("lease", sender.id, now))

    def carried(self, now: float, peer: Peer, carried: Carried) -> None:
        """The answer to a `Look`."""
        worker = self.state.peers.get(peer)
        if type(worker) is Worker:
            worker.traffic.look(now, worker.heard_at, carried)

    def refuse(self, now: float, peer: Peer, code: str, detail: str) -> None:
        """The driver got something from this peer that is no message: end the connection, by name."""
        self._refuse(peer, code, detail)
        self.lost(now, peer)

    def saved(
        self, now: float, token: int, error: str = "", epoch: int = 0, outcomes: Sequence[m.Outcome] = ()
    ) -> None:
        """The store has written what had this ``token``, or has not: ``error`` says why.

        It is "fenced" where another scheduler has the job, at ``epoch``; "gone" where the job that outcomes belong to
        is not there any more. ``outcomes`` are what the store had of a job that is submitted again.
        """
        waiting = self.state.book.take_submission(token)
        if waiting is not None:
            self._clients.saved(now, waiting, error, epoch, outcomes)
        else:
            self._durable.answered(now, token, error, epoch)

    def may_adopt(self) -> bool:
        """Whether jobs may be taken over from schedulers that are gone. Safe to call from another thread."""
        state, bounds = self.state, self.state.settings.limits
        room = len(state.jobs) < bounds.jobs // 2 and state.tasks < bounds.tasks // 2
        return room and state.bytes < bounds.payload_bytes // 2 and bool(state.workers) and not state.draining

    def orphaned(self, now: float, orphans: Sequence[Orphan]) -> None:
        """The store has given these jobs to this scheduler: theirs are gone."""
        for orphan in orphans:
            self._clients.orphaned(now, orphan)

    def tick(self, now: float) -> None:
        """Do what is due."""
        deadline = self.state.timers.next()
        if deadline is not None and now - deadline > self._thaw_s and not self._thawed:
            self._thaw(now)
        self._thawed = False
        for name, *arguments in self.state.timers.due(now):
            self._due[name](now, *arguments)
        self._turns.tick(now)

    def next_deadline(self) -> float | None:
        """Return when `tick` is wanted next (monotonic seconds), or None."""
        deadline, turn = self.state.timers.next(), self._turns.next()
        return deadline if turn is None else turn if deadline is None else min(deadline, turn)

    def take_effects(self) -> list[AnyEffect]:
        """Return what is to be done since the last call, in order. This ends a turn."""
        self._turns.over()
        self._sent_away.clear()
        effects = self.state.effects[:]
        self.state.effects.clear()
        if effects and type(effects[-1]) is Exit and self.state.settings.beat_interval_s:
            effects.insert(-1, Deposit(self._beat(self._beats + 2, leaving=True)))
        return effects

    def drain(self, now: float, deadline: float) -> None:
        """Take no new jobs, finish those there are, then exit; at ``deadline`` exit anyway."""
        self.state.draining = True
        self.state.timers.add(deadline, ("drained",))
        self.state.log("info", "draining", jobs=len(self.state.jobs))
        for client in self.state.clients.values():
            self.state.send(client.peer, m.Goodbye("draining"))
        self._outcomes.leave_if_drained()

    # -- hellos, goodbyes and refusals

    def _on_hello(self, now: float, peer: Peer, hello: m.Hello) -> None:
        refusal = self._hello_refusal(now, peer, hello)
        if refusal is not None:
            self._refuse(peer, *refusal)
            self.lost(now, peer)
            return
        if hello.role == m.ASSISTANT:
            self._on_advisor(now, peer, hello)
            return
        tables: dict[str, Worker] | dict[str, Client]
        tables = self.state.workers if hello.role == m.WORKER else self.state.clients
        known = tables.get(hello.id)
        if known is not None and known.peer is not None:  # its older connection is over, whatever the socket says
            old = known.peer
            self.lost(now, old)
            self.state.effects.append(Close(old))
        welcome = m.Welcome(self.id, self.incarnation, self.state.package)
        if hello.role == m.CLIENT:
            self._clients.hello(now, peer, hello, welcome)
            return
        self._workers.hello(now, peer, hello, welcome)
        if not self._pinging:
            self._pinging = True
            self.state.timers.add(now + self.state.settings.ping_interval_s, ("pings",))

    def _hello_refusal(self, now: float, peer: Peer, hello: m.Hello) -> tuple[str, str] | None:
        state, bounds = self.state, self.state.settings.limits
        known: Worker | Client | None
        if hello.protocol != m.PROTOCOL:
            return "version", str(version_error(hello.protocol, hello.package))
        if peer in state.peers:
            return "malformed", "a second hello on one connection"
        if hello.role == m.ASSISTANT:
            if hello.incarnation < state.term:
                return (
                    "superseded",
                    f"an assistant with term {state.term} has been here, and this is {hello.incarnation}",
                )
            if state.unix_offset_s and hello.incarnation > (state.unix_offset_s + now + TERM_AHEAD_S) * 1e3:
                return "malformed", f"a term of {hello.incarnation}: these are milliseconds of Unix time"
            return None
        if hello.role == m.WORKER:
            known, have, limit = state.workers.get(hello.id), len(state.workers), bounds.workers
        elif hello.role == m.CLIENT:
            known, have, limit = state.clients.get(hello.id), len(state.clients), bounds.clients
        else:
            return "malformed", f"unknown role {hello.role!r}: expected worker, client or assistant"
        barred_s = self._barred.wait_s(now, whose(hello)) if hello.role == m.CLIENT else 0.0
        if barred_s:
            return "busy", f"clients of this key were sent away by {self.id} for asking too much; wait {barred_s:.1f} s"
        if known is None and have >= limit and not (hello.role == m.CLIENT and self._clients.make_room(now)):
            return "busy", f"{have:,} {hello.role}s are connected: the limit of {self.id}"
        if isinstance(known, Client) and (known.key, known.owner) != (whose(hello), hello.owner):
            # Its jobs, and their outcomes, are for its key only; one that was listed since has other jobs.
            return "identity_conflict", f"{hello.id} is known by another key"
        if known is not None and hello.incarnation < known.incarnation:
            return "identity_conflict", f"{hello.id} has been seen with a later incarnation"
        if known is not None and hello.incarnation == known.incarnation and 0 < hello.connection < known.connection:
            return "superseded", f"{hello.id} has said hello over a later connection"
        return None

    def _on_advisor(self, now: float, peer: Peer, hello: m.Hello) -> None:
        """The assistant that leads, as far as is known here: any other one is not listened to any more."""
        state = self.state
        if state.advisor is not None:
            old = state.advisor.peer
            self.lost(now, old)
            state.effects.append(Close(old))
        state.term = hello.incarnation
        state.advisor = state.peers[peer] = Advisor(hello.id, hello.incarnation, peer)
        state.log("info", "assistant found", assistant=hello.id, term=hello.incarnation)
        state.send(peer, m.Welcome(self.id, self.incarnation, state.package))

    def _on_verdict(self, now: float, advisor: Advisor, message: m.Verdict) -> None:
        if message.term == advisor.term:
            self._workers.judged(now, message)

    def _on_hints(self, now: float, advisor: Advisor, message: m.Hints) -> None:
        if message.term == advisor.term:
            self._placer.hinted(now, message)

    def _on_client_leaves(self, now: float, client: Client, message: m.Goodbye) -> None:
        self._transcripts.unfollow(client.peer)
        self._turns.forget(client)
        self._clients.forget(now, client, "its client has left")

    def _refuse(self, peer: Peer, code: str, detail: str) -> None:
        self._sent_away.add(peer)
        self.state.count(f"refused_{code}")
        self.state.send(peer, m.Refused(code, detail[: limits.DETAIL_CHARS_MAX]))
        self.state.effects.append(Close(peer))
        self.state.log("warning", "refused", code=code, detail=detail[:200])

    # -- liveness

    def _thaw(self, now: float) -> None:
        """This process has stood still: clients may have gone elsewhere, so each is asked first (DESIGN rule 7).

        What they sent before does not answer that. It is found out by deadlines that have passed long ago.
        """
        self._thawed = True
        self.state.count("thawed")
        for client in self.state.clients.values():
            self._clients.ask(client)
        for job in self.state.jobs.values():
            if job.keep is not None:
                self._durable.ask(job, job.keep)

    def _due_beat(self, now: float) -> None:
        """Say that this loop turns, and when it will say so again: at whole intervals since its start."""
        state, interval_s = self.state, self.state.settings.beat_interval_s
        number = int((now - self._began) / interval_s + 1e-6)
        state.timers.add(self._began + (number + 1) * interval_s, ("beat",))
        self._beats = number
        if len(state.jobs) <= FEW_JOBS or number % SELDOM == 0:
            jobs = (job for job in state.jobs.values() if job.reserved_total)
            self._wanted = sum(min(job.needed, job.reserved_total) for job in jobs)
        state.effects.append(Deposit(self._beat(number + 1)))

    def _beat(self, sequence: int, *, leaving: bool = False) -> Beat:
        interval_ms = round(self.state.settings.beat_interval_s * 1e3)
        return Beat(
            m.SCHEDULER, self.id, self.incarnation, sequence, interval_ms, queued=self._wanted,
            probes={self.id: self._placer.assisted}, draining=self.state.draining, leaving=leaving,
        )  # fmt: skip

    def _on_ping(self, now: float, sender: Worker | Client | Advisor, message: m.Ping) -> None:
        self.state.send(sender.peer, m.Pong(message.n))

    def _on_pong(self, now: float, worker: Worker, message: m.Pong) -> None:
        if message.n != int(worker.pinged_at * 1e3):
            return
        sample = now - worker.pinged_at
        worker.rtt_s = 0.8 * worker.rtt_s + 0.2 * sample if worker.rtt_s else sample

    def _due_pings(self, now: float) -> None:
        """Ask every worker whether it is there; one whose loop is silent is as good as disconnected."""
        settings = self.state.settings
        look_after_s = near_s(settings.ping_interval_s, settings.silent_after_s)
        for worker in list(self.state.workers.values()):
            if worker.peer is None:
                continue
            if worker.traffic.silent_s(now, worker.heard_at) > settings.silent_after_s:
                silent = worker.peer
                self.lost(now, silent)
                self.state.effects.append(Close(silent))
            else:
                if now - worker.heard_at > look_after_s:
                    self.state.effects.append(Look(worker.peer))
                worker.pinged_at = now
                self.state.send(worker.peer, m.Ping(int(now * 1e3)))
        self._pinging = bool(self.state.workers)
        if self._pinging:
            self.state.timers.add(now + settings.ping_interval_s, ("pings",))

    def _due_bury(self, now: float, worker_id: str, incarnation: int, lost_at: float) -> None:
        worker = self.state.workers.get(worker_id)
        if worker is not None and worker.incarnation == incarnation and worker.lost_at == lost_at:
            self._workers.bury(now, worker, "its connection was lost")

    def _due_lease(self, now: float, client_id: str, gone_at: float) -> None:
        client = self.state.clients.get(client_id)
        if client is not None and client.gone_at == gone_at:
            self._clients.forget(now, client, "its client has gone")

    # -- jobs' deadlines

    def _due_sampling(self, now: float, job_id: str, epoch: int, round: int) -> None:
        job = self.state.jobs.get(job_id)
        if job is not None and job.epoch == epoch and self._placer.sampling_over(now, job, round):
            self._outcomes.place(now, job)

    def _due_overdue(self, now: float, payer: str) -> None:
        """The jobs of this key waited, since it had had enough sent for them."""
        self.state.count("placed_later")
        for job_id in self._placer.overdue(payer):
            job = self.state.jobs.get(job_id)
            if job is not None:
                self._outcomes.place(now, job)

    def _due_full(self, now: float) -> None:
        self._placer.members_changed()
        for job in list(self.state.jobs.values()):
            self._outcomes.place(now, job)

    def _due_unschedulable(self, now: float, job_id: str, epoch: int) -> None:
        job = self.state.jobs.get(job_id)
        if job is None or job.epoch != epoch or job.ever_eligible or job.unheard or self._placer.eligible(now, job):
            return  # where there are workers, its client had no credit, or they have not answered a claim
        python = f" with Python {job.spec.python}" if job.spec.python else ""
        text = (
            f"no worker{python} has been connected to {self.id} for {self.state.settings.unschedulable_after_s:g} s "
            f"(workers of any kind: {len(self.state.workers)}); start one with `sparrowmq worker start`"
        )
        self._outcomes.end(now, job, job.unfinished(), m.FAILED, report.failure("Unavailable", text))
