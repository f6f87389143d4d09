"""Mutated frames, a million of them, against the codec and every machine: none raises, none outgrows its bounds.

A play is a list of events for one machine, as in tests/core/test_fuzz_machines.py; here most of its messages are
encoded, mutated, and handed over as far as they still decode. The same seeds give the same frames.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from unittest import mock

import pytest

from sparrowmq import limits
from sparrowmq.core.client_jobs import ClientJobs
from sparrowmq.core.clients import Clients
from sparrowmq.core.judge import Judge
from sparrowmq.core.timers import Timers
from sparrowmq.core.workers import Workers
from sparrowmq.core.workplace import Workplace
from sparrowmq.protocol import codec
from tests.support.maker import Step, assistant_steps, client_steps, scheduler_steps, worker_steps
from tests.support.mutation import Mutator
from tests.support.planting import replace
from tests.support.playing import (
    LIMITED,
    SMALL,
    TINY,
    repeatable,
    run_assistant,
    run_node_monitor,
    run_scheduler,
    run_session,
)

STEPS = 120  # of one play
EVERY = 8  # the invariants are held after so many steps: looking at them takes longer than all else
ALL = 1_000_000  # frames
SOME = 100_000


class Target(NamedTuple):
    """A machine: what its plays are made of, and who plays them."""

    steps: Callable[[int, int], Iterable[Step]]
    run: Callable[[Iterable[Step]], None]


TARGETS = {
    "scheduler, tiny": Target(scheduler_steps, lambda steps: run_scheduler(steps, TINY, EVERY)),
    "scheduler": Target(scheduler_steps, lambda steps: run_scheduler(steps, limits.SchedulerLimits(), EVERY)),
    "scheduler, limited": Target(scheduler_steps, lambda steps: run_scheduler(steps, LIMITED, EVERY)),
    "node monitor, small": Target(worker_steps, lambda steps: run_node_monitor(steps, SMALL, EVERY)),
    "node monitor": Target(worker_steps, lambda steps: run_node_monitor(steps, limits.WorkerLimits(), EVERY)),
    "session": Target(client_steps, lambda steps: run_session(steps, EVERY)),
    "assistant": Target(assistant_steps, lambda steps: run_assistant(steps, EVERY)),
}


def fuzz(target: Target, frames: int, first_seed: int = 0) -> Counter[str]:
    """Play until so many mutated frames have been made; return how many the codec took and refused, by its codes."""
    seen = Counter[str]()
    seed = first_seed
    while seen["frames"] < frames:
        mutator = Mutator(random.Random(seed))
        with repeatable(seed):
            target.run(mutator.steps(target.steps(seed, STEPS)))
        seen += mutator.counts
        seed += 1
    return seen


def held(seen: Counter[str], frames: int) -> None:
    """The frames were many, and of all kinds."""
    assert seen["frames"] >= frames
    assert seen["frames"] == sum(seen.values()) - seen["frames"]
    assert set(seen) == {"frames", "decoded", "malformed", "unknown_type", "version"}
    assert seen["decoded"] > 0.2 * seen["frames"], "they hardly reach the machine"


@pytest.mark.parametrize("name", TARGETS)
def test_some_mutated_frames(name: str) -> None:
    frames = SOME // len(TARGETS)
    held(fuzz(TARGETS[name], frames), frames)


@pytest.mark.heavy
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", TARGETS)
def test_a_million_mutated_frames(name: str) -> None:
    frames = -(-ALL // len(TARGETS))
    held(fuzz(TARGETS[name], frames, first_seed=1_000_000), frames)


def test_the_same_seed_gives_the_same_frames() -> None:
    def frames() -> list[Step]:
        return list(Mutator(random.Random(5)).steps(client_steps(5, STEPS)))

    assert frames() == frames()


# -- does it find anything?


def _needs_a_row(old: Callable[..., Any], self: Any, *given: Any) -> Any:
    assert max(given[-1].indices) >= 0  # ValueError for an empty list
    return old(self, *given)


def _leaks(old: Callable[..., Any], self: Any, client: Any, job_id: str, epoch: int) -> Any:
    """A recall of what is not known is remembered for good."""
    job = old(self, client, job_id, epoch)
    if job is None:
        self._state.clients[f"{client.id}/{job_id}/{epoch}"] = client
    return job


def _trusts_a_number(old: Callable[..., Any], self: Any, now: float, worker: Any, message: Any) -> Any:
    worker.launched -= len(message.indices)
    return old(self, now, worker, message)


def _divides(old: Callable[..., Any], self: Any, at_s: float, beat: Any) -> Any:
    assert 1 / beat.interval_ms
    return old(self, at_s, beat)


def _stays(old: Callable[..., Any], self: Any, now: float) -> Any:
    """What is due is handed back, and due again."""
    heap = list(self._heap)
    yield from old(self, now)
    self._heap[:] = heap


FLAWS: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    "raises on an empty list of a recall": ("scheduler", lambda: replace(Clients, "recall", _needs_a_row)),
    "raises on an empty list of results": ("scheduler", lambda: replace(Workers, "result", _needs_a_row)),
    "keeps more than its bound": ("scheduler, tiny", lambda: replace(Clients, "_own_job", _leaks)),
    "counts what is not there": ("scheduler", lambda: replace(Workers, "returned", _trusts_a_number)),
    "raises on an empty list at the worker": ("node monitor", lambda: replace(Workplace, "recall", _needs_a_row)),
    "raises on an empty outcome": ("session", lambda: replace(ClientJobs, "outcome", _needs_a_row)),
    "divides by a beat's interval": ("assistant", lambda: replace(Judge, "beat", _divides)),
    "deadlines that stay": ("session", lambda: replace(Timers, "due", _stays)),
    "lists of different lengths decode": ("session", lambda: mock.patch.object(codec, "_check")),
}


@pytest.mark.parametrize("flaw", FLAWS)
def test_planted_flaws_are_found(flaw: str) -> None:
    target, plant = FLAWS[flaw]
    with plant(), pytest.raises(Exception, match=r".*") as found:
        fuzz(TARGETS[target], SOME // len(TARGETS))
    assert any("with seed" in note for note in found.value.__notes__)
