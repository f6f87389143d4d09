"""Cancelling tasks whose outcome nobody waits for.

Owns: `recall`. Must not know: executors, event loops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from sparrowmq.client.future import Batch, Future
from sparrowmq.errors import UsageError


def recall(futures: Iterable[Future[Any]]) -> None:
    """Cancel those of the tasks that have not started, by one message a job; returns at once and never raises."""
    groups: dict[Batch, list[int]] = {}
    for future in futures:
        if not future.done():
            groups.setdefault(future.batch, []).append(future.index)
    for batch, indices in groups.items():
        with contextlib.suppress(UsageError):  # the client is closed: so are its tasks
            batch.link.start_recall(batch, indices)
