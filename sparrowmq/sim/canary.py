"""The store thread of a simulated assistant: canaries out, beats in with their arrival times, the lease kept.

Owns: when the store is asked, and when a lease that was not renewed is over. Must not know: what is judged from beats,
when they arrived (core/timeline.py tells), or what a leader does.

As store/watcher.py does it: a canary is appended and everything after the last entry read in one round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparrowmq.core.assistant import Arrival
from sparrowmq.core.timeline import EntryId, Timeline
from sparrowmq.protocol import beats
from sparrowmq.settings import AssistantSettings
from sparrowmq.sim.store import UNIX_S, Canary, Entry, SimStore

if TYPE_CHECKING:
    from sparrowmq.sim.node import Node


class CanaryThread:
    """One thread of one start of an assistant's process: one operation at a time, each ``canary_interval_s``."""

    def __init__(self, node: Node, store: SimStore, settings: AssistantSettings) -> None:
        self._node = node
        self._store = store
        self._settings = settings
        self._starts = node.starts
        self._timeline = Timeline()
        self._interrupted = False  # the store has failed since the machine was told last
        self._number = 0
        self._term = 0
        self._valid_until = 0.0  # of our lease, by our own clock
        self._renew_at = 0.0
        self._turn()

    def _then(self, what: Callable[[], None]) -> None:
        """Go on with this, unless the process is gone; when it is stopped, once it goes on."""
        node = self._node
        if node.up and node.starts == self._starts:
            if node.paused:
                node.hold(lambda: self._then(what))
            else:
                what()

    def _turn(self) -> None:
        """Ask for the lease, if that is due, and for what is new."""
        if self._node.cluster.now < self._renew_at:
            self._send_canary()
            return
        now = self._node.cluster.now
        self._renew_at = now + self._settings.lease_s / 3
        holder, unix_s = (self._node.id, self._starts), UNIX_S + now
        self._store.call(
            lambda: self._store.lease(holder, self._settings.lease_s, unix_s),
            lambda done, term: self._then(lambda: self._leased(now, term if isinstance(term, int) else None)),
        )

    def _leased(self, sent_s: float, term: int | None) -> None:
        """The answer is here: None if the store gave none."""
        if term is not None:
            if term:
                self._valid_until = sent_s + self._settings.lease_s
                self._node.cluster.at(
                    max(self._node.cluster.now, self._valid_until), self._then, (self._look_at_lease,)
                )
            self._lead(term if self._node.cluster.now < self._valid_until else 0)
        self._send_canary()

    def _look_at_lease(self) -> None:
        if self._term and self._node.cluster.now >= self._valid_until:
            self._lead(0)

    def _lead(self, term: int) -> None:
        if term != self._term:
            self._term = term
            self._node.step(self._node.machine.leads, term)

    def _send_canary(self) -> None:
        cluster = self._node.cluster
        self._number += 1
        sent_s, canary = cluster.now, Canary(self._node.id, self._starts, self._number)

        def act() -> tuple[Entry, list[Entry]]:
            entry = self._store.append(canary)
            after = self._timeline.after
            anew = after is None or entry.id <= after  # from where exactly, the time line knows
            return entry, self._store.read((0, 0) if anew or after is None else after)

        self._store.call(act, lambda done, found: self._then(lambda: self._read(sent_s, found)))
        # The next one an interval later, or as soon as this one is answered.

    def _read(self, sent_s: float, found: object) -> None:
        """The answer is here: no tuple if the store gave none."""
        now, timeline = self._node.cluster.now, self._timeline
        if isinstance(found, tuple):
            canary, entries = found
            timeline.appended(EntryId(*canary.id), sent_s)
            entries = [entry for entry in entries if timeline.after is None or entry.id > timeline.after]
            times = timeline.read([EntryId(*entry.id) for entry in entries], now)
            arrivals = [
                Arrival(at_s, _beat(entry)) for at_s, entry in zip(times, entries, strict=True) if _is_beat(entry)
            ]
            self._node.step(self._node.machine.heard, sent_s, now - sent_s, arrivals, self._interrupted)
        self._interrupted = not isinstance(found, tuple)
        wait_s = max(0.0, sent_s + self._settings.canary_interval_s - now)
        self._node.cluster.later(wait_s, self._then, self._turn)


def _is_beat(entry: Entry) -> bool:
    return not isinstance(entry.what, Canary)


def _beat(entry: Entry) -> beats.Beat:
    assert not isinstance(entry.what, Canary)
    return entry.what if isinstance(entry.what, beats.Beat) else beats.decode(entry.what)
