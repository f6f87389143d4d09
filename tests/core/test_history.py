"""What a scheduler tells of single tasks, of unfinished jobs and finished ones, and when it forgets."""

from __future__ import annotations

import msgspec
import pytest

from sparrowmq import limits
from sparrowmq.core import invariants
from sparrowmq.core.history import FAILURES_MAX
from sparrowmq.limits import SchedulerLimits
from sparrowmq.protocol import messages as m
from tests.support.scheduler import CLIENT, SPEC, World, hello, result, submit

Told = list[tuple[float, str, int, str, str]]


def tasks(world: World, indices: list[int] | None = None, job: str = "a") -> list[m.TaskStatus]:
    return world.ask(m.Query(3, "tasks", job, indices or [])).tasks


def failures(world: World, job: str = "a") -> list[m.TaskStatus]:
    return world.ask(m.Query(3, "failures", job)).tasks


def told(row: m.TaskStatus) -> Told:
    return [(round(e.unix_s, 3), e.kind, e.attempt, e.worker, e.detail) for e in row.events]


def finish(world: World, job: str, tasks: int = 1, status: int = m.SUCCEEDED, payload: bytes = b"r") -> None:
    """Run a job from its start to its end."""
    world.hear(CLIENT, submit(tasks, job=job))
    got = world.start("w1", tasks, job)
    message = result(got, status=status, payload=payload)
    world.hear("w1", msgspec.structs.replace(message, job=job))
    world.said()


def test_the_usual_life_of_a_task() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    assert [(row.index, row.state, row.attempts, row.worker) for row in tasks(world)] == [
        (0, "unplaced", 0, ""),
        (1, "unplaced", 0, ""),
    ]
    world.now = 1.5
    world.start("w1")
    world.now = 2.0
    assert told(tasks(world, [0])[0]) == [(1.0, "submitted", 0, "", ""), (1.5, "launched", 1, "w1", "")]
    world.hear("w1", result([0]))
    [row] = tasks(world, [0])
    assert (row.job, row.state, row.service_us, row.failure) == ("a", "succeeded", 1000, b"")
    assert told(row)[2:] == [(2.0, "succeeded", 1, "w1", "")]
    assert world.job().events == {}


def test_what_is_unusual_stands_between_with_the_launch_that_it_happened_to() -> None:
    world = World(workers=2)
    spec = m.JobSpec(kind=m.SLEEP, retries=1, backoff_s=0.2)
    world.hear(CLIENT, submit(1, spec=spec))
    world.start("w1")
    world.now = 1.1
    world.hear("w1", m.Returned(0, "a", 0, [0], [1], "slow"))
    world.start("w2")
    world.lose("w2")
    world.wait(0.1)
    world.start("w1")
    world.hear("w1", result([0], attempt=3, status=m.RETRY))
    assert tasks(world)[0].state == "resting"
    world.wait(0.3)
    world.start("w1")
    world.hear("w1", result([0], seq=2, attempt=4, status=m.FAILED, payload=b"no"))
    [row] = failures(world)
    assert told(row) == [
        (1.0, "submitted", 0, "", ""),
        (1.0, "launched", 1, "w1", ""),
        (1.1, "returned", 1, "w1", "slow"),
        (1.1, "launched", 2, "w2", ""),
        (1.11, "lost", 2, "w2", "its connection was lost"),
        (1.2, "launched", 3, "w1", ""),
        (1.2, "failed", 3, "w1", ""),
        (1.4, "retried", 0, "", "after 1 failures"),
        (1.5, "launched", 4, "w1", ""),
        (1.5, "failed", 4, "w1", ""),
    ]
    assert (row.state, row.attempts, row.failure) == ("failed", 4, b"no")
    assert world.job().how == "done"


def test_the_first_failures_are_kept_with_their_payloads() -> None:
    world = World(workers=1)
    count = FAILURES_MAX + 5
    world.hear(CLIENT, submit(count + 2))
    world.start("w1", count + 2)
    world.hear("w1", result([0]), result([1], seq=2, status=m.TIMED_OUT, payload=b"late"))
    big = b"x" * (limits.FAILURE_BYTES_MAX + 1)
    world.hear("w1", result([2], seq=3, status=m.FAILED, payload=big))
    framed = m.Result(4, "a", 0, [3], [1], bytes([m.FAILED]), [1], [m.Blob(bytearray(b"framed"), 6)])
    world.hear("w1", framed)
    world.machine.take_effects()  # the outcome with the frame
    world.hear("w1", result(list(range(4, count + 2)), seq=5, status=m.FAILED, payload=b"why"))
    rows = failures(world)
    assert [row.index for row in rows] == list(range(1, 1 + FAILURES_MAX))
    assert [row.failure for row in rows] == [b"late", b"", b"framed"] + [b"why"] * (FAILURES_MAX - 3)
    assert tasks(world, [1])[0].failure == b"late"


def test_a_lost_task_is_among_the_failures() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1, spec=m.JobSpec(kind=m.SLEEP, max_attempts=1)))
    world.start("w1")
    world.lose("w1")
    world.wait(0.1)
    [row] = failures(world)
    assert [event.kind for event in row.events] == ["submitted", "launched", "lost", "lost"]
    assert b"TaskLost" in row.failure


def test_tasks_of_an_aborted_job_are_cancelled() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2))
    world.start("w1")
    world.hear(CLIENT, submit(1, job="b"))
    world.now = 2.0
    world.hear("w1", m.Stale("a", 3))
    assert [(row.state, row.events[-1].kind, row.events[-1].unix_s) for row in tasks(world)] == [
        ("cancelled", "cancelled", 2.0)
    ] * 2
    row = world.row()
    assert (row.state, row.counts, row.unplaced, row.launched) == ("cancelled", [0, 0, 0, 2, 0], 0, 0)


@pytest.mark.parametrize("query", [m.Query(1, "tasks", "zz", [0]), m.Query(1, "failures", ""), m.Query(1, "?", "a")])
def test_nothing_is_told_of_jobs_that_are_not_known(query: m.Query) -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(1))
    assert world.ask(query).tasks == []


def test_rows_are_bounded_and_tasks_of_other_submissions_are_left_out() -> None:
    world = World()
    world.hear(CLIENT, submit(5000, payloads=[b"p"]))
    assert len(tasks(world)) == limits.TASK_ROWS_MAX
    assert [row.index for row in tasks(world, [7, 99_999, 4999])] == [7, 4999]
    world.hear(CLIENT, submit(2, epoch=1, indices=[4, 9]))
    assert [row.index for row in tasks(world)] == [4, 9]


def test_finished_jobs_keep_their_ledger_longer_than_their_tasks() -> None:
    world = World(workers=1, limits=SchedulerLimits(history_tasks=5, finished_jobs=3))
    for job, count in (("a", 3), ("b", 2), ("c", 1)):
        finish(world, job, count)
    assert [len(tasks(world, job=job)) for job in "abc"] == [0, 2, 1]
    row = world.row("a")
    assert (row.counts[m.SUCCEEDED], round(row.service_p50_ms, 6), row.response_s) == (3, 1.0, 0.0)
    finish(world, "d", 5)
    assert [len(tasks(world, job=job)) for job in "bcd"] == [0, 0, 5]
    assert [job.id for job in world.machine.state.history] == ["b", "c", "d"]
    finish(world, "e", 6)  # alone too large
    assert [len(tasks(world, job=job)) for job in "de"] == [0, 0]
    assert world.row("e").counts[m.SUCCEEDED] == 6


def test_failures_and_events_are_bounded_over_all_jobs() -> None:
    world = World(workers=1, limits=SchedulerLimits(history_bytes=1000))
    for job in "abc":
        finish(world, job, 1, m.FAILED, b"f" * 250)
    assert [[row.failure for row in failures(world, job)] for job in "abc"] == [[], [b"f" * 250], [b"f" * 250]]
    finish(world, "d", 4, m.FAILED, b"f" * 500)  # the others make room, for the payload of one and two rows
    assert [len(failures(world, job)) for job in "abc"] == [0, 0, 0]
    assert [len(row.failure) for row in failures(world, "d")] == [500, 0]


def test_events_of_one_job_cannot_fill_the_memory() -> None:
    world = World(workers=1, limits=SchedulerLimits(history_bytes=5000))
    world.hear(CLIENT, submit(1))
    world.said()
    for attempt in range(1, 100):
        world.start("w1")
        world.hear("w1", m.Returned(0, "a", 0, [0], [attempt], "slow"))
    world.said()
    assert 10 < len(tasks(world)[0].events) < 30


def test_a_finished_job_holds_nothing_else() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2, function=b"f" * 100, spec=m.JobSpec(m.SLEEP, retries=3, backoff_s=0.01)))
    world.start("w1", 2)
    world.hear("w1", result([0], status=m.RETRY), result([1], seq=2))
    world.hear(CLIENT, m.Kill("a", 0))
    world.said()
    invariants.check(world.machine)
    record = world.job()
    assert record.how == "done"
    assert not any(map(len, (record._payloads, record.function, record.rests, record.failures, record.workers)))


def test_a_job_at_a_later_epoch_replaces_the_finished_one() -> None:
    world = World(workers=1)
    finish(world, "a", 1)
    world.hear(CLIENT, submit(2, epoch=1))
    world.said()
    assert [row.state for row in tasks(world)] == ["unplaced"] * 2
    world.hear("w1", m.Request(1, "a", 1, 1, 2), result([0, 1], seq=2, epoch=1))
    assert [job.tasks for job in world.machine.state.history] == [2]


def test_status_says_who_answers_and_when() -> None:
    world = World(workers=1)
    status = world.ask(m.Query(4, "summary"))
    assert (status.host, status.pid, status.package, status.unix_s) == ("box", 99, "", world.now)
    assert (status.jobs, status.tasks, len(status.workers)) == ([], [], 1)
    assert status.counters["resting_now"] == 0


def test_the_row_of_a_job_has_what_it_rests_and_what_it_printed() -> None:
    world = World(workers=1)
    world.hear(CLIENT, submit(2, spec=SPEC))
    world.start("w1")
    world.hear("w1", m.Output("a", 0, 0, 1, 1, b"hello"))
    row = world.row()
    assert (row.state, row.output_bytes, row.detached, row.resting, row.retries, row.hedges) == (
        "running", 5, False, 0, 0, 0,
    )  # fmt: skip
    assert world.machine.state.job("nobody") is None
    world.hear("x", hello(m.CLIENT, "c9"))


@pytest.mark.parametrize(("payload", "detail"), [(b"interrupted", "interrupted"), (b"killed", "killed"), (b"", "")])
def test_a_cancelled_task_tells_how_it_ended(payload: bytes, detail: str) -> None:
    world = World(workers=1)
    finish(world, "a", status=m.CANCELLED, payload=payload)
    [row] = tasks(world)
    assert told(row)[-1] == (1.0, "cancelled", 1, "w1", detail)
    assert failures(world) == []
