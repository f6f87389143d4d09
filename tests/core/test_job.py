"""The task table of a job: every task in one state, counts that agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from sparrowmq.core import invariants
from sparrowmq.core.attempts import Settled
from sparrowmq.core.job import ABSENT, LAUNCHED, QUANTILES, UNPLACED, Job
from sparrowmq.protocol import messages as m

SPEC = m.JobSpec(kind=m.SLEEP)


def job(tasks: int = 4, *, shared: bool = False, **fields: list[int]) -> Job:
    payloads: list[m.Payload] = [b"same"] if shared else [b"p%d" % k for k in range(tasks)]
    return Job(m.Submit("a", 0, SPEC, tasks, payloads, b"fff", **fields), "c1", 10.0)


def taken(record: Job, count: int, worker: str = "w1", now: float = 10.5) -> list[int]:
    """Launch tasks; return their numbers."""
    record.workers.add(worker)
    indices, attempts, payloads = record.take(now, count, worker)
    assert attempts == [record.attempts[index] for index in indices]
    assert not indices or payloads == record.payloads_of(indices)
    return indices


def ended(record: Job, message: m.Result, now: float = 11.0) -> Settled:
    """Apply results as those of worker w1, in whichever way takes them."""
    before = record.launched
    if record.settle_run(message, "w1", now):
        n = len(message.indices)
        assert record.launched == before - n
        return Settled(list(range(n)), bytearray(n), ["w1"] * n)
    return record.results(message, "w1", now)


NOTHING = Settled(ignored=1)


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
    assert ended(record, result([1, 0], [1, 1]), 12.5) == Settled([0, 1], bytearray(2), ["w1", "w1"])
    invariants.check_job(record)
    assert (record.unplaced, record.launched, record.counts[m.SUCCEEDED]) == (2, 0, 2)
    assert record.times() == ([1.5, 1.5], [1.0, 1.0])
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
    assert record.launched_on("w1") == [1]


def test_the_first_result_of_an_issued_attempt_wins() -> None:
    record = job(1)
    taken(record, 1)
    record.put_back(0)
    assert ended(record, result([0], [1])) == NOTHING  # given back
    record.astray[0, 1] = "w1"  # or rather thought lost with its worker
    assert ended(record, result([0], [2])) == NOTHING  # never issued
    assert ended(record, result([0], [0])) == NOTHING
    assert ended(record, result([7], [1])) == NOTHING
    both = ended(record, result([0, 0], [1, 1], m.FAILED))  # it waited for its relaunch
    assert both == Settled([0], bytearray([m.FAILED]), ignored=1)
    assert ended(record, result([0], [1])) == NOTHING
    assert record.done
    assert record.counts == [0, 1, 0, 0, 0]
    assert taken(record, 5) == []


def test_a_result_that_comes_while_the_next_attempt_runs_counts() -> None:
    record = job(1)
    taken(record, 1)
    record.put_back(0)
    record.astray[0, 1] = "w1"
    taken(record, 1, "w2")
    assert ended(record, result([0], [1])) == Settled([0], bytearray(1), ["w2"])
    assert record.launched_on("w2") == []


def test_finish_ends_a_task_in_either_state_and_drops_its_payload() -> None:
    record = job(3)
    taken(record, 1)
    record.finish(0, m.LOST, 11.0)
    record.finish(2, m.CANCELLED, 11.0)
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
    assert ended(record, result([0], [1])) == NOTHING
    invariants.check_job(record)


def test_a_shared_payload_stays_shared() -> None:
    record = job(3, shared=True)
    assert taken(record, 2) == [0, 1]
    assert record.payloads_of([0, 1]) == [b"same"]
    record.finish(0, m.SUCCEEDED, 11.0)
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
    assert (record.reserved, record.reserved_total, record.withdrawn) == ({}, 0, record.round)


def test_the_invariants_can_fail() -> None:
    record = job()
    record.unplaced -= 1
    with pytest.raises(AssertionError, match="job a: unplaced: 3, expected 4"):
        invariants.check_job(record)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Requests and answers: (count,) to launch so many at w1, (first, n) to end a run of what is launched there."""
    step = st.one_of(st.tuples(st.integers(1, 4)), st.tuples(st.integers(0, 9), st.integers(1, 4)))
    return draw(st.lists(step, max_size=20))


@given(steps=histories(), shared=st.booleans(), put_back=st.sets(st.integers(0, 9), max_size=2))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_runs_are_settled_as_single_tasks_are(steps: list[tuple[int, ...]], shared: bool, put_back: set[int]) -> None:
    quick, plain = job(10, shared=shared), job(10, shared=shared)
    for step in steps:
        if len(step) == 1:
            assert taken(quick, step[0]) == taken(plain, step[0])
            for index in put_back.intersection(quick.launched_on("w1")):
                quick.put_back(index)
                plain.put_back(index)
            continue
        indices = [index for index in range(step[0], sum(step)) if index < 10]
        message = result(indices, [quick.attempts[index] for index in indices])
        ended(quick, message)
        plain.results(message, "w1", 11.0)
        for name in ("state", "attempts", "place", "end_times", "service_us", "counts", "launched", "unplaced"):
            assert getattr(quick, name) == getattr(plain, name), name
        assert quick._payloads == plain._payloads
    if not quick.done:
        invariants.check_job(quick)


def test_a_submission_is_not_changed() -> None:
    message = m.Submit("a", 0, SPEC, 2, [b"p0", b"p1"])
    record = Job(message, "c1", 10.0)
    taken(record, 2)
    ended(record, result([0, 1], [1, 1]))
    assert message.payloads == [b"p0", b"p1"]


def test_times_are_a_sample_of_a_large_job() -> None:
    record = job(5000, shared=True)
    assert taken(record, 5000) == list(range(5000))
    numbers = list(range(5000))
    message = m.Result(1, "a", 0, numbers, [1] * 5000, bytes(5000), [us * 1000 for us in numbers], [b""] * 5000)
    assert record.settle_run(message, "w1", 100.0)
    queueing_s, service_s = record.times()
    assert len(queueing_s) == len(service_s) == QUANTILES
    assert sorted(service_s)[QUANTILES // 2] == pytest.approx(2.5)
    record.how = "done"
    record.forget_rows()
    assert record.times() == (queueing_s, service_s)
    assert not record.state
