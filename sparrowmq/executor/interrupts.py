"""How a running task is interrupted, and nothing else: SIGINT, and the number of the task that it is meant for.

Owns: the slot's handler of SIGINT. Must not know: how tasks are run, who sends the signal.

The node monitor writes a task's sequence number into the shared page, then has the signal sent. The handler raises
KeyboardInterrupt only while that very task runs: a signal that comes too late finds another number, or none. It raises
once for a task; one that goes on all the same is killed by the node monitor after its grace.

A signal that is not meant for the task that runs is a reminder: what waits to be reported leaves now.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from sparrowmq.executor.page import INTERRUPT, Page


class Interrupts:
    """The slot sets ``running`` to the number of the task that runs, 0 between tasks."""

    def __init__(self, page: Page, remind: Callable[[], object] = lambda: None) -> None:
        self.running = 0
        self.early = 0  # the task that the last signal was meant for, where that had not begun (or was over)
        self.raised = 0  # the last task that was interrupted
        self.instead: Callable[[], object] | None = None  # what the running task wants done rather than be raised into
        self._remind = remind
        self._words = page.words
        self._shielded = False
        self._pending = False

    def install(self) -> None:
        """Handle the signal, whatever a task has made of it."""
        if signal.getsignal(signal.SIGINT) != self._on_signal:
            signal.signal(signal.SIGINT, self._on_signal)

    def shield(self) -> None:
        """Hold the interrupt back, in the main thread, until `unshield`: what follows must not be torn."""
        self._shielded = True

    def unshield(self) -> None:
        """End the shield; raises what was held back."""
        self._shielded = False
        if self._pending:
            self._pending = False
            self._interrupt()

    def leave(self) -> None:
        """In a process that a task forked: it is not meant."""
        self.running = 0
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        if self._shielded:
            self._pending = True
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        running, meant = self.running, self._words[INTERRUPT]
        if running != meant or not running:
            self.early = meant
            if running:
                self.shield()  # the next signal may be meant for this task, and must not tear the report
                try:
                    self._remind()
                finally:
                    self.unshield()
            return
        if self.raised == running:
            return
        self.raised = running
        if self.instead is not None:
            self.instead()
        else:
            raise KeyboardInterrupt
