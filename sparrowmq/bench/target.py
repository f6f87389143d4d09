"""What is measured: a cluster that lives as long as the measurement, or one that runs already.

Owns: bringing one up, finding out its size, connecting to it. Must not know: what is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from sparrowmq.client.client import Client
from sparrowmq.errors import Unavailable
from sparrowmq.local import LocalCluster

_NOTHING_HEARD_S: Final = 60.0


class Target(NamedTuple):
    """A cluster as its Redis URL, and how large it is; ``slots`` counts those of all workers."""

    url: str
    workers: int
    slots: int


@contextlib.contextmanager
def opened(url: str = "", *, workers: int, slots: int = 1, schedulers: int = 1) -> Iterator[Target]:
    """Give the cluster at ``url``, or one of this size (``slots`` a worker) on this machine, gone afterwards.

    Raises Unavailable when it does not come up, or when the one at ``url`` has no worker.
    """
    if url:
        yield _look(url)
    else:
        with LocalCluster(workers=workers, slots=slots, schedulers=schedulers) as cluster:
            yield Target(cluster.url, workers, workers * slots)


def _look(url: str) -> Target:
    with Client(url) as client:
        slots = {worker.id: worker.slots for status in client.query("workers") for worker in status.workers}
    if not slots:
        raise Unavailable("the cluster has no worker to measure with", hint="start one with `sparrowmq worker start`")
    return Target(url, len(slots), sum(slots.values()))


@contextlib.contextmanager
def clients(target: Target) -> Iterator[list[Client]]:
    """Give one client for each scheduler, connected to it."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(target.url))
        addresses = sorted(first.schedulers.values())
        if len(addresses) < 2:
            yield [first]
        else:
            yield [stack.enter_context(Client(address)) for address in addresses]


def stuck(missing: int, of: int) -> Unavailable:
    """Return the error for outcomes that do not come."""
    return Unavailable(
        f"{missing:,} of {of:,} outcomes are missing, and none came within {_NOTHING_HEARD_S:g} s",
        hint="`sparrowmq status` shows what runs",
    )


def patience_s(longest_task_s: float = 0.0) -> float:
    """Return how long to wait for the next outcome before calling the cluster stuck."""
    return _NOTHING_HEARD_S + longest_task_s
