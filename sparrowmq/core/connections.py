"""A worker's connections to its schedulers: made, welcomed, lost, tried again, forgotten.

Owns: the links, the hello and its inventory, silence. Must not know: what is asked and answered over them.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sparrowmq import limits
from sparrowmq.core.carried import Carried, near_s
from sparrowmq.core.effects import AnyEffect, Close, Connect, Log, Look, Send
from sparrowmq.core.links import Link, Request
from sparrowmq.core.queue import Entry
from sparrowmq.core.timers import Timers
from sparrowmq.core.workplace import Workplace
from sparrowmq.protocol import messages as m
from sparrowmq.settings import WorkerSettings

REFUSED_RETRY_S: Final = 5.0


class Connections:
    """The links of one worker. ``hello`` lacks the inventory, which each connection gets anew."""

    def __init__(
        self, hello: m.Hello, settings: WorkerSettings, place: Workplace, effects: list[AnyEffect],
        timers: Timers[tuple[Any, ...]],
    ) -> None:  # fmt: skip
        self.links: dict[str, Link] = {}
        self.peers: dict[int, Link] = {}
        self.closed = False  # no new ones are made
        self._hello = hello
        self._settings = settings
        self._place = place
        self._effects = effects
        self._timers = timers
        self._last_peer = 0
        self._watching = False

    def listed(self, now: float, addresses: dict[str, str]) -> None:
        """The registry lists these schedulers (id -> address of their worker socket)."""
        for known in self.links.values():
            known.listed = known.scheduler in addresses
        for scheduler, address in addresses.items():
            link = self.links.get(scheduler)
            if link is None and len(self.links) < self._settings.limits.schedulers:
                link = self.links[scheduler] = Link(scheduler, address, down_since=now)
            if link is not None:
                link.address = address
                self._connect(now, link)

    def speaks(self, link: Link) -> None:
        """A scheduler that was silent has been heard."""
        link.silent = False
        self._place.queue.unpark(link.scheduler)

    def welcomed(self, link: Link, message: m.Welcome) -> None:
        """The scheduler has answered the hello: what is unacknowledged is said again."""
        if link.incarnation and link.incarnation != message.incarnation:
            self._drop_entries(link)  # it was restarted and knows nothing of them
        link.incarnation = message.incarnation
        link.welcomed = True
        link.failures = 0
        self._place.queue.unpark(link.scheduler)
        self._log("info", "scheduler found", scheduler=link.scheduler, address=link.address)
        for message in (*link.outbox, *link.unsaid):
            self.send(link, message)
        link.unsaid.clear()

    def refused(self, now: float, link: Link, message: m.Refused) -> None:
        """The scheduler does not want this worker."""
        self._log("error", "refused by scheduler", scheduler=link.scheduler, code=message.code, detail=message.detail)
        self._drop(now, link, REFUSED_RETRY_S)

    def carried(self, now: float, peer: int, carried: Carried) -> None:
        """The answer to a `Look`."""
        link = self.peers.get(peer)
        if link is not None:
            link.traffic.look(now, link.heard_at, carried)

    def lost(self, now: float, peer: int) -> None:
        """The connection is gone: what was asked over it is queued again, and it is tried anew."""
        link = self.peers.get(peer)
        if link is not None:
            self._disconnected(now, link)
            self._timers.add(now + link.retry_after_s(), ("connect", link.scheduler))

    def drop(self, now: float, link: Link) -> None:
        """Close the connection, and try a new one soon."""
        self._drop(now, link, link.retry_after_s())

    def send(self, link: Link, message: m.AnyMessage) -> None:
        """Send ``message``, unless the scheduler has not welcomed this worker (yet)."""
        if link.welcomed:
            self._effects.append(Send(link.peer, message))

    def adopt(self, link: Link, job: str, epoch: int) -> list[m.Result]:
        """Take over, for this scheduler, results of earlier epochs of a job that no other has acknowledged.

        They are not sent yet. Those of attempts that were killed are left out: who wanted that does not wait for them.
        """

        def counts(result: m.Result) -> bool:
            return result.job == job and result.epoch < epoch and m.CANCELLED not in result.statuses

        taken: list[m.Result] = []
        for other in self.links.values():
            for result in other.outbox.take(counts):
                moved = msgspec.structs.replace(result, seq=link.outbox.next_seq, epoch=epoch)
                taken.append(link.outbox.put(moved, sum(map(len, result.payloads)) + 16 * len(result.indices)))
        return taken

    def forget_request(self, link: Link, request: Request) -> None:
        """Nobody waits for the rest of this request's answer any more."""
        del link.requests[request.number]
        self._place.slots[request.slot].answered(request.job, request.count)

    def held_by(self, link: Link) -> list[m.Held]:
        """Return the inventory of this scheduler's tasks: queued, at slots, or ended and not acknowledged."""
        tasks: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for some in (*self._place.held_by(link.scheduler), *link.outbox):
            tasks.setdefault((some.job, some.epoch), []).extend(zip(some.indices, some.attempts, strict=True))
        held = []
        for (job, epoch), pairs in tasks.items():
            for first in range(0, len(pairs), limits.TASKS_PER_JOB_MAX):
                indices, attempts = zip(*pairs[first : first + limits.TASKS_PER_JOB_MAX], strict=True)
                held.append(m.Held(job, epoch, list(indices), list(attempts)))
        return held

    def _connect(self, now: float, link: Link) -> None:
        if link.peer or self.closed:
            return
        self._last_peer += 1
        link.peer = self._last_peer
        link.heard_at = now
        self.peers[link.peer] = link
        self._effects.append(Connect(link.peer, link.address))
        hello = msgspec.structs.replace(
            self._hello,
            reserved=self._place.reserved_by(link.scheduler),
            held=self.held_by(link),
            connection=link.peer,
        )
        self._effects.append(Send(link.peer, hello))
        if not self._watching:
            self._watching = True
            self._timers.add(now + self._settings.ping_interval_s, ("silence",))

    def _disconnected(self, now: float, link: Link) -> None:
        self.peers.pop(link.peer, None)
        link.failures = 0 if link.welcomed else link.failures + 1
        if link.welcomed:
            link.down_since = now
            self._timers.add(now + self._settings.scheduler_grace_s, ("grace", link.scheduler, now))
            self._log("info", "scheduler lost", scheduler=link.scheduler)
        link.peer, link.welcomed, link.silent = 0, False, False
        link.unsaid.clear()
        for request in list(link.requests.values()):
            self.forget_request(link, request)
            if self._place.epoch(request.job, request.epoch) == request.epoch:  # else its job is elsewhere by now
                entry = Entry(link.scheduler, request.job, request.epoch, request.round, request.count)
                self._place.queue.add(entry, first=True)
        self._place.queue.park(link.scheduler)

    def _drop(self, now: float, link: Link, retry_after_s: float) -> None:
        self._effects.append(Close(link.peer))
        self._disconnected(now, link)
        self._timers.add(now + retry_after_s, ("connect", link.scheduler))

    def _drop_entries(self, link: Link) -> None:
        self._place.queue.remove(lambda entry: entry.scheduler == link.scheduler)

    def _forget(self, link: Link) -> None:
        self._drop_entries(link)
        self._place.queue.unpark(link.scheduler)
        self.links.pop(link.scheduler, None)

    def _log(self, level: str, event: str, **fields: object) -> None:
        self._effects.append(Log(level, event, fields))

    # -- deadlines

    def due_connect(self, now: float, scheduler: str) -> None:
        """A connection is to be tried again."""
        link = self.links.get(scheduler)
        if link is None or link.peer:
            return
        if link.listed or now - link.down_since < self._settings.scheduler_grace_s:
            self._connect(now, link)
        else:
            self._forget(link)

    def due_grace(self, now: float, scheduler: str, down_since: float) -> None:
        """A scheduler has been away for long: its clients have gone elsewhere."""
        link = self.links.get(scheduler)
        if link is not None and not link.welcomed and link.down_since == down_since:
            if link.peer:
                self.drop(now, link)  # its hello tells of them, and may still be on its way
            self._drop_entries(link)
            if not link.listed and not link.peer:
                self._forget(link)

    def due_silence(self, now: float) -> None:
        """A scheduler pings its workers; one that says nothing for long is as good as disconnected."""
        silent_after_s = self._settings.silent_after_s
        look_after_s = near_s(self._settings.ping_interval_s, silent_after_s)
        for link in [link for link in self.links.values() if link.peer]:
            if link.traffic.silent_s(now, link.heard_at) > silent_after_s:
                self.drop(now, link)
            elif now - link.heard_at > look_after_s:
                self._effects.append(Look(link.peer))
        self._watching = bool(self.links)
        if self._watching:
            self._timers.add(now + self._settings.ping_interval_s, ("silence",))
