"""Where a job's tasks go: the four policies of Sparrow (SOSP 2013, section 3) and "assisted", one small pure room each.

Owns: the policies' names, what a scheduler has to know of each to drive it, and the names that users may
type. Must not know: messages, schedulers or clocks. Workers are opaque hashable values here, and the random
generator is passed in.

The rooms: `uniform` (policy "random"), `per_task`, `batch`, `late_binding`, `assisted`; shared by them `spread`
(reservations over workers), `probe_ratio` (how many probes) and `load` (what a worker's load is).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sparrowmq.errors import UsageError

_SHOWN_CHARS_MAX: Final = 64  # of a wrong name, which may come from a peer


@dataclass(frozen=True, slots=True)
class Policy:
    """What drives a policy: ``late`` leaves reservations instead of tasks, ``samples`` asks for loads first.

    ``hinted`` goes by load hints.
    """

    name: str
    late: bool
    samples: bool
    hinted: bool = False


POLICIES: Final[Mapping[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy("random", late=False, samples=False),
        Policy("per-task", late=False, samples=True),
        Policy("batch", late=False, samples=True),
        Policy("late-binding", late=True, samples=False),
        Policy("assisted", late=True, samples=False, hinted=True),
    )
}

_ALIASES: Final[Mapping[str, str]] = {
    **{name: name for name in POLICIES},
    "choose-two": "per-task",
    "batch+late-binding": "late-binding",
}


def canonical(name: str) -> str:
    """Return the policy's name in POLICIES. RANDOM, CHOOSE_TWO, BATCH and BATCH+LATE_BINDING are understood too.

    Case does not matter, nor whether words are joined by "-" or "_". Raises UsageError for any other name.
    """
    key = name.lower().replace("_", "-")
    known = _ALIASES.get(key)
    if known is not None:
        return known
    near = difflib.get_close_matches(key[:_SHOWN_CHARS_MAX], _ALIASES, n=1)
    known_names = ", ".join(POLICIES)
    raise UsageError(
        f"unknown policy {name[:_SHOWN_CHARS_MAX]!r}; the policies are {known_names}",
        hint=f"Did you mean {_ALIASES[near[0]]!r}?" if near else f"use one of {known_names}",
    )
