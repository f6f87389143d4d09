"""What a seed means: a random topology, a workload, a schedule of faults, and the features that it has.

Owns: the features beside the basics, how often they are drawn, and what comes with them. Must not know: how a scenario
is played, or what must be true of it.

Swarm testing (Groce et al., ISSTA 2012): each seed leaves out some kinds of faults and features altogether, since what
is always on hides what only shows without it. Everything is drawn at once from the seed, so that what one
event does to the cluster never changes what is done to it later, and the schedule can be read.

Each feature is drawn after all else and from a generator of its own: a seed without it is what it was before it came.
"""

from __future__ import annotations

import random
from typing import Final

from msgspec.structs import replace

from sparrowmq.sim.slot import Work
from sparrowmq.sim.swarm.basics import Basics
from sparrowmq.sim.swarm.faults import DEATHS, KINDS, Faults
from sparrowmq.sim.swarm.scenario import Job, Scenario, Step

KEYS_SHARE: Final = 0.3  # of the seeds that have clients with keys
HINTED_SHARE: Final = 0.4  # of the seeds with assistants, those with hints for most jobs
DURABLE_SHARE: Final = 0.35  # of the seeds whose schedulers keep jobs in the store
TAKEN_SHARE: Final = 0.9  # of these, where there are faults and several schedulers: one takes all jobs over
TAKEN_S: Final = 7.0  # so long takes the last time that it does
KEYS: Final = (("key-1", "key-1"), ("key-2", "key-2"), ("key-3", ""), ("key-4", ""))  # with the tags of their jobs
BURSTS: Final = (15, 40, 150)  # jobs at once
PROBED_S: Final = (5.0, 15.0, 30.0)  # that one key's probes would take, if all were its own


def draw(seed: int, *, workers: int = 20, duration_s: float = 30.0) -> Scenario:
    """Return the scenario of a seed: about so many workers, and so many seconds of workload and faults."""
    return _Drawing(seed, workers, duration_s).scenario


class _Drawing(Basics):
    def __init__(self, seed: int, workers: int, duration_s: float) -> None:
        super().__init__(seed, workers, duration_s)
        self.rng = random.Random(f"the keys of {seed}")
        if self.rng.random() < KEYS_SHARE:
            self._keys()
        self.rng = random.Random(f"the hints of {seed}")
        if self.scenario.assistants and self.rng.random() < HINTED_SHARE:
            self._hints()
        self.rng = random.Random(f"the durable jobs of {seed}")
        if self.rng.random() < DURABLE_SHARE:
            self._durable()
        self.scenario.steps.sort(key=lambda step: step.at_s)

    # -- keys: owners of jobs, and what one key may have

    def _keys(self) -> None:
        """Clients have keys, some of them the same one, and each key has its limits."""
        rng, scenario = self.rng, self.scenario
        keys = rng.sample(KEYS, rng.randint(1, 3))
        first = len(scenario.clients) + 1
        scenario.clients += [f"client-{n}" for n in range(first, first + rng.randint(0, 3))]
        scenario.keys = {client: rng.choice(keys) for client in scenario.clients}
        for number, job in enumerate(scenario.jobs):
            if not job.detached and rng.random() < 0.5:
                scenario.jobs[number] = job._replace(owner=rng.choice(scenario.clients))
        bursts = [rng.choice(BURSTS) for _ in range(rng.choice([0, 1, 3]))]
        for count in bursts:
            self._burst(count)
        probes = sum(len(job.works) * float(job.spec["probe_ratio"]) for job in scenario.jobs)
        limits = replace(
            scenario.scheduler.limits,
            submits_per_s=rng.choice([5.0, 20.0] if max(bursts, default=0) > 100 else [0.0, 1.0, 2.0, 5.0, 20.0]),
            probes_per_s=round(max(5.0, probes / rng.choice(PROBED_S)), 1) if rng.random() < 0.6 else 0.0,
        )
        scenario.scheduler = replace(scenario.scheduler, limits=limits)
        if rng.random() < 0.7:
            scenario.kinds.append("pry")
            self._faults(Faults.pry)

    def _burst(self, count: int) -> None:
        """One client submits many small jobs at once."""
        rng, scenario = self.rng, self.scenario
        client, at_s = rng.choice(scenario.clients), self._time()
        for _ in range(count):
            spec = {"policy": rng.choice(self.policies), "probe_ratio": 2.0}
            works = tuple(Work(round(rng.expovariate(50.0), 6)) for _ in range(rng.choice([1, 1, 3])))
            scenario.steps.append(Step(at_s, "submit", (len(scenario.jobs),)))
            scenario.jobs.append(Job(client, works, spec))

    # -- load hints

    def _hints(self) -> None:
        """The assistant that leads gives hints, and most jobs are placed by them."""
        rng, scenario = self.rng, self.scenario
        scenario.hinted = True
        scenario.assistant = replace(scenario.assistant, hint_interval_s=rng.choice([0.05, 0.1, 0.2]))
        for number, job in enumerate(scenario.jobs):
            if rng.random() < 0.7:
                scenario.jobs[number] = job._replace(spec=job.spec | {"policy": "assisted"})

    # -- durable jobs

    def _durable(self) -> None:
        """Some jobs are kept in the store, some of these without a client that waits; and the store has its faults.

        Seeds without any fault stay so, but for the store's: what that does by itself shows best there.
        """
        rng, scenario = self.rng, self.scenario
        scenario.durable = True
        share = rng.choice([0.2, 0.5, 1.0])
        for number, job in enumerate(scenario.jobs):
            if not job.detached and rng.random() < share:
                released = rng.random() < 0.4
                scenario.jobs[number] = job._replace(spec=job.spec | {"durable": True}, released=released)
        more = rng.choice([[], ["fail_over"], ["crash_client"], ["fail_over", "crash_client"], ["freeze"]])
        for kind in more if scenario.disturbances else []:
            if kind not in scenario.kinds:
                scenario.kinds.append(kind)
                self._faults((KINDS | DEATHS)[kind])
        if scenario.disturbances and len(scenario.schedulers) > 1 and rng.random() < 0.4:
            self._stand_still()
        if rng.random() < 0.5 and "store" not in scenario.kinds:
            scenario.kinds.append("store")
            self._faults(Faults.store)
        scenario.unanswered = rng.choice([0.0, 0.0, 0.01, 0.1])
        if rng.random() < 0.6:  # it keeps what it was given, as with an append-only file
            scenario.steps = [step for step in scenario.steps if step.what != "store_emptied"]
        self.rng = random.Random(f"the take-overs of {scenario.seed}")
        if scenario.disturbances and len(scenario.schedulers) > 1 and self.rng.random() < TAKEN_SHARE:
            self._take_over()

    def _stand_still(self) -> None:
        """Schedulers stand still for longer than others need to take over the large jobs that they have just got."""
        rng, scenario = self.rng, self.scenario
        scenario.expiring = True
        scenario.kinds += ["freeze"] * ("freeze" not in scenario.kinds)
        for _ in range(rng.randint(1, 3)):
            at_s, scheduler = self._time() * 0.7, rng.choice(scenario.schedulers)
            for _ in range(3):
                works = tuple(Work(round(rng.expovariate(2.0), 6)) for _ in range(40))
                spec = {"policy": rng.choice(self.policies), "probe_ratio": 2.0, "durable": True}
                scenario.steps.append(Step(at_s, "submit", (len(scenario.jobs),)))
                scenario.jobs.append(Job(rng.choice(scenario.clients), works, spec, released=True))
            steps = Step(at_s + 0.5, "pause", (scheduler,)), Step(at_s + rng.choice([2.5, 9.5]), "resume", (scheduler,))
            scenario.steps += steps

    def _take_over(self) -> None:
        """A scheduler that has just begun, and has no clients, takes over what all of them wait for.

        They stand still meanwhile, or it does: then they come to it just when it takes their jobs. The last time is
        after all else: who gets no answer then waits for ever, while before a connection may break, and it asks again.
        """
        rng, scenario = self.rng, self.scenario
        scenario.kinds += ["fail_over"] * ("fail_over" not in scenario.kinds)
        for at_s in [*(self._time() for _ in range(rng.choice([0, 2]))), scenario.duration_s]:
            fresh, *others = rng.sample(scenario.schedulers, len(scenario.schedulers))
            scenario.steps += Step(at_s, "crash", (fresh,)), Step(at_s + 0.3, "restart", (fresh,))
            for client in scenario.clients:
                works = tuple(Work(round(rng.expovariate(0.5), 6)) for _ in range(rng.choice([5, 40])))
                spec = {"policy": rng.choice(self.policies), "probe_ratio": 2.0, "durable": True}
                scenario.steps.append(Step(at_s + 1.2, "submit", (len(scenario.jobs),)))
                scenario.jobs.append(Job(client, works, spec))
            for id in rng.choice([scenario.clients, [fresh]]):
                back_s = at_s + rng.choice([4.0, 6.5])
                scenario.steps += Step(at_s + 1.5, "pause", (id,)), Step(back_s, "resume", (id,))
            for scheduler in others:
                scenario.steps += Step(at_s + 1.5, "crash", (scheduler,)), Step(at_s + 8.0, "restart", (scheduler,))
        scenario.duration_s += TAKEN_S
