"""Two detectors on the beats of a running cluster: the assistant's own judgement, and a fixed timeout beside it.

Owns: reading the beats, when each detector declared whom. Must not know: what is done to the cluster.

It reads the same stream as the assistant does, and nobody acts on what it finds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sparrowmq.core.assistant import Arrival
from sparrowmq.core.baseline import Baseline
from sparrowmq.core.judge import DEAD, Judge
from sparrowmq.settings import AssistantSettings, StoreSettings
from sparrowmq.store.watcher import Watcher

_TOLD_MAX: Final = 10_000


class Onlooker:
    """Listens from `start` to `stop`. ``beat_s``: how far beats are apart, in seconds."""

    def __init__(self, store: StoreSettings, beat_s: float) -> None:
        settings = AssistantSettings()
        self.detector = settings.detector
        self._judge = Judge(settings)
        self._fixed = Baseline(beat_s * (1.0 + settings.detection_beats + settings.confirm_beats))
        self._lock = threading.Lock()
        self._told: list[tuple[float, str]] = []  # deaths: when (monotonic), of whom
        self._fixed_told: list[tuple[float, str]] = []
        self._deaths = 0
        self._watcher = Watcher(
            store, id="onlooker", interval_s=settings.canary_interval_s, entries_max=settings.limits.beats,
            post=lambda callback: callback(), on_heard=self._heard, log=_ignore,
        )  # fmt: skip

    @property
    def fixed_timeout_s(self) -> float:
        """The fixed timeout: silence for so long is death. The detection time of the assistant is the same."""
        return self._fixed.timeout_s

    def start(self) -> None:
        """Begin to listen."""
        self._watcher.start()

    def stop(self) -> None:
        """Listen no more."""
        self._watcher.stop()

    def declared_s(self, id: str, since_s: float) -> float | None:
        """Return when this node was declared dead (monotonic seconds), at ``since_s`` or later; None if it was not."""
        with self._lock:
            return next((at_s for at_s, name in self._told if name == id and at_s >= since_s), None)

    def fixed_s(self, id: str, since_s: float) -> float | None:
        """As `declared_s`, by the fixed timeout."""
        with self._lock:
            return next((at_s for at_s, name in self._fixed_told if name == id and at_s >= since_s), None)

    @property
    def deaths(self) -> int:
        """How often the assistant's own detector declared a node dead."""
        with self._lock:
            return self._deaths

    @property
    def fixed_deaths(self) -> int:
        """How often the fixed timeout declared a node dead."""
        with self._lock:
            return self._fixed.deaths

    def _heard(self, seen_s: float, lag_s: float, arrivals: Sequence[Arrival], interrupted: bool) -> None:
        now = time.monotonic()
        with self._lock:
            for at_s, beat in arrivals:
                if self._judge.beat(at_s, beat) is not None:
                    self._fixed.read(beat.id, now)
            self._look(now)
            for node in self._judge.judge(seen_s, lag_s, interrupted):
                if node.state == DEAD:
                    self._deaths += 1
                    self._told.append((now, node.beat.id))
            for _, id in self._judge.forgotten:
                self._fixed.forget(id)
            self._judge.forgotten.clear()
            del self._told[:-_TOLD_MAX]

    def _look(self, now: float) -> None:
        before = dict(self._fixed.declared_s)
        self._fixed.look(now)
        for id, at_s in self._fixed.declared_s.items():
            if before.get(id) != at_s:
                self._fixed_told.append((at_s, str(id)))
        del self._fixed_told[:-_TOLD_MAX]


def _ignore(_level: str, _event: str, _fields: Mapping[str, Any]) -> None:
    """What the watcher has to say is the cluster's assistant's to log."""
