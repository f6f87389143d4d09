"""Sweeps: processes and their ends, order, what is kept and when it no longer counts."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from sparrowmq.experiments import cache as cache_module, sweep
from sparrowmq.experiments.cache import Cache, default_directory, source_digest
from sparrowmq.sim import point
from sparrowmq.sim.setup import OMNISCIENT, POLICIES, Setup
from sparrowmq.sim.workload import Job, Workload
from tests.support import points

SMALL = Setup(workers=10, jobs=20)


def over(*loads: float) -> list[Setup]:
    return [replace(SMALL, load=load) for load in loads]


def workers() -> list[psutil.Process]:
    """The children that run points."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


def test_results_come_in_the_order_asked_and_all_jobs_are_counted():
    counts = []

    @contextmanager
    def watch(count):
        counts.append((count.total, count.done))
        yield
        counts.append((count.total, count.done))

    asked = [*over(0.1, 0.9), replace(SMALL, policy=OMNISCIENT), replace(SMALL, jobs=50)]
    report = sweep.run(asked, processes=2, watch=watch, run_point=points.quick)
    assert report.rows == [points.row(setup) for setup in asked]
    assert (report.failures, report.cached, report.interrupted, report.finished) == ({}, 0, False, 4)
    assert counts == [(110, 0), (110, 110)]
    assert workers() == []


def test_the_largest_point_is_first():
    sizes = [replace(SMALL, policy=policy, jobs=jobs) for policy in POLICIES for jobs in (10, 1000)]
    order = sorted(sizes, key=sweep.effort, reverse=True)
    assert (order[0].jobs, order[0].policy != "random", order[-1].policy) == (1000, True, OMNISCIENT)
    assert sweep.effort(replace(SMALL, workload=Workload(tasks=1000))) > sweep.effort(SMALL)
    assert sweep.effort(replace(SMALL, load=2.0, jobs=10**6, horizon_s=1.0)) < sweep.effort(replace(SMALL, jobs=10**6))


def test_a_child_that_dies_is_told_and_takes_no_other_with_it():
    asked = [replace(SMALL, policy=policy) for policy in POLICIES]
    report = sweep.run(asked, processes=3, run_point=points.mortal)
    assert report.rows[3:] == [points.row(setup) for setup in asked[3:]]
    assert report.rows[:3] == [None, None, None]
    assert "killed by signal 9 (SIGKILL)" in report.failures[0]
    assert "memory" in report.failures[0]
    assert report.failures[1].startswith("AssertionError: the queue has a hole (points.py:")
    assert "exit status 7" in report.failures[2]
    assert sweep.name(asked[0]) == "random at load 0.8, 10 workers x 4 slots"


def test_a_trace_is_handed_on():
    trace = [Job(0.5, [0.1, 0.2]), Job(0.7, [0.1])]
    (row,) = sweep.run([SMALL], trace=trace, run_point=points.quick).rows
    assert row is not None
    assert row.jobs == 2


def test_ctrl_c_ends_the_children_at_once_and_keeps_what_is_finished(tmp_path):
    asked = over(0.1, points.SLOW_LOAD, 0.2)
    cache = Cache(tmp_path)
    seen = []

    def interrupt():
        deadline = time.monotonic() + 30.0
        while len(list(tmp_path.glob("*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.extend(workers())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    report = sweep.run(asked, processes=2, cache=cache, run_point=points.slow)
    thread.join()
    assert report.interrupted
    assert [row is not None for row in report.rows] == [True, False, True]
    assert seen
    assert workers() == []
    again = sweep.run(asked[::2], cache=cache, run_point=points.forbidden)
    assert again.rows == [report.rows[0], report.rows[2]]
    assert again.cached == 2


def test_ctrl_c_is_not_for_the_children():
    """A terminal sends it to the whole group: children that took it would print a traceback each."""
    blocked = []

    @contextmanager
    def watch(count):
        def interrupt():
            deadline = time.monotonic() + 30.0
            while not count.done and time.monotonic() < deadline:
                time.sleep(0.01)
            for child in workers():
                status = Path(f"/proc/{child.pid}/status").read_text()
                mask = int(status.partition("SigBlk:")[2].split()[0], 16)
                blocked.append(bool(mask >> (signal.SIGINT - 1) & 1))
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            yield
        finally:
            thread.join()

    report = sweep.run(over(points.SLOW_LOAD), watch=watch, run_point=points.slow)
    assert report.interrupted
    assert blocked == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_what_is_kept_is_not_run_again(tmp_path):
    asked = over(0.1, 0.2)
    first = sweep.run(asked, cache=Cache(tmp_path), run_point=points.quick)
    again = sweep.run(asked, cache=Cache(tmp_path), run_point=points.forbidden)
    assert again.rows == first.rows
    assert (again.cached, again.failures) == (2, {})


def test_other_parameters_traces_sources_and_versions_are_other_results(tmp_path, monkeypatch):
    row = points.row(SMALL)
    Cache(tmp_path, source="a").put(SMALL, row)
    trace = [Job(0.5, [0.1])]
    assert Cache(tmp_path, source="a").get(SMALL) == row
    assert Cache(tmp_path, source="b").get(SMALL) is None
    assert Cache(tmp_path, trace, source="a").get(SMALL) is None
    for other in (replace(SMALL, seed=2), replace(SMALL, workload=Workload(tasks=101)), replace(SMALL, eager=True)):
        assert Cache(tmp_path, source="a").get(other) is None
    monkeypatch.setattr(cache_module.sparrowmq, "__version__", "0.0.0")
    assert Cache(tmp_path, source="a").get(SMALL) is None


def test_traces_that_share_all_numbers_are_not_one():
    traces = [[Job(0.5, [0.1, 0.1])], [Job(0.5, [0.1]), Job(0.1, [])], [Job(0.5, [0.1])], []]
    assert len({cache_module.trace_digest(trace) for trace in traces}) == len(traces)


def package(root: Path) -> Path:
    for name in ("core/job.py", "placement/batch.py", "sim/point.py", "sim/swarm/model.py", "protocol/codec.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    for name in ("limits.py", "settings.py", "local.py"):
        (root / name).write_text(name)
    return root


@pytest.mark.parametrize(
    "name", ["core/job.py", "placement/batch.py", "sim/point.py", "protocol/codec.py", "limits.py"]
)
def test_a_changed_scheduler_never_shows_an_old_figure(tmp_path, name):
    before = source_digest(package(tmp_path))
    (tmp_path / name).write_text("another")
    assert source_digest(tmp_path) != before


def test_rooms_that_decide_nothing_do_not_count(tmp_path):
    before = source_digest(package(tmp_path))
    (tmp_path / "local.py").write_text("another")
    (tmp_path / "sim/swarm/model.py").write_text("another")
    assert source_digest(tmp_path) == before
    (tmp_path / "core/new.py").write_text("")
    assert source_digest(tmp_path) != before


def test_a_broken_file_counts_as_absent(tmp_path):
    cache = Cache(tmp_path, source="a")
    cache.put(SMALL, points.row(SMALL))
    (file,) = tmp_path.iterdir()
    for content in (b"", b"{", b'{"version": "1"}', file.read_bytes()[:-5]):
        file.write_bytes(content)
        assert cache.get(SMALL) is None


def test_the_oldest_files_go(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "FILES_MAX", 3)
    for age in range(5):
        (tmp_path / f"{age}.json").write_text("")
        os.utime(tmp_path / f"{age}.json", (1e9 - age, 1e9 - age))
    Cache(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]


def test_where_nothing_can_be_kept_points_are_run_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "sim")
    assert "results are not kept" in cache.problem
    report = sweep.run([SMALL], cache=cache, run_point=points.quick)
    assert report.rows == [points.row(SMALL)]


def test_results_are_kept_in_the_cache_of_this_user():
    assert default_directory({"XDG_CACHE_HOME": "/c"}) == Path("/c/sparrowmq/sim")
    assert default_directory({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache/sparrowmq/sim"


def test_real_points_are_the_same_in_other_processes():
    small = Setup(workers=20, jobs=30, workload=Workload(tasks=5))
    report = sweep.run([small, replace(small, policy=OMNISCIENT)], processes=2)
    assert report.failures == {}
    assert report.rows[0] == point.run_point(small)
    assert report.rows[1] == point.run_point(replace(small, policy=OMNISCIENT))
