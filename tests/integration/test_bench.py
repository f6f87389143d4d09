"""The benchmarks and the demo, small: they run on a real cluster, and their figures hang together."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrowmq.bench import demo, floor, latency, sleep, target, throughput
from sparrowmq.client.client import Client
from sparrowmq.errors import TaskError, Unavailable, UsageError
from sparrowmq.local import LocalCluster


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
    arrivals = [sleep.Arrival(0.0, [0.05]), sleep.Arrival(1.2, [0.02, 0.03])]
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
        sleep.play([client], "late-binding", [sleep.Arrival(0.0, [-1.0])], slots=4)


def test_outcomes_that_do_not_come_are_an_error(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "patience_s", lambda _longest_s: 0.05)
    with Client(cluster) as client, pytest.raises(Unavailable, match="1 of 1 outcomes are missing"):
        sleep.play([client], "late-binding", [sleep.Arrival(0.0, [1.0])], slots=4)


def test_a_mistake_is_told_before_a_cluster_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "opened", None)
    with pytest.raises(UsageError, match="spread"):
        sleep.run(method="BATCH", jobs=1, tasks=1, duration_s=0.1, spread=2.0)
    with pytest.raises(UsageError, match="unknown policy"):
        sleep.run(method="FIFO", jobs=1, tasks=1, duration_s=0.1)


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
