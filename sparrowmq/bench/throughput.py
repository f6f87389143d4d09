"""Throughput: no-ops a second through one `Client.map` or `Client.imap`, and the memory that they take meanwhile.

Owns: the measurement. Must not know: the command line.

``map`` makes a future for each task, so its memory grows with their number; ``imap`` streams, so it should not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any, Final

from sparrowmq.bench import figures, report, target, usage
from sparrowmq.bench.meter import Meter
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError, UsageError

MAP: Final = "map"
IMAP: Final = "imap"
CALLS: Final = (MAP, IMAP)
_WARM_UP_RUNS: Final = 2
_WARM_UP_TASKS: Final = 1000
_TASK_S_MAX: Final = 1e-3  # a cluster with less than 1,000 tasks a second counts as stuck


def run(
    *,
    tasks: int = 10_000,
    call: str = MAP,
    workers: int = 2,
    slots: int = 1,
    runs: int = 5,
    url: str = "",
    tcp: bool = False,
    curve: bool = False,
) -> dict[str, Any]:
    """Measure ``runs`` times from calling ``call`` to the last result; ``tasks_per_s`` is their median.

    Memory is the client's (this process) and the schedulers' together: before, the peak resident set over all
    runs, and the proportional set size after them. None for schedulers that are not on this machine.
    On a cluster of its own with ``workers`` of ``slots`` each, or on the one registered in the Redis at ``url``. For
    ``tcp`` and ``curve`` see `target.opened`.
    """
    if call not in CALLS:
        raise UsageError(f"call: expected {' or '.join(CALLS)}, got {call!r}")
    with (
        target.opened(url, workers=workers, slots=slots, tcp=tcp, curve=curve) as cluster,
        Client(cluster) as client,
    ):
        for _ in range(_WARM_UP_RUNS):
            _once(client, call, min(tasks, _WARM_UP_TASKS))
        sides = {"client": (os.getpid(),), "scheduler": cluster.scheduler_pids}
        memory = {f"{side}_before_mb": _mb(usage.rss_bytes(pids)) for side, pids in sides.items()}
        for pids in sides.values():
            usage.reset_peak(pids)
        meter = Meter(cluster)
        meter.start()
        rates = [round(tasks / _once(client, call, tasks), 1) for _ in range(runs)]
        meter.stop()
        for side, pids in sides.items():
            memory[f"{side}_peak_mb"] = _mb(usage.peak_rss_bytes(pids))
            memory[f"{side}_after_pss_mb"] = _mb(usage.pss_bytes(pids))
    measured = {
        "tasks": tasks,
        "call": call,
        "workers": cluster.workers,
        "slots": cluster.slots,
        "tasks_per_s": figures.median(rates),
        "runs": rates,
        "cpu_us_per_task": meter.us_per(tasks * runs),
        **memory,
    }
    return report.result("throughput", measured, cluster)


def _mb(size_bytes: int) -> float | None:
    """Return MB; None where there was no process to look at."""
    return usage.mb(size_bytes) if size_bytes else None


def _once(client: Client, call: str, tasks: int) -> float:
    """Return the seconds that one call took. Results are checked within them, as they come."""
    began = time.perf_counter()
    results: Iterable[int]
    if call == IMAP:
        results = client.imap(echo, range(tasks))
    else:
        results = client.gather(client.map(echo, range(tasks)), timeout_s=target.patience_s(tasks * _TASK_S_MAX))
    count = 0
    for number in results:
        if number != count:
            raise SparrowError(f"task {count:,} gave {number!r}, not its number")
        count += 1
    took_s = time.perf_counter() - began
    if count != tasks:
        raise SparrowError(f"{count:,} of {tasks:,} results came")
    return took_s
