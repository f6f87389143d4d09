"""A slot's bookkeeping, and the pace that sizes requests."""

from __future__ import annotations

import pytest

from sparrowmq.core.slots import Batch, Paces, Slot
from sparrowmq.protocol import messages as m


def slot(*batches: list[int]) -> Slot:
    record = Slot(0, pid=1)
    for indices in batches:
        task = m.Task(1, "a", 0, m.JobSpec(), indices, [1] * len(indices), [b"p"])
        record.hand(task, "s1")
    return record


def rows(batches: list[Batch]) -> list[tuple[int, list[int]]]:
    return [(batch.first_seq, batch.indices) for batch in batches]


def settled(record: Slot, first_seq: int, count: int) -> list[tuple[list[int], int]]:
    return [(indices, offset) for _, indices, _, offset in record.settle(first_seq, count)]


def test_tasks_are_numbered_across_batches() -> None:
    record = slot([10, 11], [12])
    assert rows(list(record.held)) == [(1, [10, 11]), (3, [12])]
    assert (record.held_count, record.last_seq) == (3, 3)


def test_results_settle_tasks_across_batches() -> None:
    record = slot([10, 11, 12], [20, 21], [30])
    assert settled(record, 1, 2) == [([10, 11], 0)]
    assert settled(record, 3, 2) == [([12], 0), ([20], 1)]
    assert rows(list(record.held)) == [(5, [21]), (6, [30])]
    assert record.held_count == 2
    assert settled(record, 5, 2) == [([21], 0), ([30], 1)]
    assert record.held_count == 0
    assert settled(record, 5, 2) == []


@pytest.mark.parametrize(
    ("after_seq", "cut", "kept"),
    [
        (0, [(1, [10, 11, 12]), (4, [20, 21])], []),
        (1, [(2, [11, 12]), (4, [20, 21])], [(1, [10])]),
        (3, [(4, [20, 21])], [(1, [10, 11, 12])]),
        (4, [(5, [21])], [(1, [10, 11, 12]), (4, [20])]),
        (5, [], [(1, [10, 11, 12]), (4, [20, 21])]),
    ],
)
def test_a_cut_takes_what_comes_after(
    after_seq: int, cut: list[tuple[int, list[int]]], kept: list[tuple[int, list[int]]]
) -> None:
    record = slot([10, 11, 12], [20, 21])
    assert rows(record.cut(after_seq)) == cut
    assert rows(list(record.held)) == kept
    assert record.held_count == sum(len(indices) for _, indices in kept)


def test_results_of_what_was_cut_match_nothing() -> None:
    record = slot([10, 11, 12])
    record.cut(1)
    assert settled(record, 1, 3) == [([10], 0)]
    assert record.held_count == 0


def test_a_slot_is_not_ready_while_it_is_killed_or_reclaimed() -> None:
    record = Slot(0)
    assert not record.up
    record.pid = 9
    assert record.ready
    record.reclaiming = True
    assert (record.up, record.ready) == (True, False)
    record.reclaiming = False
    record.verdict = m.CANCELLED
    assert (record.up, record.ready) == (False, False)


def test_the_window_doubles_while_tasks_are_shorter_than_a_round_trip() -> None:
    paces = Paces(10, 64, 0.02)
    assert paces.window("a", 0.001, 0.0) == 1
    sizes = []
    for _ in range(8):
        paces.observe("a", [10, 10], 0.001)
        sizes.append(paces.window("a", 0.001, 0.0))
    assert sizes == [2, 4, 8, 16, 32, 64, 64, 64]
    assert paces.window("a", 0.001, 0.0009) == 11  # what fills the rest of the round trip
    paces.slow("a")
    assert paces.window("a", 0.001, 0.0) == 1


def test_long_tasks_keep_the_window_at_one() -> None:
    paces = Paces(10, 64, 0.02)
    for _ in range(8):
        paces.observe("a", [100_000], 0.001)
    assert paces.window("a", 0.001, 0.0) == 1
    assert paces.service_s("a") == pytest.approx(0.1)


def test_a_window_is_bounded_in_time_whatever_the_round_trip() -> None:
    paces = Paces(10, 1024, 0.02)
    for _ in range(12):
        paces.observe("a", [1000], 5.0)
    assert paces.window("a", 5.0, 0.0) == 21


def test_the_paces_of_old_jobs_are_forgotten() -> None:
    paces = Paces(2, 64, 0.02)
    for job in "abc":
        paces.observe(job, [10], 0.001)
    assert len(paces) == 2
    assert paces.service_s("a") == 0.0
