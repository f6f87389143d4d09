"""What must be true of clients with keys: what one key may have, and that nobody sees or touches another owner's jobs.

Owns: the rates of each key as they were meant, what a client of another owner may be told, that nobody is sent away who
keeps to what it is told. Must not know: how a scheduler counts, or why it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sparrowmq import ids
from sparrowmq.core import effects as fx
from sparrowmq.core.haste import MOVED_MAX
from sparrowmq.core.peers import Client
from sparrowmq.core.scheduler import Scheduler
from sparrowmq.placement import POLICIES
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.node import Machine
from sparrowmq.sim.swarm.scenario import Scenario

FOREIGN_EPOCH: Final = 7  # of a submission that tries to take another owner's job
_SLACK: Final = 1e-3  # of one: sums of fractions


class _Bucket:
    """What a key has left: it gains ``rate_per_s``, and has no more than that of one second (of one at the least)."""

    def __init__(self, rate_per_s: float, now: float) -> None:
        self._rate_per_s = rate_per_s
        self._most = max(1.0, rate_per_s)
        self._at = now
        self.left = self._most

    def take(self, now: float, count: float) -> None:
        self.left = min(self._most, self.left + (now - self._at) * self._rate_per_s) - count
        self._at = now


class Borders:
    """One run of one scenario. `Play` tells it of every event."""

    def __init__(self, scenario: Scenario, cluster: Cluster) -> None:
        self._scenario = scenario
        self._cluster = cluster
        self._rates: dict[Machine, _Rates] = {}

    def step(self, machine: Machine, effects: Sequence[fx.AnyEffect]) -> None:
        """A machine has taken an event."""
        if not self._scenario.keys or not isinstance(machine, Scheduler) or not effects:
            return
        for effect in effects:
            if isinstance(effect, fx.Send):
                self._check_told(machine, effect)
        rates = self._rates.get(machine)
        if rates is None:
            rates = self._rates[machine] = _Rates(machine, self._cluster.now)
        rates.step(self._cluster.now, effects)

    def _check_told(self, scheduler: Scheduler, effect: fx.Send) -> None:
        message, to = effect.message, scheduler.state.peers.get(effect.peer)
        if isinstance(message, m.Refused):
            assert message.code != "busy", f"{scheduler.id} sends somebody away who asks for no more than others"
        elif isinstance(to, Client):
            seen = [job for job in shown(message) if not to.owns(job)]
            assert not seen, f"{scheduler.id} shows {seen} to {to.id} of {to.owner!r}: {type(message).__name__}"

    def check_end(self) -> None:
        """Who pried has learned nothing: what it may be told names no job but the one that it named itself."""
        for observer, owner in self._scenario.observers.items():
            for scheduler, message in self._cluster.nodes[observer].machine.heard:
                foreign = [job for job in shown(message) if ids.owner_of(job) != owner]
                assert not foreign, f"{observer} of {owner!r} hears of {foreign} from {scheduler}: {message}"


class _Rates:
    """What one scheduler has taken and sent for each key."""

    def __init__(self, scheduler: Scheduler, now: float) -> None:
        self._scheduler = scheduler
        self._began = now
        self._submits: dict[str, _Bucket] = {}
        self._probes: dict[str, _Bucket] = {}
        self._counted: set[tuple[str, int]] = set()  # submissions, by job and epoch, that were not given back
        self._payers: dict[str, tuple[str, bool]] = {}  # job -> whose limits it goes by, and whether it asks for loads

    def step(self, now: float, effects: Sequence[fx.AnyEffect]) -> None:
        state = self._scheduler.state
        limits = state.settings.limits
        if limits.submits_per_s:
            for key, epoch, count in self._taken(effects):
                left = self._take(self._submits, limits.submits_per_s, key, now, count)
                least = -MOVED_MAX - 1 if epoch or count < 0 else 0
                assert left >= least - _SLACK, f"{state.id} takes more than {limits.submits_per_s:g} jobs/s of {key}"
        if limits.probes_per_s:
            self._check_probes(now, effects, limits.probes_per_s)

    def _take(self, buckets: dict[str, _Bucket], rate_per_s: float, key: str, now: float, count: float) -> float:
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = _Bucket(rate_per_s, now)
        bucket.take(now, count)
        return bucket.left

    def _taken(self, effects: Sequence[fx.AnyEffect]) -> Iterator[tuple[str, int, float]]:
        """Yield key and epoch of each submission that is taken, once, with 1; with -1 where it is given back."""
        state = self._scheduler.state
        for effect in effects:
            if isinstance(effect, fx.SaveJob) and not effect.patient:
                self._counted.add((effect.submit.job, effect.submit.epoch))
                yield state.clients[effect.client].key, effect.submit.epoch, 1.0
                continue
            message = effect.message if isinstance(effect, fx.Send) else None
            client = state.peers.get(effect.peer) if isinstance(effect, fx.Send) else None
            if not isinstance(message, m.Accepted | m.Rejected) or not isinstance(client, Client):
                continue
            which, job = (message.job, message.epoch), state.job(message.job)
            if isinstance(message, m.Rejected):
                if message.epoch and message.retry_after_s and which in self._counted:
                    self._counted.discard(which)
                    yield client.key, message.epoch, -1.0
            elif which not in self._counted and (job is None or job.keep is None):  # it was not taken over
                self._counted.add(which)
                yield client.key, message.epoch, 1.0

    def _check_probes(self, now: float, effects: Sequence[fx.AnyEffect], rate_per_s: float) -> None:
        """Where a key has used up what it may have sent, nothing is sent for one more of its jobs.

        But for two things: who joins gets its share of what is unplaced, and loads that were asked for are used.
        """
        state = self._scheduler.state
        for job in state.jobs.values():
            self._payers[job.id] = job.payer, POLICIES[job.spec.policy].samples
        joined = {effect.peer for effect in effects if type(effect) is fx.Send and type(effect.message) is m.Welcome}
        begun: set[str] = set()  # jobs for which something was sent in this event
        for effect in effects:
            if not isinstance(effect, fx.Send) or not isinstance(effect.message, m.Probe | m.Task):
                continue
            message = effect.message
            count = max(1, message.count) if isinstance(message, m.Probe) else len(message.indices)
            if (isinstance(message, m.Task) and message.request) or message.job not in self._payers:
                continue
            payer, samples = self._payers[message.job]
            left = self._take(self._probes, rate_per_s, payer, now, 0.0)
            free = effect.peer in joined or message.epoch > 0 or (samples and isinstance(message, m.Task))
            assert free or left >= 1.0 - _SLACK or message.job in begun, (
                f"{state.id} sends for {message.job} what {payer} may not have sent: {left:.3f} are left"
            )
            begun.add(message.job)
            self._take(self._probes, rate_per_s, payer, now, float(count))


def prying(number: int, job: str, tasks: int) -> list[m.AnyMessage]:
    """Return what a client of another owner says of a job, to learn of it, end it or take it."""
    works: list[m.Payload] = [b"\x91\x00"]
    return [
        m.Follow(number, job, True),
        *(m.Query(number, what, job) for what in ("tasks", "failures", "job", "jobs")),
        m.Recall(number, job, 0, [0]),
        *(m.Kill(job, epoch, [], 0.0) for epoch in (0, 1)),
        m.Submit(job, FOREIGN_EPOCH, m.JobSpec(), tasks, works * tasks, b"function", detached=True),
    ]


def shown(message: m.AnyMessage) -> list[str]:
    """Return the jobs of which a message to a client tells anything."""
    if isinstance(message, m.Status):
        return [row.id for row in message.jobs] + [row.job for row in message.tasks]
    if isinstance(message, m.Welcome):
        return list(message.jobs)
    if isinstance(message, m.Accepted | m.Outcome | m.Stale | m.Died | m.Output):
        return [message.job]
    if isinstance(message, m.Returned):
        return [message.job] if message.indices else []
    if isinstance(message, m.Followed):
        return [message.job] if message.state else []
    if isinstance(message, m.Rejected):  # it is not to tell whether there is such a job
        return [message.job] if message.code not in ("forbidden", m.TOO_SOON) else []
    return []
