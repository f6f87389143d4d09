"""Footprint: what a cluster takes that has nothing to do, and how long it takes to be there.

Owns: the measurement. Must not know: the command line, what the processes do while they idle.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sparrowmq.bench import figures, report, target, usage
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.errors import Unavailable
from sparrowmq.executor import linux

_MAIN: Final = "import sys; from sparrowmq.cli.main import main; sys.exit(main(sys.argv[1:]))"
_ROOT: Final = Path(__file__).resolve().parents[2]  # where this package is
_SETTLE_S: Final = 2.0  # after the last task, until the cluster is called idle
_END_S: Final = 20.0
# What the children of a worker are: its zygote, and below that its slots.
_WORKER_ROLES: Final = ("node_monitors", "zygotes", "slots")


def run(
    *, workers: int = 10, schedulers: int = 1, seconds: float = 10.0, runs: int = 5, url: str = ""
) -> dict[str, Any]:
    """Measure an idle cluster of single-slot ``workers`` for ``seconds``, in as many equal parts as ``runs``.

    ``idle_cpu_percent``: of one core, all its processes together. ``pss_mb``: their memory, without this process.
    ``up_ready_s``, ``up_first_result_s``: from starting ``sparrowmq up`` in a fresh process until it says that it
    is ready, and until a client has connected and has its first result; None for the cluster in the Redis at
    ``url``. ``help_ms``: ``sparrowmq --help`` in a fresh process. Figures are medians of ``runs``, which are listed.
    """
    helps_ms = [figures.ms(_help_s()) for _ in range(runs)]
    starts = [] if url else [_start(workers, schedulers) for _ in range(runs)]
    with target.opened(url, workers=workers, schedulers=schedulers) as cluster:
        target.need_pids(cluster)
        with Client(cluster) as client:
            client.gather(client.map(echo, range(10 * cluster.slots)), timeout_s=target.patience_s())
        time.sleep(_SETTLE_S)
        roles = _roles(cluster)
        pids = [pid for members in roles.values() for pid in members]
        parts = [_idle(pids, seconds / runs) for _ in range(runs)]
        by_role = {name: usage.mb(usage.pss_bytes(members)) for name, members in roles.items()}
        total = usage.mb(usage.pss_bytes(pids))
    cpu_runs = [percent for percent, _ in parts]
    measured = {
        "idle_cpu_percent": figures.median(cpu_runs),
        "idle_cpu_runs": cpu_runs,
        "idle_wakeups_per_s": figures.median([wakeups for _, wakeups in parts]),
        "seconds": seconds,
        "processes": len(pids),
        "pss_mb": total,
        "pss_mb_by_role": by_role,
        "up_ready_s": figures.median([ready for ready, _ in starts]) if starts else None,
        "up_ready_runs": [ready for ready, _ in starts],
        "up_first_result_s": figures.median([first for _, first in starts]) if starts else None,
        "up_first_result_runs": [first for _, first in starts],
        "help_ms": figures.median(helps_ms),
        "help_runs": helps_ms,
    }
    return report.result("footprint", measured, cluster)


# At rest.


def _idle(pids: Sequence[int], seconds: float) -> tuple[float, float]:
    """Return per cent of one core and wake-ups a second over the next ``seconds``."""
    before, began = usage.work(pids), time.perf_counter()
    time.sleep(seconds)
    after, took_s = usage.work(pids), time.perf_counter() - began
    return round(100.0 * (after.cpu_s - before.cpu_s) / took_s, 2), round((after.sleeps - before.sleeps) / took_s, 1)


def _roles(cluster: target.Target) -> dict[str, list[int]]:
    """Return the cluster's processes by what they are."""
    roles = {"schedulers": list(cluster.scheduler_pids), **{role: [] for role in _WORKER_ROLES}}
    for worker in cluster.worker_pids:
        level = [worker]
        for role in _WORKER_ROLES:
            roles[role] += level
            level = [child for pid in level for child in usage.children(pid)]
    if cluster.own:
        known = {pid for members in roles.values() for pid in members}
        roles["store"] = [cluster.store_pid]
        roles["launcher"] = [pid for pid in usage.tree(cluster.launcher_pid) if pid not in {*known, cluster.store_pid}]
    return roles


# From nothing to the first result.


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run(_command("--help"), env=_environment(), check=True, stdout=subprocess.DEVNULL, timeout=_END_S)
    return time.perf_counter() - began


def _start(workers: int, schedulers: int) -> tuple[float, float]:
    """Return how long `up` took until it was ready, and until a first result was there, in seconds."""
    with tempfile.TemporaryDirectory(prefix="sparrowmq-bench-") as directory:
        began = time.perf_counter()
        with _up(directory, f"--workers={workers}", f"--schedulers={schedulers}") as url:
            ready_s = time.perf_counter() - began
            with Client(url) as client:
                client.submit(echo, 1).result(target.patience_s())
                return round(ready_s, 3), round(time.perf_counter() - began, 3)


@contextlib.contextmanager
def _up(state_directory: str, *arguments: str) -> Iterator[str]:
    """Run ``sparrowmq up`` as a cluster beside those of the user; give its URL. Raises Unavailable."""
    environment = _environment() | {"XDG_STATE_HOME": state_directory}
    command = _command("-o", "json", "up", *arguments)
    with open(Path(state_directory, "up.log"), "w+b") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            preexec_fn=functools.partial(linux.die_with_parent, os.getpid()),  # and its cluster with it
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                log.seek(0)
                raise Unavailable(
                    f"`sparrowmq up` did not start: {log.read().decode(errors='replace').strip()[-2000:]}"
                )
            yield json.loads(line)["url"]
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        process.send_signal(number)
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            continue
        return


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-c", _MAIN, *arguments]


def _environment() -> dict[str, str]:
    """Return this process's environment, with this package on the path and no cluster named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPARROWMQ_")}
    path = os.pathsep.join(filter(None, [kept.get("PYTHONPATH", ""), str(_ROOT)]))
    return kept | {"PYTHONPATH": path}
