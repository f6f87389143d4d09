"""A client's session: its connections, and so where its jobs are.

Owns: the choice of schedulers, liveness, questions; `client_jobs` owns the jobs. Must not know: futures, threads,
payloads' meaning.

New jobs go to the session's home scheduler. When a connection drops the session tries the same scheduler once
(a reset loses nothing: both ends say what they hold), then moves its unfinished tasks to another one under a
higher epoch (DESIGN rule 7). A scheduler that drains keeps its jobs and gets no new ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from sparrowmq import limits
from sparrowmq.core.carried import Carried, Traffic, near_s
from sparrowmq.core.client_jobs import ClientJobs
from sparrowmq.core.effects import Answer, AnyEffect, Close, Connect, Linked, Log, Look, Send
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings

RETRY_S_MIN: Final = 0.005
RETRY_S_MAX: Final = 1.0
DEAD_ANSWER_S: Final = 0.1  # what a scheduler that was declared dead gets to prove the contrary


@dataclass(slots=True, eq=False)
class _Link:
    """One connection. ``incarnation`` 0: not welcomed yet."""

    peer: int
    scheduler: str
    address: str
    heard_at: float
    incarnation: int = 0
    draining: bool = False
    traffic: Traffic = field(default_factory=Traffic)


class Session:
    """One client. Drivers call the methods and carry out `take_effects`, in order."""

    def __init__(
        self,
        *,
        id: str,
        incarnation: int,
        rng: random.Random,
        settings: ClientSettings,
        package: str = "",
        python: str = "",
    ) -> None:
        self.id = id
        self._settings = settings
        self._rng = rng
        self._hello = m.Hello(m.PROTOCOL, package, m.CLIENT, id, incarnation, python)
        self._known: dict[str, str] = {}
        self._links: dict[int, _Link] = {}
        self._home: _Link | None = None
        self._last_peer = 0
        self._failures = 0
        self._last_lost: tuple[str, int] = ("", 0)  # scheduler and incarnation of the connection that dropped last
        self._tried: set[str] = set()
        self._waiting_to_connect = False
        self._homeless_since: float | None = None
        self._queries: dict[int, m.Query | m.Subscribe] = {}
        self._last_ping = 0
        self._timers: Timers[tuple[Any, ...]] = Timers()
        self._effects: list[AnyEffect] = []
        self._left = False
        self._acks: dict[int, int] = {}  # peer -> the last outcome of this turn
        self._work = ClientJobs(settings, self._links, self._effects, self._timers)
        self.jobs = self._work.table
        self._handlers: dict[type, Callable[[float, _Link, Any], None]] = {
            m.Welcome: self._on_welcome,
            m.Refused: self._on_refused,
            m.Accepted: self._on_accepted,
            m.Rejected: self._on_rejected,
            m.Outcome: self._on_outcome,
            m.Returned: self._on_returned,
            m.Status: self._on_status,
            m.Stale: self._on_stale,
            m.Goodbye: self._on_goodbye,
            m.Died: self._on_died,
            m.Ping: lambda now, link, message: self._send(link.peer, m.Pong(message.n)),
        }
        self._due: dict[str, Callable[..., None]] = {
            "condemned": self._due_condemned,
            "connect": self._due_connect,
            "ping": self._due_ping,
            "unavailable": self._due_unavailable,
            "resubmit": self._due_resubmit,
            "resume": lambda now, peer: self._work.resume(peer),
        }

    # -- what the client wants

    def submit(self, now: float, submit: m.Submit) -> None:
        """Take responsibility for a job of epoch 0; its outcomes follow as `Deliver`, or `JobEnded`."""
        self.submit_all(now, [submit])

    def submit_all(self, now: float, submits: Sequence[m.Submit], *, flight: bool = False) -> None:
        """As `submit` for several; with ``flight`` two are sent, and the next one each time one ends."""
        self._work.submit(submits, flight=flight)
        if self._home is None:
            self._expect_a_home(now)

    def recall(self, now: float, request: int, job_id: str, indices: Iterable[int]) -> None:
        """Cancel those of these tasks that have not started; `Recalled` follows."""
        self._work.recall(request, job_id, indices)

    def kill(self, now: float, job_id: str, indices: Iterable[int] = (), grace_s: float = 0.0) -> None:
        """End tasks (none named: all of the job), running ones after ``grace_s``; their outcomes follow."""
        self._work.kill(job_id, indices, grace_s)

    def query(self, now: float, request: int, what: str, job: str = "") -> None:
        """Ask the home scheduler once; `Answer` follows, possibly after a fail-over."""
        self._ask(request, m.Query(request, what, job))

    def subscribe(self, now: float, request: int, what: str, interval_s: float) -> None:
        """Ask the home scheduler for a status every ``interval_s``; 0 ends it."""
        self._ask(request, m.Subscribe(request, what, interval_s))

    def _ask(self, request: int, question: m.Query | m.Subscribe) -> None:
        self._queries[request] = question
        if isinstance(question, m.Subscribe) and not question.interval_s:
            del self._queries[request]
        if self._home is not None:
            self._send(self._home.peer, question)

    def leave(self, now: float) -> None:
        """Say goodbye to all: unfinished jobs are cancelled there."""
        self._left = True
        for link in self._links.values():
            if link.incarnation:
                self._effects.append(Send(link.peer, m.Goodbye("leaving")))
            self._effects.append(Close(link.peer))
        self._links.clear()
        self._set_home(None)

    # -- the driver's side

    def schedulers_changed(
        self, now: float, addresses: dict[str, str], dead: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """These schedulers are known (id -> address of their client socket).

        ``dead``: those of which this incarnation has been declared dead. One that does not answer at once is left.
        """
        self._known = {id: address for id, address in addresses.items() if id not in dead}
        for link in list(self._links.values()):
            if link.incarnation and dead.get(link.scheduler) == link.incarnation:
                self._last_ping += 1
                self._send(link.peer, m.Ping(self._last_ping))
                self._timers.add(now + DEAD_ANSWER_S, ("condemned", link.peer, now))
        self._tried.clear()
        if self._home is None and not self._asking():
            self._connect(now)

    def receive(self, now: float, peer: int, message: m.AnyMessage) -> None:
        """A message from a scheduler. Never raises for anything that decodes."""
        link = self._links.get(peer)
        if link is None:
            return
        link.heard_at = now
        handler = self._handlers.get(type(message))
        if handler is not None and (link.incarnation or isinstance(message, m.Welcome | m.Refused)):
            handler(now, link, message)

    def carried(self, now: float, peer: int, carried: Carried) -> None:
        """The answer to a `Look`."""
        link = self._links.get(peer)
        if link is not None:
            link.traffic.look(now, link.heard_at, carried)

    def lost(self, now: float, peer: int) -> None:
        """The connection is gone: its jobs move."""
        link = self._links.get(peer)
        if link is None:
            return
        if link.incarnation:
            self._last_lost = (link.scheduler, link.incarnation)
            self._tried.clear()
        else:
            self._tried.add(link.scheduler)
        self._unlink(now, link)

    def _leave_link(self, now: float, link: _Link) -> None:
        """This scheduler goes, is frozen or refuses: do not try it before the others."""
        self._last_lost = ("", 0)
        self._tried.add(link.scheduler)
        self._unlink(now, link)

    def _unlink(self, now: float, link: _Link) -> None:
        del self._links[link.peer]
        self._work.lost(link.peer)
        if self._home is link:
            self._set_home(None)
            self._effects.append(Linked("", f"the connection to {link.scheduler} was lost"))
            self._expect_a_home(now)
        if self._home is not None:
            self._work.move()
        elif not self._connecting():
            self._connect(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for name, *arguments in self._timers.due(now):
            if not self._left:
                self._due[name](now, *arguments)

    def next_deadline(self) -> float | None:
        """Return when `tick` is wanted next (monotonic seconds), or None."""
        return self._timers.next()

    def take_effects(self) -> list[AnyEffect]:
        """Return what is to be done since the last call, in order; acknowledgements last, one a connection."""
        for peer, seq in self._acks.items():
            self._send(peer, m.OutcomeAck(seq))
        self._acks.clear()
        effects = self._effects[:]
        self._effects.clear()
        return effects

    # -- connecting

    def _asking(self) -> bool:
        return any(not link.incarnation for link in self._links.values())

    def _connecting(self) -> bool:
        return self._waiting_to_connect or self._asking()

    def _connect(self, now: float) -> None:
        """Try the next scheduler: first the one just lost, then the others in random order."""
        if self._left:
            return
        draining = {link.scheduler for link in self._links.values()}
        fresh = [id for id in self._known if id not in self._tried and id not in draining]
        if not fresh:
            self._tried.clear()
            if self._known:
                self._failures += 1
                self._waiting_to_connect = True
                wait_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(self._failures, 10))
                self._timers.add(now + wait_s, ("connect",))
            return
        chosen = self._last_lost[0] if self._last_lost[0] in fresh else self._rng.choice(sorted(fresh))
        self._last_peer += 1
        link = self._links[self._last_peer] = _Link(self._last_peer, chosen, self._known[chosen], now)
        self._effects.append(Connect(link.peer, link.address))
        jobs = sorted(self._work.of_lost())[: limits.INVENTORY_MAX]
        self._effects.append(Send(link.peer, msgspec.structs.replace(self._hello, jobs=jobs, connection=link.peer)))
        self._timers.add(now + self._settings.ping_interval_s, ("ping", link.peer))

    def _set_home(self, link: _Link | None) -> None:
        self._home = link
        self._work.settle(0 if link is None else link.peer)

    def _due_connect(self, now: float) -> None:
        self._waiting_to_connect = False
        if self._home is None and not self._asking():
            self._connect(now)

    def _on_welcome(self, now: float, link: _Link, message: m.Welcome) -> None:
        if link.incarnation:
            return  # a second one means nothing
        link.incarnation = max(1, message.incarnation)
        self._failures = 0
        self._homeless_since = None
        self._tried.clear()
        self._set_home(link)
        self._effects.append(Linked(message.id or link.scheduler))
        same = self._last_lost == (link.scheduler, link.incarnation)
        self._work.move(set(message.jobs) if same else (), same=same)
        for question in self._queries.values():
            self._send(link.peer, question)

    def _on_refused(self, now: float, link: _Link, message: m.Refused) -> None:
        self._effects.append(Log("error", "refused", {"scheduler": link.scheduler, "detail": message.detail}))
        self._effects.append(Linked("", f"{link.scheduler} refused: {message.detail}"))
        self._effects.append(Close(link.peer))
        self._leave_link(now, link)

    def _on_goodbye(self, now: float, link: _Link, message: m.Goodbye) -> None:
        if message.reason == "draining":
            link.draining = True
            if self._home is link:
                self._set_home(None)
                self._expect_a_home(now)
                if not self._connecting():
                    self._connect(now)
        else:
            self._effects.append(Close(link.peer))
            self._leave_link(now, link)

    # -- jobs

    def _on_accepted(self, now: float, link: _Link, message: m.Accepted) -> None:
        self._work.accepted(now, link.peer, message)

    def _on_rejected(self, now: float, link: _Link, message: m.Rejected) -> None:
        self._work.rejected(now, link.peer, message)

    def _due_resubmit(self, now: float, job_id: str) -> None:
        self._work.resubmit(job_id)

    def _on_stale(self, now: float, link: _Link, message: m.Stale) -> None:
        self._work.stale(link.peer, message)

    def _on_outcome(self, now: float, link: _Link, message: m.Outcome) -> None:
        self._acks[link.peer] = message.seq
        self._work.outcome(link.peer, message)

    def _on_died(self, now: float, link: _Link, message: m.Died) -> None:
        self._work.died(link.peer, message)

    def _on_returned(self, now: float, link: _Link, message: m.Returned) -> None:
        self._work.returned(link.peer, message)

    def _on_status(self, now: float, link: _Link, message: m.Status) -> None:
        question = self._queries.get(message.request)
        if question is None:
            return
        if isinstance(question, m.Query):
            del self._queries[message.request]
        self._effects.append(Answer(message.request, message))

    # -- liveness

    def _due_ping(self, now: float, peer: int) -> None:
        link = self._links.get(peer)
        if link is None:
            return
        settings = self._settings
        if link.traffic.silent_s(now, link.heard_at) > settings.silent_after_s:
            self._effects.append(Close(peer))
            self._leave_link(now, link)
            return
        if now - link.heard_at > near_s(settings.ping_interval_s, settings.silent_after_s):
            self._effects.append(Look(peer))
        if link.incarnation:
            self._last_ping += 1
            self._send(peer, m.Ping(self._last_ping))
        self._timers.add(now + settings.ping_interval_s, ("ping", peer))

    def _due_condemned(self, now: float, peer: int, since: float) -> None:
        """A scheduler that was declared dead: has it said anything since?"""
        link = self._links.get(peer)
        if link is not None and link.heard_at <= since:
            self._effects.append(Close(peer))
            self._leave_link(now, link)

    def _expect_a_home(self, now: float) -> None:
        if self._homeless_since is None:
            self._homeless_since = now
            self._timers.add(now + self._settings.unavailable_after_s, ("unavailable", now))

    def _due_unavailable(self, now: float, since: float) -> None:
        """No scheduler for so long: what waits for one fails, clearly."""
        if self._homeless_since != since:
            return
        self._homeless_since = None
        detail = f"no scheduler could be reached for {self._settings.unavailable_after_s:g} s"
        for job_id in self._work.without_scheduler():
            if job_id in self.jobs:
                self._work.give_up(job_id, "unavailable", detail)
        if self.jobs or not self._known:
            self._expect_a_home(now)

    def _send(self, peer: int, message: m.AnyMessage) -> None:
        if peer in self._links:
            self._effects.append(Send(peer, message))
