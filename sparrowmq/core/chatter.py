"""Chatter: clients that say what nobody needs to hear, without end.

Owns: how often one client may ask whether a scheduler is there, answer what it was not asked, and acknowledge what it
has not got. Must not know: how somebody is sent away.

None of this makes a scheduler do much, so nothing of it waits (`turns`). But reading it costs as much as reading
anything else, and only by ending it is that spared.
"""

from __future__ import annotations

from typing import Final

from sparrowmq.core.peers import Client
from sparrowmq.core.quotas import Quota

CHATTER_PER_S: Final = 200.0  # of one client, which needs about one; the rest is for those that come late, at once


class Chatter:
    """What the clients of the scheduler with this id have said of the kind."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler
        self._allowed = Quota(CHATTER_PER_S)

    def excess(self, now: float, client: Client) -> str:
        """Count one; return "", or a sentence that says that it is one too many."""
        if not self._allowed.wait_s(now, client.id):
            self._allowed.take(now, client.id)
            return ""
        return (
            f"{client.id} says too much that is of no use; {self._scheduler} takes {CHATTER_PER_S:g} a second of one "
            "client: pings, answers to nothing and acknowledgements of nothing together"
        )
