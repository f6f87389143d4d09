"""What may be done to a cluster while it works: faults of all kinds, and what people ask for.

Owns: what one fault of a kind consists of. Must not know: how many there are and of which kinds (`drawing`), how they
are carried out (`play`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from sparrowmq.sim.swarm.scenario import Scenario, Step
from sparrowmq.sim.wires import Latency, LogNormal, Uniform, Wire

LOSS_MAX: Final = 0.3
FREEZES_S: Final = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)  # around when a node counts as dead
OUTAGES_S: Final = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # of the store


class Faults:
    """Each method of a kind draws one fault of it, at a time: the steps that it takes."""

    rng: random.Random
    scenario: Scenario

    def _time(self) -> float:
        return round(self.rng.uniform(0.0, self.scenario.duration_s), 4)

    def _wire(self, loss: float) -> Wire:
        rng = self.rng
        laws: list[Latency] = [
            Uniform(0.0001, 0.0003), Uniform(0.0, 0.02), LogNormal(0.0005, 1.0), LogNormal(0.01, 0.5),
        ]  # fmt: skip
        latency = rng.choice(laws)
        return Wire(latency, loss * rng.random(), rng.choice([0.0, 0.3]), rng.choice([0.0, 0.3]))

    def _some(self, *kinds: str) -> str:
        """One node of these kinds, each kind equally often."""
        return str(self.rng.choice(list(getattr(self.scenario, self.rng.choice(kinds)))))

    def _link(self) -> tuple[str, str]:
        """Two nodes that may have a connection, the scheduler last."""
        return self._some("workers", "workers", "clients"), self._some("schedulers")

    def _for_s(self) -> float:
        return float(self.rng.choice([0.001, 0.02, 0.2, 1.0, 3.0, 8.0]))

    def _number(self, at_s: float) -> int:
        """A job that was submitted shortly before then, by its number; the first if there is none."""
        before = [step for step in self.scenario.steps if step.what == "submit" and step.at_s <= at_s]
        before.sort(key=lambda step: step.at_s)
        return int(self.rng.choice(before[-4:]).arguments[0]) if before else 0

    def _indices(self, number: int) -> tuple[int, ...]:
        count = len(self.scenario.jobs[number].works)
        return tuple(sorted(self.rng.sample(range(count), self.rng.randint(1, count))))

    def _soon(self, at_s: float, number: int) -> float:
        """Mostly a moment while this job is likely to run."""
        submitted = [s.at_s for s in self.scenario.steps if s.what == "submit" and s.arguments[0] == number]
        return round(submitted[0] + self.rng.expovariate(10.0), 4) if self.rng.random() < 0.8 else at_s

    def crash(self, at_s: float) -> list[Step]:
        id = self._some("workers", "schedulers")
        return [Step(at_s, "crash", (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def crash_client(self, at_s: float) -> list[Step]:
        id = self._some("clients")
        what = self.rng.choice(["crash", "leave"])
        return [Step(at_s, what, (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def pause(self, at_s: float) -> list[Step]:
        id = self._some("workers", "workers", "schedulers", "clients")
        return [Step(at_s, "pause", (id,)), Step(at_s + self._for_s(), "resume", (id,))]

    def freeze(self, at_s: float) -> list[Step]:
        rng, assistants = self.rng, self.scenario.assistants
        if assistants and rng.random() < 0.25:  # a scheduler and an assistant at about the same time
            id, other, later_s = self._some("schedulers"), rng.choice(assistants), rng.uniform(0.0, 1.2)
            steps = [Step(at_s, "pause", (id,)), Step(at_s + 9.0, "resume", (id,))]
            return [*steps, Step(at_s + later_s, "crash", (other,)), Step(at_s + self._for_s(), "restart", (other,))]
        id = self._some("workers", "workers", "schedulers")
        return [Step(at_s, "pause", (id,)), Step(at_s + rng.choice(FREEZES_S), "resume", (id,))]

    def fail_over(self, at_s: float) -> list[Step]:
        id = self._some("schedulers")
        return [Step(at_s, "crash", (id,)), Step(at_s + self._for_s(), "restart", (id,))]

    def unwatch(self, at_s: float) -> list[Step]:
        id, for_s = self._some("assistants"), self._for_s()
        begin, end = self.rng.choice([("crash", "restart"), ("pause", "resume")])
        return [Step(at_s, begin, (id,)), Step(at_s + for_s, end, (id,))]

    def store(self, at_s: float) -> list[Step]:
        rng, for_s = self.rng, self.rng.choice(OUTAGES_S)
        if rng.random() < 0.2:
            return [Step(at_s, "clock", (rng.choice([-3600.0, -0.5, 0.5, 3600.0]),))]
        steps = [Step(at_s, "store", (rng.choice(["down", "hung"]),)), Step(at_s + for_s, "store", ("up",))]
        return [steps[0], Step(at_s, "store_emptied"), steps[1]] if rng.random() < 0.4 else steps

    def reset(self, at_s: float) -> list[Step]:
        return [Step(at_s, "reset", self._link())]

    def drain(self, at_s: float) -> list[Step]:
        id, grace_s = self._some("workers", "workers", "schedulers"), self.rng.choice([0.05, 2.0])
        by = self.rng.choice(["drain", "drain_by_message"]) if id in self.scenario.workers else "drain"
        return [Step(at_s, by, (id, grace_s)), Step(at_s + grace_s + 1.0, "restart", (id,))]

    def cut(self, at_s: float) -> list[Step]:
        one, other = self.rng.sample(self._link(), 2)
        cut = Step(at_s, "cut", (one, other, self.rng.random() < 0.5))
        return [cut, Step(at_s + self._for_s(), "heal", (one, other))]

    def wires(self, at_s: float) -> list[Step]:
        one, other = self._link() if self.rng.random() < 0.8 else ("", "")
        wire = Step(at_s, "wire", (one, other, self._wire(LOSS_MAX)))
        return [wire, Step(at_s + self._for_s(), "wire", (one, other, self.scenario.wire))]

    def recall(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        return [Step(self._soon(at_s, number), "recall", (number, self._indices(number)))]

    def kill(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        indices = self._indices(number) if self.rng.random() < 0.7 else ()
        what = self.rng.choice(["kill", "kill", "kill_as_anybody"])
        return [Step(self._soon(at_s, number), what, (number, indices, self.rng.choice([0.0, 0.02, 1.0])))]

    def ask(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        return [Step(self._soon(at_s, number), "ask", (number,))]

    def pry(self, at_s: float) -> list[Step]:
        number = self._number(at_s)
        return [Step(self._soon(at_s, number), "pry", (number,))]


KINDS: Final[dict[str, Callable[[Faults, float], list[Step]]]] = {
    "crash": Faults.crash,
    "crash_client": Faults.crash_client,
    "pause": Faults.pause,
    "reset": Faults.reset,
    "drain": Faults.drain,
    "cut": Faults.cut,
    "wires": Faults.wires,
    "recall": Faults.recall,
    "kill": Faults.kill,
    "ask": Faults.ask,
}
DEATHS: Final[dict[str, Callable[[Faults, float], list[Step]]]] = {
    "freeze": Faults.freeze,
    "fail_over": Faults.fail_over,
    "unwatch": Faults.unwatch,
    "store": Faults.store,
}
