"""Ending tasks from outside, running ones too, and the words for what became of each.

Owns: what is asked of the cluster for it, and how long the outcomes may take. Must not know: sessions, sockets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sparrowmq.client import waiting
from sparrowmq.client.future import Batch, Future


def interrupt(futures: Iterable[Future[Any]], grace_s: float) -> list[str]:
    """End tasks, running ones after ``grace_s`` at the latest, and return what became of each.

    See `Client.interrupt`.
    """
    wanted = list(futures)
    groups: dict[Batch, list[int]] = {}
    for future in wanted:
        if not future.done():
            groups.setdefault(future.batch, []).append(future.index)
    for batch, indices in groups.items():
        batch.link.kill(batch.id, indices, grace_s)
    patience_s = grace_s + max((batch.link.answer_timeout_s for batch in groups), default=0.0)
    _, unfinished = waiting.wait(wanted, patience_s)
    if unfinished:
        some = f"{len(unfinished):,} of {len(wanted):,} interrupted tasks"
        raise TimeoutError(f"{some} are not over after {patience_s:g} s: no scheduler has said what became of them")
    return [verdict(future) for future in wanted]


def verdict(future: Future[Any]) -> str:
    """Return what became of a task that is over and was to be ended: "too late" where it ended by itself."""
    return (future.cancellation or "killed") if future.cancelled() else "too late"
