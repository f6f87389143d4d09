"""What user threads have handed over and the connection's thread has not taken yet.

Owns: how separate calls come to share a job. Must not know: threads and locks (the connection guards it), sessions.

A call is a job of its own while few are under way, and leaves at once. When many are, calls of the same function
with the same options that come between two turns of the connection's thread share one job: it costs the cluster a
fraction, and is placed better (batch sampling, SOSP 2013, 3.3). Nothing waits for others to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sparrowmq import limits
from sparrowmq.client import submission
from sparrowmq.client.future import Batch, Future
from sparrowmq.client.link import Link, Sink
from sparrowmq.protocol import messages as m

CROWD: Final = 16  # unfinished jobs of the client, from which on calls share jobs
GROUP_TASKS_MAX: Final = 256
GROUP_BYTES_MAX: Final = 1024 * 1024

Jobs = Sequence[tuple[m.Submit, Sink]]


class _Group:
    """Calls that share a job, until it is taken."""

    __slots__ = ("batch", "function", "payloads", "room", "spec")

    def __init__(self, batch: Batch, spec: m.JobSpec, function: bytes, payload: m.Payload) -> None:
        self.batch = batch
        self.spec = spec
        self.function = function
        self.payloads = [payload]
        self.room = GROUP_BYTES_MAX - len(payload)

    def jobs(self) -> Jobs:
        batch = self.batch
        function = submission.wrap(self.function)
        return [(m.Submit(batch.id, 0, self.spec, len(self.payloads), self.payloads, function), batch)]


class Inbox:
    """Jobs and calls in the order in which they came. The connection bounds nothing here: it takes all at each turn."""

    def __init__(self) -> None:
        self._entries: list[tuple[Jobs | _Group, bool]] = []
        self._groups: dict[tuple[int, bytes], _Group] = {}  # that still take calls, by spec (its identity) and function

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, jobs: Jobs, *, flight: bool) -> None:
        """Add ready-made jobs."""
        self._entries.append((jobs, flight))

    def call(self, link: Link, spec: m.JobSpec, function: bytes, payload: bytes, *, crowded: bool) -> Future[Any]:
        """Add a single call. ``crowded``: many jobs are under way."""
        if not crowded or len(payload) > limits.INLINE_BYTES_MAX:
            return self._open(link, spec, function, submission.wrap(payload)).batch.futures[0]
        key = id(spec), function
        group = self._groups.get(key)
        if group is None or group.room < len(payload) or len(group.payloads) >= GROUP_TASKS_MAX:
            group = self._groups[key] = self._open(link, spec, function, payload)
            return group.batch.futures[0]
        group.payloads.append(payload)
        group.room -= len(payload)
        return group.batch.add()

    def _open(self, link: Link, spec: m.JobSpec, function: bytes, payload: m.Payload) -> _Group:
        group = _Group(Batch(link.new_id(), spec.kind, 1, link), spec, function, payload)
        self._entries.append((group, False))
        return group

    def take(self) -> list[tuple[Jobs, bool]]:
        """Return (jobs, whether they are one flight), and start anew."""
        entries, self._entries = self._entries, []
        self._groups.clear()
        return [(entry.jobs() if isinstance(entry, _Group) else entry, flight) for entry, flight in entries]
