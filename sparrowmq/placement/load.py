"""What a worker's load is, as one number that placement compares.

Owns: the measure. Must not know: how the numbers got here, or how old they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparrowmq.placement.spread import W


def expected_wait(queued: int, running: int, slots: int) -> float:
    """Return how long one more task would wait, in mean service times, if positive; else it starts at once.

    (queued + running + 1 - slots) / slots: with k = queued + running - slots tasks too many for the slots, a
    newcomer waits until k + 1 of them have ended, and the slots end one every 1/slots of a service time. At 0
    the last idle slot would be taken; below 0 slots stay idle after it. So among workers with equal slots the
    order is that of ``queued + running``, and among equal queues more slots are better. One more task adds
    1/slots. A worker without slots never starts anything: infinity.
    """
    if slots <= 0:
        return math.inf
    return (queued + running + 1 - slots) / slots


def added_wait(worker: W, slots: Mapping[W, int] | None) -> float:
    """Return what one task more adds to the expected wait of ``worker``: 1/slots, and 1 where not known."""
    return 1.0 / max(1, slots.get(worker, 1)) if slots else 1.0
