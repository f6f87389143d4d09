"""How much an honest client notices of floods: its latency before, during and after each.

Owns: the cluster (with keys, over TCP), the honest client's trips, the rows. Must not know: the command line, or what a
flood consists of (`flooders`).

One call after the other, a little apart: what is compared is how long each takes, not how many there are.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from sparrowmq.bench import figures, flooders, report, target
from sparrowmq.bench.target import Target
from sparrowmq.bench.tasks import echo
from sparrowmq.client.client import Client
from sparrowmq.errors import SparrowError, UsageError
from sparrowmq.experiments import children
from sparrowmq.limits import SchedulerLimits
from sparrowmq.local import LocalCluster
from sparrowmq.security.making import Tree
from sparrowmq.settings import SchedulerSettings, SecuritySettings, StoreSettings

NAMES: Final = flooders.KINDS
PAUSE_S: Final = 0.005  # between two calls
_WARM_UP_TRIPS: Final = 300
_REST_S: Final = 0.5  # from the end of a flood to the trips after it
_SHOWN: Final = ("refused", "ended", "rejected", "put_off", "submits_too_soon", "handshake_failed", "unheard")


def run(
    *,
    floods: Sequence[str] = NAMES,
    frames: int = 100_000,
    seconds: float = 5.0,
    submits_per_s: float = 500.0,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Measure each of ``floods``: ``frames`` within ``seconds``, and as long before and after.

    ``submits_per_s`` is what the scheduler takes of one key: without, a flood of jobs is work, and is done. A row has
    p50 and p99 of calls, from `Client.submit` to the result, and what the scheduler has counted during the flood.
    Raises UsageError for an unknown flood.
    """
    unknown = [name for name in floods if name not in NAMES]
    if unknown or not floods:
        what = f"unknown flood {unknown[0]!r}" if unknown else "no flood is named"
        raise UsageError(what, hint=f"the floods are {', '.join(NAMES)}")
    rows = []
    with _cluster(submits_per_s) as cluster, Client(cluster) as client:
        _trips(client, lambda count, _now: count < _WARM_UP_TRIPS)
        for name in floods:
            say(f"flood: {name}")
            rows += _flooded(client, cluster, name, frames, seconds)
    settings = {"frames": frames, "seconds": seconds, "submits_per_s": submits_per_s}
    return report.result("flood", {**settings, "rows": rows}, cluster)


@contextlib.contextmanager
def _cluster(submits_per_s: float) -> Iterator[Target]:
    any_port = "tcp://127.0.0.1:*"
    bounds = SchedulerLimits(submits_per_s=submits_per_s)
    scheduler = SchedulerSettings(bind_workers=any_port, bind_clients=any_port, limits=bounds)
    with tempfile.TemporaryDirectory(prefix="sparrowmq-bench-") as keys:
        tree = Tree(keys)
        with tree.changing():
            tree.complete(StoreSettings().prefix)
        with LocalCluster(1, 2, scheduler=scheduler, security=SecuritySettings(keys=keys)) as cluster:
            yield Target(cluster.url, 1, 2, links=("TCP", "CURVE"), keys=keys)


def _flooded(client: Client, cluster: Target, name: str, frames: int, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of one flood: before, during, after."""
    [address] = client.schedulers.values()
    connection, process = children.start(
        flooders.flood, name, address, cluster.keys or "", frames, seconds
    )  # it is there before, so that its start is no part of the flood
    try:
        if not connection.poll(target.patience_s()) or connection.recv() != "ready":
            raise SparrowError(f"the flood of {name} does not begin")
        before = _for(client, seconds)
        counted = _counters(client)
        connection.send("go")
        during = _trips(client, lambda _count, _now: not connection.poll(0))
        sent = connection.recv()
        now = _counters(client)
        time.sleep(_REST_S)
        after = _for(client, seconds)
    except EOFError:
        raise SparrowError(f"the flood of {name} has ended before its time") from None
    finally:
        children.end({connection: process})
    seen = {key: now[key] - counted.get(key, 0) for key in now if key.endswith(_SHOWN) or key.startswith("refused")}
    counts = {key: count for key, count in seen.items() if count > 0}
    base = figures.percentile(before, 0.99)
    return [
        _row(name, phase, times_s, base, **more)
        for phase, times_s, more in (
            ("before", before, {}),
            ("during", during, {"frames": sent, "counted": counts}),
            ("after", after, {}),
        )
    ]


def _row(flood: str, phase: str, times_s: list[float], base_s: float, **more: Any) -> dict[str, Any]:
    p99_s = figures.percentile(times_s, 0.99)
    return {
        "flood": flood,
        "phase": phase,
        "calls": len(times_s),
        "p50_ms": figures.ms(figures.median(times_s)),
        "p99_ms": figures.ms(p99_s),
        "p99_of_before": round(p99_s / base_s, 2),
        **more,
    }


def _for(client: Client, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    return _trips(client, lambda _count, now: now < until)


def _trips(client: Client, go_on: Callable[[int, float], bool]) -> list[float]:
    """Return how long each call took, at least one."""
    times_s: list[float] = []
    while not times_s or go_on(len(times_s), time.monotonic()):
        began = time.perf_counter()
        client.submit(echo, len(times_s)).result(target.patience_s())
        times_s.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    return times_s


def _counters(client: Client) -> dict[str, int]:
    [status] = client.query("summary")
    return dict(status.counters)
