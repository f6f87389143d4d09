"""Bugs in what concerns load hints: shares, their age, and the books beside them. See `planted`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sparrowmq.core.hinting import Hinting
from sparrowmq.core.hints import Hints
from sparrowmq.core.placer import Placer
from sparrowmq.protocol import messages as m
from tests.support.planting import BUGS, bug, replace

_BEFORE = set(BUGS)


@bug
def debits_no_hint_for_what_it_has_left_there() -> Iterator[None]:
    """A worker seems as idle as before its probes, until the next hints."""

    def wait(old: Any, hints: Hints, worker_id: str) -> float:
        worker = hints._workers[worker_id]
        left, worker.reserved = worker.reserved, 0
        found: float = old(hints, worker_id)
        worker.reserved = left
        return found

    with replace(Hints, "wait", wait):
        yield


@bug
def writes_no_reservation_into_its_books() -> Iterator[None]:
    def reserved(old: Any, placer: Placer, job: Any, worker: Any, count: int) -> None:
        old(placer, job, worker, count)
        worker.reserved -= count

    with replace(Placer, "reserved", reserved):
        yield


@bug
def goes_by_hints_for_ever() -> Iterator[None]:
    def pool(old: Any, hints: Hints, now: float, *given: Any) -> Any:
        stale_at, hints._stale_at = hints._stale_at, float("inf")
        found = old(hints, now, *given)
        hints._stale_at = stale_at
        return found

    with replace(Hints, "pool", pool):
        yield


@bug
def gives_the_same_workers_to_all_schedulers() -> Iterator[None]:
    def divide(old: Any, hinting: Hinting, now: float) -> Mapping[str, list[str]]:
        shares: dict[str, list[str]] = old(hinting, now)
        everybody = [worker for share in shares.values() for worker in share]
        return dict.fromkeys(shares, everybody)

    with replace(Hinting, "_divide", divide):
        yield


@bug
def probes_its_own_share_last() -> Iterator[None]:
    """Shares are taken the wrong way round: schedulers meet on each other's workers."""

    def heard(old: Any, hints: Hints, now: float, message: m.Hints) -> None:
        old(hints, now, message)
        hints._pools.clear()

    def pool(old: Any, hints: Hints, *given: Any) -> Any:
        found = old(hints, *given)
        return found._replace(share=found.others, others=found.share) if found.others else found

    with replace(Hints, "heard", heard), replace(Hints, "pool", pool):
        yield


OF_HINTS = frozenset(set(BUGS) - _BEFORE)  # seeds in which hardly any job is placed by hints cannot show these
