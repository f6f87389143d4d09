"""The simulated slot does what the real one does (tests/integration/test_executor_ends.py)."""

from __future__ import annotations

import msgspec

from sparrowmq.core import effects as fx
from sparrowmq.protocol import messages as m
from sparrowmq.sim.engine import Engine
from sparrowmq.sim.slot import SimSlot, Work


class Told:
    """What a slot has told its node monitor."""

    def __init__(self) -> None:
        self.results: list[int] = []
        self.exits: list[int] = []

    def slot_started(self, *_: object) -> None: ...

    def slot_ready(self, *_: object) -> None: ...

    def slot_output(self, *_: object) -> None: ...

    def slot_reclaimed(self, *_: object) -> None: ...

    def slot_results(
        self, slot: int, first_seq: int, statuses: bytes, service_us: list[int], payloads: list[m.Payload]
    ) -> None:
        self.results += range(first_seq, first_seq + len(statuses))

    def slot_exited(self, slot: int, cause: str, current_seq: int) -> None:
        self.exits.append(current_seq)


def batch(seq: int, count: int, work: Work, **spec: bool) -> fx.StartTasks:
    payload = msgspec.msgpack.encode(work)
    tasks = list(range(count))
    return fx.StartTasks(0, seq, "a", 0, m.JobSpec(**spec), b"", [payload], tasks, [1] * count)


def test_what_may_start_only_once_is_not_lost_with_what_runs_after_it() -> None:
    for once, arrived in ((True, [1, 2, 3]), (False, [1])):
        engine, told = Engine(), Told()
        slot = SimSlot(0, engine, told)
        slot.spawn()
        engine.run(1.0)
        slot.start(batch(1, 3, Work(0.0), at_most_once=once))
        slot.start(batch(4, 1, Work(0.0, "crash")))
        engine.run(2.0)
        assert (told.results, told.exits) == (arrived, [4])
