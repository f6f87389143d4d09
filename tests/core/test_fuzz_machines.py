"""Any decodable messages and events, in any order, many of them hostile: no machine ever raises, its invariants
hold after every step, what it sends can be decoded, and one step never makes it say much more than it was told.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq import limits
from sparrowmq.core.session import Session
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings
from tests.support.maker import Step, assistant_steps, client_steps, scheduler_steps, worker_steps
from tests.support.messages import messages
from tests.support.playing import (
    LIMITED,
    SMALL,
    TINY,
    Rules,
    repeatable,
    run_assistant,
    run_node_monitor,
    run_scheduler,
    run_session,
    size,
)

EXAMPLES = settings(max_examples=100, derandomize=True, deadline=None)
SEEDS = range(400)


def received(peers: int) -> st.SearchStrategy[list[Step]]:
    """Messages of all types, made from the types alone."""
    return st.lists(st.tuples(st.just("receive"), st.integers(1, peers), messages()), max_size=15)


@pytest.mark.parametrize("bounds", [TINY, LIMITED, limits.SchedulerLimits()], ids=["tiny", "limited", "default"])
def test_scheduler(bounds: limits.SchedulerLimits) -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_scheduler(scheduler_steps(seed), bounds)


@given(received(4))
@EXAMPLES
def test_scheduler_takes_any_message(steps: list[Step]) -> None:
    run_scheduler(steps, TINY)


@pytest.mark.parametrize("bounds", [SMALL, limits.WorkerLimits()], ids=["small", "default"])
def test_node_monitor(bounds: limits.WorkerLimits) -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_node_monitor(worker_steps(seed), bounds)


@given(received(4))
@EXAMPLES
def test_node_monitor_takes_any_message(steps: list[Step]) -> None:
    run_node_monitor(steps, SMALL)


def test_session() -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_session(client_steps(seed))


@given(received(3))
@EXAMPLES
def test_session_takes_any_message(steps: list[Step]) -> None:
    machine = Session(id="c1", incarnation=1, rng=random.Random(7), settings=ClientSettings())
    rules = Rules(machine)
    machine.schedulers_changed(1.0, {"s1": "a1"})
    machine.submit(1.0, m.Submit("a", 0, m.JobSpec(), 2, [b""], b"f"))
    for _, peer, message in steps:
        machine.receive(1.0, peer, message)
        rules.step(size(message))


def test_assistant() -> None:
    for seed in SEEDS:
        with repeatable(seed):
            run_assistant(assistant_steps(seed))


@given(received(3))
@EXAMPLES
def test_assistant_takes_any_message(steps: list[Step]) -> None:
    run_assistant(steps)
