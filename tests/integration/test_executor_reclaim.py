"""Taking tasks back from a slot: each either runs and reports, or never runs."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time

from sparrowmq.payload import python
from sparrowmq.protocol import messages as m
from tests.support.node_monitor import Monitor, in_own_process, main


def mark(path: str, seq: int, spin_s: float) -> None:
    """Leave a trace that this task has run."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as trace:
        trace[seq] += 1
    until = time.perf_counter() + spin_s
    while time.perf_counter() < until:
        pass


@in_own_process
def test_reclaim_of_a_busy_slot(monitor: Monitor) -> None:
    monitor.spawn()
    first, *rest = monitor.call(time.sleep, 0.2, n=10)
    monitor.until(lambda: monitor.pool.running(0))
    monitor.pool.reclaim(0)
    later = monitor.call(abs, 5)
    monitor.until(lambda: monitor.reclaimed)
    assert monitor.reclaimed == [(0, first)], monitor.reclaimed
    assert not monitor.results  # the slot was not waited for
    assert monitor.outcomes(later) == [5]
    assert sorted(monitor.results) == [first, *later]
    assert rest


@in_own_process
def test_a_reclaim_brings_in_the_results_that_wait_behind_a_long_task(monitor: Monitor) -> None:
    monitor.spawn()
    payloads = [python.dump_call((seconds,), {}) for seconds in (0, 0, 60)]
    *short, long = monitor.hand(payloads, function=python.dump_function(time.sleep), job="mixed")
    monitor.until(lambda: (monitor.pool.running(0) or (0, 0.0))[0] == long)
    monitor.pool.reclaim(0)
    monitor.until(lambda: monitor.reclaimed and all(seq in monitor.results for seq in short))
    assert monitor.reclaimed == [(0, long)]
    assert long not in monitor.results  # it was not disturbed
    monitor.pool.interrupt(0, long)
    monitor.until(lambda: long in monitor.results)
    assert monitor.results[long][:2] == (m.CANCELLED, b"interrupted")


@in_own_process
def test_reclaim_of_an_idle_slot(monitor: Monitor) -> None:
    monitor.spawn()
    monitor.pool.reclaim(0)
    monitor.until(lambda: monitor.reclaimed)
    assert monitor.reclaimed == [(0, 0)]
    seqs = monitor.call(abs, 5, n=3)
    monitor.outcomes(seqs)
    monitor.pool.reclaim(0)
    monitor.until(lambda: len(monitor.reclaimed) == 2)
    assert monitor.reclaimed[1] == (0, seqs[-1])


@in_own_process
def test_reclaims_under_load(monitor: Monitor) -> None:
    """Every task reports once, or was reclaimed and left no trace; the slot is stopped at random moments too."""
    rng = random.Random(5)
    tasks, rounds = 200_000, 250
    path = monitor.directory / "trace"
    path.write_bytes(bytes(tasks))
    pid = monitor.spawn()
    function = python.dump_function(mark)
    returned: set[int] = set()
    outstanding: set[int] = set()
    for _ in range(rounds):
        for _ in range(rng.randrange(1, 4)):
            count = rng.choice([1, 3, 30, 300])
            seqs = range(monitor.next_seq, monitor.next_seq + count)
            payloads = [python.dump_call((str(path), seq, rng.choice([0.0, 2e-5])), {}) for seq in seqs]
            outstanding.update(monitor.hand(payloads, function=function))
        before = monitor.next_seq - 1
        stopped = rng.random() < 0.5
        wait_until = time.monotonic() + rng.random() * 0.003
        monitor.until(lambda wait_until=wait_until: time.monotonic() >= wait_until)  # type: ignore[misc]
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        monitor.pool.reclaim(0)
        outstanding.update(monitor.hand([python.dump_call((str(path), before + 1, 0.0), {})], function=function))
        monitor.until(lambda: monitor.reclaimed)
        if stopped:
            os.kill(pid, signal.SIGCONT)
        _, after_seq = monitor.reclaimed.pop()
        outstanding.difference_update(monitor.results)
        taken = {seq for seq in outstanding if after_seq < seq <= before}
        returned |= taken
        outstanding -= taken
    monitor.until(lambda: outstanding <= monitor.results.keys())
    trace = path.read_bytes()
    assert monitor.next_seq <= tasks
    assert len(returned) > 1000
    assert len(monitor.results) > 1000
    assert not returned & monitor.results.keys()
    assert returned | monitor.results.keys() == set(range(1, monitor.next_seq))
    assert [seq for seq in range(1, monitor.next_seq) if trace[seq] != (seq in monitor.results)] == []
    assert all(status == m.SUCCEEDED for status, _, _ in monitor.results.values())


if __name__ == "__main__":
    main()
