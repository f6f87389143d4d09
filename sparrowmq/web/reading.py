"""What the page is made of: one look at the schedulers and the store.

Owns: the record. Must not know: who reads it, or what is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sparrowmq.core.assistant import AssistantReport, NodeReport
from sparrowmq.protocol import messages as m

ALIVE: Final = "alive"
SUSPECT: Final = "suspect"
DEAD: Final = "dead"
DRAINING: Final = "draining"


class Reading(NamedTuple):
    """One look. ``store_why`` says why Redis told nothing, "" where it did.

    ``report`` is that of the assistant that leads, else of one that stands by: all hear the same beats.
    """

    statuses: Sequence[m.Status] = ()
    schedulers: int = 0  # that are registered
    assistants: int = 0
    leader: str = ""
    report: AssistantReport | None = None
    store_why: str = ""

    @property
    def nodes(self) -> Mapping[str, NodeReport]:
        """The workers in the report, by id."""
        found = self.report.nodes if self.report is not None else ()
        return {node.id: node for node in found if node.kind == m.WORKER}
