"""The measurements beside throughput and latency, small: on a real cluster, and their figures hang together."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator

import psutil
import pytest

from sparrowmq.bench import commands, footprint, memory, payload, submit, target, throughput, usage
from sparrowmq.cli.main import main
from sparrowmq.errors import CommandFailed, UsageError
from sparrowmq.local import LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(workers=2) as running:
        yield running


def test_submit_counts_from_the_first_call_to_the_last_result(cluster: LocalCluster) -> None:
    result = submit.run(tasks=100, runs=3, url=cluster.url)
    assert result["bench"] == "submit"
    assert result["tasks_per_s"] == statistics.median(result["runs"]) > 0
    assert result["calls_per_s"] > result["tasks_per_s"]


@pytest.mark.parametrize("call", throughput.CALLS)
def test_throughput_tells_what_memory_it_took(call: str) -> None:
    result = throughput.run(tasks=2000, call=call, runs=2)
    for side in ("client", "scheduler"):
        assert result[f"{side}_peak_mb"] >= result[f"{side}_before_mb"] > 0
        assert 0 < result[f"{side}_after_pss_mb"] < result[f"{side}_peak_mb"]


def test_throughput_knows_no_other_call() -> None:
    with pytest.raises(UsageError, match="map or imap"):
        throughput.run(call="starmap")


def test_payload_measures_each_way(cluster: LocalCluster) -> None:
    result = payload.run(tasks=4, size_bytes=100_000, runs=3, url=cluster.url)
    assert result["data"] in ("numpy", "bytes")
    for way in ("arguments", "results"):
        assert result[f"{way}_mb_per_s"] == statistics.median(result[f"{way}_runs"]) > 0


def test_commands_counts_what_has_ended_well(cluster: LocalCluster) -> None:
    result = commands.run(tasks=10, runs=3, url=cluster.url)
    assert result["commands_per_s"] == statistics.median(result["runs"]) > 0
    with pytest.raises(CommandFailed):
        commands.run(tasks=1, argv=("false",), runs=1, url=cluster.url)


def test_memory_is_that_of_queued_tasks() -> None:
    result = memory.run(tasks=5000, runs=1)
    assert result["payload_bytes_per_task"] > 4  # a pickled number
    assert 20 < result["scheduler_bytes_per_task"] < 2000
    assert result["client_bytes_per_task"] > 0


def test_memory_leaves_nothing_queued() -> None:
    with LocalCluster(workers=1) as running:
        memory.run(tasks=10, runs=1, url=running.url)
        assert submit.run(tasks=1, runs=1, url=running.url)["runs"]


def test_footprint_counts_every_process_once() -> None:
    result = footprint.run(workers=2, seconds=0.2, runs=1)
    assert result["processes"] == 2 * 3 + 1 + 3  # workers of three, a scheduler; the store, the launcher, an assistant
    assert result["pss_mb"] == pytest.approx(sum(result["pss_mb_by_role"].values()), rel=0.05)
    assert min(result["pss_mb_by_role"].values()) > 0
    assert 0 < result["up_ready_s"] <= result["up_first_result_s"]
    assert result["help_ms"] > 0
    assert 0 <= result["idle_cpu_percent"] < 100


def test_footprint_leaves_no_process() -> None:
    before = set(usage.tree(os.getpid()))
    footprint.run(workers=1, seconds=0.1, runs=1)
    assert set(usage.tree(os.getpid())) <= before


def test_processes_elsewhere_are_not_looked_at() -> None:
    with pytest.raises(UsageError, match="not all of them run here"):
        target.need_pids(target.Target("redis://elsewhere", 1, 1, own=False))


def test_usage_counts_what_a_process_does() -> None:
    us = [os.getpid()]
    before = usage.work(us)
    assert sum(range(300_000)) > 0
    assert 0.0 < usage.work(us).cpu_s - before.cpu_s < 10.0
    assert usage.pss_bytes(us) <= usage.rss_bytes(us) <= usage.peak_rss_bytes(us)


def test_a_peak_begins_anew_where_it_is_told_to() -> None:
    us = [os.getpid()]
    ballast = bytearray(b"x") * 64_000_000
    with_ballast = usage.peak_rss_bytes(us)
    del ballast
    usage.reset_peak(us)
    assert usage.peak_rss_bytes(us) < with_ballast - 32_000_000


def test_a_process_that_is_gone_counts_nothing() -> None:
    process = psutil.Popen(["true"])
    process.wait()
    gone = [process.pid]
    assert (usage.pss_bytes(gone), usage.work(gone), usage.tree(process.pid)) == (0, usage.Work(0.0, 0), [])


def test_every_result_says_what_it_ran_on(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["-o", "json", "--redis", cluster.url, "bench"]
    assert main([*shared, "submit", "--tasks", "10", "--runs", "1"]) == 0
    assert main([*shared, "payload", "--tasks", "2", "--size", "1000", "--runs", "1"]) == 0
    assert main([*shared, "commands", "--tasks", "2", "--runs", "1"]) == 0
    assert main([*shared, "latency", "--trips", "5", "--runs", "1"]) == 0
    for line in capsys.readouterr().out.splitlines():
        result = json.loads(line)
        assert result["cluster"] == {"kind": "given", "workers": 2, "slots": 2, "schedulers": 1}
        assert result["environment"]["cpus"] >= 1
        assert "pyzmq" in result["environment"]["versions"]


def test_people_read_a_figure_a_line(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--redis", cluster.url, "bench", "submit", "--tasks", "10", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines][:3] == ["bench", "tasks", "tasks per s"]
    assert lines[-1].startswith("environment")
