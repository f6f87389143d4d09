"""The swarm itself: seeds that are clean, the same everywhere, told when they fail, and gone on with later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from sparrowmq.errors import UsageError
from sparrowmq.experiments import swarm
from sparrowmq.protocol import messages as m
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.slot import Work
from sparrowmq.sim.swarm import model
from sparrowmq.sim.swarm.basics import TASKS_PER_S
from sparrowmq.sim.swarm.drawing import draw
from sparrowmq.sim.swarm.play import Play
from sparrowmq.sim.swarm.scenario import Scenario
from tests.support.planted import BUGS

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
SMALL = swarm.Parameters(workers=6, duration_s=3.0)


@cache
def first() -> list[Scenario]:
    """The first hundred scenarios, to look at only."""
    return [draw(seed) for seed in range(100)]


def test_a_handful_of_seeds_is_clean() -> None:
    for seed in range(6):
        verdict = swarm.play(seed, swarm.Parameters())
        assert verdict.failure == ""
        assert verdict.events >= swarm.EVENTS_MIN


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_two_hundred_seeds_are_clean() -> None:
    report = swarm.run(first=0, seeds=200, parameters=swarm.Parameters(), processes=2)
    assert report.findings == []
    assert (report.seeds, report.wanted) == (200, 200)
    assert report.events_min >= swarm.EVENTS_MIN


def test_a_seed_leaves_some_kinds_of_faults_out_and_some_seeds_have_none() -> None:
    kinds = [frozenset(scenario.kinds) for scenario in first()]
    assert len(set(kinds)) > 50
    assert frozenset() in kinds
    assert sum(scenario.quiet for scenario in first()) > 5
    assert {len(scenario.schedulers) for scenario in first()} == {1, 2, 3}


@pytest.mark.parametrize("seed", [8416, 8725])
def test_a_seed_that_would_have_few_tasks_is_given_more(seed: int) -> None:
    scenario = draw(seed)
    assert sum(len(job.works) for job in scenario.jobs) >= TASKS_PER_S * scenario.duration_s
    assert {step.arguments[0] for step in scenario.steps if step.what == "submit"} == set(range(len(scenario.jobs)))
    assert swarm.play(seed, swarm.Parameters()).failure == ""


PROGRAM = """
from sparrowmq.sim.journal import Journal
from sparrowmq.sim.swarm.play import Play
from sparrowmq.sim.swarm.drawing import draw
for seed in (3, 4, 5):
    journal = Journal()
    verdict = Play(draw(seed, duration_s=8.0), journal).run()
    print(seed, journal.digest(), verdict.digest, verdict.events, verdict.failure)
"""


def test_a_seed_is_the_same_in_every_process_whatever_the_hash_seed() -> None:
    told = []
    for hash_seed in ("0", "1", "2"):
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=50)
        told.append(done.stdout)
    assert told[0] == told[1] == told[2]
    assert len(set(told[0].split())) > 6


def test_a_journal_changes_nothing() -> None:
    with_one = Play(draw(7, workers=6, duration_s=3.0), Journal(100)).run()
    assert with_one == Play(draw(7, workers=6, duration_s=3.0)).run()


def test_a_seed_that_fails_is_told_in_one_line_and_a_transcript(tmp_path: Path) -> None:
    with BUGS["never_acknowledges_results"]():
        verdict = swarm.play(1, SMALL)
        text = swarm.transcript(1, SMALL, 50)
    assert verdict.found_by == "_node_monitor_at_rest"
    assert SMALL.replay(1) == "sparrowmq sim swarm --first 1 --seeds 1 --workers 6 --duration 3"
    assert SMALL.replay(1) in text
    assert verdict.failure in text
    assert "submit" in text  # the schedule


def test_a_long_run_goes_on_where_it_was_and_refuses_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "seeds"
    first = swarm.run(first=0, seeds=3, parameters=SMALL, processes=2, resume=path)
    path.write_text(path.read_text() + '{"seed": 3, "eve')  # it ended in the middle of a line
    lines = path.read_text().splitlines()
    assert len(lines) == 5
    second = swarm.run(first=1, seeds=4, parameters=SMALL, processes=2, resume=path)
    assert (first.seeds, first.resumed, second.seeds, second.resumed) == (3, 0, 4, 2)
    seeds = [json.loads(line)["seed"] for line in path.read_text().splitlines()[1:]]
    assert sorted(seeds) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match=r"workers 6, this one has 7"):
        swarm.run(first=0, seeds=3, parameters=swarm.Parameters(7, 3.0), resume=path)
    path.write_text("no json\n")
    with pytest.raises(UsageError, match="line 1"):
        swarm.run(first=0, seeds=3, parameters=SMALL, resume=path)


def test_an_interrupt_ends_the_children_and_returns_what_is_done(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from sparrowmq.experiments import swarm\n"
        "if __name__ == '__main__':\n"
        "    report = swarm.run(first=0, seeds=100000, parameters=swarm.Parameters(6, 3.0), processes=2,"
        " resume=__import__('pathlib').Path(sys.argv[1]))\n"
        "    print(report.interrupted, report.seeds, report.wanted)\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    kept = tmp_path / "kept"
    process = subprocess.Popen([sys.executable, script, kept], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        while not kept.exists() or len(kept.read_text().splitlines()) < 4:
            assert process.poll() is None
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        children = [pid for pid in listed if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=10)
    finally:
        process.kill()
    interrupted, seeds, wanted = said.split()
    assert (interrupted, wanted) == ("True", "100000")
    assert 3 <= int(seeds) < 100_000
    assert len(children) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


# -- the model


def _task(**changes: object) -> model.Task:
    task = model.Task("task", Work(0.1), m.JobSpec(), [model.Start(1.0, "w", 0, 1)], _shown(m.SUCCEEDED))
    for name, value in changes.items():
        setattr(task, name, value)
    return task


def test_what_concerns_deaths_is_drawn_and_left_out() -> None:
    scenarios = first()
    assert {len(scenario.assistants) for scenario in scenarios} == {0, 1, 2, 3}
    assert sum(scenario.beats for scenario in scenarios) > 30
    assert sum(scenario.quiet and bool(scenario.assistants) for scenario in scenarios) > 5
    assert sum(scenario.adopts for scenario in scenarios) > 2
    drawn = {kind for scenario in scenarios for kind in scenario.kinds}
    assert drawn >= {"freeze", "fail_over", "unwatch", "store"}
    assert sum(not {"freeze", "fail_over", "unwatch", "store"} & set(scenario.kinds) for scenario in scenarios) > 20


def test_keys_are_drawn_and_left_out() -> None:
    scenarios = first()
    keyed = [scenario for scenario in scenarios if scenario.keys]
    assert 15 < len(keyed) < 45
    assert all(set(scenario.keys) == set(scenario.clients) for scenario in keyed)
    assert any(len(set(scenario.keys.values())) < len(scenario.keys) for scenario in keyed)  # several of one key
    assert {owner for scenario in keyed for owner in scenario.observers.values()} == {"", "key-1", "key-2"}
    assert not any(scenario.limited_s or "pry" in scenario.kinds for scenario in scenarios if not scenario.keys)
    assert sum(scenario.scheduler.limits.submits_per_s > 0 for scenario in keyed) > 5
    assert sum(scenario.scheduler.limits.probes_per_s > 0 for scenario in keyed) > 5


def test_load_hints_are_drawn_and_left_out() -> None:
    scenarios = first()
    hinted = [scenario for scenario in scenarios if scenario.hinted]
    assert 8 < len(hinted) < 30
    for scenario in hinted:
        assert scenario.assistants
        assert scenario.assistant.hint_interval_s > 0.0
        assert sum(job.spec["policy"] == "assisted" for job in scenario.jobs) > len(scenario.jobs) / 3


def test_durable_jobs_are_drawn_and_left_out() -> None:
    scenarios = first()
    durable = [scenario for scenario in scenarios if scenario.durable]
    assert 20 < len(durable) < 50
    assert any(scenario.quiet for scenario in durable)
    assert {scenario.unanswered for scenario in durable} == {0.0, 0.01, 0.1}
    assert any(step.what == "store_emptied" for scenario in durable for step in scenario.steps)
    jobs = [job for scenario in durable for job in scenario.jobs if job.spec.get("durable")]
    assert {job.released for job in jobs} == {False, True}
    others = [job for scenario in scenarios if not scenario.durable for job in scenario.jobs]
    assert not any(job.released or job.spec.get("durable") for job in others)


def _shown(status: int, payload: bytes = b"r", at_s: float = 2.0) -> model.Shown:
    return model.Shown(at_s, status, payload, 0)


QUIET = model.World(quiet=True)
AGAIN = [model.Start(1.0, "w", 0, 1), model.Start(1.5, "v", 0, 2)]
MOVED = [model.Start(1.0, "w", 0, 1), model.Start(1.5, "v", 1, 1)]


@pytest.mark.parametrize(
    ("task", "world"),
    [
        (_task(), QUIET),
        (_task(starts=AGAIN), model.World(False, {"w": [1.2]})),
        (_task(starts=AGAIN, spec=m.JobSpec(retries=1), work=Work(0.1, "fail 1")), QUIET),
        (_task(starts=AGAIN, spec=m.JobSpec(hedge_after_s=0.1)), QUIET),
        (_task(starts=[], shown=_shown(m.CANCELLED, b""), recalled=True), QUIET),
        (_task(shown=_shown(m.CANCELLED, b"killed"), killed=True), QUIET),
        (_task(shown=model.Shown(2.0, m.SUCCEEDED, b"r", 1)), model.World(False)),  # adopted by the next epoch
        (_task(starts=MOVED), model.World(False)),
        (_task(starts=MOVED, work=Work(0.4)), model.World(False, fallen=[1.45], adopts=True)),  # its result was lost
        (_task(spec=m.JobSpec(at_most_once=True), shown=_shown(m.LOST, b"")), model.World(False)),
    ],
)
def test_the_model_allows_what_may_happen(task: model.Task, world: model.World) -> None:
    model.check(task, world)


@pytest.mark.parametrize(
    ("task", "world"),
    [
        (_task(starts=[]), QUIET),  # nothing has run
        (_task(shown=_shown(m.SUCCEEDED, at_s=1.05)), QUIET),  # too soon
        (_task(work=Work(0.1, "fail")), QUIET),
        (_task(spec=m.JobSpec(timeout_s=0.01)), QUIET),
        (_task(starts=AGAIN), QUIET),
        (_task(starts=AGAIN), model.World(False, {"v": [1.2]})),
        (_task(starts=[AGAIN[0], AGAIN[0]]), QUIET),
        (_task(starts=[model.Start(1.0, "w", 1, 1)]), QUIET),  # no fail-over without a loss
        (_task(shown=_shown(m.CANCELLED, b"")), QUIET),  # nobody asked for it
        (_task(shown=_shown(m.CANCELLED, b""), recalled=True), QUIET),  # it had started
        (_task(shown=_shown(m.CANCELLED, b"killed"), recalled=True), QUIET),
        (_task(shown=_shown(m.LOST, b"")), QUIET),
        (_task(shown=_shown(m.FAILED, m_failure := b"\x81\xa4type\xabRemoteError")), QUIET),
        (_task(shown=_shown(m.FAILED, m_failure), work=Work(0.1, "fail"), spec=m.JobSpec(retries=1)), QUIET),
        (_task(shown=_shown(m.FAILED, b"\x81\xa4type\xabUnavailable")), QUIET),
        (_task(starts=MOVED, spec=m.JobSpec(at_most_once=True)), model.World(False)),
        (_task(spec=m.JobSpec(at_most_once=True), shown=_shown(m.LOST, b"")), QUIET),
        (_task(starts=MOVED, work=Work(2.0)), model.World(False, fallen=[1.45], adopts=True)),  # not adopted
    ],
)
def test_the_model_refuses_what_may_not(task: model.Task, world: model.World) -> None:
    with pytest.raises(AssertionError):
        model.check(task, world)
