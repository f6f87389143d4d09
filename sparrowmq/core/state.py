"""What the parts of one scheduler share: its tables, its deadlines, its effects.

Owns: the tables' containers and the few ways to add an effect. Must not know: any decision.
"""

from __future__ import annotations

import random
from typing import Any

from sparrowmq.core.effects import AnyEffect, Close, Log, Peer, Send
from sparrowmq.core.history import History
from sparrowmq.core.job import Job
from sparrowmq.core.keeping import Book
from sparrowmq.core.peers import Advisor, Client, Worker
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings


class State:
    """The tables of one scheduler; everything in them is bounded by ``settings.limits``."""

    def __init__(
        self,
        id: str,
        settings: SchedulerSettings,
        rng: random.Random,
        unix_offset_s: float,
        host: str = "",
        pid: int = 0,
        package: str = "",
        durable: bool = False,
    ) -> None:
        self.id = id
        self.durable = durable  # there is a store to keep jobs in
        self.book = Book()
        self.host = host
        self.pid = pid
        self.package = package
        self.settings = settings
        self.rng = rng
        self.unix_offset_s = unix_offset_s
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.clients: dict[str, Client] = {}
        self.peers: dict[Peer, Worker | Client | Advisor] = {}
        self.advisor: Advisor | None = None
        self.term = 0  # the highest of an assistant so far
        self.history = History(settings.limits, unix_offset_s)
        self.counters: dict[str, int] = {}
        self.tasks = 0  # of unfinished jobs
        self.rows = 0  # of their task tables: a job that is submitted again for its last task has a row for each before
        self.bytes = 0  # payloads of unfinished jobs and of outcomes that no client has acknowledged
        self.draining = False
        self._asks = 0
        self.timers: Timers[tuple[Any, ...]] = Timers()
        self.effects: list[AnyEffect] = []

    def job(self, job_id: str) -> Job | None:
        """Return a job by its full id, unfinished or of the history; None if it is not known."""
        return self.jobs.get(job_id) or self.history.finished.get(job_id)

    def client_of(self, client_id: str, job_id: str) -> Client | None:
        """Return the client with this id; None where it has gone, or where another owner goes by its id now."""
        client = self.clients.get(client_id)
        return client if client is not None and client.owns(job_id) else None

    def is_foreign(self, client: Client, job_id: str) -> bool:
        """Whether the client wants something done to a job of another owner, known here or not; it is counted."""
        if client.owns(job_id):
            return False
        self.count("foreign")
        return True

    def send(self, peer: Peer | None, message: m.AnyMessage) -> None:
        """Send to a peer; to one whose connection is gone, nothing: its next hello settles what it missed."""
        if peer is not None:
            self.effects.append(Send(peer, message))

    def ask(self, peer: Peer | None) -> int:
        """Ask a client whether it is there; return the number that its answer, a `Pong`, will bear."""
        self._asks += 1
        self.send(peer, m.Ping(self._asks))
        return self._asks

    def dismiss(self, peer: Peer | None) -> None:
        """End a connection for good."""
        if peer is not None:
            self.peers.pop(peer, None)
            self.effects.append(Close(peer))

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter that `status` shows. Names come from the code, never from a peer."""
        self.counters[name] = self.counters.get(name, 0) + n

    def log(self, level: str, event: str, **fields: object) -> None:
        """Tell the operator."""
        self.effects.append(Log(level, event, fields))
