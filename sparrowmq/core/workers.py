"""A scheduler's dealings with workers: who is there, what they hold, what becomes of it when they go.

Owns: the reconciliation of inventories, results and returns, the burial of a lost worker (relaunch and
replacement). Must not know: clients, except that outcomes go to them through `Outcomes`.
"""

from __future__ import annotations

from typing import Final

import msgspec

from sparrowmq.core import report
from sparrowmq.core.claims import Claims
from sparrowmq.core.client_jobs import EPOCH_MAX
from sparrowmq.core.clients import Clients
from sparrowmq.core.effects import ForgetJob, Peer
from sparrowmq.core.job import UNPLACED, Job
from sparrowmq.core.outcomes import Outcomes
from sparrowmq.core.peers import Worker
from sparrowmq.core.placer import BUSY_PAUSE_S, FULL_PAUSE_S, Placer, suits
from sparrowmq.core.state import State
from sparrowmq.placement.probe_ratio import probes
from sparrowmq.protocol import messages as m

STORIES_CHARS_MAX: Final = 2_000
GRACE_ROUND_TRIPS: Final = 3.0  # that a dropped connection is given to come back, if that is more than the setting
VETO_BEATS: Final = 2.0  # a worker that was heard within so many of this scheduler's own beats is not dead
VETO_S_MIN: Final = 0.05


class Workers:
    """The worker side of one scheduler."""

    def __init__(self, state: State, placer: Placer, outcomes: Outcomes, clients: Clients, claims: Claims) -> None:
        self._state = state
        self._claims = claims
        self._veto_s = max(VETO_S_MIN, VETO_BEATS * state.settings.beat_interval_s)
        self._placer = placer
        self._outcomes = outcomes
        self._clients = clients

    def hello(self, now: float, peer: Peer, hello: m.Hello, welcome: m.Welcome) -> None:
        """A worker came, or came back: settle what it holds, and give it its share of the open jobs."""
        state = self._state
        worker = state.workers.get(hello.id)
        if worker is not None and hello.incarnation > worker.incarnation:
            self.bury(now, worker, "it was restarted")
            worker = None
        if worker is None:
            worker = state.workers[hello.id] = Worker(hello.id, hello.incarnation, hello, peer, now)
        worker.hello = msgspec.structs.replace(hello, reserved=[], held=[])  # who it is; what it holds is settled below
        worker.peer, worker.lost_at, worker.heard_at = peer, None, now
        worker.draining = worker.suspect = worker.condemned = False
        worker.connection = hello.connection
        state.peers[peer] = worker
        self._placer.members_changed()
        state.send(peer, welcome)
        self._reconcile(now, worker, hello)
        state.log("info", "worker joined", worker=worker.id, host=hello.host, slots=hello.slots)
        self._claims.joined(worker)
        for job in list(state.jobs.values()):
            self._outcomes.join(now, job, worker)

    def _reconcile(self, now: float, worker: Worker, hello: m.Hello) -> None:
        """Hold what this scheduler believes of the worker against its inventory (DESIGN rule 1)."""
        state = self._state
        held: dict[str, set[tuple[int, int]]] = {}
        worker.unclaimed = []
        for entry in hello.held:
            job = state.job(entry.job)
            if job is None:  # perhaps of this scheduler's former life, and its client is about to claim it
                if not worker.unclaimed:
                    state.timers.add(now + state.settings.client_lease_s, ("unclaimed", worker.id, hello.connection))
                worker.unclaimed.append((entry.job, entry.epoch))
            elif job.how or job.epoch != entry.epoch:
                if job.claims is None:
                    state.send(worker.peer, m.Kill(entry.job, entry.epoch))
            else:
                if worker.id in job.unheard:  # its answer to the claim was lost
                    self._claims.adopt(now, worker, job, entry)
                held.setdefault(entry.job, set()).update(zip(entry.indices, entry.attempts, strict=True))
        for job in self._jobs_at(worker):
            self._placer.used(job, worker, job.reserved.get(worker.id, 0))
            there = held.get(job.id, set())
            launched = job.launched_on(worker.id)
            # Not there: lost on the way to the worker, or its return was lost on the way here.
            missing = [index for index in launched if (index, job.attempt_at(index, worker.id)) not in there]
            doomed: dict[float, list[int]] = {}
            for index in sorted(job.doomed.keys() & set(launched) - set(missing)):
                doomed.setdefault(job.doomed[index], []).append(index)
            for grace_s, indices in doomed.items():  # the kill may have been lost too
                state.send(worker.peer, m.Kill(job.id, job.epoch, indices, grace_s))
            self._outcomes.take_back(now, job, worker.id, missing, "returned: lost on the way")
        for reserved in hello.reserved:
            job = state.jobs.get(reserved.job)
            if (
                job is None or job.epoch != reserved.epoch or not job.needed or not suits(job, worker)
                or reserved.round <= job.withdrawn
            ):  # fmt: skip
                state.send(worker.peer, m.Cancel(reserved.job, reserved.epoch, reserved.round))
            elif reserved.count:
                count = min(reserved.count, probes(job.tasks, job.spec.probe_ratio))
                self._placer.reserved(job, worker, count)
                job.probes -= count
                job.workers.add(worker.id)

    def due_unclaimed(self, now: float, worker_id: str, connection: int) -> None:
        """A worker had something of jobs that were not known here: what nobody has claimed since is in vain."""
        worker = self._state.workers.get(worker_id)
        if worker is None or worker.connection != connection:
            return  # its next hello has said what it has
        for job_id, epoch in worker.unclaimed:
            if self._state.job(job_id) is None:
                self._state.send(worker.peer, m.Kill(job_id, epoch))
        worker.unclaimed = []

    def lost(self, now: float, worker: Worker) -> None:
        """The connection is gone. Reservations and tasks stay for the grace; answers are not waited for."""
        worker.peer = None
        worker.lost_at = now
        self._state.log("info", "worker disconnected", worker=worker.id)
        self._placer.members_changed()
        grace_s = max(self._state.settings.reconnect_grace_s, GRACE_ROUND_TRIPS * worker.rtt_s)
        self._state.timers.add(now + grace_s, ("bury", worker.id, worker.incarnation, now))
        for job in self._state.jobs.values():
            job.function_at.discard(worker.id)
        for job_id in self._placer.sampled(worker.id):
            self._placer.unsampled(now, self._state.jobs[job_id], worker.id)
            self._outcomes.place(now, self._state.jobs[job_id])
        self._clients.worker_gone(worker.id)
        self._claims.worker_gone(now, worker.id)

    def bury(self, now: float, worker: Worker, why: str, *, guilty: bool = True) -> None:
        """The worker is gone: relaunch what it had, replace its reservations, answer for its recalls.

        ``guilty``: it died, and each of its tasks may be the reason; after ``max_attempts`` deaths a task is lost.
        """
        state = self._state
        jobs = self._jobs_at(worker)
        level = "warning" if guilty else "info"
        state.log(level, "worker lost", worker=worker.id, why=why, launched=worker.launched)
        state.count("workers_lost", int(guilty))
        state.workers.pop(worker.id, None)
        state.dismiss(worker.peer)
        worker.peer = None
        self._placer.members_changed()
        for job in jobs:
            self._placer.gone(now, job, worker.id)
            job.workers.discard(worker.id)
            job.function_at.discard(worker.id)
            back: list[int] = []
            for index in job.launched_on(worker.id):
                job.astray[index, job.attempt_at(index, worker.id)] = worker.id
                counts = (guilty or job.spec.at_most_once) and index not in job.doomed
                deaths = self._one_death_more(now, job, index, worker, why) if counts else 0
                if deaths < job.spec.max_attempts or len(job.live(index)) > 1:
                    back.append(index)
                else:
                    self._lose(now, job, index, worker, why)
            self._tell_deaths(job, back)
            job.urgent = job.urgent or bool(back)
            self._outcomes.take_back(now, job, worker.id, back, f"lost: {why}", killed=b"killed")
        for job in jobs:
            if job.id in state.jobs:
                self._outcomes.place(now, job)
        self._clients.worker_gone(worker.id)
        self._claims.worker_gone(now, worker.id)

    def _tell_deaths(self, job: Job, indices: list[int]) -> None:
        """The client keeps the count of deaths, for the next scheduler if this one dies (DESIGN rule 7)."""
        dead = [index for index in indices if index in job.deaths]
        if dead and job.keep is not None:
            self._outcomes.save(job, job.keep, [], b"", [], deaths=dict(job.deaths))
        if dead and not job.detached:
            client = self._state.clients[job.client]
            deaths = [job.deaths[index] for index in dead]
            self._state.send(client.peer, m.Died(job.id, job.epoch, dead, deaths))

    def _jobs_at(self, worker: Worker) -> list[Job]:
        return [job for job in self._state.jobs.values() if worker.id in job.workers]

    def _one_death_more(self, now: float, job: Job, index: int, worker: Worker, why: str) -> int:
        deaths = job.deaths[index] = job.deaths.get(index, 0) + 1
        number = job.attempt_at(index, worker.id)
        where = f"{worker.id} ({worker.hello.host}, pid {worker.hello.pid})"
        story = f"attempt {number} on {where}: {why}; last heard {(now - worker.heard_at) * 1e3:.0f} ms before"
        job.stories.setdefault(index, []).append(story)
        return deaths

    def _lose(self, now: float, job: Job, index: int, worker: Worker, why: str) -> None:
        self._state.history.note(now, job, index, "lost", job.attempt_at(index, worker.id), worker.id, why)
        stories = "; ".join(job.stories[index])[-STORIES_CHARS_MAX:]
        deaths, told = job.deaths[index], len(job.stories[index])
        died = "its worker died" if deaths == 1 else f"{deaths} workers died under it"
        former = f" ({deaths - told} of them under a former scheduler)" if deaths > told else ""
        text = f"task {index} of job {job.id} is lost: {died}{former}. {stories}"
        self._outcomes.end(now, job, [index], m.LOST, report.failure("TaskLost", text))

    def request(self, now: float, worker: Worker, message: m.Request) -> None:
        """A reservation's turn has come at a worker."""
        state = self._state
        job = state.jobs.get(message.job)
        if job is None or job.epoch != message.epoch:
            state.send(worker.peer, m.NoOp(message.request, message.count))
            return
        allowed = self._outcomes.may_launch(job)
        if not allowed:
            self._outcomes.starve(job)
        seconds = self._placer.requested(now, job, worker, message, allowed)
        if seconds:
            for index in seconds:
                self._state.history.hedged(now, job, index)
            self._state.count("hedges", len(seconds))
            self._outcomes.place(now, job)  # their reservations may have been those of unplaced tasks

    def load(self, now: float, worker: Worker, message: m.Load) -> None:
        """The answer to a load probe."""
        job = self._state.jobs.get(message.job)
        if job is not None and job.epoch == message.epoch:
            self._placer.loaded(now, job, worker, message)
            self._outcomes.place(now, job)

    def result(self, now: float, worker: Worker, message: m.Result) -> None:
        """Tasks ended. What does not count (late, of an attempt never issued, again) is acknowledged all the same."""
        state = self._state
        state.send(worker.peer, m.ResultAck(message.seq))
        job = state.jobs.get(message.job)
        if job is None or job.epoch != message.epoch:
            state.count("stale", len(message.indices))
            return
        n = len(message.indices)
        if job.settle_run(message, worker.id, now):
            worker.launched -= n
            worker.done += n
            self._outcomes.report(job, message.indices, message.statuses, message.payloads)
        else:
            self._settle(now, worker, job, message)
        if not job.unplaced:
            self._outcomes.settle(now, job)

    def _settle(self, now: float, worker: Worker, job: Job, message: m.Result) -> None:
        """Results that are not all of the usual kind."""
        state = self._state
        settled = job.results(message, worker.id, now)
        for place in settled.places:
            state.workers[place].launched -= 1
        worker.done += len(settled.over)
        if settled.ignored:
            state.count("stale", settled.ignored)
        for index, attempt, place in settled.failed:
            state.history.note(now, job, index, "failed", attempt, place)
            if job.state[index] == UNPLACED:  # without a back-off
                self._note_retry(now, job, index)
        if settled.over:
            over = settled.over
            indices, payloads = [message.indices[k] for k in over], [message.payloads[k] for k in over]
            self._outcomes.report(job, indices, bytes(settled.statuses), payloads)
        for place, index in settled.losers:
            state.send(state.workers[place].peer, m.Kill(job.id, job.epoch, [index]))
        if settled.failed:
            state.count("retries", len(settled.failed))
            self._wake_at(job)
            self._outcomes.place(now, job)

    def _note_retry(self, now: float, job: Job, index: int) -> None:
        self._state.history.note(now, job, index, "retried", detail=f"after {job.failures[index]} failures")

    def _wake_at(self, job: Job) -> None:
        """Set the deadline of the task that rests the shortest, unless an earlier one is set."""
        if job.rests and not 0.0 < job.rest_due <= job.rests[0][0]:
            job.rest_due = job.rests[0][0]
            self._state.timers.add(job.rest_due, ("rested", job.id, job.epoch))

    def due_rested(self, now: float, job_id: str, epoch: int) -> None:
        """The back-off of some tasks of this job may be over."""
        job = self._state.jobs.get(job_id)
        if job is None or job.epoch != epoch or now < job.rest_due:
            return  # an older deadline, that an earlier one has replaced
        job.rest_due = 0.0
        for index in job.wake(now):
            self._note_retry(now, job, index)
        self._wake_at(job)
        self._outcomes.place(now, job)

    def returned(self, now: float, worker: Worker, message: m.Returned) -> None:
        """Tasks come back that have not started; of a recall they are cancelled, else placed again."""
        job = self._state.jobs.get(message.job)
        if job is not None and job.epoch != message.epoch:
            job = None
        back: list[int] = []
        if job is not None:
            for index, attempt in dict(zip(message.indices, message.attempts, strict=False)).items():
                if attempt and job.attempt_at(index, worker.id) == attempt:
                    back.append(index)
            if message.reason == "function":
                job.function_at.discard(worker.id)
            elif message.reason == "busy":
                worker.busy_until = now + BUSY_PAUSE_S
            elif message.reason == "full":
                self._full(now, job, worker)
        recalled = self._clients.waits_for(message.request, worker.id, message.job)
        if job is not None and recalled:
            back = [index for index in back if not self._goes_on(now, job, index, worker)]
            self._outcomes.end(now, job, back, m.CANCELLED, b"")
        elif job is not None:
            self._outcomes.take_back(now, job, worker.id, back, f"returned: {message.reason}")
        if recalled:  # after the outcomes that it promises
            self._clients.recalled(message.request, worker.id, back)
        if job is not None and job.id in self._state.jobs:
            self._outcomes.place(now, job)

    def _goes_on(self, now: float, job: Job, index: int, worker: Worker) -> bool:
        """An attempt was given back: whether the task's other attempt is still there."""
        if not job.drop(index, worker.id):
            return False
        worker.launched -= 1
        return True

    def _full(self, now: float, job: Job, worker: Worker) -> None:
        if worker.full_until <= now:
            worker.full_until = now + FULL_PAUSE_S
            self._state.timers.add(worker.full_until, ("full",))
            self._placer.members_changed()
        self._placer.gone(now, job, worker.id)

    def stale(self, now: float, worker: Worker, message: m.Stale) -> None:
        """A worker knows a later epoch: the client has moved the job elsewhere, or else submits it past that epoch.

        Only those can know that were told of the job; all were, where it has come from elsewhere (`Claims`).
        """
        job = self._state.jobs.get(message.job)
        if job is not None and job.epoch < message.epoch < EPOCH_MAX and (job.epoch or worker.id in job.workers):
            client = self._state.client_of(job.client, job.id)
            if client is not None:  # else the job is detached
                self._state.send(client.peer, message)
            if job.keep is not None and job.epoch:  # the store may have lost that epoch: then somebody takes it over
                self._state.effects.append(ForgetJob(job.id, job.epoch))
            self._outcomes.abort(now, job, "another scheduler has it, at a later epoch")

    # -- what the assistant says

    def judged(self, now: float, message: m.Verdict) -> None:
        """The assistant has come to think so of these workers; of other incarnations than ours it says nothing."""
        for judged in message.nodes:
            worker = self._state.workers.get(judged.id)
            if worker is None or worker.incarnation != judged.incarnation:
                continue
            if judged.state == "dead":
                self._condemn(now, worker, judged.detail)
            else:
                worker.condemned = False
                self._suspect(now, worker, judged.state == "suspect")

    def _suspect(self, now: float, worker: Worker, suspect: bool) -> None:
        """A suspect worker leaves sampling, and is asked: its answer is a veto, should it be declared dead."""
        if worker.suspect != suspect:
            worker.suspect = suspect
            self._placer.members_changed()
        if suspect:
            self._ask(now, worker)

    def _ask(self, now: float, worker: Worker) -> None:
        worker.pinged_at = now
        self._state.send(worker.peer, m.Ping(int(now * 1e3)))

    def _condemn(self, now: float, worker: Worker, why: str) -> None:
        """It is dead, unless this scheduler has just heard it: then it is asked until it falls silent (rule 8)."""
        if worker.peer is not None and now - worker.heard_at < self._veto_s:
            self._state.count("vetoed", int(not worker.condemned))
            worker.condemned = True
            self._suspect(now, worker, False)
            self._ask(now, worker)
            self._state.timers.add(now + self._veto_s, ("condemned", worker.id, worker.incarnation, why))
        else:
            self._state.count("declared_dead")
            self._state.send(worker.peer, m.Goodbye("declared dead"))  # should it thaw, it comes back at once
            self.bury(now, worker, f"the assistant declared it dead: {why}")

    def due_condemned(self, now: float, worker_id: str, incarnation: int, why: str) -> None:
        """A worker whose death was vetoed: has it been heard since?"""
        worker = self._state.workers.get(worker_id)
        if worker is not None and worker.incarnation == incarnation and worker.condemned:
            self._condemn(now, worker, why)

    def unadvised(self) -> None:
        """No assistant is connected: nobody is suspect."""
        for worker in self._state.workers.values():
            worker.suspect = worker.condemned = False
        self._placer.members_changed()

    # -- workers that leave

    def goodbye(self, now: float, worker: Worker, message: m.Goodbye) -> None:
        """The worker drains (what it has not started comes back by itself) or leaves."""
        if message.reason != "draining":
            self.bury(now, worker, "it was stopped", guilty=False)
            return
        worker.draining = True
        self._placer.members_changed()
        for job in self._jobs_at(worker):
            self._placer.gone(now, job, worker.id)
            self._outcomes.place(now, job)
        for job_id in self._placer.sampled(worker.id):
            self._placer.unsampled(now, self._state.jobs[job_id], worker.id)
