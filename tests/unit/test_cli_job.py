"""Waiting for jobs by asking, with schedulers that answer what the test wants."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sparrowmq.cli import ask, job, kept, merge
from sparrowmq.errors import Unavailable
from sparrowmq.protocol import messages as m


def status(state: str, *ended: int, name: str = "j1") -> m.JobStatus:
    counts = [*ended, *[0] * (5 - len(ended))]
    return m.JobStatus(name, "", "batch", state, 3, 0, 3 - sum(counts), counts, 0, "c", 1.0, 0.0, 0, 0, 0, 0, 0, 0, 0)


@pytest.fixture
def answers(monkeypatch):
    """Answers to be given one after the other, the last one for ever; each a list of jobs."""
    given: list[list[m.JobStatus]] = []
    asked: list[tuple[str, str]] = []

    def statuses(store: object, what: str, name: str = "", **named: object) -> list[m.Status]:
        asked.append((what, name))
        rows = given.pop(0) if len(given) > 1 else given[0]
        return [m.Status(1, "scheduler-1", jobs=rows)]

    monkeypatch.setattr(ask, "statuses", statuses)
    monkeypatch.setattr(kept, "_kept", lambda store, name, owner: [])
    monkeypatch.setattr(job, "POLL_S_MIN", 0.001)
    monkeypatch.setattr(job, "POLL_S_MAX", 0.001)
    return SimpleNamespace(given=given, asked=asked)


OPTIONS = SimpleNamespace(load_found=lambda: SimpleNamespace(store=None), credentials=lambda loaded: None)


def wait(found: list[m.JobStatus], timeout_s: float | None = None):
    rows = merge.jobs([m.Status(1, "scheduler-1", jobs=found)])
    latest, over = job.wait_until_over(OPTIONS, rows, timeout_s)
    return [(row["id"], row["state"]) for row in latest], over


def test_what_is_over_is_not_asked_for(answers):
    assert wait([status("done", 3)]) == ([("j1", "done")], True)
    assert wait([]) == ([], True)
    assert answers.asked == []


def test_one_job_is_asked_for_by_its_id_until_it_is_over(answers):
    answers.given += [[status("running", 1)], [], [status("done", 2, 1)]]
    assert wait([status("running")], 30.0) == ([("j1", "failed")], True)
    assert answers.asked == [("job", "j1")] * 3


def test_several_jobs_are_asked_for_together(answers):
    answers.given += [
        [status("done", 3), status("running", name="j2"), status("running", name="j3")],
        [status("cancelled", 0, 0, 0, 3, name="j2")],
    ]
    found = [status("running"), status("running", name="j2")]
    assert wait(found, 30.0) == ([("j1", "done"), ("j2", "cancelled")], True)
    assert {what for what, _ in answers.asked} == {"jobs"}


def test_time_runs_out(answers):
    answers.given.append([status("running", 1)])
    assert wait([status("running")], 0.02) == ([("j1", "running")], False)
    assert wait([status("running")], 0.0) == ([("j1", "running")], False)


def test_a_job_that_no_scheduler_knows_any_more_ends_the_waiting(answers, monkeypatch):
    monkeypatch.setattr(job, "VANISHED_AFTER_S", 0.02)
    answers.given += [[status("running", 1)], []]
    with pytest.raises(Unavailable, match="no scheduler knows job j1 any more"):
        wait([status("running")])
