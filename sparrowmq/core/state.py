"""What the parts of one scheduler share: its tables, its deadlines, its effects.

Owns: the tables' containers and the few ways to add an effect. Must not know: any decision.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from sparrowmq.core.effects import AnyEffect, Close, Log, Peer, Send
from sparrowmq.core.job import Job
from sparrowmq.core.peers import Client, Finished, Worker
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.settings import SchedulerSettings


class State:
    """The tables of one scheduler; everything in them is bounded by ``settings.limits``."""

    def __init__(self, id: str, settings: SchedulerSettings, rng: random.Random, unix_offset_s: float) -> None:
        self.id = id
        self.settings = settings
        self.rng = rng
        self.unix_offset_s = unix_offset_s
        self.jobs: dict[str, Job] = {}
        self.workers: dict[str, Worker] = {}
        self.clients: dict[str, Client] = {}
        self.peers: dict[Peer, Worker | Client] = {}
        self.finished: deque[Finished] = deque(maxlen=settings.limits.finished_jobs)
        self.counters: dict[str, int] = {}
        self.tasks = 0  # of unfinished jobs
        self.bytes = 0  # payloads of unfinished jobs and of outcomes that no client has acknowledged
        self.draining = False
        self.timers: Timers[tuple[Any, ...]] = Timers()
        self.effects: list[AnyEffect] = []

    def send(self, peer: Peer | None, message: m.AnyMessage) -> None:
        """Send to a peer; to one whose connection is gone, nothing: its next hello settles what it missed."""
        if peer is not None:
            self.effects.append(Send(peer, message))

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
