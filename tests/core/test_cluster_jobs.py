"""What users ask for beyond a plain job, in whole clusters: retries, hedges, graces, output, detached jobs, drains."""

from __future__ import annotations

from typing import Any

import pytest

from sparrowmq.core import effects as fx
from sparrowmq.protocol import messages as m
from sparrowmq.sim.cluster import Cluster
from sparrowmq.sim.slot import Work
from tests.support.sim import cluster, failure, ledger, runs, succeeded, told


def observed(**settings: Any) -> Cluster:
    """A cluster with a client and an observer."""
    world = cluster(**settings)
    world.add_observer()
    world.run(0.1)
    return world


def launched(world: Cluster, job: str) -> list[float]:
    """When the first task of a job started, each time."""
    return [round(at - world.starts[job, 0][0][0], 2) for at, _, _, _ in world.starts[job, 0]]


# -- retries


def test_a_task_that_fails_is_tried_again_after_its_back_off() -> None:
    world = cluster(workers=2)
    job = world.submit([Work(0.01, "fail 3"), Work(0.01)], retries=3, backoff_s=0.1)
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [4, 1]
    assert launched(world, job) == pytest.approx([0.0, 0.11, 0.32, 0.73], abs=0.02)
    assert ledger(world, job).retries == 3


@pytest.mark.parametrize(("end", "kind"), [("fail", "RemoteError"), ("crash", "TaskCrashed")])
def test_the_last_failure_is_shown(end: str, kind: str) -> None:
    world = cluster(workers=1)
    job = world.submit([Work(0.01, end)], retries=2)
    world.finish()
    assert failure(world, job, 0)[:2] == (m.FAILED, kind)
    assert runs(world, job) == [3]


def test_only_failures_that_are_named_are_tried_again() -> None:
    world = cluster(workers=1)
    job = world.submit([Work(0.01, "crash"), Work(0.01, "fail")], retries=1, retry_on=["TaskCrashed"])
    world.finish()
    assert runs(world, job) == [2, 1]


def test_a_timeout_is_tried_again_and_is_shown_as_one() -> None:
    world = cluster(workers=1)
    job = world.submit([9.0], retries=1, timeout_s=0.2)
    world.finish()
    status, kind, _ = failure(world, job, 0)
    assert (status, kind) == (m.FAILED, "TaskTimedOut")
    assert runs(world, job) == [2]


def test_retries_and_deaths_are_counted_apart() -> None:
    world = cluster(workers=1)
    job = world.submit([Work(0.2, "fail 2")], retries=1, max_attempts=2)
    world.run(0.1)
    world.crash("worker-1")  # no failure of the task's
    world.run(0.2)
    world.restart("worker-1")
    world.finish()
    assert succeeded(world, job) == (runs(world, job) == [3])
    assert runs(world, job) == [3]


# -- second attempts


def test_a_straggler_does_not_hold_up_its_job() -> None:
    world = cluster(workers=3, slots=2)
    job = world.submit([0.1] * 30, hedge_quantile=0.95)
    world.run(0.05)
    [(index, _)] = [(i, p) for i, p in enumerate(world.scheduler().state.jobs[job].place) if p == "worker-2"][:1]
    world.pause("worker-2")  # it hangs; nobody knows as yet
    began = world.now
    world.run(5.0, until=world.history.complete)
    assert world.history.complete()
    assert world.now - began < 1.5
    assert {worker for _, worker, _, _ in world.starts[job, index]} - {"worker-2"}
    world.resume("worker-2")
    world.finish()
    assert succeeded(world, job)
    assert ledger(world, job).hedges >= 1


def test_without_it_the_straggler_does() -> None:
    world = cluster(workers=3, slots=2)
    world.submit([0.1] * 30)
    world.run(0.05)
    world.pause("worker-2")
    assert not world.run(5.0, until=world.history.complete)
    world.resume("worker-2")
    world.finish()


def test_the_attempt_that_lost_is_killed() -> None:
    world = cluster(workers=2)
    job = world.submit([Work(3.0)], hedge_after_s=0.5)
    world.run(1.0)
    assert runs(world, job) == [2]
    world.finish()
    assert succeeded(world, job)
    assert world.sent["Kill"] == 1
    assert [world.worker(id).place.slots[0].held_count for id in ("worker-1", "worker-2")] == [0, 0]


# -- kills


@pytest.mark.parametrize(
    ("deaf", "grace_s", "how", "after_s"),
    [(False, 1.0, b"interrupted", 0.0), (True, 1.0, b"killed", 1.0), (False, 0.0, b"killed", 0.0)],
)
def test_a_running_task_is_asked_to_end_and_then_killed(deaf: bool, grace_s: float, how: bytes, after_s: float) -> None:
    world = observed(workers=1)
    job = world.submit([Work(30.0, deaf=deaf), Work(0.01)])
    world.run(0.5)
    [running] = world.scheduler().state.jobs[job].launched_tasks()
    asked_at = world.now
    world.say(m.Kill(job, 0, [running], grace_s))
    world.run(5.0, until=lambda: (job, running) in world.history.outcomes)
    assert world.history.outcomes[job, running] == (m.CANCELLED, how)
    assert world.now - asked_at == pytest.approx(after_s, abs=0.05)
    world.finish()
    assert world.history.outcomes[job, 1 - running][0] == m.SUCCEEDED


def test_a_task_that_ends_within_the_grace_keeps_its_outcome() -> None:
    world = cluster(workers=1)
    job = world.submit([Work(0.7, deaf=True)])
    world.run(0.2)
    world.kill(job, grace_s=2.0)
    world.finish()
    assert succeeded(world, job)


# -- output


def test_output_is_followed_live_and_read_later() -> None:
    world = observed(workers=2)
    job = world.submit([Work(0.1, output=b"%d\n" % k) for k in range(6)])
    world.run(0.05)
    world.say(m.Follow(1, job, True))
    world.finish()
    lines = {(message.index, message.data) for message in world.heard(m.Output)}
    assert lines == {(k, b"%d\n" % k) for k in range(6)}
    assert world.heard(m.Followed) == [m.Followed(1, job, "done")]
    world.say(m.Follow(2, job))
    world.run(0.1)
    assert len(world.heard(m.Output)) == 12
    assert ledger(world, job).output_bytes == 12


# -- detached jobs


def test_a_detached_job_survives_its_client_and_the_workers_it_ran_on() -> None:
    world = observed(workers=2)
    job = world.detach([12.0] * 2)
    world.run(0.1)
    world.crash("observer-1")
    world.crash("worker-1")
    world.run(11.0)
    assert set(world.scheduler().state.clients) == {"client-1"}
    world.run(20.0)
    row = ledger(world, job)
    assert (row.state, row.counts[m.SUCCEEDED], row.detached, row.relaunches) == ("done", 2, True, 1)
    world.check_rest()


def test_a_detached_job_is_watched_and_cancelled_by_its_id() -> None:
    world = observed(workers=1)
    job = world.detach([30.0] * 3)
    world.run(0.2)
    world.say(m.Query(1, "job", job))
    world.say(m.Kill(job, 0, [], 1.0))
    world.run(0.5)
    world.say(m.Query(2, "tasks", job, [0, 1, 2]))
    world.run(0.1)
    first, second = world.heard(m.Status)
    assert [(row.state, row.launched, row.unplaced) for row in first.jobs] == [("running", 1, 2)]
    assert {row.state for row in second.tasks} == {"cancelled"}
    assert ledger(world, job).state == "cancelled"
    world.check_rest()


# -- drains


def test_a_worker_is_drained_on_request() -> None:
    world = observed(workers=2)
    job = world.submit([0.3] * 6)
    world.run(0.1)
    world.say(m.Drain(3, "worker-1", 5.0))
    world.finish()
    assert [row.id for row in world.heard(m.Status)[0].workers] == ["worker-1"]
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 6
    assert [(effect.reason) for effect in told(world, fx.Exit)] == ["drained"]
    assert set(world.scheduler().state.workers) == {"worker-2"}
