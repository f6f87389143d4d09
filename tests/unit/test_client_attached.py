"""Durable jobs by their id: what is said where there is no Redis, and one row a job of what two sources know."""

from __future__ import annotations

import pytest

import sparrowmq
from sparrowmq.client import attached
from sparrowmq.client.options import make_spec
from sparrowmq.core.orphans import owner_of, parse_owner
from sparrowmq.errors import Unavailable, UsageError
from sparrowmq.protocol import messages as m
from sparrowmq.store.jobs import KeptJob


def told(state: str, counts: list[int], *, epoch: int = 0, tasks: int = 3, response_s: float = 0.0) -> m.JobStatus:
    return m.JobStatus(
        "j", "n", "batch", state, tasks, 0, tasks - sum(counts), counts, epoch, "c", 5.0, response_s,
        0, 0, 0, 1, 2, 3, 4,
    )  # fmt: skip


def kept(state: str, counts: list[int], *, epoch: int = 0, id: str = "j") -> KeptJob:
    ended = 0.0 if state == "open" else 9.0
    return KeptJob(id, state, epoch, "s1 1", 3, m.SLEEP, "n", "c", True, 5.0, ended, counts)


NONE, TWO, ALL = [0] * 5, [2, 0, 0, 0, 0], [3, 0, 0, 0, 0]


def test_a_job_that_only_redis_knows_is_a_row() -> None:
    (row,) = attached.merged([], [kept("open", TWO)])
    assert (row.id, row.state, row.tasks, row.unplaced, row.counts, row.detached) == ("j", "waiting", 3, 1, TWO, True)
    (row,) = attached.merged([], [kept("done", ALL)])
    assert (row.state, row.response_s, row.unplaced) == ("done", 4.0, 0)


def test_a_scheduler_tells_more_of_a_job_that_has_not_moved() -> None:
    ours = told("running", TWO)
    assert attached.merged([ours], [kept("open", TWO)]) == [ours]
    assert attached.merged([ours], []) == [ours]


def test_of_a_job_that_has_moved_redis_has_the_whole() -> None:
    (row,) = attached.merged([told("running", NONE, epoch=1, tasks=1)], [kept("open", TWO, epoch=1)])
    assert (row.state, row.tasks, row.counts, row.launched, row.probes) == ("running", 3, TWO, 1, 1)
    (row,) = attached.merged([told("done", [1, 0, 0, 0, 0], epoch=1, tasks=1)], [kept("done", ALL, epoch=1)])
    assert (row.state, row.counts, row.response_s) == ("done", ALL, 4.0)


def test_a_scheduler_that_has_let_a_job_go_is_not_believed() -> None:
    for stale in (told("cancelled", [0, 0, 0, 3, 0]), told("running", NONE)):
        (row,) = attached.merged([stale], [kept("open", TWO, epoch=1)])
        assert (row.state, row.epoch, row.counts) == ("waiting", 1, TWO)


def test_rows_are_sorted_and_none_stands_there_twice() -> None:
    rows = attached.merged(
        [told("running", TWO)], [kept("open", NONE, id="k"), kept("open", TWO), kept("done", ALL, id="a")]
    )
    assert [row.id for row in rows] == ["a", "j", "k"]


def test_without_a_redis_nothing_can_be_attached() -> None:
    with pytest.raises(UsageError, match="and no Redis"):
        sparrowmq.attach("j", "tcp://127.0.0.1:1")
    with pytest.raises(Unavailable, match="cannot use Redis"):
        sparrowmq.attach("j", "redis://127.0.0.1:1")
    for bad in ("", "x" * 300, 7):
        with pytest.raises(UsageError, match="is no job id"):
            sparrowmq.attach(bad, "redis://127.0.0.1:1")  # type: ignore[arg-type]


def test_the_option_is_a_flag() -> None:
    assert make_spec(durable=True).durable
    with pytest.raises(UsageError, match="durable: expected True or False, got 'yes'"):
        make_spec(durable="yes")  # type: ignore[typeddict-item]


def test_owners_are_read_as_they_are_written() -> None:
    assert parse_owner(owner_of("scheduler-a b", 17)) == ("scheduler-a b", 17)
    assert parse_owner("") == parse_owner("nonsense") == ("", 0)
