"""A client's session: submits jobs, moves them when a scheduler fails, shows every outcome once.

Owns: the choice of schedulers, epochs, what is unfinished. Must not know: futures, threads, payloads' meaning.

New jobs go to the session's home scheduler. When a connection drops the session tries the same scheduler once
(a reset loses nothing: both ends say what they hold), then moves its unfinished tasks to another one under a
higher epoch (DESIGN rule 7). A scheduler that drains keeps its jobs and gets no new ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from sparrowmq import limits
from sparrowmq.core.effects import (
    Answer,
    AnyEffect,
    Close,
    Connect,
    Deliver,
    JobAccepted,
    JobEnded,
    Linked,
    Log,
    Recalled,
    Send,
)  # fmt: skip
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings

RETRY_S_MIN: Final = 0.005
RETRY_S_MAX: Final = 1.0
EPOCH_MAX: Final = limits.INT_MAX // 2  # no scheduler can push a job's epoch to where it cannot rise any more
_OPEN: Final = 1


@dataclass(slots=True, eq=False)
class _Link:
    """One connection. ``incarnation`` 0: not welcomed yet."""

    peer: int
    scheduler: str
    address: str
    heard_at: float
    incarnation: int = 0
    draining: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    """An unfinished job. ``open`` has a 1 for every task whose outcome is not in."""

    submit: m.Submit
    open: bytearray
    left: int
    peer: int = 0  # the connection that it was sent over; 0: none yet
    accepted: bool = False
    rejected_since: float | None = None  # no scheduler has had room for it since then
    doomed: set[int] = field(default_factory=set)  # tasks that the client wants killed: never submitted again

    def still_doomed(self) -> list[int]:
        """Return the tasks that are to be killed and have no outcome yet."""
        return sorted(index for index in self.doomed if self.open[index])

    def unfinished(self, epoch: int) -> m.Submit:
        """Return the submission of what is left, under ``epoch``."""
        submit = self.submit
        if self.left == submit.count and epoch == submit.epoch:
            return submit
        indices = [index for index, flag in enumerate(self.open) if flag]
        if len(submit.payloads) == 1:
            payloads = submit.payloads
        else:
            known = submit.indices or range(submit.count)
            payloads = [p for index, p in zip(known, submit.payloads, strict=True) if self.open[index]]
        return msgspec.structs.replace(
            submit, epoch=epoch, count=len(indices), indices=indices, payloads=payloads, deaths=[]
        )


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
        self.jobs: dict[str, _Job] = {}
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
        self._recalls: dict[int, tuple[str, int]] = {}  # request -> (job, peer)
        self._queries: dict[int, m.Query | m.Subscribe] = {}
        self._last_ping = 0
        self._timers: Timers[tuple[Any, ...]] = Timers()
        self._effects: list[AnyEffect] = []
        self._left = False
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
        }
        self._due: dict[str, Callable[..., None]] = {
            "connect": self._due_connect,
            "ping": self._due_ping,
            "unavailable": self._due_unavailable,
            "resubmit": self._due_resubmit,
        }

    # -- what the client wants

    def submit(self, now: float, submit: m.Submit) -> None:
        """Take responsibility for a job of epoch 0; its outcomes follow as `Deliver`, or `JobEnded`."""
        size = max(submit.indices) + 1 if submit.indices else submit.count
        flags = bytearray(size) if submit.indices else bytearray([_OPEN]) * size
        for index in submit.indices:
            flags[index] = _OPEN
        job = self.jobs[submit.job] = _Job(submit, flags, submit.count)
        self._send_job(job)
        if self._home is None:
            self._expect_a_home(now)

    def recall(self, now: float, request: int, job_id: str, indices: Iterable[int]) -> None:
        """Cancel those of these tasks that have not started; `Recalled` follows."""
        job = self.jobs.get(job_id)
        wanted = [i for i in indices if job is not None and 0 <= i < len(job.open) and job.open[i]]
        if job is None or not wanted:
            self._effects.append(Recalled(request, job_id, []))
        elif job.peer in self._links:
            self._recalls[request] = (job_id, job.peer)
            self._send(job.peer, m.Recall(request, job_id, job.submit.epoch, wanted))
        elif job.peer:  # its scheduler was lost: too late, or too early
            self._effects.append(Recalled(request, job_id, []))
        else:  # no scheduler has it: nothing of it runs
            self._cancel(job, wanted)
            self._effects.append(Recalled(request, job_id, wanted))

    def kill(self, now: float, job_id: str, indices: Iterable[int] = ()) -> None:
        """End tasks (none named: all of the job), running ones too; their outcomes follow."""
        job = self.jobs.get(job_id)
        if job is None:
            return
        named = list(indices)
        wanted = [i for i in named or range(len(job.open)) if 0 <= i < len(job.open) and job.open[i]]
        job.doomed.update(wanted)
        if not job.peer:  # no scheduler has it
            self._cancel(job, wanted)
        elif wanted:
            self._send(job.peer, m.Kill(job_id, job.submit.epoch, wanted if named else []))

    def _cancel(self, job: _Job, indices: list[int]) -> None:
        """Show as cancelled what no scheduler has."""
        self._deliver(job, indices, bytes([m.CANCELLED]) * len(indices), [b""] * len(indices))

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
        self._home = None

    # -- the driver's side

    def schedulers_changed(self, now: float, addresses: dict[str, str]) -> None:
        """These schedulers are known (id -> address of their client socket)."""
        self._known = dict(addresses)
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
        peer = link.peer
        del self._links[peer]
        for request in [request for request, (_, asked) in self._recalls.items() if asked == peer]:
            job_id, _ = self._recalls.pop(request)
            self._effects.append(Recalled(request, job_id, []))  # its fate is open: too late for this recall
        if self._home is link:
            self._home = None
            self._effects.append(Linked("", f"the connection to {link.scheduler} was lost"))
            self._expect_a_home(now)
        if self._home is not None:
            self._move_jobs(now, self._home)
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
        """Return what is to be done since the last call, in order."""
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
        jobs = sorted(self._jobs_of_lost())[: limits.INVENTORY_MAX]
        self._effects.append(Send(link.peer, msgspec.structs.replace(self._hello, jobs=jobs)))
        self._timers.add(now + self._settings.ping_interval_s, ("ping", link.peer))

    def _jobs_of_lost(self) -> list[str]:
        """The jobs that are not on any connection: a scheduler that still has them may keep them."""
        return [job_id for job_id, job in self.jobs.items() if job.peer not in self._links]

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
        self._home = link
        self._effects.append(Linked(message.id or link.scheduler))
        same = self._last_lost == (link.scheduler, link.incarnation)
        kept = set(message.jobs) if same else set()
        self._move_jobs(now, link, kept)
        for question in self._queries.values():
            self._send(link.peer, question)

    def _move_jobs(self, now: float, link: _Link, kept: Iterable[str] = ()) -> None:
        """Bring every job without a connection to this scheduler; those ``kept`` are still running there."""
        for job_id, job in list(self.jobs.items()):
            if job.peer in self._links:
                continue
            if job_id in kept:
                job.peer = link.peer
                doomed = job.still_doomed()
                if doomed:  # the kill may have been lost
                    self._send(job.peer, m.Kill(job_id, job.submit.epoch, doomed))
                continue
            if job.peer:  # another scheduler may still act on it
                job.submit = job.unfinished(job.submit.epoch + 1)
                job.accepted = False
            job.peer = 0
            self._send_job(job)

    def _send_job(self, job: _Job) -> None:
        """Give a job that no scheduler has to the home scheduler, if there is one."""
        doomed = job.still_doomed()
        if doomed:
            self._cancel(job, doomed)
        if not job.left:
            return
        job.submit = job.unfinished(job.submit.epoch)
        if self._home is not None and not self._home.draining:
            job.peer = self._home.peer
            self._send(job.peer, job.submit)

    def _on_refused(self, now: float, link: _Link, message: m.Refused) -> None:
        self._effects.append(Log("error", "refused", {"scheduler": link.scheduler, "detail": message.detail}))
        self._effects.append(Linked("", f"{link.scheduler} refused: {message.detail}"))
        self._effects.append(Close(link.peer))
        self._leave_link(now, link)

    def _on_goodbye(self, now: float, link: _Link, message: m.Goodbye) -> None:
        if message.reason == "draining":
            link.draining = True
            if self._home is link:
                self._home = None
                self._expect_a_home(now)
                if not self._connecting():
                    self._connect(now)
        else:
            self._effects.append(Close(link.peer))
            self._leave_link(now, link)

    # -- jobs

    def _on_accepted(self, now: float, link: _Link, message: m.Accepted) -> None:
        job = self._current(link, message.job, message.epoch)
        if job is not None:
            job.rejected_since = None
        if job is not None and not job.accepted:
            job.accepted = True
            self._effects.append(JobAccepted(message.job, message.workers))

    def _on_rejected(self, now: float, link: _Link, message: m.Rejected) -> None:
        job = self._current(link, message.job, message.epoch)
        if job is None:
            return
        if job.rejected_since is None:
            job.rejected_since = now
        if message.retry_after_s > 0 and now - job.rejected_since < self._settings.unavailable_after_s:
            job.peer = 0
            self._timers.add(now + min(message.retry_after_s, RETRY_S_MAX), ("resubmit", message.job))
            return
        del self.jobs[message.job]
        self._effects.append(JobEnded(message.job, message.code, message.detail))

    def _due_resubmit(self, now: float, job_id: str) -> None:
        job = self.jobs.get(job_id)
        if job is not None and not job.peer:
            self._send_job(job)

    def _on_stale(self, now: float, link: _Link, message: m.Stale) -> None:
        """The scheduler has seen a later epoch of this job than ours: go past it."""
        job = self.jobs.get(message.job)
        if job is not None and job.peer == link.peer and job.submit.epoch <= message.epoch < EPOCH_MAX:
            job.submit = job.unfinished(message.epoch + 1)
            job.peer = 0
            self._send_job(job)

    def _on_outcome(self, now: float, link: _Link, message: m.Outcome) -> None:
        self._send(link.peer, m.OutcomeAck(message.seq))
        job = self._current(link, message.job, message.epoch)
        if job is not None:
            self._deliver(job, message.indices, message.statuses, message.payloads)

    def _current(self, link: _Link, job_id: str, epoch: int) -> _Job | None:
        job = self.jobs.get(job_id)
        return job if job is not None and job.peer == link.peer and job.submit.epoch == epoch else None

    def _deliver(self, job: _Job, indices: list[int], statuses: bytes, payloads: list[m.Payload]) -> None:
        """Show what has not been shown."""
        flags = job.open
        size = len(flags)
        fresh = []
        for position, index in enumerate(indices):
            if index < size and flags[index]:
                flags[index] = 0
                fresh.append(position)
        if not fresh:
            return
        if len(fresh) < len(indices):
            indices = [indices[p] for p in fresh]
            statuses = bytes(statuses[p] for p in fresh)
            payloads = [payloads[p] for p in fresh]
        job.left -= len(fresh)
        self._effects.append(Deliver(job.submit.job, indices, statuses, payloads))
        if not job.left:
            del self.jobs[job.submit.job]

    def _on_returned(self, now: float, link: _Link, message: m.Returned) -> None:
        job_id, asked = self._recalls.get(message.request, ("", 0))
        if asked == link.peer:
            del self._recalls[message.request]
            self._effects.append(Recalled(message.request, job_id, message.indices))

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
        if now - link.heard_at > self._settings.silent_after_s:
            self._effects.append(Close(peer))
            self._leave_link(now, link)
            return
        if link.incarnation:
            self._last_ping += 1
            self._send(peer, m.Ping(self._last_ping))
        self._timers.add(now + self._settings.ping_interval_s, ("ping", peer))

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
        for job_id in [job_id for job_id, job in self.jobs.items() if job.peer not in self._links]:
            del self.jobs[job_id]
            self._effects.append(JobEnded(job_id, "unavailable", detail))
        if self.jobs or not self._known:
            self._expect_a_home(now)

    def _send(self, peer: int, message: m.AnyMessage) -> None:
        if peer in self._links:
            self._effects.append(Send(peer, message))
