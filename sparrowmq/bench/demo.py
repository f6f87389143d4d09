"""The demo: a real job on a local cluster, checked against its serial result, then the four policies compared.

Owns: what it runs and what it prints. Must not know: how anything is scheduled or measured.

Run it with ``make demo`` or ``python -m sparrowmq.bench.demo``; it takes less than a minute. The exit status is
0 when the cluster's results equal the serial ones.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sparrowmq import placement
from sparrowmq.bench import sleep, target, trace as traces
from sparrowmq.bench.tasks import count_words
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError
from sparrowmq.local import LocalCluster

WORKERS: Final = 4
SCHEDULERS: Final = 2
TASKS: Final = 10
DURATION_S: Final = 0.05
LOAD: Final = 0.8
COMPARE_S: Final = 10.0  # for each policy, about
SEED: Final = 2013
_NOT_OF_PYTHON: Final = {"site-packages", "dist-packages"}


def main() -> int:
    """Run the demo; return the exit status."""
    began = time.monotonic()
    try:
        with LocalCluster(workers=WORKERS, schedulers=SCHEDULERS) as cluster:
            took_s = time.monotonic() - began
            print(
                f"A local cluster is up after {took_s:.1f} s: {WORKERS} workers with a slot each, "
                f"{SCHEDULERS} schedulers, {os.cpu_count()} CPUs."
            )
            with Client(cluster) as client:
                same = _real_job(client)
            with target.clients(target.Target(cluster.url, WORKERS, WORKERS)) as clients:
                _compare(clients)
    except SparrowError as error:
        print(f"error: {error}" + (f" ({error.hint})" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
    return 0 if same else 1


# The real job.


def _real_job(client: Client) -> bool:
    """Count and hash the standard library on the cluster and serially; tell whether both agree."""
    paths = _standard_library()
    size = sum(Path(path).stat().st_size for path in paths)
    print(f"\nReal job: words and SHA-256 of the standard library's {len(paths):,} .py files ({size / 1e6:.1f} MB),")
    print("one task a file, with client.map(count_words, paths):")
    for path in paths:  # so that both find the files in memory
        Path(path).read_bytes()

    began = time.monotonic()
    serial = [count_words(path) for path in paths]
    serial_s = time.monotonic() - began

    began = time.monotonic()
    job = client.map(count_words, paths)
    results = client.gather(job, timeout_s=target.patience_s())
    cluster_s = time.monotonic() - began

    same = results == serial
    words = sum(count for count, _, _ in results)
    print(f"  serial {serial_s:.2f} s, cluster {cluster_s:.2f} s; {words:,} words")
    for row in job.status():
        print(
            f"  job {row.id}: response {row.response_s:.2f} s, service p50 {row.service_p50_ms:.2f} ms, queueing p50 "
            f"{row.queueing_p50_ms:.0f} ms p99 {row.queueing_p99_ms:.0f} ms"
        )
        print(f"  {row.probes:,} probes, {row.no_ops:,} no-ops, {row.cancels:,} cancels")
    if same:
        print("  check: every count and hash equals the serial one")
    else:
        different = [path for path, ours, theirs in zip(paths, results, serial, strict=True) if ours != theirs]
        print(f"  CHECK FAILED: {len(different):,} results differ from the serial ones, first {different[0]}")
    return same


def _standard_library() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    found = (path for path in root.rglob("*.py") if _NOT_OF_PYTHON.isdisjoint(path.parts))
    return sorted(str(path) for path in found if path.is_file())


# The comparison.


def _compare(clients: Sequence[Client]) -> None:
    """Play the same arrivals under every policy and print how each did."""
    jobs = round(COMPARE_S * LOAD * WORKERS / (TASKS * DURATION_S))
    drawn = traces.draw(SEED, jobs=jobs, tasks=TASKS, duration_s=DURATION_S, slots=WORKERS, load=LOAD)
    print(f"\nPlacement: the same {jobs} jobs of {TASKS} sleeps, Exp({DURATION_S * 1e3:.0f} ms) each, Poisson arrivals")
    print(f"at {LOAD:.0%} load, under each policy. Response times, and their ratio to an ideal central queue replayed")
    print("with the measured service times:")
    sleep.warm_up(clients, WORKERS)
    rows = [["policy", "median", "p95", "ideal", "ideal p95", "ratio", "p95 ratio"]]
    for policy in placement.POLICIES:
        _progress(f"  {policy} ...")
        figures = sleep.summary(sleep.play(clients, policy, drawn, WORKERS))
        times = [f"{figures[name]:.0f} ms" for name in ("p50_ms", "p95_ms", "ideal_p50_ms", "ideal_p95_ms")]
        rows.append([policy, *times, f"{figures['p50_ratio']:.2f}", f"{figures['p95_ratio']:.2f}"])
    _progress("")
    _table(rows)


def _progress(text: str) -> None:
    """Show what goes on, on a terminal only; the next text takes its place."""
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)


def _table(rows: list[list[str]]) -> None:
    """Print ``rows``, the first of which are headers: by rich on a terminal, as aligned columns otherwise."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD)
        for number, header in enumerate(rows[0]):
            table.add_column(header, justify="right" if number else "left", no_wrap=True)
        for row in rows[1:]:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        print("  " + "  ".join([first.ljust(widths[0]), *cells]))


if __name__ == "__main__":
    sys.exit(main())
