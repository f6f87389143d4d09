"""A session's jobs: which are unfinished, where each is, how it moves, and every outcome shown once.

Owns: epochs, what waits for its turn, recalls and kills. Must not know: how a scheduler is found, connected or lost;
the session says which connections there are and which one new jobs go to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import Any, Final

import msgspec

from sparrowmq import limits
from sparrowmq.core.effects import AnyEffect, Deliver, JobAccepted, JobEnded, Recalled, Send
from sparrowmq.core.pacing import Pace
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings

FLIGHT: Final = 2  # jobs of one large map that are with schedulers at a time: one runs out while the next runs
RETRY_S_MAX: Final = 60.0  # no scheduler can have a job come back later than that
EPOCH_MAX: Final = limits.INT_MAX // 2  # no scheduler can push a job's epoch to where it cannot rise any more
_OPEN: Final = 1
_KILLED: Final = b"killed"


class Lane:
    """Jobs of which ``limit`` may be with schedulers at a time; the others wait here, in order."""

    __slots__ = ("limit", "queue", "under_way")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.under_way = 0
        self.queue: deque[str] = deque()  # ids; some may have ended meanwhile


class Job:
    """An unfinished job. ``open`` has a 1 for every task whose outcome is not in."""

    __slots__ = (
        "accepted",
        "deaths",
        "doomed",
        "lane",
        "left",
        "open",
        "peer",
        "queued",
        "rejected_since",
        "sent",
        "submit",
    )

    def __init__(self, submit: m.Submit, lane: Lane) -> None:
        size = max(submit.indices) + 1 if submit.indices else submit.count
        self.open = bytearray(size) if submit.indices else bytearray([_OPEN]) * size
        for index in submit.indices:
            self.open[index] = _OPEN
        self.submit = submit
        self.lane = lane
        self.left = submit.count
        self.queued = False  # it waits in its lane
        self.peer = 0  # the connection that it was sent over; 0: no scheduler has it
        self.sent = False  # whether a scheduler may have started something of it
        self.accepted = False
        self.rejected_since: float | None = None  # no scheduler has had room for it since then
        self.deaths: dict[int, int] = {}  # workers that have died under a task, by number
        self.doomed: dict[int, float] = {}  # tasks that are to be killed, and the grace they were given

    def still_doomed(self) -> list[int]:
        """Return the tasks that are to be killed and have no outcome yet."""
        return sorted(index for index in self.doomed if self.open[index])

    @property
    def goes_on(self) -> bool:
        """Whether a scheduler may take it over without its client: then only a scheduler can end it."""
        return self.sent and (self.submit.spec.durable or self.submit.detached)

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
        deaths = [self.deaths.get(index, 0) for index in indices] if self.deaths else []
        return msgspec.structs.replace(
            submit, epoch=epoch, count=len(indices), indices=indices, payloads=payloads, deaths=deaths
        )


class ClientJobs:
    """The table. ``links`` are the connections that stand, by peer; ``home`` is the one for new jobs, 0 for none."""

    def __init__(
        self,
        settings: ClientSettings,
        links: Container[int],
        effects: list[AnyEffect],
        timers: Timers[tuple[Any, ...]],
    ) -> None:
        self.table: dict[str, Job] = {}
        self.recalls: dict[int, tuple[str, int]] = {}  # request -> (job, peer)
        self.home = 0
        self._accepted_at: float | None = None  # when a scheduler last took a job
        self._settings = settings
        self._links = links
        self._effects = effects
        self._timers = timers
        self._lane = Lane(settings.jobs_in_flight)
        self._pace = Pace()  # towards the home scheduler
        self._flowing = False

    # -- what the client wants

    def submit(self, submits: Sequence[m.Submit], *, flight: bool) -> None:
        """Take jobs of epoch 0: into the lane that ordinary jobs share, or, with ``flight``, into one of their own."""
        lane = Lane(FLIGHT) if flight else self._lane
        for submit in submits:
            job = self.table[submit.job] = Job(submit, lane)
            if lane.under_way < lane.limit:
                lane.under_way += 1
                self.send(job)
            else:
                job.queued = True
                lane.queue.append(submit.job)

    def recall(self, request: int, job_id: str, indices: Iterable[int]) -> None:
        """Cancel those of these tasks that have not started; `Recalled` follows."""
        job = self.table.get(job_id)
        wanted = [i for i in indices if job is not None and 0 <= i < len(job.open) and job.open[i]]
        if job is None or not wanted:
            self._effects.append(Recalled(request, job_id, []))
        elif job.peer in self._links:
            self.recalls[request] = (job_id, job.peer)
            self._effects.append(Send(job.peer, m.Recall(request, job_id, job.submit.epoch, wanted)))
        elif job.peer or job.sent:  # its scheduler was lost, or an earlier one was: it may have started
            self._effects.append(Recalled(request, job_id, []))
        else:  # no scheduler has had it
            self._cancel(job, wanted)
            self._effects.append(Recalled(request, job_id, wanted))

    def kill(self, job_id: str, indices: Iterable[int], grace_s: float) -> None:
        """End tasks (none named: all of the job), running ones after ``grace_s``; their outcomes follow."""
        job = self.table.get(job_id)
        if job is None:
            return
        named = list(indices)
        wanted = [i for i in named or range(len(job.open)) if 0 <= i < len(job.open) and job.open[i]]
        if not job.peer and not job.goes_on:  # no scheduler has it
            self._cancel(job, wanted)
            return
        job.doomed.update(dict.fromkeys(wanted, grace_s))
        if wanted and job.peer in self._links:
            kill = m.Kill(job_id, job.submit.epoch, wanted if named else [], grace_s)
            self._effects.append(Send(job.peer, kill))

    def _cancel(self, job: Job, indices: list[int]) -> None:
        """Show as cancelled what no scheduler has; what may have run once was killed when its epoch was over."""
        payload = _KILLED if job.sent else b""
        self._deliver(job, indices, bytes([m.CANCELLED]) * len(indices), [payload] * len(indices))

    # -- connections come and go

    def settle(self, peer: int) -> None:
        """New jobs go to this connection; 0: there is none for them."""
        self.home = peer
        self._pace = Pace()  # how fast it takes jobs is not known; `move` brings those that stood in line

    def of_lost(self) -> list[str]:
        """Return the jobs that a scheduler was given and that are on no connection: it may still have them."""
        return [job_id for job_id, job in self.table.items() if job.peer and job.peer not in self._links]

    def without_scheduler(self) -> list[str]:
        """Return the jobs that wait for a connection, or for their turn."""
        return [job_id for job_id, job in self.table.items() if job.peer not in self._links]

    def lost(self, peer: int) -> None:
        """This connection is gone: what was asked over it gets no answer."""
        for request in [request for request, (_, asked) in self.recalls.items() if asked == peer]:
            job_id, _ = self.recalls.pop(request)
            self._effects.append(Recalled(request, job_id, []))  # its fate is open: too late for this recall

    def move(self, kept: Container[str] = (), *, same: bool = False) -> None:
        """Bring every job without a connection to the home scheduler.

        ``kept`` are those that still run there; ``same``: it is the process that had them, and has lost nothing.
        """
        for job in list(self.table.values()):
            if job.queued or job.peer in self._links:
                continue
            if same and job.submit.detached and job.peer:  # the same submission again is no second job
                job.peer = self.home
                self._effects.append(Send(job.peer, job.submit))
            elif job.submit.job in kept:
                job.peer = self.home
                self._kill_again(job)
            else:
                if job.peer:  # another scheduler may still act on it
                    job.submit = job.unfinished(job.submit.epoch + 1)
                    job.accepted = False
                job.peer = 0
                self.send(job)

    def _kill_again(self, job: Job) -> None:
        """The kill may have been lost with the connection."""
        by_grace: dict[float, list[int]] = {}
        for index in job.still_doomed():
            by_grace.setdefault(job.doomed[index], []).append(index)
        for grace_s, indices in by_grace.items():
            self._effects.append(Send(job.peer, m.Kill(job.submit.job, job.submit.epoch, indices, grace_s)))

    def send(self, job: Job) -> None:
        """Give a job that no scheduler has to the home scheduler, if there is one."""
        if not self._is_wanted(job) or not self.home:
            return
        if self._pace.held:
            self._pace.join(job.submit.job)
            self._flow()
        else:
            self._give(job)

    def _is_wanted(self, job: Job) -> bool:
        """Whether anything of a job that no scheduler has is still to run; its submission is of just that then."""
        if job.doomed and not job.goes_on and (doomed := job.still_doomed()):
            self._cancel(job, doomed)
        if job.left and job.left != job.submit.count:
            job.submit = job.unfinished(job.submit.epoch)
        return job.left > 0

    def _give(self, job: Job) -> None:
        job.peer = self.home
        job.sent = True
        self._effects.append(Send(job.peer, job.submit))

    def _flow(self) -> None:
        """Give the home scheduler those in line that it may be given now."""
        if self._flowing:  # one of them was killed and has ended: the loop goes on
            return
        self._flowing = True
        while self.home and (job_id := self._pace.next()) is not None:
            job = self.table.get(job_id)
            if job is not None and not job.peer and self._is_wanted(job):  # nobody was given it meanwhile
                self._pace.sent(job_id)
                self._give(job)
        self._flowing = False

    def _answered(self, job_id: str) -> None:
        """It is not with the home scheduler any more, or will not be refused: another one may be."""
        if self._pace.held:
            self._pace.ended(job_id)
            self._flow()

    def resume(self, peer: int) -> None:
        """The scheduler at this connection may be given jobs again."""
        if peer == self.home:
            self._pace.resume()
            self._flow()

    # -- what schedulers say

    def accepted(self, now: float, peer: int, message: m.Accepted) -> None:
        """A scheduler has the job; a detached one is its business alone from now on."""
        job = self._current(peer, message.job, message.epoch)
        if job is None:
            return
        self._accepted_at = now
        job.rejected_since = None
        if self._pace.held:
            self._pace.taken(message.job)
            self._flow()
        if not job.accepted:
            job.accepted = True
            self._effects.append(JobAccepted(message.job, message.workers))
            if job.goes_on:  # a scheduler does not know it before it is written
                self._kill_again(job)
            if job.submit.detached:
                self._end(job)

    def rejected(self, now: float, peer: int, message: m.Rejected) -> None:
        """A scheduler does not take the job: try again for as long as it says so, or give up.

        As long as it takes others of this client's, it is only slow. Where it takes them only so fast, the job stands
        in line with those that come after it.
        """
        job = self._current(peer, message.job, message.epoch)
        if job is None:
            return
        if message.code == m.TOO_SOON and peer == self.home:
            self._too_soon(now, job, message)
            return
        if job.rejected_since is None:
            job.rejected_since = now
        since = job.rejected_since if self._accepted_at is None else max(job.rejected_since, self._accepted_at)
        if message.retry_after_s > 0 and now - since < self._settings.unavailable_after_s:
            job.peer = 0
            job.sent = job.submit.epoch > 0
            self._timers.add(now + min(message.retry_after_s, RETRY_S_MAX), ("resubmit", message.job))
            self._answered(message.job)
        else:
            self.give_up(message.job, message.code, message.detail)

    def _too_soon(self, now: float, job: Job, message: m.Rejected) -> None:
        job.peer = 0
        job.sent = job.submit.epoch > 0
        if not self._pace.blocked:
            self._timers.add(now + min(message.retry_after_s, RETRY_S_MAX), ("resume", self.home))
        self._pace.refused(message.job)
        self._is_wanted(job)  # what was killed meanwhile is not: the kill came to nothing there

    def resubmit(self, job_id: str) -> None:
        """The time that a rejection asked for is over."""
        job = self.table.get(job_id)
        if job is not None and not job.peer:
            self.send(job)

    def stale(self, peer: int, message: m.Stale) -> None:
        """The scheduler has seen a later epoch of this job than ours: go past it."""
        job = self.table.get(message.job)
        if job is not None and job.peer == peer and job.submit.epoch <= message.epoch < EPOCH_MAX:
            job.submit = job.unfinished(message.epoch + 1)
            job.peer = 0
            if self._pace.held:
                self._pace.ended(message.job)  # that was its answer
            self.send(job)

    def outcome(self, peer: int, message: m.Outcome) -> None:
        """Tasks are over."""
        job = self._current(peer, message.job, message.epoch)
        if job is not None:
            self._deliver(job, message.indices, message.statuses, message.payloads)

    def died(self, peer: int, message: m.Died) -> None:
        """Workers have died under tasks: the count goes to the next scheduler, should this one die, too."""
        job = self._current(peer, message.job, message.epoch)
        if job is not None:
            for index, deaths in zip(message.indices, message.deaths, strict=False):
                if index < len(job.open) and job.open[index]:
                    job.deaths[index] = deaths

    def returned(self, peer: int, message: m.Returned) -> None:
        """The answer to a recall."""
        job_id, asked = self.recalls.get(message.request, ("", 0))
        if asked == peer:
            del self.recalls[message.request]
            self._effects.append(Recalled(message.request, job_id, message.indices))

    def give_up(self, job_id: str, code: str, detail: str) -> None:
        """Nothing more comes of this job."""
        self._effects.append(JobEnded(job_id, code, detail))
        self._end(self.table[job_id])

    def _current(self, peer: int, job_id: str, epoch: int) -> Job | None:
        job = self.table.get(job_id)
        return job if job is not None and job.peer == peer and job.submit.epoch == epoch else None

    def _deliver(self, job: Job, indices: list[int], statuses: bytes, payloads: list[m.Payload]) -> None:
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
            self._end(job)

    def _end(self, job: Job) -> None:
        """Forget a job, and send the next of its lane."""
        del self.table[job.submit.job]
        self._answered(job.submit.job)
        lane = job.lane
        if not job.queued:
            lane.under_way -= 1
        while lane.queue and lane.under_way < lane.limit:
            following = self.table.get(lane.queue.popleft())
            if following is not None:
                following.queued = False
                lane.under_way += 1
                self.send(following)
