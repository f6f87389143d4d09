"""Whatever is killed, interrupted, recalled, replaced or drained: every task is answered for once, and only once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sparrowmq.core import effects as fx, invariants
from sparrowmq.core.node_monitor import NodeMonitor
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings
from sparrowmq.sim.slot import SimSlot, Work

SPECS = [m.JobSpec(), m.JobSpec(timeout_s=0.05), m.JobSpec(retries=2), m.JobSpec(policy="batch")]
ENDS = ["ok", "ok", "ok", "fail", "crash"]


class World:
    """A node monitor, its slots in virtual time, and a scheduler that pushes tasks and keeps the books."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 10.0
        self.order = 0
        self.later_calls: list[tuple[float, int, object, tuple[object, ...]]] = []
        self.open: set[tuple[str, int, int]] = set()  # (job, index, attempt)
        self.answers: Counter[tuple[str, int, int]] = Counter()
        self.statuses: Counter[int] = Counter()
        self.pushed = 0
        settings = WorkerSettings(recycle_tasks=self.rng.choice([0, 1, 5, 40]))
        slots = self.rng.choice([1, 2, 3])
        self.machine = NodeMonitor(id="w1", incarnation=1, slots=slots, settings=settings)
        self.slots = [SimSlot(number, self, self) for number in range(slots)]
        self.machine.start(self.now)
        self.machine.schedulers_changed(self.now, {"s1": "at s1"})
        self.settle()
        self.hear(m.Welcome("s1", 1, "0"))

    def later(self, delay_s: float, function: object, *arguments: object) -> None:
        self.order += 1
        self.later_calls.append((self.now + delay_s, self.order, function, arguments))

    # What slots report.

    def slot_started(self, *_: object) -> None: ...

    def slot_ready(self, *event: object) -> None:
        self.event(self.machine.slot_ready, *event)

    def slot_results(self, *event: object) -> None:
        self.event(self.machine.slot_results, *event)

    def slot_exited(self, *event: object) -> None:
        self.event(self.machine.slot_exited, *event)

    def slot_reclaimed(self, *event: object) -> None:
        self.event(self.machine.slot_reclaimed, *event)

    def slot_output(self, *event: object) -> None:
        self.event(self.machine.slot_output, *event)

    def event(self, handler, *arguments: object) -> None:
        handler(self.now, *arguments)
        self.settle()

    def hear(self, message: m.AnyMessage) -> None:
        self.event(self.machine.receive, 1, message)

    def settle(self) -> None:
        effects = self.machine.take_effects()
        invariants.check(self.machine, effects)
        for effect in effects:
            match effect:
                case fx.SpawnSlot(slot):
                    self.slots[slot].spawn()
                case fx.StartTasks():
                    self.slots[effect.slot].start(effect)
                case fx.ReclaimSlot(slot):
                    self.slots[slot].reclaim()
                case fx.InterruptSlot(slot, seq):
                    self.slots[slot].interrupt(seq)
                case fx.KillSlot(slot):
                    self.slots[slot].kill()
                case fx.Send(_, m.Result() as result):
                    self.statuses.update(result.statuses)
                    self.answered(result.job, result.indices, result.attempts)
                    self.later(0.001, self.hear, m.ResultAck(result.seq))
                case fx.Send(_, m.Returned() as returned):
                    self.answered(returned.job, returned.indices, returned.attempts)

    def answered(self, job: str, indices: list[int], attempts: list[int]) -> None:
        for index, attempt in zip(indices, attempts, strict=True):
            self.answers[job, index, attempt] += 1
            self.open.remove((job, index, attempt))

    def run(self, for_s: float) -> None:
        end = self.now + for_s
        while True:
            self.later_calls.sort(key=lambda entry: entry[:2])
            call = self.later_calls[0][0] if self.later_calls else end
            due = self.machine.next_deadline()
            when = min(call, end if due is None else due)
            if when >= end:
                break
            self.now = max(self.now, when)
            if when == call:
                _, _, function, arguments = self.later_calls.pop(0)
                function(*arguments)  # type: ignore[operator]
            else:
                self.event(self.machine.tick)
        self.now = end

    def act(self) -> None:
        rng, job = self.rng, self.rng.choice("abc")
        match rng.choice(["push", "push", "kill", "kill all", "recall", "retire", "output", "wait"]):
            case "push":
                indices = list(range(self.pushed, self.pushed + rng.choice([1, 3, 30])))
                self.pushed += len(indices)
                works = [
                    Work(rng.choice([0.0, 1e-5, 1e-3, 0.1, 30.0]), rng.choice(ENDS), rng.choice([b"", b"x\n"]),
                         rng.random() < 0.3)
                    for _ in indices
                ]  # fmt: skip
                self.open.update((job, index, 1) for index in indices)
                payloads = [work.payload() for work in works]
                spec = SPECS[ord(job) % len(SPECS)]
                self.hear(m.Task(0, job, 0, spec, indices, [1] * len(indices), payloads, b"function"))  # type: ignore[arg-type]
            case "kill":
                chosen = [index for j, index, _ in sorted(self.open) if j == job][:: rng.choice([1, 3])]
                self.hear(m.Kill(job, 0, chosen or [0], rng.choice([0.0, 0.001, 0.5])))
            case "kill all":
                self.hear(m.Kill(job, 0, [], rng.choice([0.0, 0.001, 0.5])))
            case "recall":
                chosen = [index for j, index, _ in sorted(self.open) if j == job][::2]
                self.hear(m.Recall(1, job, 0, chosen))
            case "retire":
                self.event(self.machine.slot_retired, rng.randrange(len(self.slots)))
            case "output":
                slot = rng.randrange(len(self.slots))
                self.event(self.machine.slot_output, slot, rng.randint(0, self.pushed + 1), 1, b"y" * 60_000)
        self.run(rng.choice([0.0, 1e-4, 0.002, 0.03, 0.2]))


@pytest.mark.parametrize("seed", range(60))
def test_every_task_is_answered_for_once(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.act()
    for job in "abc":
        world.hear(m.Kill(job, 0, [], 0.2))
    world.run(20.0)
    assert not world.open, f"never answered for: {sorted(world.open)[:5]}"
    assert sum(world.answers.values()) == world.pushed
    assert set(world.answers.values()) <= {1}
    invariants.check_rest(world.machine)


def test_the_runs_above_see_every_kind_of_end() -> None:
    seen: Counter[int] = Counter()
    for seed in range(12):
        world = World(seed)
        for _ in range(60):
            world.act()
        seen += world.statuses
    assert set(seen) == {m.SUCCEEDED, m.FAILED, m.TIMED_OUT, m.CANCELLED, m.RETRY}
