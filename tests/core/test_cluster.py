"""Whole clusters of machines in virtual time: what the parts do together, with and without faults."""

from __future__ import annotations

from collections import Counter

import pytest

from sparrowmq.core import effects as fx
from sparrowmq.limits import SchedulerLimits, WorkerLimits
from sparrowmq.protocol import messages as m
from sparrowmq.settings import ClientSettings, SchedulerSettings, WorkerSettings
from sparrowmq.sim.slot import Work
from sparrowmq.sim.wires import Constant, Wire
from tests.support.sim import cluster, failure, ledger, runs, succeeded, told, two_homes

POLICIES = ("late-binding", "random", "per-task", "batch")


# -- placement


def test_late_binding_answers_no_op_when_all_tasks_are_placed_and_cancels_the_rest() -> None:
    world = cluster(workers=4)
    job = world.submit([0.1])
    world.finish()
    assert succeeded(world, job)
    row = ledger(world, job)
    assert (row.probes, row.no_ops) == (2, 1)  # both probed workers were idle: both asked at once
    assert (world.sent["Task"], world.sent["NoOp"]) == (1, 1)

    busy = world.submit([0.2, 0.3, 0.4, 0.5])  # every worker is busy, so the reservations of the next job wait
    world.run(0.05)
    waiting = world.submit([0.01])
    world.finish()
    row = ledger(world, waiting)
    assert (row.probes, row.no_ops, row.cancels) == (2, 0, 1)
    assert succeeded(world, busy)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_job_larger_than_the_cluster(policy: str) -> None:
    world = cluster(workers=3, slots=2)
    job = world.submit([0.01] * 100, policy=policy)
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 100
    row = ledger(world, job)
    probes = {"late-binding": 200, "random": 0, "per-task": 3, "batch": 3}
    assert row.probes >= probes[policy]
    assert row.relaunches == 0 if policy == "late-binding" else row.relaunches < 60


def test_late_binding_spreads_a_large_job_over_all_slots() -> None:
    world = cluster(workers=3, slots=2)
    began = world.now
    world.submit([0.1] * 60)
    world.run(60, until=world.history.complete)
    assert 1.0 < world.now - began < 1.05  # 60 tasks of 0.1 s on 6 slots


def test_a_worker_that_joins_gets_its_share() -> None:
    world = cluster(workers=1)
    job = world.submit([0.05] * 40)
    world.run(0.2)
    world.add_worker()
    world.finish()
    where = Counter(starts[0][1] for starts in world.starts.values())
    assert where["worker-2"] >= 16
    assert runs(world, job) == [1] * 40


def test_early_binding_looks_at_loads() -> None:
    world = cluster(workers=2)
    world.submit([5.0] * 4, policy="random")
    world.run(0.1)
    loads = {id: world.scheduler().state.workers[id].launched for id in ("worker-1", "worker-2")}
    assert loads["worker-1"] != loads["worker-2"], "choose another seed: the random policy has spread the load evenly"
    job = world.submit([0.01], policy="batch", probe_ratio=2.0)
    world.finish()
    assert world.starts[job, 0][0][1] == min(loads, key=lambda id: loads[id])


def test_no_worker_for_this_python() -> None:
    world = cluster(workers=1)
    job = world.submit([0.1] * 2, python="2.7")
    world.run(9.0)
    assert not world.history.complete()
    world.finish()
    status, kind, text = failure(world, job, 0)
    assert (status, kind) == (m.FAILED, "Unavailable")
    assert text.startswith("no worker with Python 2.7 has been connected to scheduler-1 for 10 s")


def test_a_job_waits_for_workers_and_runs_when_they_come() -> None:
    world = cluster(workers=0)
    job = world.submit([0.01] * 5)
    world.run(5.0)
    world.add_worker()
    world.finish()
    assert succeeded(world, job)


# -- windows


def test_no_op_tasks_grow_the_window() -> None:
    world = cluster(workers=1, check=False)
    job = world.submit([0.0] * 5000)
    world.finish()
    assert succeeded(world, job)
    assert world.sent["Request"] < 500


def test_long_tasks_are_asked_for_one_at_a_time() -> None:
    world = cluster(workers=2)
    world.submit([0.1] * 30)
    world.finish()
    assert world.sent["Request"] == 30 + world.sent["NoOp"]
    assert world.sent["Returned"] == 0


# -- workers that fail


def test_a_killed_worker_is_noticed_at_once_and_its_tasks_run_elsewhere() -> None:
    world = cluster(workers=3)
    job = world.submit([0.5] * 6)
    world.run(0.2)
    [(index, place)] = [(i, p) for i, p in enumerate(world.scheduler().state.jobs[job].place) if p == "worker-2"]
    killed_at = world.now
    world.crash("worker-2")
    world.finish()
    assert succeeded(world, job)
    assert sorted(runs(world, job)) == [1, 1, 1, 1, 1, 2]
    (_, _, _, first), (again_at, where, _, second) = world.starts[job, index]
    assert (first, second) == (1, 2)
    assert where != place
    assert again_at - killed_at < 0.4  # noticed in 50 ms; then a slot must come free
    assert ledger(world, job).relaunches == 1


def test_a_task_whose_workers_die_is_lost_and_each_attempt_is_named() -> None:
    world = cluster(workers=1)
    job = world.submit([10.0], max_attempts=2)
    for _ in range(2):
        world.run(0.5)
        world.crash("worker-1")
        world.run(0.5)
        world.restart("worker-1")
    world.finish()
    status, kind, text = failure(world, job, 0)
    assert (status, kind) == (m.LOST, "TaskLost")
    assert text == (
        f"task 0 of job {job} is lost: 2 workers died under it. "
        "attempt 1 on worker-1 (box, pid 1): its connection was lost; last heard 510 ms before; "
        "attempt 2 on worker-1 (box, pid 2): its connection was lost; last heard 505 ms before"
    )
    assert runs(world, job) == [2]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_reset_connection_loses_nothing_and_runs_nothing_twice(policy: str) -> None:
    world = cluster(workers=2, slots=2)
    job = world.submit([0.05] * 20, policy=policy)
    for k in range(8):
        world.later(0.013 + 0.03 * k, world.reset, f"worker-{1 + k % 2}", "scheduler-1")
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 20
    assert world.sent["Hello"] == 3 + 8


def test_a_reset_during_a_stream_of_short_tasks_loses_nothing() -> None:
    world = cluster(workers=2)
    job = world.submit([0.0] * 2000, name="short")
    for k in range(5):
        world.later(0.002 + 0.002 * k, world.reset, "worker-1", "scheduler-1")
    world.finish()
    assert succeeded(world, job)


def test_a_worker_that_drains_hands_back_what_has_not_started() -> None:
    world = cluster(workers=2)
    job = world.submit([0.3] * 6, policy="random")
    world.run(0.05)
    world.drain("worker-1")
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 6
    [left] = told(world, fx.Exit)
    assert left.reason == "drained"
    assert set(world.scheduler().state.workers) == {"worker-2"}
    assert not any("worker lost" in str(log.event) and log.level == "warning" for log in told(world, fx.Log))


def test_a_drain_that_lasts_too_long_ends_and_the_task_runs_elsewhere() -> None:
    world = cluster(workers=2)
    job = world.submit([3.0], policy="random")
    world.run(0.05)
    [(_, first, _, _)] = world.starts[job, 0]
    world.drain(first, 1.0)
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [2]
    assert [effect.reason for effect in told(world, fx.Exit)] == ["the drain's deadline has passed"]


def test_a_silent_worker_is_given_up() -> None:
    world = cluster(workers=2)
    job = world.submit([1.0] * 2)
    world.run(0.1)
    world.pause("worker-1")
    world.finish()
    assert succeeded(world, job)
    assert sorted(runs(world, job)) == [1, 2]
    world.resume("worker-1")  # its results are late: nobody minds
    world.run(5.0)
    world.check_rest()
    assert set(world.scheduler().state.workers) == {"worker-1", "worker-2"}


# -- slots that fail


def test_a_crash_concerns_the_task_that_ran_and_the_rest_of_its_batch_runs() -> None:
    world = cluster(workers=1)
    works = [Work(0.0)] * 200 + [Work(0.0, "crash")] + [Work(0.0)] * 200
    job = world.submit(works)
    world.finish()
    statuses = world.history.statuses(job)
    assert [index for index, status in enumerate(statuses) if status != m.SUCCEEDED] == [200]
    assert failure(world, job, 200) == (
        m.FAILED,
        "TaskCrashed",
        "the task's process ended without a result: killed by signal 11",
    )
    assert runs(world, job)[200] == 1
    assert world.sent["Returned"] >= 1


def test_a_long_task_does_not_keep_the_rest_of_its_batch() -> None:
    world = cluster(workers=2)
    works = [Work(0.0)] * 300 + [Work(5.0)] + [Work(0.0)] * 300
    job = world.submit(works)
    world.run(1.0)
    statuses = world.history.statuses(job)
    assert statuses[300] is None
    assert set(statuses[301:]) == {m.SUCCEEDED}
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 601


def test_a_timeout_ends_the_task_that_ran_too_long() -> None:
    world = cluster(workers=1)
    began = world.now
    job = world.submit([0.01, 9.0, 0.01], timeout_s=1.5)
    world.finish()
    assert world.history.statuses(job) == [m.SUCCEEDED, m.TIMED_OUT, m.SUCCEEDED]
    assert failure(world, job, 1)[1:] == ("TaskTimedOut", "ran longer than its timeout of 1.5 s")
    assert world.now - began < 6.0


def test_a_task_that_fails_is_not_run_again() -> None:
    world = cluster(workers=1)
    job = world.submit([Work(0.01, "fail"), Work(0.01)])
    world.finish()
    assert world.history.statuses(job) == [m.FAILED, m.SUCCEEDED]
    assert runs(world, job) == [1, 1]


# -- schedulers that fail


def test_jobs_move_when_their_scheduler_is_killed() -> None:
    world = cluster(workers=2, slots=2, schedulers=2)
    home = world.client()._home
    assert home is not None
    job = world.submit([0.2] * 12)
    world.run(0.3)
    shown = len(world.history.outcomes)
    assert shown
    world.crash(home.scheduler)
    world.finish()
    assert succeeded(world, job)
    other = "scheduler-2" if home.scheduler == "scheduler-1" else "scheduler-1"
    row = ledger(world, job, other)
    assert (row.epoch, row.tasks) == (1, 12 - shown)
    assert {epoch for _, _, epoch, _ in world.starts[job, 11]} == {1}


def test_a_scheduler_that_restarts_gets_its_jobs_again() -> None:
    world = cluster(workers=2)
    job = world.submit([0.2] * 8)
    world.run(0.3)
    world.crash("scheduler-1")
    world.later(0.5, world.restart, "scheduler-1")
    world.finish()
    assert succeeded(world, job)
    assert ledger(world, job).epoch == 1


def test_a_reset_of_the_clients_connection_moves_nothing() -> None:
    world = cluster(workers=2, schedulers=2)
    job = world.submit([0.2] * 8)
    for k in range(4):
        world.later(0.1 + 0.15 * k, lambda: world.reset("client-1", world.client()._home.scheduler))  # type: ignore[union-attr]
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 8
    assert [effect.reason for effect in told(world, fx.Exit)] == []


def test_a_draining_scheduler_finishes_its_jobs_and_new_ones_go_elsewhere() -> None:
    world = cluster(workers=2, schedulers=2)
    home = world.client()._home
    assert home is not None
    old = world.submit([0.3] * 6)
    world.run(0.1)
    world.drain(home.scheduler)
    world.run(0.05)
    new = world.submit([0.1] * 2)
    world.finish()
    assert succeeded(world, old)
    assert succeeded(world, new)
    assert runs(world, old) == [1] * 6
    assert [effect.reason for effect in told(world, fx.Exit)] == ["drained"]
    assert not world.nodes[home.scheduler].up


def test_reservations_of_a_silent_scheduler_are_skipped() -> None:
    world, (home, _) = two_homes(workers=1)
    first = world.submit([0.5], client="client-2")
    world.run(0.1)
    world.submit([0.1] * 3)  # waits behind the running task
    world.run(0.1)
    world.pause(home)
    second = world.submit([0.1] * 3, client="client-2")
    world.run(1.9)
    assert succeeded(world, first)
    assert succeeded(world, second), "the silent scheduler's reservations hold up those of others"
    world.resume(home)
    world.finish()


# -- clients


def test_recall_cancels_what_has_not_started_and_comes_too_late_for_the_rest() -> None:
    world = cluster(workers=1)
    job = world.submit([0.5] * 4)
    world.run(0.1)
    [running] = world.scheduler().state.jobs[job].launched_tasks()
    number = world.recall(job, range(4))
    world.finish()
    expected = [m.SUCCEEDED if index == running else m.CANCELLED for index in range(4)]
    assert world.history.statuses(job) == expected
    [answer] = told(world, fx.Recalled)
    assert answer == fx.Recalled(number, job, [index for index in range(4) if index != running])
    kinds = [type(effect) for _, _, effect in world.told if isinstance(effect, fx.Deliver | fx.Recalled)]
    assert kinds[:2] == [fx.Deliver, fx.Recalled], "the outcomes that a recall promises come first"


def test_recall_reaches_tasks_that_wait_at_workers() -> None:
    world = cluster(workers=1)
    job = world.submit([0.5] * 4, policy="random")
    world.run(0.1)
    number = world.recall(job, [2, 3])
    world.finish()
    assert world.history.statuses(job) == [m.SUCCEEDED, m.SUCCEEDED, m.CANCELLED, m.CANCELLED]
    assert told(world, fx.Recalled) == [fx.Recalled(number, job, [2, 3])]
    kinds = [type(effect) for _, _, effect in world.told if isinstance(effect, fx.Deliver | fx.Recalled)]
    assert kinds[0] is fx.Deliver, "the outcomes that a recall promises come first"


def test_a_recall_is_answered_though_the_workers_connection_is_reset() -> None:
    world = cluster(workers=1)
    job = world.submit([0.5] * 4, policy="random")
    world.run(0.1)
    world.recall(job, [2, 3])
    world.run(0.0002)
    world.reset("worker-1", "scheduler-1")
    world.run(0.1)
    assert len(told(world, fx.Recalled)) == 1
    world.finish()


def test_kill_ends_running_tasks() -> None:
    world = cluster(workers=2)
    job = world.submit([30.0] * 2 + [0.1])
    world.run(0.5)
    world.kill(job, [0, 1])
    world.finish(5.0)
    assert world.history.statuses(job) == [m.CANCELLED, m.CANCELLED, m.SUCCEEDED]


def test_kill_of_tasks_that_are_over_ends_nothing() -> None:
    world = cluster(workers=1)
    job = world.submit([0.1, 1.0])
    world.run(0.3)
    world.kill(job, [0])
    world.finish()
    assert succeeded(world, job)


@pytest.mark.parametrize("other", ["client-1", "worker-1"])
def test_a_kill_survives_a_reset(other: str) -> None:
    world = cluster(workers=1)
    job = world.submit([30.0] * 2)
    world.run(0.5)
    if other == "worker-1":
        world.reset(other, "scheduler-1")
        world.run(0.0003)
    world.kill(job)
    if other == "client-1":
        world.reset(other, "scheduler-1")
    world.finish(5.0)
    assert world.history.statuses(job) == [m.CANCELLED] * 2


def test_killed_tasks_are_not_run_again_after_a_fail_over() -> None:
    world = cluster(workers=1, schedulers=2)
    home = world.client()._home
    assert home is not None
    job = world.submit([30.0, 0.1])
    world.run(0.05)
    world.crash(home.scheduler)
    world.kill(job, [0])
    world.run(1.0)
    assert world.history.statuses(job)[0] == m.CANCELLED
    assert [epoch for _, _, epoch, _ in world.starts[job, 0]] == [0]


def test_the_jobs_of_a_client_that_is_gone_end_with_its_lease() -> None:
    world = cluster(workers=1)
    world.submit([30.0] * 3)
    world.run(0.1)
    world.crash("client-1")
    world.run(9.0)
    assert world.scheduler().state.jobs
    world.run(1.5)
    world.check_rest()
    assert [row.detail for row in world.scheduler().state.history] == ["its client has gone"]
    assert world.scheduler().state.clients == {}


def test_a_client_that_leaves_takes_its_jobs_along() -> None:
    world = cluster(workers=1)
    world.submit([30.0] * 3)
    world.run(0.1)
    node = world.nodes["client-1"]
    node.step(node.machine.leave)
    world.run(0.1)
    assert world.scheduler().state.jobs == {}
    assert world.worker().place.slots[0].held_count == 0


def test_a_client_without_credit_gets_no_more_tasks_launched() -> None:
    bounds = SchedulerLimits(client_credit_bytes=200)
    world = cluster(workers=1, scheduler=SchedulerSettings(limits=bounds, client_lease_s=60.0))
    job = world.submit([0.01] * 100)
    world.run(0.003)
    world.pause("client-1")
    world.run(3.0)
    done = world.scheduler().state.jobs[job].counts[m.SUCCEEDED]
    assert 5 < done < 20
    world.resume("client-1")
    world.finish()
    assert succeeded(world, job)
    assert runs(world, job) == [1] * 100


def test_a_job_that_waits_for_credit_is_not_unschedulable() -> None:
    settings = SchedulerSettings(limits=SchedulerLimits(client_credit_bytes=1), unschedulable_after_s=0.04)
    world = cluster(workers=1, wire=Wire(Constant(0.05)), scheduler=settings)
    first = world.submit([0.001])
    world.run(0.22)
    second = world.submit([0.001])  # arrives when the outcome of the first is not acknowledged yet
    world.finish()
    assert succeeded(world, first)
    assert succeeded(world, second)


def test_results_that_are_not_acknowledged_stop_the_worker() -> None:
    world = cluster(workers=1, worker=WorkerSettings(limits=WorkerLimits(unacked_bytes=100)))
    job = world.submit([0.02] * 50, policy="random")
    world.run(0.05)
    world.pause("scheduler-1")
    world.run(2.0)
    assert len(world.worker().links["scheduler-1"].outbox) < 12
    world.resume("scheduler-1")
    world.finish()
    assert succeeded(world, job)


def test_a_refused_client_says_why_and_tries_again() -> None:
    world = cluster(scheduler=SchedulerSettings(limits=SchedulerLimits(clients=1)))
    world.add_client("client-2")
    world.run(1.0)
    details = {effect.detail for _, id, effect in world.told if id == "client-2" and isinstance(effect, fx.Linked)}
    assert details == {"scheduler-1 refused: 1 clients are connected: the limit of scheduler-1"}
    assert 4 <= world.scheduler().state.counters["refused_busy"] <= 12
    world.crash("client-1")
    world.run(12.0)
    job = world.submit([0.01], client="client-2")
    world.finish()
    assert succeeded(world, job)


def test_without_any_scheduler_jobs_end_after_the_time_that_was_set() -> None:
    world = cluster(schedulers=1, client=ClientSettings(unavailable_after_s=3.0))
    world.crash("scheduler-1")
    world.run(0.1)
    job = world.submit([0.01])
    world.finish(4.0)
    assert world.history.ends[job] == fx.JobEnded(job, "unavailable", "no scheduler could be reached for 3 s")


def test_a_busy_scheduler_gets_the_job_later() -> None:
    world = cluster(workers=1, scheduler=SchedulerSettings(limits=SchedulerLimits(jobs=1)))
    first, second = world.submit([1.0]), world.submit([0.1])
    world.finish()
    assert succeeded(world, first)
    assert succeeded(world, second)


def test_a_job_that_moves_after_a_long_time_may_find_the_next_scheduler_busy() -> None:
    scheduler = SchedulerSettings(limits=SchedulerLimits(jobs=1))
    world, (home, _) = two_homes(workers=2, scheduler=scheduler, client=ClientSettings(unavailable_after_s=5.0))
    long = world.submit([8.0])
    other = world.submit([9.0], client="client-2")
    world.run(7.0)
    world.crash(home)
    world.finish()
    assert succeeded(world, long)
    assert succeeded(world, other)


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> tuple[int, dict[str, int], list[float]]:
        world = cluster(workers=3, slots=2, schedulers=2, seed=seed)
        world.submit([0.01] * 20)
        world.later(0.02, world.crash, "worker-1")
        world.finish()
        return world.events, dict(world.sent), [when for when, _, _ in world.told]

    assert run(5) == run(5)
    assert run(5) != run(6)
