"""Orphans: durable jobs whose scheduler is gone. Whose a job is, which owners are no more, what of a job is left.

Owns: how owners are named, when one counts as gone, how often is looked and how many are taken. Must not know: where
jobs are kept, or how it is found out whether somebody listens (`store`, and the simulated store, do it alike).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from sparrowmq.protocol import messages as m

SCAN_S: Final = 1.0
SCAN_JOBS_MAX: Final = 1_000
TAKE_MAX: Final = 8  # jobs at one scan: there are others who have nothing to do


class Registered(Protocol):
    """What the registry has of a scheduler. ``dead``: true where an assistant has declared this incarnation dead."""

    @property
    def incarnation(self) -> int: ...
    @property
    def dead(self) -> object: ...


def owner_of(scheduler: str, incarnation: int) -> str:
    """Return how a scheduler is named as the owner of a job."""
    return f"{scheduler} {incarnation}"


def parse_owner(owner: str) -> tuple[str, int]:
    """Return id and incarnation of an owner; ("", 0) where nobody is."""
    scheduler, _, incarnation = owner.rpartition(" ")
    return (scheduler, int(incarnation)) if incarnation.isdecimal() else ("", 0)


class Owners:
    """Which owners of jobs one scheduler takes to be gone, from look to look."""

    def __init__(self) -> None:
        self._absent: set[str] = set()  # without a record at the last look

    def gone(
        self, owners: Iterable[str], records: Mapping[str, Registered], listens: Callable[[str], bool], *, counts: bool
    ) -> set[str]:
        """Return those owners that are no more: nobody, restarted, declared dead, unregistered, or not listening.

        ``listens(scheduler)``: whether something does at its address. ``counts``: absence of a record does.
        """
        before, wanted = self._absent, sorted(owners)
        self._absent = {owner for owner in wanted if parse_owner(owner)[0] not in records}
        found = set()
        for owner in wanted:
            id, incarnation = parse_owner(owner)
            if owner in self._absent:
                if not owner or (owner in before and counts):
                    found.add(owner)
            elif records[id].incarnation > incarnation or records[id].dead or not listens(id):
                found.add(owner)
        return found


def left_of(submit: m.Submit, epoch: int, ends: Sequence[int], deaths: Mapping[int, int]) -> m.Submit | None:
    """Return the submission of the tasks that have not ended, None where all have.

    ``ends``: of each task 0, or its final status + 1. ``deaths``: workers lost, by task, since it was submitted.
    """
    known = submit.indices or range(submit.count)
    left = [k for k, index in enumerate(known) if index >= len(ends) or not ends[index]]
    if not left:
        return None
    payloads = submit.payloads
    before = dict(zip(known, submit.deaths, strict=False)) | dict(deaths)
    return msgspec.structs.replace(
        submit,
        epoch=epoch,
        count=len(left),
        indices=[known[k] for k in left],
        payloads=payloads if len(payloads) == 1 else [payloads[k] for k in left],
        deaths=[before.get(known[k], 0) for k in left] if before else [],
    )
