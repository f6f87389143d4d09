"""The task table of a job: every task in one state, counts that agree."""

from __future__ import annotations

import pytest

from sparrowmq.core import invariants
from sparrowmq.core.job import ABSENT, LAUNCHED, UNPLACED, Job
from sparrowmq.protocol import messages as m

SPEC = m.JobSpec(kind=m.SLEEP)


def job(tasks: int = 4, *, shared: bool = False, **fields: list[int]) -> Job:
    payloads: list[m.Payload] = [b"same"] if shared else [b"p%d" % k for k in range(tasks)]
    return Job(m.Submit("a", 0, SPEC, tasks, payloads, b"fff", **fields), "c1", 10.0)


def taken(record: Job, count: int, worker: str = "w1") -> list[int]:
    record.workers.add(worker)
    return record.take(count, worker)


def result(indices: list[int], attempts: list[int], status: int = m.SUCCEEDED) -> m.Result:
    n = len(indices)
    return m.Result(1, "a", 0, indices, attempts, bytes([status] * n), [1_000_000] * n, [b"r"] * n)


def test_tasks_are_taken_in_order_and_finished_by_results() -> None:
    record = job()
    assert (record.tasks, record.unplaced, record.bytes) == (4, 4, 11)
    assert taken(record, 2) == [0, 1]
    assert record.payloads_of([0, 1]) == [b"p0", b"p1"]
    assert record.launched_on("w1") == [0, 1]
    invariants.check_job(record)
    assert record.results(result([1, 0], [1, 1]), 12.5) == ([0, 1], ["w1", "w1"])
    invariants.check_job(record)
    assert (record.unplaced, record.launched, record.counts[m.SUCCEEDED]) == (2, 0, 2)
    assert list(record.service_s) == [1.0, 1.0]
    assert list(record.queueing_s) == [1.5, 1.5]
    assert taken(record, 9) == [2, 3]


def test_what_is_put_back_goes_first_under_a_new_attempt() -> None:
    record = job()
    taken(record, 3)
    for index in (2, 0):
        record.put_back(index)
    invariants.check_job(record)
    assert taken(record, 9, "w2") == [2, 0, 3]
    assert record.attempts == [2, 1, 2, 1]
    assert record.place == ["w2", "w1", "w2", "w2"]


def test_the_first_result_of_an_issued_attempt_wins() -> None:
    record = job(1)
    taken(record, 1)
    record.put_back(0)
    assert record.results(result([0], [2]), 11.0) == ([], [])  # never issued
    assert record.results(result([0], [0]), 11.0) == ([], [])
    assert record.results(result([7], [1]), 11.0) == ([], [])
    assert record.results(result([0, 0], [1, 1], m.FAILED), 11.0) == ([0], [""])  # it waited for its relaunch
    assert record.results(result([0], [1]), 11.0) == ([], [])
    assert record.done
    assert record.counts == [0, 1, 0, 0, 0]
    assert taken(record, 5) == []


def test_a_result_that_comes_while_the_next_attempt_runs_counts() -> None:
    record = job(1)
    taken(record, 1)
    record.put_back(0)
    taken(record, 1, "w2")
    assert record.results(result([0], [1]), 11.0) == ([0], ["w2"])
    assert record.launched_on("w2") == []


def test_finish_ends_a_task_in_either_state_and_drops_its_payload() -> None:
    record = job(3)
    taken(record, 1)
    record.finish(0, m.LOST)
    record.finish(2, m.CANCELLED)
    invariants.check_job(record)
    assert record._payloads == [None, b"p1", None]
    assert record.unfinished() == [1]
    assert record.unfinished([0, 1, 99]) == [1]


def test_a_resubmission_has_only_its_own_tasks() -> None:
    record = job(2, indices=[5, 2], deaths=[0, 2])
    assert [record.state[k] for k in range(6)] == [ABSENT, ABSENT, UNPLACED, ABSENT, ABSENT, UNPLACED]
    assert record.deaths == {2: 2}
    assert taken(record, 9) == [5, 2]
    assert record.payloads_of([2, 5]) == [b"p1", b"p0"]
    assert record.state[2] == LAUNCHED
    assert record.results(result([0], [1]), 11.0) == ([], [])
    invariants.check_job(record)


def test_a_shared_payload_stays_shared() -> None:
    record = job(3, shared=True)
    assert record.payloads_of(taken(record, 2)) == [b"same"]
    record.finish(0, m.SUCCEEDED)
    assert record.payloads_of([1, 2]) == [b"same"]


def test_reservations_are_counted() -> None:
    record = job()
    record.workers.update(["w1", "w2"])
    record.reserve("w1", 3)
    record.reserve("w2", 1)
    record.use("w1", 1)
    record.use("w2", 5)
    record.use("w3", 1)
    invariants.check_job(record)
    assert (record.reserved, record.reserved_total, record.probes) == ({"w1": 2}, 2, 4)
    assert record.withdraw() == {"w1": 2}
    assert (record.reserved, record.reserved_total, record.cancels) == ({}, 0, 2)


def test_the_invariants_can_fail() -> None:
    record = job()
    record.unplaced -= 1
    with pytest.raises(AssertionError, match="job a: unplaced: 3, expected 4"):
        invariants.check_job(record)
