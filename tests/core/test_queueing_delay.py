"""The delay that is told for an autoscaler, through the machines of a whole cluster, against what does wait."""

from __future__ import annotations

import pytest

from sparrowmq.core import effects as fx, scheduler
from sparrowmq.core.hinting import Hinting
from sparrowmq.metrics import queueing_delay_s
from sparrowmq.protocol.beats import Beat
from sparrowmq.sim.cluster import Cluster
from tests.support.scheduler import CLIENT, World, submit

WORKERS, SLOTS, TASK_S = 10, 2, 1.0


def cluster(workers: int = WORKERS) -> Cluster:
    made = Cluster(3, beats=True)
    made.add_scheduler()
    for _ in range(workers):
        made.add_worker(slots=SLOTS)
    made.add_assistant()
    made.add_client()
    made.run(1.0)
    return made


def told_s(made: Cluster) -> float:
    delay_s = queueing_delay_s(made.assistant().report(made.now).nodes)
    assert delay_s is not None
    return delay_s


def true_s(made: Cluster, job: str) -> float:
    """How long the tasks that no slot has got yet keep all slots busy."""
    table = made.scheduler().state.job(job)
    waiting = table.unplaced + sum(made.worker(f"worker-{n}").place.queue.tasks for n in range(1, WORKERS + 1))
    return waiting / (WORKERS * SLOTS) * TASK_S


@pytest.mark.parametrize("ratio", [1.0, 2.0, 4.0])
def test_from_the_first_to_the_last_task_of_a_late_binding_job_what_waits_is_told(ratio: float) -> None:
    made = cluster()
    job = made.submit([TASK_S] * 400, probe_ratio=ratio)
    made.run(0.5)  # in between two tasks, so that beats have told of the last ones
    for _ in range(9):
        made.run(2.0)
        assert told_s(made) == pytest.approx(true_s(made, job) + TASK_S / SLOTS, rel=0.05)
    made.run(1.0)
    assert made.scheduler().state.job(job).unplaced == 0
    assert told_s(made) < TASK_S, "the last tasks run, and a new one would follow them"
    made.finish()


@pytest.mark.parametrize("policy", ["random", "per-task", "batch"])
def test_tasks_that_wait_at_workers_count_as_what_they_are(policy: str) -> None:
    made = cluster()
    made.submit([TASK_S] * 20, policy=policy)
    made.run(4.0)
    job = made.submit([TASK_S] * 400, policy=policy)
    made.run(0.5)
    for _ in range(4):
        made.run(2.0)
        assert told_s(made) == pytest.approx(true_s(made, job) + TASK_S / SLOTS, rel=0.15)
    made.finish()


def beats(*wanted: int, reserved: int, pushed: int = 0) -> list[Beat]:
    """One worker, and a scheduler for each number of tasks that wait."""
    load = {"slots": 1, "running": 1, "queued": reserved + pushed, "pushed": pushed, "service_us": 1000}
    schedulers = [Beat("scheduler", f"s{n}", 1, 1, 100, queued=count) for n, count in enumerate(wanted)]
    return [Beat("worker", "w", 1, 1, 100, **load), *schedulers]


@pytest.mark.parametrize(
    ("given", "tasks"),
    [
        (beats(reserved=10), 5),  # no scheduler beats: two reservations a task
        (beats(0, reserved=10), 0),  # all are left over
        (beats(3, 4, reserved=10), 7),
        (beats(30, reserved=10), 10),  # most of them are on their way: no more than there is
        (beats(3, reserved=0, pushed=6), 6),
        (beats(3, reserved=10, pushed=6), 9),
        (beats(3, reserved=-4, pushed=6), 6),  # a worker that counts wrongly
    ],
)
def test_a_reservation_stands_for_as_many_tasks_as_schedulers_say(given: list[Beat], tasks: int) -> None:
    made = Hinting()
    for beat in given:
        made.observe(0.0, beat)
    assert made.expected_wait_us("w") == (tasks + 1) * 1000


def test_what_is_forgotten_or_said_anew_counts_no_more() -> None:
    made = Hinting()
    for beat in [*beats(9, 6, reserved=10), *beats(3, 6, reserved=12)]:
        made.observe(0.0, beat)
    assert made.expected_wait_us("w") == 10_000
    made.forget("s1")
    assert made.expected_wait_us("w") == 4000
    made.observe(0.0, Beat("worker", "other", 1, 1, 100, slots=1, queued=12))
    assert made.expected_wait_us("w") == 2500
    made.forget("other")
    assert made.expected_wait_us("w") == 4000


def test_a_scheduler_of_very_many_jobs_counts_their_tasks_for_each_tenth_beat_only() -> None:
    world = World(workers=1, beat_interval_s=0.1)

    def told() -> list[int]:
        return [effect.beat.queued for effect in world.said() if isinstance(effect, fx.Deposit)]

    for k in range(scheduler.FEW_JOBS + 1):
        world.hear(CLIENT, submit(1, job=f"j{k}"))
        world.said()  # a turn for each
    world.machine.start(world.now)
    assert told() == [scheduler.FEW_JOBS + 1]
    world.hear(CLIENT, submit(1, job="another"))
    world.wait(0.95)
    assert told() == [scheduler.FEW_JOBS + 1] * 9
    world.wait(0.1)
    assert told() == [scheduler.FEW_JOBS + 2]
