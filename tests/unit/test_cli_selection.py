"""Selectors of jobs, tasks and workers."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from sparrowmq.cli import selection
from sparrowmq.errors import UsageError

JOBS = [
    {"id": "1m8aaa", "state": "done"},
    {"id": "1m8abb", "state": "running"},
    {"id": "1m9ccc", "state": "failed"},
    {"id": "1mzddd", "state": "waiting"},
]
WORKERS = [{"id": "worker-aa1"}, {"id": "worker-aa2"}, {"id": "worker-bb1"}, {"id": "odd"}]


def jobs(selector: str) -> list[str]:
    return [row["id"] for row in selection.jobs(JOBS, selector)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("last", ["1mzddd"]),
        ("1", ["1mzddd"]),
        ("2", ["1m9ccc"]),
        ("1-3", ["1m8abb", "1m9ccc", "1mzddd"]),
        ("4-4", ["1m8aaa"]),
        ("2,4", ["1m8aaa", "1m9ccc"]),
        ("all", ["1m8aaa", "1m8abb", "1m9ccc", "1mzddd"]),
        ("running", ["1m8abb", "1mzddd"]),
        ("1m9", ["1m9ccc"]),
        ("1m8abb", ["1m8abb"]),
        ("last, 1mzd ,1", ["1mzddd"]),
        ("running,1m8aa", ["1m8aaa", "1m8abb", "1mzddd"]),
    ],
)
def test_jobs(selector, expected):
    assert jobs(selector) == expected


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("5", "there is no job 5: the schedulers know only 4"),
        ("1-5", "there is no job 5"),
        ("0", "'0' is no range of jobs"),
        ("3-1", "'3-1' is no range of jobs"),
        ("1m8", "2 jobs begin with 1m8: 1m8aaa, 1m8abb"),
        ("xyz", "no scheduler knows a job xyz"),
        ("1234567", "no scheduler knows a job 1234567"),
        ("1,,2", "empty part"),
        ("", "empty part"),
    ],
)
def test_what_means_no_job(selector, said):
    with pytest.raises(UsageError, match=said):
        jobs(selector)


def test_among_no_jobs_all_and_running_mean_none():
    assert selection.jobs([], "all") == selection.jobs([], "running") == []
    with pytest.raises(UsageError, match="the schedulers know none"):
        selection.jobs([], "last")


@pytest.mark.parametrize(
    ("selector", "plural"), [("last", False), ("3", False), ("1m8", False), ("all", True), ("1-1", True), ("1,2", True)]
)
def test_whether_a_selector_may_mean_several_is_seen_from_it_alone(selector, plural):
    assert selection.is_plural(selector) is plural


@pytest.mark.parametrize(
    ("selector", "expected"),
    [("all", list(range(10))), ("7", [7]), ("0-2,9", [0, 1, 2, 9]), ("5,1-5,all", list(range(10))), ("3-3", [3])],
)
def test_tasks(selector, expected):
    assert selection.tasks(selector, 10) == expected


@pytest.mark.parametrize(
    ("selector", "said"), [("10", "0 to 9"), ("8-12", "0 to 9"), ("2-1", "'2-1'"), ("x", "'x'"), ("-1", "'-1'")]
)
def test_what_means_no_task(selector, said):
    with pytest.raises(UsageError, match=said):
        selection.tasks(selector, 10)


@given(st.sets(st.integers(0, 99), min_size=1))
def test_any_set_of_tasks_can_be_named(chosen):
    assert selection.tasks(",".join(map(str, chosen)), 100) == sorted(chosen)


def test_a_range_larger_than_any_job_costs_nothing():
    with pytest.raises(UsageError):
        selection.tasks("0-99999999999999", 10)


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (["all"], ["worker-aa1", "worker-aa2", "worker-bb1", "odd"]),
        (["bb"], ["worker-bb1"]),
        (["worker-b"], ["worker-bb1"]),
        (["worker-aa2", "aa1"], ["worker-aa1", "worker-aa2"]),
        (["aa1,bb"], ["worker-aa1", "worker-bb1"]),
        (["odd"], ["odd"]),
        ([], []),
    ],
)
def test_workers(selectors, expected):
    assert [row["id"] for row in selection.workers(WORKERS, selectors)] == expected


def test_what_means_no_worker():
    with pytest.raises(UsageError, match="2 workers begin with worker-aa: worker-aa1, worker-aa2"):
        selection.workers(WORKERS, ["aa"])
    with pytest.raises(UsageError, match="no scheduler knows a worker worker-zz"):
        selection.workers(WORKERS, ["zz"])
