"""The benchmarks and the demo, small: they run on a real cluster, and their figures hang together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparrowmq.bench import demo, floor, latency, sleep, target, throughput
from sparrowmq.bench.trace import draw
from sparrowmq.client.client import Client
from sparrowmq.errors import TaskError, Unavailable, UsageError
from sparrowmq.local import LocalCluster
from sparrowmq.sim import omniscient, trace
from sparrowmq.sim.workload import Job


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2, slots=2, schedulers=2) as running:
        yield running


def test_throughput_measures_a_cluster_that_runs_already(cluster: LocalCluster) -> None:
    result = throughput.run(tasks=500, runs=3, url=cluster.url)
    assert set(result["cpu_us_per_task"]) == {"client", "schedulers", "node_monitors", "slots"}
    assert all(spent_us > 0 for spent_us in result["cpu_us_per_task"].values())
    assert (result["tasks"], result["workers"], result["slots"]) == (500, 2, 4)
    assert len(result["runs"]) == 3
    assert result["tasks_per_s"] == sorted(result["runs"])[1] > 0


def test_latency_is_above_its_floor(cluster: LocalCluster) -> None:
    result = latency.run(trips=50, runs=3, url=cluster.url)
    assert 0 < result["floor_p50_ms"] < result["p50_ms"] <= result["p99_ms"]


def test_the_bare_chain_leaves_no_process() -> None:
    with floor.Chain() as chain:
        for _ in range(3):
            chain.round_trip(10.0)
        processes = list(chain._processes)
        assert [process.poll() for process in processes] == [None, None]
    assert [process.returncode for process in processes] == [0, 0]


def test_sleep_plays_every_job_and_compares_it_with_the_ideal(cluster: LocalCluster) -> None:
    result = sleep.run(method="BATCH+LATE_BINDING", jobs=10, tasks=4, duration_s=0.02, url=cluster.url)
    assert (result["policy"], result["slots"], result["schedulers"]) == ("late-binding", 4, 2)
    assert result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]
    assert result["p50_ratio"] > 1.0
    assert result["late_max_ms"] >= 0.0


def test_response_times_count_from_the_arrival_and_the_ideal_from_measured_sleeps(cluster: LocalCluster) -> None:
    arrivals = [Job(0.0, [0.05]), Job(1.2, [0.02, 0.03])]
    with Client(cluster) as client:
        sleep.warm_up([client], 4)
        played = sleep.play([client], "late-binding", arrivals, slots=4)
    assert played.ideal_s[0] > 0.05  # no sleep is as short as it was asked to be
    assert played.ideal_s[1] > 0.03
    for response_s, ideal_s in zip(played.responses_s, played.ideal_s, strict=True):
        assert ideal_s < response_s < ideal_s + 1.0
    assert len(played.queueing_s) == 3


def test_a_task_that_fails_ends_the_measurement(cluster: LocalCluster) -> None:
    with Client(cluster) as client, pytest.raises((TaskError, ValueError)):
        sleep.play([client], "late-binding", [Job(0.0, [-1.0])], slots=4)


def test_outcomes_that_do_not_come_are_an_error(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "patience_s", lambda _longest_s: 0.05)
    with Client(cluster) as client, pytest.raises(Unavailable, match="1 of 1 outcomes are missing"):
        sleep.play([client], "late-binding", [Job(0.0, [1.0])], slots=4)


def test_a_mistake_is_told_before_a_cluster_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "opened", None)
    with pytest.raises(UsageError, match="spread"):
        sleep.run(method="BATCH", jobs=1, tasks=1, duration_s=0.1, spread=2.0)
    with pytest.raises(UsageError, match="unknown policy"):
        sleep.run(method="FIFO", jobs=1, tasks=1, duration_s=0.1)


def test_what_was_played_is_recorded(cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "played.trace"
    path.write_text("an older recording")
    asked: dict[str, Any] = {"jobs": 6, "tasks": 3, "duration_s": 0.02, "seed": 5}
    result = sleep.run(method="BATCH", **asked, record=path, url=cluster.url)
    with path.open() as file:
        recorded = trace.read(file, str(path))
    assert list(tmp_path.iterdir()) == [path]
    told = {"policy": "batch", "workers": "2", "slots": "2", "slots_in_all": "4", "schedulers": "2", "seed": "5"}
    assert told.items() <= recorded.meta.items()
    assert recorded.meta["probe_ratio"] == "2.0"
    assert recorded.meta["response_p50_ms"] == str(result["p50_ms"])
    drawn = draw(asked["seed"], jobs=6, tasks=3, duration_s=0.02, slots=4, load=0.8)
    for real, planned in zip(recorded.jobs, drawn, strict=True):
        assert planned.at_s <= real.at_s <= planned.at_s + result["late_max_ms"] / 1e3 + 1e-6  # as submitted
        for took_s, asked_s in zip(real.durations_s, planned.durations_s, strict=True):
            assert asked_s < took_s < asked_s + 0.5  # as measured, in the order of the tasks
    ideal_s = sorted(response.response_s for response in omniscient.responses(recorded.jobs, 4))
    assert ideal_s[2] * 1e3 == pytest.approx(result["ideal_p50_ms"], abs=result["late_max_ms"] * 6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing/t", "No such file or directory"),
        ("file/t", "Not a directory"),
        ("x" * 300, "File name too long"),
        (".", "no regular file"),
        ("/dev/null", "no regular file"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_a_cluster_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.setattr(target, "opened", None)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=said) as raised:
        sleep.run(method="BATCH", jobs=1, tasks=1, duration_s=0.1, record=tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "--record" in str(raised.value)


def test_a_trace_too_large_to_be_read_again_is_refused_before_a_cluster_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "opened", None)
    with pytest.raises(UsageError, match="too many for a trace"):
        sleep.run(method="BATCH", jobs=trace.JOBS_MAX + 1, tasks=1, duration_s=0.1, record=tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_a_run_that_fails_leaves_an_older_recording_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_runs(*_arguments: object, **_named: object) -> None:
        assert len(list(tmp_path.iterdir())) == 2  # the place of the new one is taken
        raise Unavailable("nothing runs here")

    monkeypatch.setattr(target, "opened", nothing_runs)
    path = tmp_path / "played.trace"
    path.write_text("an older recording")
    with pytest.raises(Unavailable):
        sleep.run(method="BATCH", jobs=1, tasks=1, duration_s=0.1, record=path)
    assert path.read_text() == "an older recording"
    assert list(tmp_path.iterdir()) == [path]


def test_a_cluster_without_workers_cannot_be_measured() -> None:
    with LocalCluster(workers=0) as empty, pytest.raises(Unavailable, match="no worker"):
        throughput.run(url=empty.url)


def test_the_demo_prints_every_policy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "COMPARE_S", 0.3)
    monkeypatch.setattr(demo, "_standard_library", lambda: [__file__])
    assert demo.main() == 0
    printed = capsys.readouterr().out
    assert "check: every count and hash equals the serial one" in printed
    assert all(f"\n  {policy}" in printed for policy in ("random", "per-task", "batch", "late-binding"))


def test_the_demo_fails_when_results_differ(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "COMPARE_S", 0.3)
    monkeypatch.setattr(demo, "_standard_library", lambda: ["/proc/self/status"])  # differs between processes
    assert demo.main() == 1
    assert "CHECK FAILED: 1 results differ" in capsys.readouterr().out
