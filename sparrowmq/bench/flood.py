"""How much an honest client notices of floods: its latency while nothing else goes on, and during each.

Owns: the cluster (with keys, over TCP), the honest client's trips, the rows. Must not know: the command line, or what a
flood consists of (`flooders`).

One call after the other, a little apart: what is compared is how long each takes, not how many there are. Quiet times
and floods take turns, so that a machine that becomes slower does so for both; the calls of all rounds count together.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections import Counter
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
_SHOWN: Final = (
    "refused",
    "ended",
    "rejected",
    "put_off",
    "submits_too_soon",
    "sent_away",
    "handshake_failed",
    "unheard",
)


def run(
    *,
    floods: Sequence[str] = NAMES,
    frames: int = 100_000,
    seconds: float = 5.0,
    rounds: int = 1,
    submits_per_s: float = 500.0,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Measure each of ``floods`` for some ``rounds``: ``frames`` within ``seconds``, and as long before and after.

    ``submits_per_s`` is what the scheduler takes of one key: without, a flood of jobs is work, and is done. A row has
    p50 and p99 of calls, from `Client.submit` to the result, those of each round or pause by themselves, and what the
    scheduler has counted during the floods. Raises UsageError for an unknown flood.
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
            rows += _flooded(client, cluster, name, frames, seconds, rounds)
    settings = {"frames": frames, "seconds": seconds, "rounds": rounds, "submits_per_s": submits_per_s}
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


def _flooded(
    client: Client, cluster: Target, name: str, frames: int, seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """Return the rows of one flood: all that was measured without it, and with it."""
    quiet, flooded, sent, counts = [_for(client, seconds)], [], 0, Counter[str]()
    for _ in range(rounds):
        counted = _counters(client)
        times_s, frames_sent = _one_flood(client, cluster, name, frames, seconds)
        now = _counters(client)
        flooded.append(times_s)
        sent += frames_sent
        counts.update({key: now[key] - counted.get(key, 0) for key in now if _is_shown(key)})
        time.sleep(_REST_S)
        quiet.append(_for(client, seconds))
    base_s = figures.percentile(list(itertools.chain(*quiet)), 0.99)
    seen = {key: count for key, count in counts.items() if count > 0}
    return [
        _row(name, "quiet", quiet, base_s),
        _row(name, "flood", flooded, base_s, frames=sent, counted=seen),
    ]


def _one_flood(client: Client, cluster: Target, name: str, frames: int, seconds: float) -> tuple[list[float], int]:
    """Return how long the calls during one flood took, and how many frames it had."""
    [address] = client.schedulers.values()
    connection, process = children.start(flooders.flood, name, address, cluster.keys or "", frames, seconds)
    try:
        if not connection.poll(target.patience_s()) or connection.recv() != "ready":
            raise SparrowError(f"the flood of {name} does not begin")
        _for(client, _REST_S)  # the start of a process is no part of the flood
        connection.send("go")
        return _trips(client, lambda _count, _now: not connection.poll(0)), connection.recv()
    except EOFError:
        raise SparrowError(f"the flood of {name} has ended before its time") from None
    finally:
        children.end({connection: process})


def _is_shown(counter: str) -> bool:
    return counter.endswith((*_SHOWN, "refused")) or counter.startswith("refused")


def _row(flood: str, phase: str, parts_s: list[list[float]], base_s: float, **more: Any) -> dict[str, Any]:
    times_s = list(itertools.chain(*parts_s))
    p99_s = figures.percentile(times_s, 0.99)
    return {
        "flood": flood,
        "phase": phase,
        "calls": len(times_s),
        "p50_ms": figures.ms(figures.median(times_s)),
        "p99_ms": figures.ms(p99_s),
        "p99_of_quiet": round(p99_s / base_s, 2),
        "p99_ms_each": [figures.ms(figures.percentile(part, 0.99)) for part in parts_s],
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
