"""Whether and when a process that has ended is started again.

Owns: the rule. Must not know: processes, or what they do.

One that ended in order (status 0) was told to, by a signal, a drain or its owner, and stays away. One that failed
comes back, later each time that it fails soon after its start, and not for ever: what fails ten times in a row is
broken, and starting it only hides that.
"""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.1
MOST_S: Final = 10.0
STABLE_AFTER_S: Final = 5.0
IN_A_ROW_MAX: Final = 10  # some 50 seconds


def in_a_row(before: int, lived_s: float) -> int:
    """Return how many times in a row it has failed soon after its start, ``before`` this end and with it."""
    return 0 if lived_s >= STABLE_AFTER_S else before + 1


def delay_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return float(min(FIRST_S * 2 ** min(failures, 32), MOST_S))


def is_hopeless(failures: int) -> bool:
    """Return whether to leave it at that."""
    return failures > IN_A_ROW_MAX
