"""Bugs in what concerns keys: what one key may have, and who may see and end whose jobs. See `planted`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

from sparrowmq import ids
from sparrowmq.core import report
from sparrowmq.core.haste import Haste
from sparrowmq.core.pacing import Pace
from sparrowmq.core.placer import Placer
from sparrowmq.core.state import State
from tests.support.planting import BUGS, bug, never, replace

_BEFORE = set(BUGS)


@bug
def never_resumes_its_pace() -> Iterator[None]:
    """A client that was refused for its haste sends nothing any more."""
    with replace(Pace, "resume", never):
        yield


@bug
def takes_as_many_jobs_of_a_key_as_come() -> Iterator[None]:
    with replace(Haste, "refusal", never):
        yield


@bug
def sends_away_who_has_not_heard_yet_of_its_haste() -> Iterator[None]:
    """Every refusal counts, also of what a client had sent before it could know."""

    def refused(old: Any, haste: Haste, now: float, client: Any) -> None:
        old(haste, now, client)
        if client.excused or not client.knows:
            haste._refusals.take(now, client.id)

    def heedless(old: Any, haste: Haste, now: float, client: Any) -> str:
        knew, client.knows = client.knows, True
        why: str = old(haste, now, client)
        client.knows = knew
        return why

    with replace(Haste, "_refused", refused), replace(Haste, "heedless", heedless):
        yield


@bug
def sends_for_all_jobs_of_a_key_once_one_may_be_placed() -> Iterator[None]:
    with replace(Placer, "_too_soon", lambda old, *given: False):
        yield


@bug
def forgets_a_job_that_waits_for_its_key() -> Iterator[None]:
    """Only the first of the jobs of a key is placed once more may be sent."""
    with replace(Placer, "overdue", lambda old, placer, payer: old(placer, payer)[:1]):
        yield


@bug
def ends_jobs_for_whoever_knows_their_ids() -> Iterator[None]:
    with replace(State, "is_foreign", lambda old, state, client, job_id: False):
        yield


@bug
def shows_anybody_the_job_that_is_asked_for() -> Iterator[None]:
    """A status shows jobs of the owner of the job that was named, not of who asks."""
    old = report.status

    def status(state: Any, now: float, query: Any, owner: str, *workers: Any) -> Any:
        return old(state, now, query, ids.owner_of(getattr(query, "job", "")) or owner, *workers)

    with mock.patch.object(report, "status", status):
        yield


OF_KEYS = frozenset(set(BUGS) - _BEFORE)  # seeds without keys cannot show these
