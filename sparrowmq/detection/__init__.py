"""When a silent node is suspected: failure detectors that live on heartbeats, one small pure room each.

Owns: what a detector is, their names, and what a margin means to each. Must not know: messages, stores, clocks, what is
done about a suspicion. Sequence numbers and moments are handed in.

The rooms: `fixed_timeout` (policy "fixed"), `chen`, `bertier`, `phi_accrual`, `self_tuning`; shared by three of them
`arrivals` (when the next beat is expected); `qos` measures how good a detector is, `theory` computes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from sparrowmq.detection.bertier import Bertier
from sparrowmq.detection.chen import Chen
from sparrowmq.detection.fixed_timeout import FixedTimeout
from sparrowmq.detection.phi_accrual import PhiAccrual
from sparrowmq.detection.self_tuning import SelfTuning
from sparrowmq.errors import UsageError


class Detector(Protocol):
    """What one node's beats say of it. A node that starts anew gets a new one.

    Whatever the arrivals are, a deadline lies after the arrival of the last beat, and not for ever after it: each new
    beat brings some trust, and silence ends in suspicion.
    """

    def beat(self, sequence: int, at_s: float) -> None:
        """Beat ``sequence`` (from 0) has arrived. Sequences that are not above the last are ignored.

        Beat i is sent i intervals after beat 0, so one that is missing was lost or not sent in time. A moment before
        the last one counts as the last one. O(1).
        """

    @property
    def deadline_s(self) -> float:
        """Suspected from then on, unless a newer beat arrives; infinity before the first beat."""


_MAKERS: Final[Mapping[str, Callable[[float, float], Detector]]] = {
    "fixed": FixedTimeout,
    "chen": Chen,
    "bertier": Bertier,
    "phi-accrual": PhiAccrual,
    "self-tuning": SelfTuning,
}
NAMES: Final = tuple(_MAKERS)


def make(name: str, interval_s: float, margin_s: float) -> Detector:
    """Return a new detector for a node that beats each ``interval_s``. Raises UsageError.

    ``margin_s`` is what a beat may be late: of "fixed" the timeout less an interval, of "chen" the alpha, of "bertier"
    and "phi-accrual" what their own margin never falls below, of "self-tuning" where it begins; it may come to twice
    that.
    """
    if name not in _MAKERS:
        raise UsageError(f"unknown detector {name[:64]!r}", hint=f"the detectors are {', '.join(NAMES)}")
    if not (0.0 < interval_s < math.inf and 0.0 <= margin_s < math.inf):
        raise UsageError(
            f"detector {name}: expected an interval above 0 s and a margin of at least 0 s, "
            f"got {interval_s:g} and {margin_s:g}"
        )
    return _MAKERS[name](interval_s, margin_s)
