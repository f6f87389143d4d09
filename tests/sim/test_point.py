"""Running one set-up: what counts, what is counted, and that a seed decides everything."""

from __future__ import annotations

import gc

import msgspec
import pytest

from sparrowmq.errors import SparrowError
from sparrowmq.sim import omniscient
from sparrowmq.sim.point import run_point
from sparrowmq.sim.setup import OMNISCIENT, POLICIES, Setup
from sparrowmq.sim.workload import Job, Workload

SMALL = Setup(workers=20, slots=2, jobs=60, load=0.7, warm_up_s=0.2, workload=Workload(tasks=5, duration_s=0.02))


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_all_jobs_and_none_is_faster_than_its_longest_task(policy: str) -> None:
    row = run_point(msgspec.structs.replace(SMALL, policy=policy))
    assert (row.policy, row.load, row.jobs, row.unfinished) == (policy, 0.7, 60, 0)
    assert row.tasks > 5 * 60  # with those of the warm-up
    assert row.delay_p50_ms > 0.0
    assert 0.0 < row.median_ms <= row.p95_ms <= row.p99_ms
    assert (row.short_median_ms, row.short_p95_ms) == (row.median_ms, row.p95_ms)


def test_the_same_seed_gives_the_same_row_and_another_seed_another_one() -> None:
    rows = [run_point(msgspec.structs.replace(SMALL, seed=seed)) for seed in (1, 1, 2)]
    assert rows[0] == rows[1]
    assert rows[0].median_ms != rows[2].median_ms


def test_an_idle_cluster_adds_the_way_of_the_messages_and_nothing_else() -> None:
    """Probe, request, task and result, half a millisecond each."""
    row = run_point(Setup(workers=20, slots=2), trace=[Job(0.0, [0.1] * 3), Job(1.0, [0.1] * 3)])
    assert row.delay_p50_ms == pytest.approx(2.0, abs=0.01)
    assert row.median_ms == pytest.approx(102.0, abs=0.01)
    assert row.virtual_s == pytest.approx(1.102, abs=0.001)


def test_on_an_idle_cluster_early_binding_samples_first_and_random_placement_only_sends() -> None:
    """batch, per-task: load probe, load, task and result; random: task and result."""
    delays = {
        policy: run_point(Setup(policy=policy, workers=50, slots=4), trace=[Job(0.0, [0.1])]).delay_p50_ms
        for policy in ("batch", "per-task", "random", OMNISCIENT)
    }
    assert delays == pytest.approx({"batch": 2.0, "per-task": 2.0, "random": 1.0, OMNISCIENT: 0.5}, abs=0.01)


def test_messages_of_a_task_are_counted() -> None:
    """Two probes, two requests, a task, a result and its acknowledgement; a cancellation meets the second request."""
    row = run_point(Setup(workers=20, slots=2), trace=[Job(0.0, [0.1])])
    assert row.messages_per_task == 9.0
    random_row = run_point(Setup(workers=20, slots=2, policy="random"), trace=[Job(0.0, [0.1])])
    assert random_row.messages_per_task == 3.0


def test_a_trace_is_run_as_it_stands_and_all_of_it_counts() -> None:
    trace = [Job(0.01 * n, [0.05, 0.1]) for n in range(20)]
    row = run_point(msgspec.structs.replace(SMALL, workers=2), trace=trace)
    assert (row.jobs, row.tasks) == (20, 40)
    ideal = run_point(msgspec.structs.replace(SMALL, workers=2, policy=OMNISCIENT), trace=trace)
    expected = sorted(done.response_s for done in omniscient.responses(trace, 4, delay_s=SMALL.latency_s))
    assert ideal.median_ms == pytest.approx(1e3 * expected[10], abs=0.001)
    assert row.median_ms > ideal.median_ms


def test_a_horizon_ends_an_overload_and_tells_what_is_open() -> None:
    setup = msgspec.structs.replace(SMALL, load=3.0, jobs=100_000, horizon_s=1.0)
    for policy in ("late-binding", OMNISCIENT):
        row = run_point(msgspec.structs.replace(setup, policy=policy))
        assert row.unfinished > row.jobs > 0
        assert row.virtual_s <= 1.0


def test_several_schedulers_share_the_jobs_in_turn() -> None:
    one, three = (run_point(msgspec.structs.replace(SMALL, schedulers=n)) for n in (1, 3))
    assert three.jobs == one.jobs == 60
    assert three.tasks == one.tasks  # the same jobs
    assert three.median_ms == pytest.approx(one.median_ms, rel=0.25)


def test_cancellation_withdraws_reservations_and_without_it_they_end_as_no_ops() -> None:
    setup = msgspec.structs.replace(SMALL, load=0.9)
    with_it, without = (run_point(msgspec.structs.replace(setup, cancellation=on)) for on in (True, False))
    assert with_it.unfinished == without.unfinished == 0
    assert with_it.messages_per_task != without.messages_per_task


def test_a_task_goes_straight_to_an_idle_worker_if_that_is_wanted() -> None:
    row = run_point(Setup(workers=20, slots=2, eager=True), trace=[Job(0.0, [0.1])])
    assert row.delay_p50_ms == pytest.approx(1.0, abs=0.01)


def test_short_jobs_are_told_from_long_ones() -> None:
    mixed = Workload(tasks=4, duration_law="bimodal", duration_s=0.01, long_share=0.3, long_duration_s=0.5)
    row = run_point(msgspec.structs.replace(SMALL, load=0.5, workload=mixed))
    assert 10.0 < row.short_median_ms < 500.0 < row.p99_ms


def test_messages_that_cost_processor_time_delay_jobs() -> None:
    setups = (msgspec.structs.replace(SMALL, scheduler_cost_s=s, worker_cost_s=s) for s in (0.0, 0.0005))
    free, dear = (run_point(setup) for setup in setups)
    assert dear.delay_p50_ms > free.delay_p50_ms + 2.0


def test_progress_is_told_about_a_hundred_times() -> None:
    told: list[int] = []
    run_point(msgspec.structs.replace(SMALL, jobs=400), progress=told.append)
    assert 80 <= len(told) <= 120
    assert told == sorted(set(told))


def test_an_interrupt_comes_through_and_leaves_the_collector_as_it_was() -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt):
        run_point(SMALL, progress=interrupt)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_tasks_that_fail_are_no_responses() -> None:
    """Workers are not there in time (`check` refuses such a Setup)."""
    with pytest.raises(SparrowError, match="failed"):
        run_point(Setup(workers=4, slots=1, latency_s=80.0), trace=[Job(0.0, [0.1])])


def test_a_trace_of_long_tasks_is_run_to_its_end() -> None:
    row = run_point(Setup(workers=4, slots=1), trace=[Job(0.0, [20_000.0]), Job(1.0, [0.1])])
    assert (row.jobs, row.unfinished) == (2, 0)
    assert row.p99_ms == pytest.approx(20_000e3, rel=1e-3)


def test_where_no_job_counts_there_is_no_number() -> None:
    row = run_point(msgspec.structs.replace(SMALL, load=3.0, horizon_s=0.201))
    assert (row.jobs, row.median_ms, row.delay_p50_ms, row.short_p95_ms) == (0, None, None, None)
