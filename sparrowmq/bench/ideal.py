"""The ideal to compare with: one central queue that knows every slot at every moment and costs nothing.

Owns: its replay. Must not know: how service times came about.

It is greedy and first come, first served: a task starts on any idle slot at once, otherwise when all tasks
before it have started and a slot becomes free (the "omniscient scheduler" of SOSP 2013, section 5.1, without
its network delay).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def response_times(arrivals_s: Sequence[float], services_s: Sequence[Sequence[float]], slots: int) -> list[float]:
    """Return each job's response time in seconds: from its arrival to the end of its last task.

    ``arrivals_s`` ascend; ``services_s`` has each job's tasks in the order in which they are queued, at least one.
    """
    free_at_s = [0.0] * slots  # a heap: when each slot has done what it was given
    responses = []
    for arrival_s, tasks_s in zip(arrivals_s, services_s, strict=True):
        last_s = arrival_s
        for service_s in tasks_s:
            ends_s = max(arrival_s, free_at_s[0]) + service_s
            heapq.heapreplace(free_at_s, ends_s)
            last_s = max(last_s, ends_s)
        responses.append(last_s - arrival_s)
    return responses
