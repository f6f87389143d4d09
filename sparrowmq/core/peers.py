"""A scheduler's records of its peers, and of what it once did for them.

Owns: what a scheduler remembers of each worker and client. Must not know: what it decides from that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from sparrowmq import ids
from sparrowmq.core.carried import Traffic
from sparrowmq.core.effects import Peer
from sparrowmq.core.outbox import Outbox
from sparrowmq.protocol import messages as m


@dataclass(slots=True)
class Worker:
    """A worker as its scheduler knows it. ``peer`` is None while its connection is gone (until ``lost_at``)."""

    id: str
    incarnation: int
    hello: m.Hello
    peer: Peer | None
    heard_at: float
    lost_at: float | None = None
    draining: bool = False
    suspect: bool = False  # the assistant has not heard it lately
    condemned: bool = False  # the assistant says that it is dead, and this scheduler has heard it since
    full_until: float = 0.0  # its queue was full: not probed before
    busy_until: float = 0.0  # it was not as idle as it seemed: not believed so before
    reserved: int = 0  # reservations of all jobs that are there
    launched: int = 0
    done: int = 0
    rtt_s: float = 0.0
    pinged_at: float = 0.0
    connection: int = 0  # the latest that has said hello
    traffic: Traffic = field(default_factory=Traffic)
    unclaimed: list[tuple[str, int]] = field(default_factory=list)  # (job, epoch) that it has and nobody here knows

    @property
    def state(self) -> str:
        """ "alive", "suspect", "draining" or "lost" (the connection is gone, the grace is not over)."""
        if self.peer is None:
            return "lost"
        if self.suspect:
            return "suspect"
        return "draining" if self.draining else "alive"


@dataclass(slots=True)
class Client:
    """A client. ``peer`` is None while its connection is gone; its jobs end when the lease does."""

    id: str
    incarnation: int
    peer: Peer | None
    jobs: set[str] = field(default_factory=set)
    outbox: Outbox[m.Outcome] = field(default_factory=Outbox)
    starved: bool = False  # without credit: some of its tasks were refused to a request
    gone_at: float | None = None
    connection: int = 0  # the latest that has said hello
    asked: int = (
        0  # whether it is still there, with this number, before anything of it is launched; 0: nothing is asked
    )
    warned: int = 0  # the question that has followed its first refusal for haste over this connection; 0: none was
    unheard: int = 0  # ... what else was refused before it has answered that ...
    knows: bool = False  # ... and whether it has answered that: what it submits too soon now, it does knowingly ...
    excused: int = 0  # ... but for so many of those that wait, which came before the answer ...
    earned: int = 0  # ... and one for each that was taken since
    key: str = ""  # whose limits it goes by: the fingerprint of its key, or its id where there are no keys
    owner: str = ""  # the tag of the jobs that are its business (ids.py)
    waiting: deque[m.AnyMessage] = field(default_factory=deque)  # what came when its share was used up
    waiting_bytes: int = 0
    questions: int = 0  # of those that wait

    def owns(self, job_id: str) -> bool:
        """Whether a job with this id is the client's business: to it, no other owner's job exists."""
        return ids.owner_of(job_id) == self.owner


@dataclass(slots=True)
class Advisor:
    """The assistant that leads. ``term`` is the fencing token of its lease."""

    id: str
    term: int
    peer: Peer


@dataclass(slots=True)
class Recall:
    """A client's recall that waits for the answers of workers."""

    client: str
    request: int
    job: str
    waiting: set[str]
    cancelled: list[int]
