"""What is measured: a cluster that lives as long as the measurement, or one that runs already.

Owns: bringing one up, finding out its size and its processes, connecting to it. Must not know: what is measured.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from sparrowmq.client.client import Client
from sparrowmq.errors import Unavailable, UsageError
from sparrowmq.local import LocalCluster
from sparrowmq.protocol import messages as m
from sparrowmq.security.making import Tree
from sparrowmq.settings import SchedulerSettings, SecuritySettings, StoreSettings

_NOTHING_HEARD_S: Final = 60.0


class Target(NamedTuple):
    """A cluster as its Redis URL, and how large it is; ``slots`` counts those of all workers.

    The pids are those of its processes on this machine, without their children: none where it runs elsewhere.
    ``launcher_pid`` is that of an own cluster, all of whose processes descend from it.
    """

    url: str
    workers: int
    slots: int
    schedulers: int = 1
    own: bool = True
    scheduler_pids: tuple[int, ...] = ()
    worker_pids: tuple[int, ...] = ()
    store_pid: int = 0
    launcher_pid: int = 0
    links: tuple[str, ...] = ()  # how those of an own cluster differ from Unix sockets that are not encrypted
    keys: str | None = None  # the directory of its keys, "" for none; None: as the environment says


@contextlib.contextmanager
def opened(
    url: str = "", *, workers: int, slots: int = 1, schedulers: int = 1, tcp: bool = False, curve: bool = False
) -> Iterator[Target]:
    """Give the cluster at ``url``, or one of this size (``slots`` a worker) on this machine, gone afterwards.

    With ``tcp`` its processes speak over loopback TCP instead of Unix sockets, with ``curve`` encrypted, by keys made
    for it. Raises Unavailable when it does not come up, or when the one at ``url`` has no worker.
    """
    if url:
        if tcp or curve:
            raise UsageError("a cluster that runs already has its connections", hint="leave out --tcp and --curve")
        yield _look(url)
        return
    any_port = "tcp://127.0.0.1:*"
    scheduler = SchedulerSettings(bind_workers=any_port, bind_clients=any_port) if tcp else SchedulerSettings()
    with tempfile.TemporaryDirectory(prefix="sparrowmq-bench-") as place:
        keys = _make_keys(place) if curve else ""
        security = SecuritySettings(keys=keys)
        with LocalCluster(workers, slots, schedulers, scheduler=scheduler, security=security) as cluster:
            yield Target(
                cluster.url,
                workers,
                workers * slots,
                schedulers,
                scheduler_pids=tuple(member.pid for member in cluster.schedulers),
                worker_pids=tuple(member.pid for member in cluster.workers),
                store_pid=cluster.store_pid,
                launcher_pid=cluster.pid,
                links=("TCP",) * tcp + ("CURVE",) * curve,
                keys=keys,
            )


def _make_keys(place: str) -> str:
    tree = Tree(place)
    with tree.changing():
        tree.complete(StoreSettings().prefix)
    return place


def _look(url: str) -> Target:
    with Client(url) as client:
        answers = client.query("workers")
    workers = {worker.id: worker for answer in answers for worker in answer.workers}
    if not workers:
        raise Unavailable("the cluster has no worker to measure with", hint="start one with `sparrowmq worker start`")
    return Target(
        url,
        len(workers),
        sum(worker.slots for worker in workers.values()),
        len(answers),
        own=False,
        scheduler_pids=_pids_here(answers),
        worker_pids=_pids_here(list(workers.values())),
    )


def _pids_here(rows: Sequence[m.Status] | Sequence[m.WorkerStatus]) -> tuple[int, ...]:
    """Return the pids of ``rows`` if all of them are on this machine and this user's, else none."""
    here = socket.gethostname()
    return tuple(row.pid for row in rows) if all(row.host == here and _is_ours(row.pid) for row in rows) else ()


def _is_ours(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def need_pids(cluster: Target) -> None:
    """Raise UsageError where the cluster's processes cannot be looked at."""
    if not (cluster.scheduler_pids and cluster.worker_pids):
        raise UsageError(
            "this measurement looks at the cluster's processes, and not all of them run here, as this user",
            hint="leave out --redis to measure a cluster of its own",
        )


@contextlib.contextmanager
def clients(target: Target) -> Iterator[list[Client]]:
    """Give one client for each scheduler, connected to it."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(target))
        addresses = sorted(first.schedulers.values())
        if len(addresses) < 2:
            yield [first]
        else:
            yield [stack.enter_context(Client(address, keys=target.keys)) for address in addresses]


def stuck(missing: int, of: int) -> Unavailable:
    """Return the error for outcomes that do not come."""
    return Unavailable(
        f"{missing:,} of {of:,} outcomes are missing, and none came within {_NOTHING_HEARD_S:g} s",
        hint="`sparrowmq status` shows what runs",
    )


def patience_s(longest_task_s: float = 0.0) -> float:
    """Return how long to wait for the next outcome before calling the cluster stuck."""
    return _NOTHING_HEARD_S + longest_task_s
