"""Peers that are let in and lie: workers about what they were never given, clients about what is not theirs.

What they may do is in tests/security; here is what a scheduler believes them.
"""

from __future__ import annotations

from typing import Any

import pytest

from sparrowmq import limits
from sparrowmq.core import effects as fx
from sparrowmq.core.client_jobs import EPOCH_MAX
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, World, hello, outcome, result, submit

THIEF = "w2"


def running(tasks: int = 2) -> World:
    """Worker w1 runs the job's tasks; w2 has nothing of it."""
    world = World(workers=1)
    world.hear(CLIENT, submit(tasks))
    assert world.start("w1", tasks) == list(range(tasks))
    world.hear(THIEF, hello(m.WORKER, THIEF))
    world.said()
    return world


def to_client(world: World) -> list[m.AnyMessage]:
    return [effect.message for effect in world.said() if isinstance(effect, fx.Send) and effect.peer == CLIENT]


@pytest.mark.parametrize(
    "lie",
    [
        result([0, 1]),
        result([0, 1], attempt=2),
        result([0, 1], status=m.FAILED),
        result([0, 1], status=m.LOST),
        m.Returned(0, "a", 0, [0, 1], [1, 1], "crash"),
        m.Returned(0, "a", 0, [0, 1], [], "full"),
        m.Returned(1, "a", 0, [0, 1], [1, 1], "recalled"),
        m.Output("a", 0, 0, 1, 1, b"I was here"),
        m.Output("a", 0, 0, 0, 1, b"I was here"),
        m.Claimed("a", 0, [0, 1], [1, 1]),
        m.Claimed("a", 0, [0, 1], [9, 9]),
        m.Stale("a", 7),
        m.Stale("a", limits.INT_MAX),
        m.Load("a", 0, 1, 0, 0, 99),
    ],
    ids=lambda lie: f"{type(lie).__name__} {getattr(lie, 'reason', '')}".strip(),
)
def test_a_worker_that_answers_for_anothers_tasks_is_not_believed(lie: Any) -> None:
    world = running()
    world.hear(THIEF, lie)
    assert to_client(world) == []
    assert world.job().launched_on("w1") == [0, 1]
    assert world.job().transcript is None
    world.hear("w1", result([0, 1]))
    assert to_client(world) == [outcome(1, [0, 1])]


def test_a_worker_that_was_thought_dead_may_yet_end_what_it_was_given_and_nobody_else() -> None:
    """The first result of an attempt that was issued counts, from whom it was issued to."""
    world = running(tasks=1)
    world.lose("w1")
    world.wait(1.0)
    assert world.start(THIEF) == [0]
    world.said()
    world.hear(THIEF, result([0], attempt=1))  # its own is the second
    assert to_client(world) == []
    world.hear("w1 again", hello(m.WORKER, "w1", held=[m.Held("a", 0, [0], [1])]))
    world.hear("w1 again", result([0], attempt=1))
    assert to_client(world) == [outcome(1, [0])]


def test_results_that_come_again_are_shown_once_whoever_repeats_them() -> None:
    world = running()
    world.hear("w1", result([0]), result([0]), result([0], payload=b"other"))
    world.hear(THIEF, result([0]), result([0], payload=b"other"))
    assert to_client(world) == [outcome(1, [0])]
    world.hear("w1", result([1]), result([0, 1]))
    assert to_client(world) == [outcome(2, [1])]
    assert world.machine.state.counters["stale"] == 6


def test_a_worker_that_had_a_job_cannot_push_its_epoch_beyond_what_a_client_follows() -> None:
    world = running()
    world.hear("w1", m.Stale("a", EPOCH_MAX))
    assert to_client(world) == []
    assert world.job().epoch == 0
    world.hear("w1", m.Stale("a", 3))
    assert to_client(world) == [m.Stale("a", 3)]


def test_what_a_worker_claims_to_hold_of_unknown_jobs_costs_one_deadline() -> None:
    world = World(workers=1)
    before = len(world.machine.state.timers)
    held = [m.Held(f"j{k}", 0, [0], [1]) for k in range(1000)]
    for connection in (1, 2, 3):
        world.hear(f"w1 again {connection}", hello(m.WORKER, "w1", connection=connection, held=held))
    assert len(world.machine.state.timers) <= before + 2 * 3
    world.said()
    world.wait(world.machine.state.settings.client_lease_s)
    kills = [effect.message.job for effect in world.said() if isinstance(effect, fx.Send)
             and isinstance(effect.message, m.Kill)]  # fmt: skip
    assert kills == [f"j{k}" for k in range(1000)], "once: its last hello counts"


# -- clients

OTHER = "other client's connection"


def two_clients(**keys: str) -> World:
    world = World(workers=1, client=False)
    world.hear(CLIENT, hello(m.CLIENT, "c1", key=keys.get("one", "")))
    world.hear(OTHER, hello(m.CLIENT, "c2", key=keys.get("other", "")))
    world.hear(CLIENT, submit(2))
    world.said()
    return world


def to(world: World, peer: str) -> list[m.AnyMessage]:
    return [effect.message for effect in world.said() if isinstance(effect, fx.Send) and effect.peer == peer]


def test_another_clients_job_is_not_recalled_resubmitted_or_acknowledged() -> None:
    world = two_clients()
    world.start("w1", 2)
    world.hear("w1", result([0, 1]))
    world.said()
    world.hear(OTHER, m.OutcomeAck(limits.INT_MAX))
    assert len(world.machine.state.clients["c1"].outbox) == 1
    world = two_clients()
    world.hear(OTHER, m.Recall(1, "a", 0, [0, 1]))
    assert to(world, OTHER) == [m.Returned(1, "a", 0, [])]
    for epoch in (0, 1, 9):
        world.hear(OTHER, submit(1, epoch=epoch))
        [rejected] = to(world, OTHER)
        assert isinstance(rejected, m.Rejected)
        assert rejected.code == "conflict"
    assert (world.job().client, world.job().epoch, world.job().tasks) == ("c1", 0, 2)


def test_outcomes_go_to_the_jobs_client_only() -> None:
    world = two_clients()
    world.hear(OTHER, m.Follow(1, "a", True), m.Query(2, "jobs"), m.Subscribe(3, "jobs", 0.1))
    world.start("w1", 2)
    world.hear("w1", result([0, 1]))
    sent = [(effect.peer, type(effect.message)) for effect in world.said() if isinstance(effect, fx.Send)]
    assert [peer for peer, kind in sent if kind is m.Outcome] == [CLIENT]


def test_a_client_that_says_it_is_another_has_to_have_its_key() -> None:
    world = two_clients(one="k1", other="k2")
    world.lose(CLIENT)
    for incarnation in (1, 2):
        world.hear("thief", hello(m.CLIENT, "c1", incarnation, key="k2", jobs=["a"]))
        [refused] = to(world, "thief")
        assert isinstance(refused, m.Refused)
        assert refused.code == "identity_conflict"
        assert world.job().client == "c1"
    world.hear("back", hello(m.CLIENT, "c1", key="k1", jobs=["a"]))
    [welcome, _] = to(world, "back")
    assert isinstance(welcome, m.Welcome)
    assert welcome.jobs == ["a"]


def test_a_job_has_a_row_for_each_task_before_its_last_and_these_are_bounded() -> None:
    """A resubmission of one task of a hundred thousand takes a table of that size."""
    world = World(limits=limits.SchedulerLimits(tasks=250_000))
    for number in range(3):
        world.hear(CLIENT, submit(1, job=f"j{number}", epoch=1, indices=[99_999]))
    accepted, also, rejected = to(world, CLIENT)
    assert (type(accepted), type(also)) == (m.Accepted, m.Accepted)
    assert isinstance(rejected, m.Rejected)
    assert (rejected.code, rejected.retry_after_s > 0) == ("busy", True)
    assert "300,000 unfinished tasks" in rejected.detail


@pytest.mark.parametrize("role", [m.WORKER, m.CLIENT, m.ASSISTANT])
def test_each_role_says_only_what_is_its_to_say(role: str) -> None:
    """And is sent away at the first thing that is not."""
    said_by: dict[str, list[m.AnyMessage]] = {
        m.WORKER: [m.Request(1, "a", 0, 1, 1), result([0]), m.Load("a", 0, 1, 0, 0, 1), m.Output("a", 0, 0, 1, 1, b"")],
        m.CLIENT: [
            submit(1, job="b"), m.Kill("a", 0), m.Recall(1, "a", 0, [0]), m.Query(1, "jobs"), m.Drain(1, "w1"),
            m.Follow(1, "a"), m.Subscribe(1, "jobs"), m.OutcomeAck(1),
        ],
        m.ASSISTANT: [m.Verdict(1, []), m.Hints(1, [], [])],
        "nobody": [m.Welcome("s1", 1, "0"), outcome(1, [0]), m.Refused("x", "y"), m.Accepted("a", 0, 1)],
    }  # fmt: skip
    for message in [message for other, messages in said_by.items() if other != role for message in messages]:
        world = running()
        world.hear("liar", hello(role, "liar"))
        world.said()
        world.hear("liar", message)
        said = world.said()
        assert [e.message.code for e in said if isinstance(e, fx.Send) and isinstance(e.message, m.Refused)] == [
            "forbidden"
        ]
        assert fx.Close("liar") in said
        assert world.machine.state.counters["refused_forbidden"] == 1
        assert world.job().launched_on("w1") == [0, 1]
