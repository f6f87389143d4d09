"""The assistant: hears beats, judges who is alive, tells the schedulers, and hands them load hints (FTLLS, 2018).

Owns: its connections to schedulers, what each is told when, its term. Must not know: the store, sockets, clocks, jobs.
`judge` decides who is alive, `hinting` makes the hints, `baseline` is what a fixed timeout would have said.

Several may run. All hear the beats, so that the next one is warm; the one that holds the lease speaks, and its term
goes with every verdict (DESIGN rule 9). Nothing here is on the path of a task: without any assistant a cluster is
Sparrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from sparrowmq import limits
from sparrowmq.core.baseline import Baseline
from sparrowmq.core.effects import AnyEffect, Close, Condemn, Connect, Log, Send
from sparrowmq.core.hinting import Hinting
from sparrowmq.core.judge import ALIVE, DEAD, Judge, Node
from sparrowmq.core.timers import Timers
from sparrowmq.protocol import messages as m
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings

RETRY_S_MIN: Final = 0.005
RETRY_S_MAX: Final = 1.0
REFUSED_RETRY_S: Final = 5.0
INTERVAL_S: Final = 0.1  # of beats, where none has told another yet: the baseline's timeout is counted in these
_LEVELS: Final = {ALIVE: "info", DEAD: "warning"}


class Arrival(NamedTuple):
    """A beat, and when it reached the store on the assistant's clock."""

    at_s: float
    beat: Beat


class NodeReport(msgspec.Struct, frozen=True):
    """One node as the assistant sees it.

    ``queued``: reservations and tasks that wait there; of a scheduler, tasks that wait for its reservations' turns.
    ``wait_ms`` is how long a task submitted now would wait at this worker. None: it takes none, no task has ended
    there yet, or it is a scheduler.
    """

    kind: str
    id: str
    incarnation: int
    state: str  # "alive", "suspect", "dead"
    state_since_unix_s: float
    silent_ms: float  # since its last beat, up to the moment that silence is judged to
    beats: int
    suspicions: int
    slots: int
    running: int
    queued: int
    wait_ms: float | None = None
    interval_ms: int = 0  # so far apart are its beats; 0: not told
    suspect_after_ms: float = 0.0  # of silence: its detector's deadline as its last beat has set it
    suspected_unix_s: float = 0.0  # when the last suspicion began, 0 if there was none
    heard_unix_s: float = 0.0  # when its last beat reached the store, 0: not told


class AssistantReport(msgspec.Struct, frozen=True):
    """What `assistant show` prints.

    ``baseline_*`` is what a fixed timeout of ``baseline_timeout_s`` would have said of the same beats.
    """

    id: str
    host: str
    pid: int
    package: str
    term: int  # 0: a standby
    detector: str
    lag_ms: float
    margin_ms: float
    unix_s: float
    schedulers: list[str]  # that have welcomed it
    nodes: list[NodeReport]
    deaths: int
    refuted: int  # of these, nodes that were heard again
    ignored: dict[str, int]  # beats that did not count, by reason
    baseline_timeout_s: float
    baseline_deaths: int
    baseline_refuted: int


@dataclass(slots=True, eq=False)
class _Link:
    scheduler: str
    address: str
    peer: int = 0
    welcomed: bool = False
    failures: int = 0


class Assistant:
    """One assistant. Drivers call the event methods and carry out `take_effects`, in order."""

    def __init__(
        self,
        *,
        id: str,
        incarnation: int,
        settings: AssistantSettings,
        package: str = "",
        host: str = "",
        pid: int = 0,
        unix_offset_s: float = 0.0,
    ) -> None:
        self.id = id
        self.incarnation = incarnation
        self.term = 0
        self.judge = Judge(settings)
        self.baseline = Baseline(INTERVAL_S * (1.0 + settings.detection_beats + settings.confirm_beats))
        self.hinting = Hinting()
        self.deaths = 0
        self._settings = settings
        self._hello = m.Hello(m.PROTOCOL, package, m.ASSISTANT, id, 0, "", host, pid)
        self._unix_offset_s = unix_offset_s
        self._links: dict[str, _Link] = {}  # by scheduler
        self._peers: dict[int, _Link] = {}
        self._last_peer = 0
        self._hinting_now = False
        self._timers: Timers[tuple[Any, ...]] = Timers()
        self._effects: list[AnyEffect] = []
        self._due: dict[str, Callable[..., None]] = {"connect": self._due_connect, "hints": self._due_hints}

    # -- events

    def heard(
        self, now: float, seen_s: float, lag_s: float, arrivals: Sequence[Arrival], interrupted: bool = False
    ) -> None:
        """Everything that had reached the store by ``seen_s`` has been read, these beats lately.

        ``interrupted``: the store has failed since the last time.
        """
        for at_s, beat in arrivals:
            if self.judge.beat(at_s, beat) is None:
                continue
            self.hinting.observe(now, beat)
            self.baseline.read((beat.kind, beat.id), now)
        self.baseline.look(now)
        self._changed(self.judge.judge(seen_s, lag_s, interrupted))
        for key in self.judge.forgotten:
            self.baseline.forget(key)
            self.hinting.forget(key[1])
        self.judge.forgotten.clear()

    def leads(self, now: float, term: int) -> None:
        """The lease is held, with this fencing token; 0: it is not held (any more)."""
        if term == self.term:
            return
        self._log("info", "leading" if term else "not leading any more", term=term or self.term)
        for link in self._links.values():
            self._disconnect(link)
        self.term = term
        self._connect_all(now)
        for node in self.judge if term else ():
            if node.beat.kind != m.WORKER and node.state == DEAD:  # the one before may have died with it
                self._condemn(node)
        if term and self._settings.hint_interval_s and not self._hinting_now:
            self._hinting_now = True
            self._timers.add(now + self._settings.hint_interval_s, ("hints",))

    def schedulers_changed(self, now: float, addresses: dict[str, str]) -> None:
        """The registry lists these schedulers (id -> address of their client socket)."""
        for scheduler in self._links.keys() - addresses.keys():
            self._disconnect(self._links.pop(scheduler))
        for scheduler, address in sorted(addresses.items()):
            link = self._links.get(scheduler)
            if link is None and len(self._links) < self._settings.limits.schedulers:
                link = self._links[scheduler] = _Link(scheduler, address)
            if link is not None and link.address != address:
                self._disconnect(link)
                link.address = address
        self._connect_all(now)

    def receive(self, now: float, peer: int, message: m.AnyMessage) -> None:
        """A message from a scheduler. Never raises for anything that decodes."""
        link = self._peers.get(peer)
        if link is None:
            return
        if isinstance(message, m.Welcome) and not link.welcomed:
            link.welcomed, link.failures = True, 0
            self._log("info", "scheduler found", scheduler=link.scheduler)
            self._tell(link, [node for node in self.judge if node.state != ALIVE])
        elif isinstance(message, m.Refused):
            self._log("error", "refused by scheduler", scheduler=link.scheduler, code=message.code)
            self._disconnect(link)
            self._timers.add(now + REFUSED_RETRY_S, ("connect", link.scheduler))
        elif isinstance(message, m.Ping):
            self._effects.append(Send(peer, m.Pong(message.n)))

    def lost(self, now: float, peer: int) -> None:
        """The connection is gone; it is tried anew as long as the registry lists the scheduler."""
        link = self._peers.pop(peer, None)
        if link is None:
            return
        link.failures = 0 if link.welcomed else link.failures + 1
        link.peer, link.welcomed = 0, False
        wait_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(link.failures, 10))
        self._timers.add(now + wait_s, ("connect", link.scheduler))

    def tick(self, now: float) -> None:
        """Do what is due."""
        for name, *arguments in self._timers.due(now):
            self._due[name](now, *arguments)

    def next_deadline(self) -> float | None:
        """Return when `tick` is wanted next (monotonic seconds), or None."""
        return self._timers.next()

    def take_effects(self) -> list[AnyEffect]:
        """Return what is to be done since the last call, in order."""
        effects = self._effects[:]
        self._effects.clear()
        return effects

    # -- verdicts

    def _changed(self, nodes: Iterable[Node]) -> None:
        """Tell the schedulers of workers, and the registry of schedulers, whose state has changed."""
        told: dict[str, Node] = {}
        for node in nodes:
            beat = node.beat
            silent_ms = round(self._silent_s(node) * 1e3)
            event = f"{beat.kind} is {node.state}"
            self._log(_LEVELS.get(node.state, "info"), event, id=beat.id, silent_ms=silent_ms)
            self.deaths += node.state == DEAD
            if beat.kind == m.WORKER:
                told[beat.id] = node
                if node.state == DEAD:
                    self.hinting.forget(beat.id)
            elif node.state == DEAD and self.term:
                self._condemn(node)
        if told:
            for link in self._links.values():
                self._tell(link, list(told.values()))

    def _condemn(self, node: Node) -> None:
        self._effects.append(Condemn(node.beat.id, node.beat.incarnation, self._why(node)))

    def _tell(self, link: _Link, nodes: list[Node]) -> None:
        judged = [
            m.Judged(
                node.beat.id, node.beat.incarnation, node.state, round(self._silent_s(node) * 1e3), self._why(node)
            )
            for node in nodes[: limits.STATUS_ROWS_MAX]
            if node.beat.kind == m.WORKER
        ]  # fmt: skip
        if link.welcomed and self.term:
            self._effects.append(Send(link.peer, m.Verdict(self.term, judged)))

    def _why(self, node: Node) -> str:
        if node.state == ALIVE:
            return "it beats"
        return f"no beat for {self._silent_s(node) * 1e3:.0f} ms (every {node.beat.interval_ms} ms expected)"

    def _silent_s(self, node: Node) -> float:
        return max(0.0, self.judge.seen_s - node.heard_s)

    # -- hints

    def _due_hints(self, now: float) -> None:
        self._hinting_now = bool(self.term)
        if not self.term:
            return
        self._timers.add(now + self._settings.hint_interval_s, ("hints",))
        for link in self._links.values():
            if link.welcomed:
                hints = self.hinting.hints(now, link.scheduler, self.term)
                if hints is not None:
                    self._effects.append(Send(link.peer, hints))

    # -- connections

    def _connect_all(self, now: float) -> None:
        for link in self._links.values():
            self._connect(link)

    def _connect(self, link: _Link) -> None:
        if link.peer or not self.term:
            return
        self._last_peer += 1
        link.peer = self._last_peer
        self._peers[link.peer] = link
        self._effects.append(Connect(link.peer, link.address))
        hello = msgspec.structs.replace(self._hello, incarnation=self.term, connection=link.peer)
        self._effects.append(Send(link.peer, hello))

    def _disconnect(self, link: _Link) -> None:
        if link.peer:
            self._effects.append(Close(link.peer))
            del self._peers[link.peer]
            link.peer, link.welcomed = 0, False

    def _due_connect(self, now: float, scheduler: str) -> None:
        link = self._links.get(scheduler)
        if link is not None:
            self._connect(link)

    # -- telling

    def report(self, now: float) -> AssistantReport:
        """Return what there is to know of this assistant and of all nodes that it hears."""
        judge, baseline = self.judge, self.baseline
        return AssistantReport(
            id=self.id,
            host=self._hello.host,
            pid=self._hello.pid,
            package=self._hello.package,
            term=self.term,
            detector=self._settings.detector,
            lag_ms=judge.lag_s * 1e3,
            margin_ms=judge.margin_s * 1e3,
            unix_s=self._unix_offset_s + now,
            schedulers=sorted(link.scheduler for link in self._links.values() if link.welcomed),
            nodes=[self._node_report(node) for node in judge],
            deaths=self.deaths,
            refuted=judge.refuted,
            ignored=dict(judge.counters),
            baseline_timeout_s=baseline.timeout_s,
            baseline_deaths=baseline.deaths,
            baseline_refuted=baseline.refuted,
        )

    def _node_report(self, node: Node) -> NodeReport:
        beat = node.beat
        since_unix_s = self._unix_offset_s + node.since_s
        silent_ms = round(self._silent_s(node) * 1e3, 1)
        wait_us = self.hinting.expected_wait_us(beat.id) if beat.kind == m.WORKER else None
        return NodeReport(
            beat.kind, beat.id, beat.incarnation, node.state, since_unix_s, silent_ms, node.beats, node.suspicions,
            beat.slots, beat.running, beat.queued, None if wait_us is None else wait_us / 1e3, beat.interval_ms,
            round((self.judge.suspect_at_s(node) - node.heard_s) * 1e3, 1),
            self._unix_offset_s + node.suspected_s if node.suspicions else 0.0, self._unix_offset_s + node.heard_s,
        )  # fmt: skip

    def _log(self, level: str, event: str, **fields: object) -> None:
        self._effects.append(Log(level, event, fields))
