"""Who is alive: a detector for each node, suspicion first, death when it is confirmed.

Owns: which beats count, the states of nodes and when they change. Must not know: where beats come from, schedulers, or
who is told of a verdict.

Silence is judged up to ``seen_s`` only, the moment up to which all beats are known to have been read: a store that
hangs and an assistant that gets no processor stop that moment, and with it every judgement. Where it has stopped for
long, nodes get time to be heard again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sparrowmq import detection
from sparrowmq.core.timers import Timers
from sparrowmq.detection import Detector
from sparrowmq.protocol.beats import Beat
from sparrowmq.settings import AssistantSettings

ALIVE: Final = "alive"
SUSPECT: Final = "suspect"
DEAD: Final = "dead"
KINDS: Final = ("worker", "scheduler")

GAP_S: Final = 0.25  # nothing could be judged for so long: the store hung, or this process stood still
REARM_S_MAX: Final = 2.0  # what nodes then get at most: their own attempts to reach the store are a second apart
LAG_HALF_LIFE_S: Final = 2.0  # of the largest lag seen
LAGS: Final = 2.0  # so many times the lag is added to every deadline
AHEAD_BEATS: Final = 100  # a sequence number that is further ahead than time allows is forged
INTERVAL_S_MIN: Final = 0.001

Key = tuple[str, str]  # kind and id


@dataclass(slots=True, eq=False)
class Node:
    """A worker or scheduler as its beats tell. Times are those of the assistant's clock."""

    beat: Beat  # the last one that counted
    detector: Detector
    heard_s: float  # when that one reached the store
    state: str = ALIVE
    since_s: float = 0.0  # of its state
    not_before_s: float = 0.0  # no suspicion earlier than this
    beats: int = 0
    suspicions: int = 0
    suspected_s: float = 0.0  # when the last suspicion began
    entry: int = 0  # of its deadline; others of it mean nothing any more

    @property
    def interval_s(self) -> float:
        """Its beats are so far apart."""
        return max(INTERVAL_S_MIN, self.beat.interval_ms * 1e-3)


class Judge:
    """The nodes that beat, bounded by ``settings.limits.nodes``."""

    def __init__(self, settings: AssistantSettings) -> None:
        self._settings = settings
        self._nodes: dict[Key, Node] = {}
        self._due: Timers[tuple[Key, int]] = Timers()  # when a node's state may change next, at the earliest
        self._revived: dict[Key, None] = {}  # beats have shown that they were thought dead too early
        self._entries = 0
        self._seen_s: float | None = None
        self.lag_s = 0.0  # the largest of late
        self.refuted = 0  # nodes that were heard again after they had been declared dead
        self.forgotten: list[Key] = []  # nodes that left, or have been dead for long; for the caller to empty
        self.counters: dict[str, int] = {}  # beats that did not count, by reason

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def seen_s(self) -> float:
        """Up to when silence has been judged; 0 if it never was."""
        return self._seen_s or 0.0

    @property
    def margin_s(self) -> float:
        """What is added to every deadline for this assistant's own lag."""
        return min(self._settings.margin_s_max, LAGS * self.lag_s)

    # -- beats

    def beat(self, at_s: float, beat: Beat) -> Node | None:
        """A beat was read that had reached the store at ``at_s``; return its node if it counts."""
        key = (beat.kind, beat.id)
        node = self._nodes.get(key)
        refusal = self._refusal(node, at_s, beat)
        if refusal:
            self.counters[refusal] = self.counters.get(refusal, 0) + 1
            return None
        if beat.leaving:
            self._forget(key)
            return None
        if node is None or node.beat.incarnation < beat.incarnation:
            state = ALIVE if node is None else node.state
            node = self._nodes[key] = Node(beat, self._detector(beat), at_s, state, at_s)
        elif node.beat.interval_ms != beat.interval_ms:
            node.detector = self._detector(beat)
        node.beat, node.heard_s = beat, max(node.heard_s, at_s)
        node.beats += 1
        if node.not_before_s:
            node.not_before_s = 0.0
            node.entry = 0
        node.detector.beat(beat.sequence, at_s)
        if node.state != ALIVE:
            self.refuted += node.state == DEAD and node.beats > 1
            node.state, node.since_s = ALIVE, at_s
            self._revived[key] = None
            node.entry = 0
        if not node.entry:
            self._arm(key, node)
        return node

    def _detector(self, beat: Beat) -> Detector:
        interval_s = max(INTERVAL_S_MIN, beat.interval_ms * 1e-3)
        settings = self._settings
        return detection.make(settings.detector, interval_s, settings.detection_beats * interval_s)

    def _refusal(self, node: Node | None, at_s: float, beat: Beat) -> str:
        """Return why a beat does not count, "" if it does."""
        if beat.kind not in KINDS:
            return "unknown_kind"
        if node is None:
            return "too_many_nodes" if len(self._nodes) >= self._settings.limits.nodes and not beat.leaving else ""
        if beat.incarnation < node.beat.incarnation:
            return "old_incarnation"
        if beat.incarnation > node.beat.incarnation:
            return ""
        if beat.sequence <= node.beat.sequence:
            return "old_sequence"
        elapsed = max(0.0, at_s - node.heard_s) / node.interval_s
        return "forged_sequence" if beat.sequence - node.beat.sequence > 2.0 * elapsed + AHEAD_BEATS else ""

    # -- judging

    def judge(self, seen_s: float, lag_s: float, interrupted: bool = False) -> list[Node]:
        """Judge all nodes by what was heard up to ``seen_s``; return those whose state has changed.

        ``interrupted``: the store has failed since the last time, if only for a moment: beats may have been lost.
        """
        changed = [self._nodes[key] for key in self._revived if key in self._nodes]
        self._revived.clear()
        if self._seen_s is None:  # what was read may be old: nobody has beaten since the store was away
            self._rearm(seen_s + REARM_S_MAX)
        before_s = seen_s if self._seen_s is None else self._seen_s
        self._seen_s = max(before_s, seen_s)
        self.lag_s = max(lag_s, self.lag_s * 0.5 ** ((self._seen_s - before_s) / LAG_HALF_LIFE_S))
        if interrupted or seen_s - before_s > GAP_S:
            self._rearm(seen_s + min(2.0 * (seen_s - before_s), REARM_S_MAX))
        horizon_s = self._seen_s - self.margin_s
        for key, entry in self._due.due(horizon_s):
            node = self._nodes.get(key)
            if node is None or node.entry != entry:
                continue  # forgotten, or armed anew since
            if self._next_s(node) <= horizon_s:
                if node.state == DEAD:
                    self._forget(key)
                    continue
                node.state = DEAD if node.state == SUSPECT else SUSPECT
                node.since_s = self._seen_s
                if node.state == SUSPECT:
                    node.suspicions += 1
                    node.suspected_s = self._seen_s
                changed.append(node)
            self._arm(key, node)
        return changed

    def _forget(self, key: Key) -> None:
        if self._nodes.pop(key, None) is not None:
            self.forgotten.append(key)

    def _arm(self, key: Key, node: Node) -> None:
        self._entries += 1
        node.entry = self._entries
        self._due.add(self._next_s(node), (key, node.entry))

    def _next_s(self, node: Node) -> float:
        """Return until when the state of a node that is not heard stays as it is, margins aside."""
        if node.state == DEAD:
            return node.since_s + self._settings.forget_after_s
        deadline_s = max(node.detector.deadline_s, node.not_before_s)
        return deadline_s + (self._settings.confirm_beats * node.interval_s if node.state == SUSPECT else 0.0)

    def suspect_at_s(self, node: Node) -> float:
        """Return until when a node that is alive may be silent: its detector's deadline, and what is added to it."""
        return max(node.detector.deadline_s, node.not_before_s) + self.margin_s

    def _rearm(self, until_s: float) -> None:
        """Nothing could be judged for a while: nodes get until then to be heard.

        Those that were heard in that while, too: when the store went away nobody knows.
        """
        for node in self._nodes.values():
            node.not_before_s = until_s
